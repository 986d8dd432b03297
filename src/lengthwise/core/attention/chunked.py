"""Attention through one region, tile by tile in plain torch: O(n) extra memory, with a backward.

Source: the tiling and the recomputing backward of FlashAttention (Dao et al. 2022,
arXiv:2205.14135, algorithms 1 and 4), with a gradient for the log-sum-exp too, because
`merge` differentiates through it.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lengthwise.core.attention.reference import apply_score, at_least_float32
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial
from lengthwise.core.regions import Region, same_segment, visible_pairs

Q_TILE, K_TILE = 256, 1024


def chunked(
    queries: Queries, block: KeyBlock, region: Region, *, scale: float, softcap: float | None
) -> Partial:
    """Attention of placed (already rotated) queries over placed keys through one region."""
    out, lse = _Chunked.apply(
        queries.vectors, block.keys, block.values, queries, block, region, scale, softcap
    )
    return Partial(out, lse)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        queries: Queries,
        block: KeyBlock,
        region: Region,
        scale: float,
        softcap: float | None,
    ) -> tuple[Tensor, Tensor]:
        b, h, t, _ = q.shape
        out = at_least_float32(q.new_zeros(b, h, t, v.shape[-1]))
        lse = out.new_full((b, h, t), float("-inf"))
        for ts in _tiles(t, Q_TILE):
            o, peak = out[:, :, ts], lse[:, :, ts].clone()
            total = torch.zeros_like(peak)
            for ns in _tiles(k.shape[2], K_TILE):
                score = _score(queries, block, region, ts, ns, scale, softcap)
                if score is None:
                    continue
                new_peak = torch.maximum(peak, score.amax(-1))
                safe = torch.where(new_peak.isneginf(), 0.0, new_peak)
                weight = torch.exp(score - safe[..., None])
                decay = torch.exp(peak - safe)
                total = total * decay + weight.sum(-1)
                o.mul_(decay[..., None]).add_(_times_values(weight.to(v.dtype), v[:, :, ns]))
                peak = new_peak
            o.div_(total.clamp_min(torch.finfo(total.dtype).tiny)[..., None])
            lse[:, :, ts] = peak + total.log()
        out = out.to(q.dtype)
        # Tensors go through save_for_backward alone, so that checkpointing can drop them.
        gone = q.new_empty(0)
        ctx.meta = (
            replace(queries, vectors=gone), replace(block, keys=gone, values=gone),
            region, scale, softcap,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, out, lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_out, d_lse = grads
        q, k, v, out, lse = ctx.saved_tensors
        queries, block, region, scale, softcap = ctx.meta
        if region.score is not None:
            raise ValueError(
                "impl='chunked' has no backward through a region's own score; use impl='reference'"
            )
        queries, block = replace(queries, vectors=q), replace(block, keys=k, values=v)
        group = q.shape[1] // k.shape[1]
        dq, dk, dv = (torch.zeros_like(at_least_float32(x)) for x in (q, k, v))
        # d score = weight * (d weight - delta + d lse), where delta = sum_k weight * d weight.
        delta = at_least_float32(out * d_out).sum(-1) - d_lse
        finite = torch.where(lse.isneginf(), 0.0, lse)
        for ts in _tiles(q.shape[2], Q_TILE):
            for ns in _tiles(k.shape[2], K_TILE):
                score = _score(queries, block, region, ts, ns, scale, softcap)
                if score is None:
                    continue
                weight = torch.exp(score - finite[:, :, ts, None])
                grad = d_out[:, :, ts]
                dv[:, :, ns] += _per_kv_head(weight.to(v.dtype).transpose(-1, -2) @ grad, group)
                d_weight = grad @ v[:, :, ns].repeat_interleave(group, dim=1).transpose(-1, -2)
                d_score = weight * (d_weight - delta[:, :, ts, None])
                if softcap is not None:
                    seen = torch.where(score.isneginf(), 0.0, score)
                    d_score = d_score * (1 - (seen / softcap) ** 2)
                d_score = (d_score * scale).to(q.dtype)
                dq[:, :, ts] += d_score @ k[:, :, ns].repeat_interleave(group, dim=1)
                dk[:, :, ns] += _per_kv_head(d_score.transpose(-1, -2) @ q[:, :, ts], group)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None, None, None


def _tiles(length: int, size: int) -> list[slice]:
    return [slice(low, min(low + size, length)) for low in range(0, length, size)]


def _score(
    queries: Queries,
    block: KeyBlock,
    region: Region,
    ts: slice,
    ns: slice,
    scale: float,
    softcap: float | None,
) -> Tensor | None:
    """Scores of one tile `[b, h, t, n]`, -inf where not seen; None where nothing is."""
    q, k = queries.times(ts.start, ts.stop), block.slots(ns.start, ns.stop)
    covered = coverage(region, q, k)
    if covered == "none":
        return None
    b, h, t, d = q.vectors.shape
    kv = k.keys.shape[1]
    score = q.vectors.reshape(b, kv, h // kv * t, d) @ k.keys.transpose(-1, -2)
    score = at_least_float32(score.view(b, h, t, len(k))) * scale
    if softcap is not None:
        score = torch.tanh(score / softcap) * softcap
    if region.score is not None:
        score = apply_score(region, score, q.positions, k.positions)
    together = same_segment(q.segments, k.segments)
    if covered == "some" or together is not None:
        seen = visible_pairs(region, q.positions, k.positions, h)
        if together is not None:
            seen = seen & together
        score = score.masked_fill(~seen, float("-inf"))
    return score


def coverage(region: Region, queries: Queries, block: KeyBlock) -> str:
    """Whether a region shows `all`, `none` or `some` pairs of a tile, by arithmetic alone."""
    bounds = block.bounds
    if queries.start is None or bounds is None:
        return "some"
    q_low, q_high = queries.start, queries.start + len(queries) - 1
    k_low, k_high = bounds
    nearest, farthest = q_low - k_high, q_high - k_low
    if (
        farthest < region.near
        or (region.far is not None and nearest >= region.far)
        or k_high < region.first
        or (region.last is not None and k_low >= region.last)
    ):
        return "none"
    whole = region.also is None
    if region.range_of is not None:
        firsts, lasts = region.range_of(queries.positions[0])
        if k_high < firsts.min() or k_low >= lasts.max():
            return "none"
        whole = whole and bool(k_low >= firsts.max()) and bool(k_high < lasts.min())
    if (
        whole
        and nearest >= region.near
        and (region.far is None or farthest < region.far)
        and k_low >= region.first
        and (region.last is None or k_high < region.last)
    ):
        return "all"
    return "some"


def _times_values(weight: Tensor, v: Tensor) -> Tensor:
    b, h, t, n = weight.shape
    kv = v.shape[1]
    return (weight.view(b, kv, h // kv * t, n) @ v).view(b, h, t, v.shape[-1])


def _per_kv_head(x: Tensor, group: int) -> Tensor:
    return x.unflatten(1, (-1, group)).sum(2)
