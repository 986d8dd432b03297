"""Exact tiles for torch's fused attention: a band of distances is a rectangle and its edges.

When queries and keys stand at consecutive positions, a run of queries sees one rectangle of keys
in common. What only some of them see lies before it (keys that the later queries have left
behind) and after it (keys that the earlier ones have not reached). Torch's fused CPU kernel
computes the rectangle without a mask and both edges, side by side, with one, and returns the
log-sum-exp that the merge needs. It has no gradient for it: inference only. In float32 C code does
it all in one pass where a compiler was to be had (`native.py`).
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lengthwise.core import native
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial, merge, nothing
from lengthwise.core.regions import Region

# Queries at a time. Edges are computed whole and half of them is thrown away, which is little
# beside the rectangle of a wide band; smaller tiles make the kernel itself slower.
TILE = 256


def band(queries: Queries, block: KeyBlock, region: Region, *, scale: float) -> Partial:
    """Attention of placed queries over placed keys; both must have a `start`."""
    assert queries.start is not None and block.start is not None and region.also is None
    q, k, v = queries.vectors, block.keys, block.values
    t = q.shape[2]
    # Slot j holds position start + j: the band in slots, for the query at time i, is
    # i + offset - far < j <= i + offset - near, cut to the slots first .. last - 1.
    offset = queries.start - block.start
    first = max(0, region.first - block.start)
    last = len(block) if region.last is None else min(len(block), region.last - block.start)
    if native.takes_band(q, k, v):
        near, far = region.near, region.far
        return native.band(
            q, k, v, offset=offset, near=near, far=far, first=first, last=last, scale=scale
        )
    out, lse = None, None
    for low in range(0, t, TILE):
        high = min(low + TILE, t)
        # Slots that anybody sees begin at `rear` and end before `head`; all see tail .. lead - 1.
        rear = tail = first
        if region.far is not None:
            rear = max(first, low + offset - region.far + 1)
            tail = max(first, high + offset - region.far)
        lead = min(last, low + offset - region.near + 1)
        head = min(last, high + offset - region.near)
        whole = _tile(
            q[:, :, low:high], k, v, (rear, tail, lead, head), low + offset, region, scale
        )
        if high - low == t:
            return whole
        if out is None or lse is None:
            out = whole.out.new_empty(*q.shape[:3], whole.out.shape[-1])
            lse = whole.lse.new_empty(q.shape[:3])
        out[:, :, low:high], lse[:, :, low:high] = whole
    assert out is not None and lse is not None
    return Partial(out, lse)


def _tile(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slots: tuple[int, int, int, int],
    at: int,
    region: Region,
    scale: float,
) -> Partial:
    """Some queries, the first of which stands at slot `at`; see `band` for the four slots."""
    rear, tail, lead, head = slots
    b, h, t, d = q.shape
    folded = q.reshape(b, k.shape[1], -1, d)
    parts = []
    if lead > tail:
        parts.append(fused(folded, k[:, :, tail:lead], v[:, :, tail:lead], scale))
        edges = [(rear, tail), (lead, head)]
    else:
        edges = [(rear, head)]  # no key that all of them see
    edges = [(low, high) for low, high in edges if high > low]
    if edges:
        where = torch.cat([torch.arange(low, high) for low, high in edges])
        distance = torch.arange(at, at + t)[:, None] - where
        seen = distance >= region.near
        if region.far is not None:
            seen &= distance < region.far
        mask = q.new_zeros(seen.shape).masked_fill_(~seen, float("-inf"))
        keys, values = (_side_by_side(x, edges) for x in (k, v))
        part = fused(folded, keys, values, scale, mask.repeat(h // k.shape[1], 1))
        blind = ~seen.any(1)
        if bool(blind.any()):  # the kernel has NaN for a query without keys
            blind = blind.repeat(h // k.shape[1])
            part.out.masked_fill_(blind[:, None], 0.0)
            part.lse.masked_fill_(blind, float("-inf"))
        parts.append(part)
    if not parts:
        return nothing(q, v.shape[-1])
    whole = merge(parts)
    return Partial(whole.out.reshape(b, h, t, -1), whole.lse.reshape(b, h, t))


def triangle(queries: Queries, block: KeyBlock, *, scale: float) -> Partial:
    """Placed queries over the keys of the same tokens, by torch's fused kernel, with a backward.

    It keeps the log-sum-exp to itself, so this cannot be merged.
    """
    q, k, v = queries.vectors, block.keys, block.values
    out = scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
    return Partial(out, at_least_float32(out.detach()).new_full(q.shape[:3], float("nan")))


def _side_by_side(x: Tensor, runs: list[tuple[int, int]]) -> Tensor:
    pieces = [x[:, :, low:high] for low, high in runs]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=2)


def fused(q: Tensor, k: Tensor, v: Tensor, scale: float, mask: Tensor | None = None) -> Partial:
    """Torch's fused CPU kernel, for as many query as KV heads; `mask` is added to scores."""
    # The kernel steps through the last dimension by one number, whatever its stride says.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, False, attn_mask=mask, scale=scale
    )
    return Partial(out, lse)
