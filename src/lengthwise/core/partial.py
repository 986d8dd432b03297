"""Attention is made of parts: the exact merge of softmax attentions over disjoint sets of keys."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

# Outputs up to this many numbers are stacked (three calls in all); larger ones are added one by
# one, because a stack would hold all of them a second time.
SMALL = 1 << 16


class Partial(NamedTuple):
    """Softmax attention over some of the keys.

    Attributes:
        out: The values averaged with the softmax over these keys alone; 0 where a query sees none.
        lse: The natural logarithm of the sum of exponentiated scores; -inf where a query sees none.
    """

    out: Float[Tensor, "b h q d"]
    lse: Float[Tensor, "b h q"]


def merge(parts: Sequence[Partial]) -> Partial:
    """Attention over the union of disjoint key sets, from the attention over each of them.

    Exact: out = sum_p out_p exp(lse_p - lse), lse = logsumexp_p(lse_p). Keys that stand in two
    parts count twice. A query that sees no key in any part gets out = 0 and lse = -inf.

    Raises:
        ValueError: If there is no part.
    """
    if not parts:
        raise ValueError("merge needs at least one part, got none")
    if len(parts) == 1:
        return parts[0]
    if len(parts) == 2 and not any(x.requires_grad for part in parts for x in part):
        return _join(*parts)
    lses = torch.stack([part.lse for part in parts])
    # A row that sees nothing has only -inf: no inf - inf and no log 0 may appear there, neither
    # here nor in a gradient (torch.logsumexp has NaN for it).
    peak = lses.detach().amax(dim=0)
    peak = torch.where(peak.isneginf(), torch.zeros_like(peak), peak)
    shifted = torch.exp(lses - peak)
    total = shifted.sum(dim=0)
    seen = total > 0
    total = torch.where(seen, total, torch.ones_like(total))
    weights = shifted / total
    first = parts[0].out
    # Weights of a half type would cost more than everything else: parts are joined in float32.
    if first.numel() <= SMALL:
        outs = torch.stack([part.out for part in parts])
        out = (outs * weights.unsqueeze(-1)).sum(dim=0)
    else:
        joined = sum(
            part.out * weight.unsqueeze(-1) for part, weight in zip(parts, weights, strict=True)
        )
        assert isinstance(joined, Tensor)
        out = joined
    return Partial(out.to(first.dtype), torch.where(seen, peak + total.log(), float("-inf")))


def _join(a: Partial, b: Partial) -> Partial:
    """The merge of two parts in few passes over memory; its gradient has NaN for unseen rows."""
    lse = torch.logaddexp(a.lse, b.lse)
    share = torch.exp(b.lse - torch.where(lse.isneginf(), 0.0, lse))
    exact = torch.promote_types(a.out.dtype, share.dtype)
    out = torch.lerp(a.out.to(exact), b.out.to(exact), share.unsqueeze(-1).to(exact))
    return Partial(out.to(a.out.dtype), lse)


def nothing(q: Float[Tensor, "b h q d"], width: int) -> Partial:
    """The part without keys, for queries `q` and values of `width` dimensions."""
    # As everywhere, the log-sum-exp is at least float32: bfloat16 would weigh parts wrongly.
    lse = q.new_full(q.shape[:3], float("-inf"), dtype=torch.promote_types(q.dtype, torch.float32))
    return Partial(q.new_zeros(*q.shape[:3], width), lse)


def with_sink(part: Partial, logit: Float[Tensor, " h"] | None) -> Partial:
    """The part with a learned sink (gpt-oss): a key of score `logit` for each head, with value 0.

    The same part where there is none.
    """
    if logit is None:
        return part
    lse = logit.to(part.lse)[None, :, None].expand_as(part.lse)
    return merge([part, Partial(torch.zeros_like(part.out), lse)])


def refuse_gradients(part: Partial, live: Sequence[Tensor], why: str) -> Partial:
    """The part as it is; a backward through it raises ValueError if one of `live` wants gradients.

    For parts over keys that were kept without their history.
    """
    if not (torch.is_grad_enabled() and any(x.requires_grad for x in live)):
        return part
    return Partial(*_NoGradient.apply(why, *part, *live))


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, why: str, out: Tensor, lse: Tensor, *live: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.why = why
        return out.view_as(out), lse.view_as(lse)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise ValueError(ctx.why)
