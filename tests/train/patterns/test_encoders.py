"""Patterns of encoders: against dense attention under their mask, and in converted models."""

import pytest
import torch
import transformers as hf

from lengthwise.testing.models import tiny_model
from lengthwise.train.patterns import (
    VCC,
    EncoderBigBird,
    EncoderWindow,
    Nystrom,
    lengthen_encoder,
    nystrom_attention,
    set_encoder_pattern,
)

SMALL = {
    "vocab_size": 320, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2,
    "num_attention_heads": 3, "max_position_embeddings": 32, "pad_token_id": 0,
    "attention_probs_dropout_prob": 0.0, "hidden_dropout_prob": 0.0,
}  # fmt: skip
CLASSES = {"bert": hf.BertModel, "roberta": hf.RobertaModel, "electra": hf.ElectraModel}


def encoder(kind="bert", attention="sdpa", **changes):
    config = hf.AutoConfig.for_model(kind, **{**SMALL, "embedding_size": 24, **changes})
    with torch.random.fork_rng(devices=[]):
        model = CLASSES[kind]._from_config(config, attn_implementation=attention).double()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=g)
    return model.eval()


def tokens(rows, length, seed=1):
    return torch.randint(3, 320, (rows, length), generator=torch.Generator().manual_seed(seed))


