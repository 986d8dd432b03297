"""A few queries over many keys: one softmax over all parts, keys and values read once."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lengthwise.core import native
from lengthwise.core.attention.chunked import coverage
from lengthwise.core.attention.reference import add_bias, apply_score
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial
from lengthwise.core.regions import Region, same_segment, visible_pairs

# Keys of a half type are widened so many at a time; the copy stays in cache.
TILE = 4096

Part = tuple[Region, Queries, KeyBlock]


def decode(
    parts: Sequence[Part], *, scale: float, softcap: float | None, need_lse: bool = True
) -> Partial:
    """Attention of placed queries over placed keys, for all parts of a layer in one softmax.

    The heads that share a KV head become columns of one product, so that keys are read once.
    Keys stand on its left: a tall matrix times a few columns was the faster of the two orders
    wherever it was tried on a CPU. Parts write their scores side by side into one buffer: a merge
    of many small parts would cost more than reading their keys. Where nothing is hidden or
    changed, C code does the same in one pass (`native.py`).

    Args:
        parts: At least one: a region, the queries as it places them, and keys as it places them.
        need_lse: Whether anybody reads the log-sum-exp; without it, it is NaN.
    """
    _, first, _ = parts[0]
    if in_c(parts, softcap):
        return native.decode([(queries.vectors, keys) for _, queries, keys in parts], scale)
    b, h, t, _ = first.vectors.shape
    exact = torch.promote_types(first.vectors.dtype, torch.float32)
    parts = [(region, queries, block.opened(exact)) for region, queries, block in parts]
    kv = parts[0][2].keys.shape[1]
    sizes = [len(block) for _, _, block in parts]
    scores = torch.empty(b, kv, h // kv * t, sum(sizes), dtype=exact, device=first.vectors.device)
    columns: dict[int, Tensor] = {}
    hidden, at = False, 0
    for (region, queries, block), size in zip(parts, sizes, strict=True):
        x = queries.vectors
        if id(x) not in columns:
            columns[id(x)] = (x.to(exact) * scale).reshape(b, kv, -1, x.shape[-1]).transpose(2, 3)
        score = scores[..., at : at + size]
        for low, high in _tiles(block.keys, size):
            keys = block.keys[:, :, low:high].to(exact)
            score[..., low:high] = (keys @ columns[id(x)]).transpose(2, 3)
        hidden |= _finish(score.view(b, h, t, size), queries, block, region, softcap)
        at += size
    weights, lse = _softmax(scores, hidden, need_lse)
    out, at = None, 0
    for (_, _, block), size in zip(parts, sizes, strict=True):
        for low, high in _tiles(block.values, size):
            values = block.values[:, :, low:high].to(exact)
            piece = weights[..., at + low : at + high] @ values
            out = piece if out is None else out.add_(piece)
        at += size
    assert out is not None
    out = out.reshape(b, h, t, -1).to(first.vectors.dtype)
    return Partial(out, lse.reshape(b, h, t))


def in_c(parts: Sequence[Part], softcap: float | None) -> bool:
    """Whether C code computes these parts: nothing is hidden or changed, and it takes the heads."""
    if softcap is not None or not all(_plain(*part) for part in parts):
        return False
    return native.takes([(queries.vectors, keys) for _, queries, keys in parts])


def _plain(region: Region, queries: Queries, block: KeyBlock) -> bool:
    """Whether every query sees every key with its own score."""
    apart = queries.segments is not None or block.segments is not None
    changed = region.score is not None or block.bias is not None
    return not changed and not apart and coverage(region, queries, block) == "all"


def _tiles(x: Tensor, size: int) -> list[tuple[int, int]]:
    if x.dtype in (torch.float32, torch.float64):
        return [(0, size)]
    return [(low, min(low + TILE, size)) for low in range(0, size, TILE)]


def _finish(
    score: Tensor, queries: Queries, block: KeyBlock, region: Region, softcap: float | None
) -> bool:
    """Cap, change and mask scores `[b, h, t, n]` in place; whether anything may be hidden."""
    if softcap is not None:
        score.div_(softcap).tanh_().mul_(softcap)
    if region.score is not None:
        score.copy_(apply_score(region, score, queries.positions, block.positions))
    if block.bias is not None:
        score.copy_(add_bias(score, block))
    together = same_segment(queries.segments, block.segments)
    if together is None and coverage(region, queries, block) == "all":
        return False
    seen = visible_pairs(region, queries.positions, block.positions, score.shape[1])
    score.masked_fill_(~(seen if together is None else seen & together), float("-inf"))
    return True


def _softmax(scores: Tensor, hidden: bool, need_lse: bool) -> tuple[Tensor, Tensor]:
    """Weights (written over the scores) and log-sum-exp; a query that sees nothing gets zeros."""
    if not hidden and not need_lse:
        return torch.softmax(scores, dim=-1), scores.new_full(scores.shape[:-1], float("nan"))
    peak = scores.amax(-1, keepdim=True)
    if hidden:
        peak = torch.where(peak.isneginf(), 0.0, peak)
    weights = scores.sub_(peak).exp_()
    total = weights.sum(-1, keepdim=True)
    lse = (peak + total.log()).squeeze(-1)
    return weights.div_(total.clamp_min(torch.finfo(total.dtype).tiny)), lse
