"""Cross-entropy and log-probabilities of a linear head, against dense logits."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch.nn import functional

from lengthwise.testing.models import tiny_model
from lengthwise.train.memory import (
    StreamBP,
    TiledLoss,
    dpo_loss,
    fit,
    grpo_loss,
    linear_cross_entropy,
    linear_logps,
    loss,
    token_logps,
)


def head(softcap=None, bias=True, seed=0):
    g = torch.Generator().manual_seed(seed)
    hidden = torch.randn(2, 19, 8, generator=g, dtype=torch.float64).requires_grad_()
    weight = torch.randn(33, 8, generator=g, dtype=torch.float64).requires_grad_()
    offset = torch.randn(33, generator=g, dtype=torch.float64).requires_grad_() if bias else None
    labels = torch.randint(33, (2, 19), generator=g)
    labels[0, 3:7] = -100

    def logits():
        out = functional.linear(hidden, weight, offset)
        return out if softcap is None else softcap * torch.tanh(out / softcap)

    return hidden, weight, offset, labels, logits


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("tokens", [1, 7, 38, 100])
def test_cross_entropy_of_tiles_is_that_of_the_whole(softcap, bias, tokens):
    hidden, weight, offset, labels, logits = head(softcap, bias)
    leaves = [x for x in (hidden, weight, offset) if x is not None]
    dense = functional.cross_entropy(logits().flatten(0, 1), labels.flatten())
    kw = {"bias": offset, "softcap": softcap, "tokens": tokens}
    ours = linear_cross_entropy(hidden, weight, labels, **kw)
    torch.testing.assert_close(ours, dense, atol=1e-12, rtol=0)
    for got, want in zip(
        torch.autograd.grad(3 * ours, leaves), torch.autograd.grad(3 * dense, leaves), strict=True
    ):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


@pytest.mark.parametrize("softcap", [None, 1.5])
def test_logps_of_tiles_with_any_gradient(softcap):
    hidden, weight, offset, labels, logits = head(softcap)
    dense = torch.log_softmax(logits(), -1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
    dense = dense.masked_fill(labels == -100, 0.0)
    ours = linear_logps(hidden, weight, labels, bias=offset, softcap=softcap, tokens=5)
    torch.testing.assert_close(ours, dense, atol=1e-12, rtol=0)
    up = torch.randn(2, 19, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    leaves = (hidden, weight, offset)
    for got, want in zip(
        torch.autograd.grad(ours, leaves, up), torch.autograd.grad(dense, leaves, up), strict=True
    ):
        torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


def test_the_count_of_a_whole_accumulated_batch():
    hidden, weight, _, labels, _ = head()
    mean = linear_cross_entropy(hidden, weight, labels)
    shared = linear_cross_entropy(hidden, weight, labels, count=torch.tensor(100))
    torch.testing.assert_close(shared * 100, mean * (labels != -100).sum())


def test_only_what_needs_a_gradient_gets_one():
    hidden, weight, offset, labels, _ = head()
    ours = linear_cross_entropy(hidden.detach(), weight, labels, bias=offset.detach())
    assert torch.autograd.grad(ours, weight)[0].shape == weight.shape
    with torch.no_grad():
        assert not linear_cross_entropy(hidden, weight, labels).requires_grad


def test_the_gradients_are_given_up_in_the_first_backward():
    hidden, weight, _, labels, _ = head()
    ours = linear_cross_entropy(hidden, weight, labels)
    ours.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="compute the loss again"):
        ours.backward()


def test_labels_that_are_not_one_per_token_or_outside_the_vocabulary():
    hidden, weight, _, labels, _ = head()
    with pytest.raises(ValueError, match=r"the loss is per token: .* \[2, 19\] .* got \[2, 18\]"):
        linear_cross_entropy(hidden, weight, labels[:, 1:])
    with pytest.raises(ValueError, match=r"-100 or in 0 .. 32, got 33"):
        linear_logps(hidden, weight, labels.clamp(min=33))


def test_ligers_kernel_is_asked_on_a_gpu_where_it_is_installed(monkeypatch):
    asked = {}

    class Fused:
        def __init__(self, **kwargs):
            asked.update(kwargs)

        def __call__(self, weight, hidden, target, bias):
            asked["shapes"] = (weight.shape, hidden.shape, target.shape, bias)
            return torch.tensor(38.0)

    name = "liger_kernel.transformers.fused_linear_cross_entropy"
    module = ModuleType(name)
    module.LigerFusedLinearCrossEntropyLoss = Fused
    monkeypatch.setitem(sys.modules, name, module)
    hidden, weight, _, labels, _ = head()
    monkeypatch.setattr(loss, "find_spec", lambda found: SimpleNamespace(name=found))
    before = linear_cross_entropy(hidden, weight, labels)
    assert not asked  # not on a CPU
    monkeypatch.setattr(loss, "on_gpu", lambda tensor: True)
    ours = linear_cross_entropy(hidden, weight, labels, softcap=3.0)
    assert ours == 38.0 / 34 != before
    assert asked == {
        "ignore_index": -100, "reduction": "sum", "softcap": 3.0, "accum_dtype": torch.float32,
        "shapes": ((33, 8), (38, 8), (38,), None),
    }  # fmt: skip


def answers():
    g = torch.Generator().manual_seed(4)
    ids = torch.randint(3, 320, (4, 30), generator=g)
    labels = ids.clone()
    labels[:, :9] = -100
    return ids, labels


def dense_logps(model, ids, labels):
    logps = torch.log_softmax(model(ids).logits, -1)[:, :-1]
    picked = logps.gather(-1, labels[:, 1:].clamp(min=0)[..., None])[..., 0]
    return picked * (labels[:, 1:] != -100)


def preference(name, logps, reference, labels):
    if name == "dpo":
        return dpo_loss(logps[:2], logps[2:], reference[:2], reference[2:], beta=0.5)
    mask = (labels[:, 1:] != -100).double()
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5], dtype=torch.float64)
    old = logps.detach() + 0.3 * torch.sin(torch.arange(29.0).double())
    return grpo_loss(logps, old, advantages, mask, beta=0.1, reference=reference)


@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("name", ["dpo", "grpo"])
def test_preference_losses_stream(name, family):
    model = tiny_model(family).double().train()
    if family == "gemma2":
        model.config.final_logit_softcapping = 5.0
        model.set_attn_implementation("eager")
    ids, labels = answers()
    reference = dense_logps(tiny_model(family, seed=1).double(), ids, labels).detach()

    def gradients(logps):
        model.zero_grad()
        value = preference(name, logps, reference, labels)
        value.backward()
        return value.detach(), [p.grad.clone() for p in model.parameters()]

    plain = gradients(dense_logps(model, ids, labels))
    with fit(model, StreamBP(chunk=40), TiledLoss()):
        ours = gradients(token_logps(model, ids, labels, tokens=11))
    # transformers rounds Gemma's norms and eager softmax to float32.
    tolerance = 1e-9 if family == "llama" else 1e-5
    torch.testing.assert_close(ours[0], plain[0], atol=tolerance, rtol=0)
    for got, want in zip(ours[1], plain[1], strict=True):
        scale = max(1.0, float(want.abs().max()))
        torch.testing.assert_close(got, want, atol=tolerance * scale, rtol=0)


def test_preference_losses_by_hand():
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    assert dpo_loss(one, zero, zero, zero, beta=1.0) == pytest.approx(0.3132617)
    # A ratio of e is clipped to 1.2 where the answer was good, and not where it was bad.
    good = grpo_loss(one, zero, torch.ones(1), one)
    bad = grpo_loss(one, zero, -torch.ones(1), one)
    assert (good, bad) == (pytest.approx(-1.2), pytest.approx(2.7182817))
    # The divergence: e^(r - l) - (r - l) - 1 with r - l = -1.
    apart = grpo_loss(one, one, torch.zeros(1), one, beta=2.0, reference=zero)
    assert apart == pytest.approx(2 * 0.3678794)


def test_preference_losses_refuse():
    x = torch.zeros(2, 3)
    with pytest.raises(ValueError, match="beta must be above 0, got 0"):
        dpo_loss(x, x, x, x, beta=0)
    with pytest.raises(ValueError, match="clip must be between 0 and 1, got 2"):
        grpo_loss(x, x, x[:, 0], x + 1, clip=2)
    with pytest.raises(ValueError, match="pass reference"):
        grpo_loss(x, x, x[:, 0], x + 1, beta=0.1)
    with pytest.raises(ValueError, match="at least one token"):
        grpo_loss(x, x, x[:, 0], x)
    with pytest.raises(ValueError, match="the loss is per token"):
        token_logps(tiny_model("llama"), torch.ones(2, 5).long(), torch.ones(2, 4).long())
