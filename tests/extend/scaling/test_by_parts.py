"""Llama 3, LongRoPE, Giraffe, ABF and dynamic YaRN: transformers' numbers and the papers' own."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import lengthwise as lw
from lengthwise.core.geometry import RotaryBase
from lengthwise.extend.scaling.abf import PUBLISHED

SHAPES = [(8, 100.0, 64), (64, 10_000.0, 512), (128, 500_000.0, 8192), (256, 1e6, 131_072)]
every_shape = pytest.mark.parametrize(("dim", "theta", "window"), SHAPES)


def base_of(dim, theta, kind="default", trained=None):
    return RotaryBase(dim, theta, kind, lambda n: pytest.fail("not our own"), True, trained=trained)


def ours(method, dim, theta, window, lengths=(1,)):
    return method.rotary(base_of(dim, theta), window, torch.tensor(lengths))


def theirs(dim, window, length=None, **rope):
    config = AutoConfig.for_model(
        "llama", hidden_size=2 * dim, num_attention_heads=2, head_dim=dim,
        max_position_embeddings=window, rope_parameters=rope,
    )  # fmt: skip
    return ROPE_INIT_FUNCTIONS[rope["rope_type"]](config, seq_len=length)


def same(got, factor, expected):
    torch.testing.assert_close(got, expected[0], atol=1e-6, rtol=1e-5)
    assert float(factor) == pytest.approx(expected[1], abs=1e-6)


@every_shape
@pytest.mark.parametrize(("low", "high", "factor"), [(1.0, 4.0, 8.0), (0.5, 2.5, 32.0)])
@pytest.mark.parametrize("original", [0, 48])
def test_llama3_is_llama3(dim, theta, window, low, high, factor, original):
    got = ours(lw.Llama3(factor, low, high, original), dim, theta, window)
    rope = {"rope_type": "llama3", "rope_theta": theta, "factor": factor, "low_freq_factor": low}
    rope |= {"high_freq_factor": high, "original_max_position_embeddings": original or window}
    same(got.inv_freq, got.attention_factor, theirs(dim, int(factor * window), **rope))


def test_llama3_as_llama_3_1_has_it():
    got = ours(lw.Llama3(factor=8), 128, 500_000.0, 8192).inv_freq
    own = ours(lw.ABF(base=500_000), 128, 1e4, 8192).inv_freq
    ratio = own / got
    assert (ratio[:29] == 1).all() and (ratio[35:] == 8).all()
    assert ((ratio[29:35] > 1) & (ratio[29:35] < 8)).all()


@every_shape
def test_longrope_is_longrope_on_both_sides_of_the_window(dim, theta, window):
    g = torch.Generator().manual_seed(dim)
    long = tuple((1 + 8 * torch.rand(dim // 2, generator=g)).sort().values.tolist())
    short = tuple((1 + torch.rand(dim // 2, generator=g)).sort().values.tolist())
    method = lw.LongRoPE(long, 8, short_factors=short)
    lengths = (1, window, window + 1, 8 * window)
    got = ours(method, dim, theta, window, lengths)
    rope = {"rope_type": "longrope", "rope_theta": theta, "factor": 8.0, "long_factor": long}
    rope |= {"short_factor": short, "original_max_position_embeddings": window}
    for row, length in enumerate(lengths):
        same(got.inv_freq[row], got.attention_factor, theirs(dim, 8 * window, length, **rope))


@every_shape
@pytest.mark.parametrize(
    "method",
    [lw.Llama3(4.0), lw.ABF(1e7), lw.Giraffe(), lw.Giraffe(4.0), lw.GiraffeLinear(4.0), "longrope"],
)
def test_plain_rope_parameters_say_the_same(dim, theta, window, method):
    if method == "longrope":
        method = lw.LongRoPE(torch.linspace(1, 4, dim // 2).tolist(), 4)
    base = base_of(dim, theta)
    rope = method.rope_parameters(base, window)
    assert "rope_theta" in rope
    got = ours(method, dim, theta, window)
    if rope["rope_type"] == "default":
        exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        expected = (rope["rope_theta"] ** -exponents).float(), 1.0
    else:
        expected = theirs(dim, method.reach(window), 2 * window, **rope)
    same(got.inv_freq, got.attention_factor, expected)


@pytest.mark.parametrize(
    ("window", "kept", "slow", "still"), [(4096, 46, 14, 4), (2048, 41, 14, 9)]
)
def test_giraffe_keeps_slows_and_stops(window, kept, slow, still):
    got = ours(lw.Giraffe(), 128, 10_000.0, window).inv_freq
    own = ours(lw.ABF(base=10_000), 128, 1e4, window).inv_freq
    assert int((got == own).sum()) == kept and int((got == 0).sum()) == still
    middle = got[kept : kept + slow]
    assert torch.allclose(middle, torch.full_like(middle, 2 * math.pi / (16 * window)))
    # First linear, then truncated: a pair that PI slows down below a turn is cut off too.
    scaled = ours(lw.Giraffe(factor=4), 128, 10_000.0, window).inv_freq
    assert int((scaled == own / 4).sum()) < kept


def test_dynamic_yarn_is_yarn_at_the_factor_of_every_row():
    lengths = (1, 512, 513, 2048, 5000)
    got = ours(lw.DynamicYaRN(), 64, 10_000.0, 512, lengths)
    for row, length in enumerate(lengths):
        yarn = ours(lw.YaRN(factor=max(1.0, length / 512)), 64, 10_000.0, 512)
        torch.testing.assert_close(got.inv_freq[row], yarn.inv_freq)
        assert float(got.attention_factor[row]) == pytest.approx(yarn.attention_factor)


def test_factors_of_a_longrope_checkpoint_are_replaced_not_multiplied():
    method = lw.LongRoPE((1.0, 2.0, 3.0, 4.0), 4)
    base = base_of(8, 100.0, "longrope", trained=64)
    method.check_base(base)
    fresh = method.rotary(base_of(8, 100.0), 64, torch.ones(1))
    assert torch.equal(method.rotary(base, 64, torch.ones(1)).inv_freq, fresh.inv_freq)


def test_a_scaling_counts_from_the_window_before_the_one_that_it_replaces():
    methods = [lw.Llama3(4.0), lw.ABF(1e7), lw.Giraffe(), lw.DynamicYaRN(), lw.LongRoPE([1] * 4, 4)]
    for method in (*methods, lw.LogTemperature(lw.YaRN(2.0))):
        assert method.counts_from(base_of(8, 100.0), 512) == 512
        for kind in ("linear", "yarn", "llama3", "dynamic", "longrope"):
            assert method.counts_from(base_of(8, 100.0, kind, trained=64), 512) == 64
            with pytest.raises(ValueError, match=rf"'{kind}'.*does not say what window it had"):
                method.counts_from(base_of(8, 100.0, kind), 512)
    for method in (lw.OwnScaling(), lw.LogTemperature(), lw.GiraffeLinear(8)):
        assert method.counts_from(base_of(8, 100.0, "linear"), 512) == 512


def test_giraffes_longer_scale_needs_a_linear_model_or_a_plain_one():
    lw.GiraffeLinear(8).check_base(base_of(8, 100.0, "linear"))
    lw.GiraffeLinear(8).check_base(base_of(8, 100.0))
    with pytest.raises(ValueError, match="this one carries 'yarn'"):
        lw.GiraffeLinear(8).check_base(base_of(8, 100.0, "yarn"))


def test_published_models():
    assert lw.ABF.published("llama-long") == lw.ABF(base=500_000)
    assert lw.ABF.published("yi-200k").base == 1e7 and lw.ABF.published("llama-3-80k").base == 2e8
    assert all(one.source for one in PUBLISHED.values())
    with pytest.raises(ValueError, match=r"one of llama-long, yi-200k, llama-3-80k, got 'gpt'"):
        lw.ABF.published("gpt")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lw.Llama3(0.5), "Llama3: factor must be at least 1, got 0.5"),
        (lambda: lw.Llama3(2, 4, 4), "low_freq_factor must be above 0 and below high_freq_factor"),
        (lambda: lw.ABF(1), "ABF: base must be above 1"),
        (lambda: lw.ABF(math.inf), "ABF: base must be at least 1, got inf"),
        (lambda: lw.Giraffe(0), "Giraffe: factor must be at least 1, got 0"),
        (lambda: lw.GiraffeLinear(0), "GiraffeLinear: scale must be at least 1, got 0"),
        (lambda: lw.DynamicYaRN(1, 2), "beta_slow must be above 0 and below beta_fast"),
        (lambda: lw.LongRoPE((), 2), "one number for each pair, got 0 and 0"),
        (lambda: lw.LongRoPE((1, 0), 2), "factors must be above 0, got 0.0 for pair 1"),
        (lambda: lw.LongRoPE((1, "x"), 2), "must be numbers, one for each pair"),
        (lambda: lw.LongRoPE((1, 2), 2, (1,)), "one number for each pair, got 2 and 1"),
        (lambda: lw.LogTemperature(over=3), "over must be a scaling such as"),
        (lambda: lw.LogTemperature(lw.LogTemperature()), "over must be a scaling such as"),
    ],
)
def test_mistakes(make, words):
    with pytest.raises(ValueError) as caught:
        make()
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_factors_must_fit_the_model():
    with pytest.raises(ValueError, match="this model rotates 4 pairs, got 3 factors"):
        lw.LongRoPE((1, 2, 3), 4).check_base(base_of(8, 100.0))


def test_log_temperature_by_its_formula():
    positions = torch.tensor([[-1, 0, 62, 63, 64, 511, 4095]])
    got = lw.LogTemperature().sharpness(0, 64, positions)
    assert got.shape == (1, 1, 7)
    expected = [1, 1, 1, 1, math.log(65) / math.log(64), 1.5, 2]
    torch.testing.assert_close(got[0, 0], torch.tensor(expected))


def test_first_tokens_keep_their_angles():
    factors = (1.0, 2.0, 4.0, 8.0)
    base, n = base_of(8, 100.0), 3
    rotary = lw.LongRoPE(factors, 8, start_tokens=n).rotary(base, 64, torch.ones(1))
    x = torch.randn(1, 2, 10, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    positions = torch.arange(10)[None, None]
    got = rotary.rotate(x, positions)
    own = ours(lw.ABF(base=100), 8, 100.0, 64)
    untouched = replace(own, attention_factor=rotary.attention_factor)
    scaled = lw.LongRoPE(factors, 8).rotary(base, 64, torch.ones(1))
    torch.testing.assert_close(got[:, :, :n], untouched.rotate(x, positions)[:, :, :n])
    torch.testing.assert_close(got[:, :, n:], scaled.rotate(x, positions)[:, :, n:])
    assert not torch.allclose(got[:, :, 1:n], scaled.rotate(x, positions)[:, :, 1:n])
    with pytest.raises(ValueError, match=r"SelfExtend cannot move them; use start_tokens=0"):
        lw.adapt(
            lw.load("demo")[0], lw.LongRoPE((1,) * 16, 2, start_tokens=4), lw.SelfExtend(2, 64)
        )