def qkv(length, rows=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    shape = (rows, 3, length, 8)
    return [torch.randn(shape, generator=g).double().requires_grad_() for _ in range(3)]


def dense(tensors, mask, scale):
    q, k, v = tensors
    scores = (q @ k.transpose(-1, -2) * scale).masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def window_mask(n):
    i, j = torch.arange(n)[:, None], torch.arange(n)
    return ((i - j).abs() <= 3) | (i < 2) | (j < 2)


def bigbird_mask(pattern, n):
    blocks = -(-n // pattern.block)
    seen = torch.zeros(blocks, blocks, dtype=torch.bool)
    chosen, valid = pattern.plan(blocks)
    for row in range(blocks):
        meant = chosen[row][valid[row]].tolist()
        assert len(meant) == len(set(meant))  # nothing twice
        seen[row, meant] = True
    seen[[0, -1]] = True
    return seen.repeat_interleave(pattern.block, 0).repeat_interleave(pattern.block, 1)[:n, :n]


BIRD = EncoderBigBird(block=4, random=2)


@pytest.mark.parametrize("length", [1, 4, 7, 40, 43])
@pytest.mark.parametrize(
    ("pattern", "mask_of"),
    [(EncoderWindow(window=6, first=2), window_mask), (BIRD, lambda n: bigbird_mask(BIRD, n))],
    ids=["window", "bigbird"],
)
def test_a_pattern_is_dense_attention_under_its_mask(pattern, mask_of, length):
    tensors = qkv(length)
    real = torch.ones(2, length, dtype=torch.bool)
    real[1, length - length // 3 :] = False
    mask = mask_of(length) & real[:, None, None]
    got = pattern.attend(*tensors, real, 0.4)
    expected = dense(tensors, mask, 0.4)
    shown = real[:, None, :, None].expand_as(got)
    assert got.isfinite().all()
    assert (got - expected)[shown].abs().max() < 1e-12
    weight = torch.randn(got.shape, generator=torch.Generator().manual_seed(3)).double() * shown
    ours = torch.autograd.grad((got * weight).sum(), tensors)
    theirs = torch.autograd.grad((expected.masked_fill(~shown, 0) * weight).sum(), tensors)
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).abs().max() < 1e-12


def test_bigbird_sees_neighbours_ends_and_random_blocks_and_costs_linearly():
    pattern = EncoderBigBird(block=4, random=2)
    chosen, valid = pattern.plan(30)
    for own in range(30):
        meant = set(chosen[own][valid[own]].tolist())
        assert {max(own - 1, 0), own, min(own + 1, 29), 0, 29} <= meant
        assert 5 <= len(meant) <= 7
    assert chosen.shape[1] == 7


def full(tensors, real=None):
    q, k, v = tensors
    mask = torch.ones(q.shape[0], 1, 1, k.shape[2], dtype=torch.bool)
    return dense(tensors, mask if real is None else real[:, None, None], q.shape[-1] ** -0.5)


def smooth_qkv(length, seed):
    """Queries and keys that change slowly: landmarks are means of neighbours."""
    q, k, v = (x.detach() for x in qkv(length, seed=seed))
    near = torch.ones(length, length).tril(6).triu(-6).double()
    near = near / near.square().sum(-1, keepdim=True).sqrt()
    return near @ q, near @ k, v


def nystrom_error(landmarks, iterations):
    """Root mean square error against the exact softmax, the median of five draws."""
    errors = []
    for seed in range(5):
        tensors = smooth_qkv(48, seed)
        got = nystrom_attention(*tensors, landmarks, iterations=iterations)
        errors.append((got - full(tensors)).square().mean().sqrt().item())
    return sorted(errors)[2]


def test_nystrom_falls_to_the_exact_softmax():
    errors = [nystrom_error(m, iterations=6) for m in (4, 8, 12, 24, 48)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.2 * errors[0]
    # At the paper's 6 iterations the limit itself is not reached; with more it is.
    by_iterations = [nystrom_error(48, iterations=n) for n in (6, 12, 20, 30)]
    assert by_iterations == sorted(by_iterations, reverse=True)
    assert by_iterations[0] > 1e-4 and by_iterations[-1] < 1e-9


def test_nystrom_by_hand():
    q, k, v = qkv(12)
    q_mean, k_mean = (x.unflatten(2, (4, 3)).mean(3) for x in (q, k))

    def soft(a, z):
        return torch.softmax(a @ z.transpose(-1, -2) * 8**-0.5, -1)

    by_hand = soft(q, k_mean) @ torch.linalg.pinv(soft(q_mean, k_mean)) @ soft(q_mean, k) @ v
    got = nystrom_attention(q, k, v, 4, iterations=40)
    assert (got - by_hand).abs().max() < 1e-8


def test_nystrom_does_not_see_padding():
    tensors = qkv(40)
    real = torch.ones(2, 40, dtype=torch.bool)
    real[1, 25:] = False
    pattern = Nystrom(landmarks=8, iterations=30)
    padded = pattern.attend(*tensors, real, 0.3)
    noise = [x.clone() for x in tensors]
    for x in noise:
        x.data[1, :, 25:] = 7.0
    moved = pattern.attend(*noise, real, 0.3)
    assert (padded - moved)[1, :, :25].abs().max() < 1e-12 and padded.isfinite().all()
    alone = nystrom_attention(*[x[1:, :, :25] for x in tensors], 5, iterations=30, scale=0.3)
    assert (padded[1:, :, :25] - alone).abs().max() < 1e-8  # the same segments of 5 tokens


@pytest.mark.parametrize("kind", CLASSES)
def test_a_converted_encoder_reads_short_texts_as_before_and_long_ones(kind):
    model = encoder(kind)
    usable = 32 - (1 if kind == "roberta" else 0)
    ids, long = tokens(2, 20), tokens(2, 100)
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    before = model(ids, attention_mask=mask).last_hidden_state
    table = model.embeddings.position_embeddings.weight.clone()
    lengthen_encoder(model, 100, EncoderWindow(window=40, first=1))
    after = model(ids, attention_mask=mask).last_hidden_state
    assert (after - before)[mask.bool()].abs().max() < 1e-10
    skipped = 32 - usable
    new = model.embeddings.position_embeddings.weight
    assert new.shape[0] == skipped + 100 == model.config.max_position_embeddings
    for position in (0, 17, usable, 2 * usable + 3, 99):
        assert torch.equal(new[skipped + position], table[skipped + position % usable])
    out = model(long).last_hidden_state
    out.square().mean().backward()
    assert new.grad.abs().sum(1).gt(0).sum() == 100
    assert out.isfinite().all()


def test_a_converted_encoder_is_saved_and_read_by_transformers(tmp_path):
    model = lengthen_encoder(encoder(), 100, EncoderWindow(window=200))
    long = tokens(1, 90)
    expected = model(long).last_hidden_state
    model.save_pretrained(tmp_path)
    plain = hf.BertModel.from_pretrained(tmp_path, dtype=torch.float64).eval()
    # A window that covers the text is full attention, so plain transformers agrees.
    assert (plain(long).last_hidden_state - expected).abs().max() < 1e-10
    set_encoder_pattern(plain, EncoderWindow(window=8))
    near = plain(long).last_hidden_state
    assert (near - expected).abs().max() > 1e-3
    with_nystrom = set_encoder_pattern(plain, Nystrom(landmarks=90, iterations=30))
    assert (with_nystrom(long).last_hidden_state - expected).abs().max() < 1e-6


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_vcc_with_all_blocks_is_the_encoder(attention):
    model, ids = encoder(attention=attention, max_position_embeddings=128), tokens(2, 71)
    mask = torch.ones_like(ids)
    mask[1, 50:] = 0
    exact = model(ids, attention_mask=mask).last_hidden_state
    with VCC(vip=3, block=4, fine=99).compress(model):
        got = model(ids, attention_mask=mask).last_hidden_state
    assert (got - exact)[mask.bool()].abs().max() < 1e-10
    assert (model(ids, attention_mask=mask).last_hidden_state - exact).abs().max() == 0


def test_vccs_important_tokens_approach_dense_and_its_states_stay_few():
    model, rows = encoder(max_position_embeddings=256), tokens(8, 200)
    exact = model(rows).last_hidden_state[:, :4]
    errors, seen = [], []
    for fine in (0, 12, 24, 36, 49):
        widths = []
        hook = model.encoder.layer[1].attention.register_forward_pre_hook(
            lambda module, args, widths=widths: widths.append(args[0].shape[1])
        )
        with VCC(vip=4, block=4, fine=fine).compress(model):
            got = model(rows).last_hidden_state[:, :4]
        hook.remove()
        errors.append((got - exact).square().mean().sqrt().item())
        seen += widths
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-12 < errors[-2]
    assert errors[2] < 0.8 * errors[0]
    assert seen == [4 + 4 * fine + 49 - fine for fine in (0, 12, 24, 36, 49)]


def test_vcc_trains_its_choice():
    model, ids = encoder(max_position_embeddings=128), tokens(2, 71)
    with VCC(vip=3, block=4, fine=5).compress(model):
        model(ids).last_hidden_state[:, 0].square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.encoder.parameters())
    assert model.embeddings.word_embeddings.weight.grad[ids[0, 40]].abs().max() > 0


def test_vccs_scores_have_numbers_in_float16():
    """Of 200 * 200 * 12 it has none."""
    model = encoder(max_position_embeddings=128).half()
    for part in (x for layer in model.encoder.layer for x in [layer.attention.self]):
        part.query.bias.data += 200.0
        part.key.bias.data += 200.0
    states = torch.ones(1, 20, 24, dtype=torch.float16).cumsum(1) / 32
    with VCC(vip=3, block=4, fine=5).compress(model):
        _, trust = model.encoder.layer[0]._order(
            states[:, :3], states[:, 3:], torch.ones(1, 3), torch.ones(1, 17, dtype=torch.bool)
        )
    assert trust.dtype == torch.float16 and trust.isfinite().all()


def test_equal_tokens_need_no_more_than_their_mean():
    # A block of one and the same state is its mean, counted as often as it stands for.
    model = encoder(max_position_embeddings=128)
    states = torch.randn(2, 1 + 10, 24, generator=torch.Generator().manual_seed(0)).double()
    wide = torch.cat([states[:, :1], states[:, 1:].repeat_interleave(4, dim=1)], dim=1)
    exact = model.encoder(wide).last_hidden_state
    with VCC(vip=1, block=4, fine=0).compress(model):
        got = model.encoder(wide).last_hidden_state
    assert (got - exact).abs().max() < 1e-10


def test_refusals():
    for make, words in [
        (lambda: EncoderWindow(window=7), "window must be even, got 7"),
        (lambda: lengthen_encoder(encoder(), 20, EncoderWindow(8)), "at least 32, got 20"),
        (lambda: set_encoder_pattern(tiny_model("llama"), EncoderWindow(8)), "not for llama"),
        (lambda: VCC(vip=0), "vip must be a whole number of at least 1"),
        (lambda: VCC().compress(tiny_model("llama")).__enter__(), "BERT's and RoBERTa's kind"),
    ]:
        with pytest.raises(ValueError, match=words) as error:
            make()
        assert "\n" not in str(error.value)
    model = encoder(attention_probs_dropout_prob=0.1)
    lengthen_encoder(model, 64, EncoderWindow(8)).train()
    with pytest.raises(ValueError, match="no attention dropout"):
        model(tokens(1, 20))
