"""How much of the softmax every key draws, without the matrix of weights.

With the log-sum-exp of a query known, the weight of a key is `exp(score - lse)`, so one more
product of queries and keys, tile by tile, gives the sums over queries.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lengthwise.core.attention import place_keys, place_queries
from lengthwise.core.attention.chunked import Q_TILE, by_kv_head, score_tile, tiles
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.regions import Place, Region
from lengthwise.core.rotary import Rotary


@torch.no_grad()
def drawn_mass(
    queries: Queries,
    block: KeyBlock,
    regions: Sequence[Region],
    lse: Float[Tensor, "b h t"] | None,
    counted: Bool[Tensor, "b t"],
    *,
    rotary: Rotary | None,
    stored: Place | None,
    scale: float,
    softcap: float | None = None,
) -> Float[Tensor, "b kv n"]:
    """The softmax weights of every key, summed over queries and over the heads of a KV head.

    Args:
        lse: Log-sum-exp of the queries over everything that they saw; None for this block alone.
        counted: Which queries count.
        rotary, stored, scale, softcap: As for `attend_blocks`.
    """
    exact = at_least_float32(queries.vectors[:0])
    mass = exact.new_zeros(len(queries.positions), block.keys.shape[1], len(block))
    times = counted.any(0).nonzero()[:, 0]
    if not len(times) or not len(block):
        return mass
    low, high = int(times[0]), int(times[-1]) + 1
    queries, counted = queries.times(low, high), counted[:, low:high]
    placed = [
        (region, place_queries(queries, region, rotary), place_keys(block, region, rotary, stored))
        for region in regions
    ]
    whole = slice(0, len(block))
    for ts in tiles(len(queries), Q_TILE):
        scores = []
        for region, turned, keys in placed:
            rows = at_least_float32(turned.vectors[:, :, ts]) * scale
            scores.append(score_tile(rows, queries, keys, region, ts, whole, softcap))
        seen = [score for score in scores if score is not None]
        if not seen:
            continue
        if lse is None:
            total = torch.stack([score.logsumexp(3) for score in seen]).logsumexp(0)
        else:
            total = lse[:, :, low:high][:, :, ts]
        for score in seen:
            weight = torch.exp(score - total[..., None])
            weight = weight.masked_fill(~counted[:, None, ts, None] | score.isneginf(), 0.0)
            mass += by_kv_head(weight, block.keys).sum(2)
    return mass
