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
    lse: Float[Tensor, "b h t"],
    counted: Bool[Tensor, "b t"],
    *,
    rotary: Rotary | None,
    stored: Place | None,
    scale: float,
    softcap: float | None = None,
) -> Float[Tensor, "b kv n"]:
    """The softmax weights of every key, summed over queries and over the heads of a KV head.

    Args:
        lse: Log-sum-exp of the queries over everything that they saw.
        counted: Which queries count.
        rotary, stored, scale, softcap: As for `attend_blocks`.
    """
    b, h, _, _ = queries.vectors.shape
    kv = block.keys.shape[1]
    mass = lse.new_zeros(b, kv, len(block))
    times = counted.any(0).nonzero()[:, 0]
    if not len(times) or not len(block):
        return mass
    low, high = int(times[0]), int(times[-1]) + 1
    queries, lse, counted = queries.times(low, high), lse[:, :, low:high], counted[:, low:high]
    for region in regions:
        vectors = place_queries(queries, region, rotary).vectors
        keys = place_keys(block, region, rotary, stored)
        for ts in tiles(len(queries), Q_TILE):
            rows = at_least_float32(vectors[:, :, ts]) * scale
            score = score_tile(rows, queries, keys, region, ts, slice(0, len(block)), softcap)
            if score is None:
                continue
            weight = torch.exp(score - lse[:, :, ts, None])
            weight = weight.masked_fill(~counted[:, None, ts, None] | score.isneginf(), 0.0)
            mass += by_kv_head(weight, block.keys).sum(2)
    return mass
