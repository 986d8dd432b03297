"""A few queries over many keys: keys and values are read once per KV head."""

import torch
from torch import Tensor

from lengthwise.core.attention.band import fused
from lengthwise.core.attention.chunked import coverage
from lengthwise.core.attention.reference import apply_score, at_least_float32
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial, merge
from lengthwise.core.regions import Region, same_segment, visible_pairs

# Keys at a time: their scores stay in cache, and in memory that the allocator hands out again.
# One temporary for 131,072 keys was slower than tiles, probably because of its page faults.
TILE, FUSED_TILE = 4096, 16384


def decode(
    queries: Queries, block: KeyBlock, region: Region, *, scale: float, softcap: float | None
) -> Partial:
    """Attention of placed queries over placed keys.

    Where every key is seen and nothing changes scores, torch's fused CPU kernel reads keys and
    values in one pass. Otherwise the heads that share a KV head become columns of one product.
    Keys stand on its left: a tall matrix times a few columns was the faster of the two orders
    wherever it was tried on a CPU.
    """
    if _is_plain(queries, block, region, softcap):
        return _fused_tiles(queries, block, scale)
    b, h, t, d = queries.vectors.shape
    kv, n = block.keys.shape[1], len(block)
    columns = (queries.vectors * scale).reshape(b, kv, h // kv * t, d).transpose(-1, -2)
    peak = total = out = None
    for low in range(0, n, TILE):
        tile = block if n <= TILE else block.slots(low, min(low + TILE, n))
        score = _score(queries, tile, region, columns, softcap)
        highest = score.amax(-2, keepdim=True)
        if peak is None or total is None or out is None:
            peak = highest
            # A query that has seen nothing yet: subtract 0, so that no inf - inf appears.
            weights = score.sub_(_finite(peak)).exp_()
            total = weights.sum(-2, keepdim=True)
            out = _times_values(weights, tile.values)
            continue
        higher = torch.maximum(peak, highest)
        decay = (peak - _finite(higher)).exp_()
        weights = score.sub_(_finite(higher)).exp_()
        total = total * decay + weights.sum(-2, keepdim=True)
        out = out * decay.transpose(-1, -2) + _times_values(weights, tile.values)
        peak = higher
    assert peak is not None and total is not None and out is not None
    out = out / total.clamp_min(torch.finfo(total.dtype).tiny).transpose(-1, -2)
    lse = peak + total.log()
    return Partial(out.reshape(b, h, t, -1).to(block.values.dtype), lse.reshape(b, h, t))


def _is_plain(queries: Queries, block: KeyBlock, region: Region, softcap: float | None) -> bool:
    """Whether the fused kernel computes this as it is."""
    q, k, v = queries.vectors, block.keys, block.values
    return (
        q.device.type == "cpu"
        and softcap is None
        and region.score is None
        and queries.segments is None
        and q.shape[-1] == v.shape[-1]
        and not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)))
        and coverage(region, queries, block) == "all"
    )


def _fused_tiles(queries: Queries, block: KeyBlock, scale: float) -> Partial:
    b, h, t, d = queries.vectors.shape
    kv = block.keys.shape[1]
    folded = queries.vectors.reshape(b, kv, h // kv * t, d)
    parts = []
    for low in range(0, len(block), FUSED_TILE):
        k = block.keys[:, :, low : low + FUSED_TILE]
        v = block.values[:, :, low : low + FUSED_TILE]
        out, lse = fused(folded, k, v, False, scale)
        parts.append(Partial(out.reshape(b, h, t, d), lse.reshape(b, h, t)))
    return merge(parts)


def _score(
    queries: Queries, tile: KeyBlock, region: Region, columns: Tensor, softcap: float | None
) -> Tensor:
    """Scores `[b, kv_heads, keys, group * t]`, -inf where not seen; free to be written over."""
    score = at_least_float32(tile.keys @ columns)
    together = same_segment(queries.segments, tile.segments)
    plain = softcap is None and region.score is None and together is None
    if plain and coverage(region, queries, tile) == "all":
        return score
    b, h, t, _ = queries.vectors.shape
    usual = score.transpose(-1, -2).reshape(b, h, t, len(tile))
    if softcap is not None:
        usual = torch.tanh(usual / softcap) * softcap
    if region.score is not None:
        usual = apply_score(region, usual, queries.positions, tile.positions)
    seen = visible_pairs(region, queries.positions, tile.positions, h)
    if together is not None:
        seen = seen & together
    usual = usual.masked_fill(~seen, float("-inf"))
    return usual.reshape(b, score.shape[1], -1, len(tile)).transpose(-1, -2).contiguous()


def _finite(peak: Tensor) -> Tensor:
    return torch.where(peak.isneginf(), 0.0, peak)


def _times_values(weights: Tensor, values: Tensor) -> Tensor:
    return at_least_float32(weights.to(values.dtype).transpose(-1, -2) @ values)
