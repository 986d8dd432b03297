"""Attention of the last queries over all keys, against a dense softmax."""

import pytest
import torch

from lengthwise.hf.streaming import RowMask, row_mask
from lengthwise.train.memory import attention as module
from lengthwise.train.memory.attention import attention, causal, causal_by_torch


def tensors(t, n, heads=6, kv=2, dtype=torch.float64):
    g = torch.Generator().manual_seed(0)
    shapes = ((2, heads, t, 8), (2, kv, n, 8), (2, kv, n, 8))
    return [
        torch.randn(s, generator=g, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes
    ]


def dense(q, k, v, scale, softcap=None, sinks=None, seen=None):
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    score = q @ k.transpose(-1, -2) * scale
    if softcap is not None:
        score = softcap * torch.tanh(score / softcap)
    t, n = score.shape[-2:]
    causal_mask = torch.ones(t, n, dtype=torch.bool).tril(n - t)
    seen = causal_mask if seen is None else seen & causal_mask
    score = score.masked_fill(~seen, float("-inf"))
    if sinks is not None:
        score = torch.cat([score, sinks.view(1, -1, 1, 1).expand(*score.shape[:-1], 1)], -1)
    return torch.softmax(score, -1)[..., :n] @ v


def same(ours, theirs, leaves, tolerance=1e-11):
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=0)
    up = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=ours.dtype)
    for got, want in zip(
        torch.autograd.grad(ours, leaves, up), torch.autograd.grad(theirs, leaves, up), strict=True
    ):
        torch.testing.assert_close(got, want, atol=tolerance, rtol=0)


@pytest.mark.parametrize(("t", "n"), [(1, 1), (5, 5), (1, 9), (4, 9), (33, 70)])
@pytest.mark.parametrize(("heads", "kv"), [(6, 2), (3, 3), (5, 1)])
@pytest.mark.parametrize("function", [causal, causal_by_torch])
def test_queries_are_the_last_tokens_of_the_keys(function, t, n, heads, kv):
    q, k, v = leaves = tensors(t, n, heads, kv)
    same(function(q, k, v, 0.3), dense(q, k, v, 0.3), leaves)


def test_keys_in_any_stride():
    q, k, v = tensors(5, 9)
    turned = k.detach().transpose(-1, -2).contiguous().transpose(-1, -2)
    torch.testing.assert_close(causal(q, turned, v, 0.3), causal(q, k, v, 0.3))


def test_half_precision_is_rounded_once():
    exact = tensors(20, 60)
    half = [x.detach().bfloat16().requires_grad_() for x in exact]
    truth = dense(*(x.double() for x in half), 0.3)
    ours = causal(*half, 0.3)
    assert ours.dtype == torch.bfloat16
    once = (truth.bfloat16().double() - truth).abs().max()
    assert (ours.double() - truth).abs().max() <= 1.01 * once
    sinks = torch.linspace(-1, 1, 6, dtype=torch.float64)
    for softcap, sink in ((1.5, None), (None, sinks), (1.5, sinks)):
        truth = dense(*(x.double() for x in half), 0.3, softcap, sink)
        ours, _ = attention(None, *half, None, 0.3, softcap=softcap, s_aux=sink)
        once = (truth.bfloat16().double() - truth).abs().max()
        assert (ours.transpose(1, 2).double() - truth).abs().max() <= 1.01 * once


def test_scores_in_float16_do_not_overflow():
    q, k, v = (300 * x.detach().half() for x in tensors(3, 5))  # scores of 300 * 300 * 8
    for softcap in (None, 50.0):
        ours, _ = attention(None, q, k, v, None, 1e-4, softcap=softcap, s_aux=torch.zeros(6))
        assert ours.isfinite().all()


@pytest.mark.parametrize("tile", [1, 4, 256])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("with_sinks", [False, True])
@pytest.mark.parametrize("window", [None, 6])
def test_windows_caps_sinks_and_padding(monkeypatch, tile, softcap, with_sinks, window):
    monkeypatch.setattr(module, "TILE", tile)
    q, k, v = leaves = tensors(11, 23)
    sinks = torch.linspace(-1, 1, 6, dtype=torch.float64).requires_grad_() if with_sinks else None
    padding = torch.ones(2, 23, dtype=torch.bool)
    padding[1, :4] = False
    distance = torch.arange(12, 23)[:, None] - torch.arange(23)
    seen = padding[:, None, None] & ((distance < window) if window else distance.ge(-100))
    rule = lambda b, h, i, j: (j <= i) & ((i - j < window) if window else (i >= 0))  # noqa: E731
    mask = RowMask(2, 12, 0, rule, padding, window, False, torch.device("cpu"))
    ours, _ = attention(None, q, k, v, mask, 0.3, softcap=softcap, s_aux=sinks)
    theirs = dense(q, k, v, 0.3, softcap, sinks, seen)
    same(ours.transpose(1, 2), theirs, [*leaves, *([sinks] if with_sinks else [])])


def test_no_mask_is_made_where_every_query_sees_all_before_it():
    assert row_mask(1, 8, 8) is None
    assert row_mask(1, 3, 8, q_offset=5) is None
    assert row_mask(1, 8, 8, attention_mask=torch.ones(1, 8).bool(), local_size=8) is None
    assert row_mask(1, 8, 8, local_size=7) is not None
    assert row_mask(1, 8, 8, attention_mask=torch.arange(8)[None] > 0) is not None
    assert row_mask(1, 8, 8, allow_is_causal_skip=False) is not None
    assert row_mask(1, 3, 8, q_offset=2) is not None  # keys after the queries


def test_dropout_is_refused():
    q, k, v = tensors(3, 3)
    with pytest.raises(ValueError, match=r"no attention dropout, got 0\.1"):
        attention(None, q, k, v, None, dropout=0.1)
