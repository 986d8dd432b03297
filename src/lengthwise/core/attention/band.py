"""Exact tiles for torch's fused attention: a band of distances is triangles and rectangles.

When queries and keys stand at consecutive positions, the keys that a run of queries sees are a
rectangle between two triangles. Torch's fused CPU kernel computes a rectangle without a mask
and a triangle with `is_causal` (the far triangle after turning both sides round), and returns
the log-sum-exp that the merge needs. It has no gradient for it: inference only.
"""

import torch
from torch import Tensor

from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial, merge, nothing
from lengthwise.core.regions import Region

TILE = 512


def band(queries: Queries, block: KeyBlock, region: Region, *, scale: float) -> Partial:
    """Attention of placed queries over placed keys; both must have a `start`."""
    assert queries.start is not None and block.start is not None and region.also is None
    q, k, v = queries.vectors, block.keys, block.values
    b, h, t, _ = q.shape
    n = len(block)
    # Slot j holds position start + j: the band in slots, for the query at time i, is
    # i + offset - far < j <= i + offset - near, cut to the slots first .. last - 1.
    offset = queries.start - block.start
    first = max(0, region.first - block.start)
    last = n if region.last is None else min(n, region.last - block.start)
    tile = min(TILE, t)
    if region.far is not None:  # a tile wider than the band would have no full rectangle
        tile = max(1, min(tile, region.far - region.near))
    outs, lses = [], []
    for low in range(0, t, tile):
        high = min(low + tile, t)
        head = high - 1 + offset - region.near + 1  # one past the last slot of the last query
        lead = low + offset - region.near + 1  # the same for the first query
        tail = 0 if region.far is None else high - 1 + offset - region.far + 1
        rear = 0 if region.far is None else low + offset - region.far + 1
        parts = []
        # Far triangle: slots rear .. tail - 1, of which query i loses the first i.
        if tail > max(rear, first):
            parts.append(_far_triangle(q, k, v, low, high, rear, first, last, scale))
        parts.append(_rectangle(q, k, v, low, high, max(tail, first), min(lead, last), scale))
        # Near triangle: slots lead .. head - 1, of which query i sees the first i.
        if head > lead:
            parts.append(_near_triangle(q, k, v, low, high, lead, first, last, scale))
        some = [part for part in parts if part is not None]
        whole = merge(some or [nothing(q[:, :, low:high], v.shape[-1])])
        outs.append(whole.out)
        lses.append(whole.lse)
    if len(outs) == 1:
        return Partial(outs[0], lses[0])
    return Partial(torch.cat(outs, dim=2), torch.cat(lses, dim=2))


def _rectangle(
    q: Tensor, k: Tensor, v: Tensor, low: int, high: int, first: int, last: int, scale: float
) -> Partial | None:
    if last <= first:
        return None
    b, h, _, d = q.shape
    kv = k.shape[1]
    folded = q[:, :, low:high].reshape(b, kv, h // kv * (high - low), d)
    out, lse = fused(folded, k[:, :, first:last], v[:, :, first:last], False, scale)
    return Partial(out.reshape(b, h, high - low, -1), lse.reshape(b, h, high - low))


def _near_triangle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    low: int,
    high: int,
    lead: int,
    first: int,
    last: int,
    scale: float,
) -> Partial | None:
    # Query low sees none of these slots, low + 1 sees one, and so on.
    start, stop = max(lead, first), min(high - 1 - low + lead, last)
    if stop <= start:
        return None
    skip = low + 1 + (start - lead)  # the first query that sees slot `start`
    rows = high - skip
    part = _triangle(q[:, :, skip:high], k[:, :, start:stop], v[:, :, start:stop], scale)
    return _padded(part, rows_before=skip - low, rows=rows)


def _far_triangle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    low: int,
    high: int,
    rear: int,
    first: int,
    last: int,
    scale: float,
) -> Partial | None:
    # Query i sees the slots rear + (i - low) .. tail - 1: seen from behind, a causal triangle.
    tail = rear + (high - 1 - low)
    start, stop = max(rear, first), min(tail, last)
    if stop <= start:
        return None
    # Queries that see slot stop - 1 at all: i - low <= stop - 1 - rear.
    count = min(high - low, stop - rear)
    turned = _triangle(
        q[:, :, low : low + count].flip(2),
        k[:, :, start:stop].flip(2),
        v[:, :, start:stop].flip(2),
        scale,
    )
    part = Partial(turned.out.flip(2), turned.lse.flip(2))
    return _padded(part, rows_before=0, rows=count, rows_after=high - low - count)


def _triangle(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Partial:
    """Query i sees keys 0 .. i (all of them once i passes the last)."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    return Partial(*fused(q, k, v, True, scale))


def _padded(part: Partial, rows_before: int, rows: int, rows_after: int = 0) -> Partial:
    assert part.out.shape[2] == rows
    if not rows_before and not rows_after:
        return part
    pad = torch.nn.functional.pad
    return Partial(
        pad(part.out, (0, 0, rows_before, rows_after)),
        pad(part.lse, (rows_before, rows_after), value=float("-inf")),
    )


def fused(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Torch's fused CPU kernel: output and log-sum-exp, for as many query as KV heads."""
    # The kernel steps through the last dimension by one number, whatever its stride says.
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, causal, scale=scale
    )
    return out, lse
