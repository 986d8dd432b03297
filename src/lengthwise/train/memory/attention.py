"""Attention of the last queries of a sequence over all of its keys, in memory for the queries.

This is what a model calls while `StreamBP` is on. Queries are always the last of the keys' tokens
(as with a cache): torch's `is_causal` would align them with the first.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.attention.bias import causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.partial import Partial, merge
from lengthwise.hf.streaming import RowMask, register
from lengthwise.train.memory.replay import spans

TILE = 256  # queries whose masks, and scores where they are needed, exist at once

Mask = RowMask | Tensor | None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Mask,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' attention function; `[b, t, heads, d]` comes back."""
    if dropout:
        raise ValueError(f"StreamBP has no attention dropout, got {dropout}; set it to 0")
    scale = 1 / math.sqrt(query.shape[-1]) if scaling is None else scaling
    if torch.is_autocast_enabled(query.device.type):  # it does not reach into custom functions
        low = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(low), key.to(low), value.to(low)
    if attention_mask is None and softcap is None and s_aux is None:
        out = causal(query, key, value, scale)
    else:
        if attention_mask is None:
            attention_mask = _causal_mask(query, key)
        out = _Tiled.apply(query, key, value, s_aux, attention_mask, scale, softcap)
    return out.transpose(1, 2), None


register(attention)


def causal(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Query i of t sees all but the last `t - 1 - i` of n keys; `[b, heads, t, d]`."""
    if query.device.type == "cpu":
        out = _Causal.apply(query, key, value, scale)
        assert isinstance(out, Tensor)
        return out
    return causal_by_torch(query, key, value, scale)


def causal_by_torch(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """The same by torch's own choice of kernel: fused on a GPU, with a mask on a CPU."""
    whole = query.shape[2] == key.shape[2]
    bias = None if whole else causal_lower_right(query.shape[2], key.shape[2])
    return scaled_dot_product_attention(
        query, key, value, bias, is_causal=whole, scale=scale, enable_gqa=True
    )


class _Causal(torch.autograd.Function):
    """A rectangle over the keys before the queries and a triangle over the queries' own.

    Torch's fused CPU kernel computes both without a mask. Its backward takes the output and
    log-sum-exp that the softmax is normalised by, so given those of the merged whole it returns
    each part's share. Half-precision numbers are computed in float32, as the partial outputs would
    be rounded otherwise.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        parts = [
            Partial(*_unfold(fold, query.shape, *_forward(*_fold(fold, q, k, v), scale, fold)))
            for fold, q, k, v in _pieces(query, key, value)
        ]
        whole = merge(parts)
        ctx.scale = scale
        ctx.save_for_backward(query, key, value, whole.out, whole.lse)
        return whole.out.to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        d_out = at_least_float32(grads[0])
        dq = torch.zeros_like(out)
        dks, dvs = [], []
        group = query.shape[1] // key.shape[1]
        for fold, q, k, v in _pieces(query, key, value):
            q, k, v = _fold(fold, q, k, v)
            shape = q.shape[:-1]
            gq, gk, gv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                d_out.reshape(*shape, -1), q, k, v,
                out.reshape(*shape, -1), lse.reshape(shape), 0.0, not fold, scale=ctx.scale,
            )  # fmt: skip
            dq += gq.reshape(dq.shape)
            dks.append(gk if fold else gk.unflatten(1, (-1, group)).sum(2))
            dvs.append(gv if fold else gv.unflatten(1, (-1, group)).sum(2))
        dk, dv = torch.cat(dks, dim=2), torch.cat(dvs, dim=2)
        return dq.to(query.dtype), dk.to(key.dtype), dv.to(value.dtype), None


def _pieces(query: Tensor, key: Tensor, value: Tensor) -> list[tuple[bool, Tensor, Tensor, Tensor]]:
    """(rectangle or triangle, queries, keys, values) of every part."""
    past = key.shape[2] - query.shape[2]
    pieces = [(False, query, key[:, :, past:], value[:, :, past:])]
    return [(True, query, key[:, :, :past], value[:, :, :past]), *pieces] if past else pieces


def _fold(fold: bool, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As many query heads as KV heads: a rectangle stacks its groups, a triangle repeats keys."""
    b, h, t, d = q.shape
    group = h // k.shape[1]
    q, k, v = (at_least_float32(x) for x in (q, k, v))
    if fold:
        q = q.reshape(b, k.shape[1], group * t, d)
    elif group > 1:
        k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    # The kernel steps through the last dimension by one number, whatever its stride says.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    return q, k, v


def _forward(q: Tensor, k: Tensor, v: Tensor, scale: float, fold: bool) -> tuple[Tensor, Tensor]:
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, not fold, scale=scale
    )
    return out, lse


