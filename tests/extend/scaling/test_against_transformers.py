"""Our frequencies are those of transformers, computed from the same configuration."""

import pytest
import torch
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import lengthwise as lw
from lengthwise.core.geometry import RotaryBase

# (rotated dimensions, base, trained window) from small to what checkpoints have today
SHAPES = [
    (8, 100.0, 64),
    (64, 10_000.0, 512),
    (128, 10_000.0, 4096),
    (96, 500_000.0, 8192),
    (256, 1_000_000.0, 131_072),
]
every_shape = pytest.mark.parametrize(("dim", "theta", "window"), SHAPES)
every_factor = pytest.mark.parametrize("factor", [1.0, 1.5, 4.0, 32.0])


def ours(method, dim, theta, window, lengths=(1,)):
    base = RotaryBase(dim, theta, "default", lambda length: pytest.fail("not our own"), True)
    rotary = method.rotary(base, window, torch.tensor(lengths))
    return rotary.inv_freq, rotary.attention_factor


def config(dim, window, **rope):
    return AutoConfig.for_model(
        "llama",
        hidden_size=2 * dim,
        num_attention_heads=2,
        head_dim=dim,
        max_position_embeddings=window,
        rope_parameters=rope,
    )


def theirs(dim, window, length=None, **rope):
    kind = rope["rope_type"]
    inv_freq, factor = ROPE_INIT_FUNCTIONS[kind](config(dim, window, **rope), seq_len=length)
    return inv_freq, factor


def same(got, expected):
    torch.testing.assert_close(got[0], expected[0], atol=1e-6, rtol=0)
    # The slow pairs are far below 1e-6: they must agree in their own size too.
    torch.testing.assert_close(got[0], expected[0], atol=0, rtol=1e-5)
    assert got[1] == pytest.approx(expected[1], abs=1e-6)


@every_shape
@every_factor
def test_pi_is_linear(dim, theta, window, factor):
    got = ours(lw.PI(factor=factor), dim, theta, window)
    same(got, theirs(dim, window, rope_type="linear", rope_theta=theta, factor=factor))


@every_shape
@every_factor
@pytest.mark.parametrize("betas", [(32.0, 1.0), (8.0, 2.0), (1.5, 0.1)])
def test_yarn_is_yarn(dim, theta, window, factor, betas):
    fast, slow = betas
    got = ours(lw.YaRN(factor=factor, beta_fast=fast, beta_slow=slow), dim, theta, window)
    rope = {"rope_type": "yarn", "rope_theta": theta, "factor": factor}
    rope |= {"beta_fast": fast, "beta_slow": slow, "original_max_position_embeddings": window}
    same(got, theirs(dim, int(window * factor), **rope))


@every_shape
@every_factor
def test_dynamic_ntk_is_dynamic(dim, theta, window, factor):
    # Rows of different length, each with frequencies of its own.
    lengths = (1, window, window + 1, 2 * window + 3, 16 * window)
    inv_freq, attention_factor = ours(lw.DynamicNTK(factor=factor), dim, theta, window, lengths)
    assert inv_freq.shape == (len(lengths), dim // 2)
    rope = {"rope_type": "dynamic", "rope_theta": theta, "factor": factor}
    for row, length in enumerate(lengths):
        same((inv_freq[row], attention_factor), theirs(dim, window, length, **rope))


@every_shape
@every_factor
def test_ntk_by_its_formula(dim, theta, window, factor):
    """Definition 1 of arXiv:2309.00071; and dynamic NTK at `factor` windows is the same thing."""
    n = torch.arange(dim // 2, dtype=torch.float64)
    formula = theta ** (-2 * n / dim) * factor ** (-2 * n / (dim - 2))
    got = ours(lw.NTK(factor=factor), dim, theta, window)
    same(got, (formula.float(), 1.0))
    assert got[0][0] == 1 and got[0][-1] * factor == pytest.approx(theta ** (2 / dim - 1), rel=1e-5)
    rope = {"rope_type": "dynamic", "rope_theta": theta, "factor": 1.0}
    same(got, theirs(dim, window, int(window * factor), **rope))


@every_shape
@pytest.mark.parametrize("method", [lw.PI, lw.NTK, lw.YaRN, lw.DynamicNTK])
def test_factor_1_is_the_model_itself(dim, theta, window, method):
    own = theta ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    inv_freq, attention_factor = ours(method(factor=1.0), dim, theta, window, (window,))
    same((inv_freq.reshape(-1), attention_factor), (own.float(), 1.0))


@every_shape
@pytest.mark.parametrize("method", [lw.PI(4.0), lw.NTK(4.0), lw.YaRN(4.0), lw.DynamicNTK(2.0)])
def test_plain_rope_parameters_say_the_same(dim, theta, window, method):
    """What `lw.save` writes for other engines."""
    base = RotaryBase(dim, theta, "default", lambda length: pytest.fail("not our own"), True)
    rope = method.rope_parameters(base, window)
    reach = method.reach(window)
    length = 3 * window
    got = ours(method, dim, theta, window, (length,))
    if rope["rope_type"] == "default":
        exponents = torch.arange(0, dim, 2, dtype=torch.float64) / dim
        expected = (rope["rope_theta"] ** -exponents).float(), 1.0
    else:
        expected = theirs(dim, reach, length, **rope)
    same((got[0].reshape(-1), got[1]), expected)
