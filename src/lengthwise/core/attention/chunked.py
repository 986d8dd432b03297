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

from lengthwise.core.attention.reference import add_bias, apply_score, at_least_float32
from lengthwise.core.attention.tiles import Tiles
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
        rows_of, keys_of = sizes(region)
        for ts in tiles(t, rows_of):
            o, peak = out[:, :, ts], lse[:, :, ts].clone()
            total = torch.zeros_like(peak)
            rows = at_least_float32(q[:, :, ts]) * scale
            for ns in tiles(k.shape[2], keys_of):
                score = score_tile(rows, queries, block, region, ts, ns, softcap)
                if score is None:
                    continue
                new_peak = torch.maximum(peak, score.amax(-1))
                safe = torch.where(new_peak.isneginf(), 0.0, new_peak)
                weight = score.sub_(safe[..., None]).exp_()
                decay = torch.exp(peak - safe)
                total = total * decay + weight.sum(-1)
                values = at_least_float32(v[:, :, ns])
                o.mul_(decay[..., None]).add_((by_kv_head(weight, v) @ values).view_as(o))
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
        dq, dk, dv = (torch.zeros_like(at_least_float32(x)) for x in (q, k, v))
        # d score = weight * (d weight - delta + d lse), where delta = sum_k weight * d weight.
        delta = (at_least_float32(out) * d_out).sum(-1) - d_lse
        finite = torch.where(lse.isneginf(), 0.0, lse)
        rows_of, keys_of = sizes(region)
        for ts in tiles(q.shape[2], rows_of):
            rows = at_least_float32(q[:, :, ts]) * scale
            grad = by_kv_head(at_least_float32(d_out[:, :, ts]), v)
            for ns in tiles(k.shape[2], keys_of):
                score = score_tile(rows, queries, block, region, ts, ns, softcap)
                if score is None:
                    continue
                keys, values = (at_least_float32(x[:, :, ns]) for x in (k, v))
                weight = torch.exp(score - finite[:, :, ts, None])
                dv[:, :, ns] += by_kv_head(weight, v).transpose(-1, -2) @ grad
                d_weight = (grad @ values.transpose(-1, -2)).view_as(weight)
                d_score = weight.mul_(d_weight.sub_(delta[:, :, ts, None]))
                if softcap is not None:
                    seen = torch.where(score.isneginf(), 0.0, score)
                    seen = seen - add_bias(torch.zeros_like(seen), block.slots(ns.start, ns.stop))
                    seen = torch.where(score.isneginf(), 0.0, seen)
                    d_score = d_score * (1 - (seen / softcap) ** 2)
                d_score = by_kv_head(d_score, k)
                dq[:, :, ts] += (d_score @ keys).mul_(scale).view_as(rows)
                dk[:, :, ns] += d_score.transpose(-1, -2) @ by_kv_head(rows, k)
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), None, None, None, None, None


def sizes(region: Region) -> tuple[int, int]:
    """Queries and keys of a tile: no larger than a mask of tiles has them, so that it skips."""
    if isinstance(region.also, Tiles):
        return min(Q_TILE, region.also.size), min(K_TILE, region.also.size)
    return Q_TILE, K_TILE


def tiles(length: int, size: int) -> list[slice]:
    return [slice(low, min(low + size, length)) for low in range(0, length, size)]


def score_tile(
    rows: Tensor,
    queries: Queries,
    block: KeyBlock,
    region: Region,
    ts: slice,
    ns: slice,
    softcap: float | None,
) -> Tensor | None:
    """Scores of one tile `[b, h, t, n]`, -inf where not seen; None where nothing is.

    Args:
        rows: The tile's queries, in float32 at least and times the scale. Keys are widened too: a
            product in float16 ends at 65,504, and one in bfloat16 is off by one part in 500.
    """
    q, k = queries.times(ts.start, ts.stop), block.slots(ns.start, ns.stop)
    covered = coverage(region, q, k)
    if covered == "none":
        return None
    b, h, t, _ = rows.shape
    score = by_kv_head(rows, k.keys) @ at_least_float32(k.keys).transpose(-1, -2)
    score = score.view(b, h, t, len(k))
    if softcap is not None:
        score.div_(softcap).tanh_().mul_(softcap)
    if region.score is not None:
        score = apply_score(region, score, q.positions, k.positions)
    score = add_bias(score, k)
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
    if isinstance(region.also, Tiles):
        part = region.also.covers(max(q_low, 0), q_high, max(k_low, 0), k_high)
        if part == "none":
            return "none"
        whole = part == "all"
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


def by_kv_head(x: Tensor, like: Tensor) -> Tensor:
    """`[b, h, t, n]` as `[b, kv, h / kv * t, n]`: the heads that share a KV head of `like`."""
    b, h, t, n = x.shape
    kv = like.shape[1]
    return x.reshape(b, kv, h // kv * t, n)
