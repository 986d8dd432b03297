"""The truth: one dense softmax over every key, with each region's scores at its own positions."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial
from lengthwise.core.regions import Fixed, Place, Region, same_segment, visible_pairs
from lengthwise.core.rotary import Rotary


def reference(
    queries: Queries,
    block: KeyBlock,
    regions: Sequence[Region],
    *,
    rotary: Rotary | None,
    stored: Place | None,
    scale: float,
    softcap: float | None = None,
) -> Partial:
    """Attention of all queries over one block of keys through all regions at once.

    Memory and time grow with queries times keys: for tests and for reading. Arguments as in
    `lengthwise.core.attention.attend`.
    """
    heads, kv_heads = queries.vectors.shape[1], block.keys.shape[1]
    q_positions, k_positions = queries.positions, block.positions
    values = at_least_float32(block.values).repeat_interleave(heads // kv_heads, dim=1)
    shape = (queries.vectors.shape[0], heads, len(queries), len(block))
    scores = at_least_float32(queries.vectors.new_full(shape, float("-inf")))
    for region in regions:
        q, k = queries.vectors, block.keys
        if rotary is not None:
            q = rotary.rotate(q, region.q_place(q_positions)[:, None])
            k = turn_keys(block, region, rotary, stored)
        k = at_least_float32(k).repeat_interleave(heads // kv_heads, dim=1)
        score = at_least_float32(q) * scale @ k.transpose(-1, -2)
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        if region.score is not None:
            score = apply_score(region, score, q_positions, k_positions)
        score = add_bias(score, block)
        seen = visible_pairs(region, q_positions, k_positions, heads)
        together = same_segment(queries.segments, block.segments)
        if together is not None:
            seen = seen & together
        scores = torch.where(seen, score, scores)
    lse = torch.logsumexp(scores, dim=-1)
    weights = torch.exp(scores - torch.where(lse.isneginf(), 0.0, lse)[..., None])
    return Partial((weights @ values).to(block.values.dtype), lse)


def turn_keys(block: KeyBlock, region: Region, rotary: Rotary, stored: Place | None) -> Tensor:
    """The keys of a block, rotated from where they are stored to their places in a region."""
    name = None
    if block.places is None and block.start is not None:
        name = (stored, region.k_place, block.start, len(block))

    def places() -> Tensor:
        return region.k_place(block.positions) if block.places is None else block.places

    def turned(places: Callable[[], Tensor], way: str) -> Tensor:
        named = None if name is None else (name, way)
        if stored is None:
            return rotary.rotate(block.keys, places, named)
        return rotary.shift(block.keys, lambda: _offsets(places(), stored, block), named)

    if not region.blend:
        return turned(places, "there")
    at = places()
    below, above = turned(lambda: at.floor(), "below"), turned(lambda: at.ceil(), "above")
    weight = (at.ceil() - at)[..., None].to(below.dtype)
    return above + weight * (below - above)


def _offsets(places: Tensor, stored: Place, block: KeyBlock) -> Tensor:
    """From where keys are stored to `places`."""
    if isinstance(stored, Fixed):  # places that all heads share stay shared
        return places - stored.position
    at = stored(block.positions)
    if at.ndim > places.ndim:  # a position for each pair, in a last dimension
        places = places.unsqueeze(-1)
    elif places.ndim > at.ndim:
        at = at.unsqueeze(-1)
    return places - at


def add_bias(score: Tensor, block: KeyBlock) -> Tensor:
    """Scores `[b, h, q, k]` with the bias of every key."""
    if block.bias is None:
        return score
    bias = block.bias
    if bias.shape[1] > 1:
        bias = bias.repeat_interleave(score.shape[1] // bias.shape[1], dim=1)
    return score + bias[:, :, None].to(score.dtype)


def at_least_float32(x: Tensor) -> Tensor:
    """What scores are made of, and what follows from them: float16 ends at 65,504, and in bfloat16
    a log-sum-exp of 30 is off by 0.1.
    """
    return x.to(torch.promote_types(x.dtype, torch.float32))


def apply_score(region: Region, score: Tensor, q_positions: Tensor, k_positions: Tensor) -> Tensor:
    """A region's own change of the scores `[b, h, q, k]`."""
    assert region.score is not None
    b = torch.arange(score.shape[0], device=score.device)[:, None, None, None]
    h = torch.arange(score.shape[1], device=score.device)[None, :, None, None]
    k = k_positions
    if k.shape[1] > 1:
        k = k.repeat_interleave(score.shape[1] // k.shape[1], dim=1)
    return region.score(score, b, h, q_positions[:, None, :, None], k[:, :, None, :])
