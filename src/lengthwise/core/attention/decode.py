"""A few queries over many keys: keys and values are read once per KV head."""

import torch

from lengthwise.core.attention.chunked import coverage
from lengthwise.core.attention.reference import apply_score
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial
from lengthwise.core.regions import Region, same_segment, visible_pairs


def decode(
    queries: Queries, block: KeyBlock, region: Region, *, scale: float, softcap: float | None
) -> Partial:
    """Attention of placed queries over placed keys; extra memory is queries times keys.

    The heads that share a KV head become columns of one product. Keys stand on its left,
    because a tall matrix times a few columns streams through memory at full speed, while the
    transposed product runs about three times slower in CPU libraries.
    """
    b, h, t, d = queries.vectors.shape
    kv, n = block.keys.shape[1], len(block)
    columns = queries.vectors.reshape(b, kv, h // kv * t, d).transpose(-1, -2)
    score = (block.keys @ columns).transpose(-1, -2).reshape(b, h, t, n) * scale
    if softcap is not None:
        score = torch.tanh(score / softcap) * softcap
    if region.score is not None:
        score = apply_score(region, score, queries.positions, block.positions)
    together = same_segment(queries.segments, block.segments)
    if coverage(region, queries, block) != "all" or together is not None:
        seen = visible_pairs(region, queries.positions, block.positions, h)
        if together is not None:
            seen = seen & together
        score = score.masked_fill(~seen, float("-inf"))
    lse = torch.logsumexp(score, dim=-1)
    weights = torch.exp(score - torch.where(lse.isneginf(), 0.0, lse)[..., None])
    out = weights.view(b, kv, h // kv * t, n) @ block.values
    return Partial(out.view(b, h, t, -1), lse)