def _unfold(fold: bool, shape: torch.Size, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor]:
    return (out.reshape(*shape[:-1], -1), lse.reshape(shape[:-1])) if fold else (out, lse)


def _causal_mask(query: Tensor, key: Tensor) -> Tensor:
    t, n = query.shape[2], key.shape[2]
    first = torch.arange(n - t, n, device=query.device)
    return (torch.arange(n, device=query.device) <= first[:, None])[None, None]


class _Tiled(torch.autograd.Function):
    """Attention under a mask, a soft cap or learned sinks, a tile of queries at a time.

    The tile is computed again going back, so neither its mask nor its scores are kept.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        mask: RowMask | Tensor,
        scale: float,
        softcap: float | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, sinks)
        ctx.meta = (mask, scale, softcap)
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        for low, high in spans(query.shape[2], TILE):
            seen, visible = _visible(mask, low, high, query, key)
            k, v = key[:, :, seen], value[:, :, seen]
            out[:, :, low:high] = _masked(
                query[:, :, low:high], k, v, sinks, visible, scale, softcap
            )
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks = ctx.saved_tensors
        mask, scale, softcap = ctx.meta
        dq = torch.empty_like(query)
        dk, dv = (at_least_float32(torch.zeros_like(x)) for x in (key, value))
        ds = None if sinks is None else at_least_float32(torch.zeros_like(sinks))
        for low, high in spans(query.shape[2], TILE):
            seen, visible = _visible(mask, low, high, query, key)
            leaves = [query[:, :, low:high], key[:, :, seen], value[:, :, seen]]
            leaves += [] if sinks is None else [sinks]
            leaves = [x.detach().requires_grad_() for x in leaves]
            with torch.enable_grad():
                sink = leaves[3] if sinks is not None else None
                out = _masked(leaves[0], leaves[1], leaves[2], sink, visible, scale, softcap)
            found = torch.autograd.grad(out, leaves, grads[0][:, :, low:high])
            dq[:, :, low:high] = found[0]
            dk[:, :, seen] += found[1]
            dv[:, :, seen] += found[2]
            if ds is not None:
                ds += found[3]
        d_sinks = None if ds is None else ds.to(sinks.dtype)
        return dq, dk.to(key.dtype), dv.to(value.dtype), d_sinks, None, None, None


def _visible(
    mask: RowMask | Tensor, low: int, high: int, query: Tensor, key: Tensor
) -> tuple[slice, Tensor]:
    """The keys that a tile of queries may see, and the mask over them, bool or additive."""
    if isinstance(mask, Tensor):
        stop = min(key.shape[2], mask.shape[-1])
        return slice(0, stop), mask[:, :, low:high, :stop]
    # A query sees nothing after itself, and nothing before its window.
    stop = min(key.shape[2], mask.q_offset + high - mask.kv_offset)
    keys = slice(min(mask.first_key(low), stop - 1), stop)
    return keys, mask.visible(slice(low, high), keys)


def _masked(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    mask: Tensor,
    scale: float,
    softcap: float | None,
) -> Tensor:
    if softcap is None and sinks is None:
        return scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=True)
    b, h, t, d = q.shape
    kv = k.shape[1]
    rows, keys, values = (at_least_float32(x) for x in (q, k, v))
    score = (rows * scale).reshape(b, kv, h // kv * t, d) @ keys.transpose(-1, -2)
    score = score.view(b, h, t, -1)
    if softcap is not None:
        score = torch.tanh(score / softcap) * softcap
    lowest = torch.finfo(score.dtype).min
    score = score.masked_fill(~mask, lowest) if mask.dtype == torch.bool else score + mask
    if sinks is not None:
        score = torch.cat([score, sinks.to(score.dtype).view(1, h, 1, 1).expand(b, h, t, 1)], -1)
    weight = torch.softmax(score, dim=-1)
    weight = weight[..., :-1] if sinks is not None else weight
    out = weight.reshape(b, kv, h // kv * t, -1) @ values
    return out.view(b, h, t, -1).to(v.dtype)
