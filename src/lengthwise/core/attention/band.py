"""Exact tiles for torch's fused attention: a band of distances is a rectangle and its edges.

When queries and keys stand at consecutive positions, a run of queries sees one rectangle of keys
in common. What only some of them see lies before it (keys that the later queries have left
behind) and after it (keys that the earlier ones have not reached). Torch's fused CPU kernel
computes the rectangle without a mask and both edges, side by side, with one, and returns the
log-sum-exp that the merge needs. It has no gradient for it, so a backward goes through all parts
together (`bands`). In float32 C code does it all in one pass where a compiler was to be had
(`native.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import scaled_dot_product_attention

from lengthwise.core import native
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial, merge, nothing
from lengthwise.core.regions import Region

# Queries at a time. Edges are computed whole and half of them is thrown away, which is little
# beside the rectangle of a wide band; smaller tiles make the kernel itself slower.
TILE = 256
SMALL = 64  # a rectangle of fewer keys is read with its edges; at least 1


@dataclass(frozen=True)
class Slots:
    """A band of distances in slots of a block: where queries and keys stand is arithmetic.

    Slot j holds position start + j. The query at time i sees i + offset - far < j <= i + offset -
    near, cut to the slots `first` to `last` - 1.
    """

    offset: int
    near: int
    far: int | None
    first: int
    last: int

    @classmethod
    def of(cls, queries: Queries, block: KeyBlock, region: Region) -> "Slots":
        """Those of a region; both must have a `start`."""
        assert queries.start is not None and block.start is not None and region.also is None
        last = len(block) if region.last is None else min(len(block), region.last - block.start)
        first = max(0, region.first - block.start)
        return cls(queries.start - block.start, region.near, region.far, first, last)

    def tile(self, low: int, high: int) -> tuple[tuple[int, int] | None, list[tuple[int, int]]]:
        """The slots that all queries low .. high - 1 see, and those that only some may see."""
        # Slots that anybody sees begin at `rear` and end before `head`; all see tail .. lead - 1.
        rear = tail = self.first
        if self.far is not None:
            rear = max(self.first, low + self.offset - self.far + 1)
            tail = max(self.first, high + self.offset - self.far)
        lead = min(self.last, low + self.offset - self.near + 1)
        head = min(self.last, high + self.offset - self.near)
        if lead - tail < SMALL:  # not worth a call of its own
            return None, [(rear, head)] if head > rear else []
        edges = [(rear, tail), (lead, head)]
        return (tail, lead), [(low, high) for low, high in edges if high > low]

    def mask(self, like: Tensor, low: int, high: int, edges: list[tuple[int, int]]) -> Tensor:
        """Added to scores of queries low .. high - 1 with the edges side by side: 0 or -inf."""
        masks = []
        for begin, end in edges:
            hidden = like.new_full((high - low, end - begin), float("-inf"))
            mask = hidden.triu(low + self.offset - self.near - begin + 1)
            if self.far is not None:
                mask += hidden.tril_(low + self.offset - self.far - begin)
            masks.append(mask)
        return masks[0] if len(masks) == 1 else torch.cat(masks, dim=1)


def band(queries: Queries, block: KeyBlock, region: Region, *, scale: float) -> Partial:
    """Attention of placed queries over placed keys; both must have a `start`."""
    q, k, v = queries.vectors, block.keys, block.values
    t, slots = q.shape[2], Slots.of(queries, block, region)
    if native.takes_band(q, k, v):
        return native.band(
            q, k, v, offset=slots.offset, near=slots.near, far=slots.far, first=slots.first,
            last=slots.last, scale=scale,
        )  # fmt: skip
    out, lse = None, None
    for low in range(0, t, TILE):
        high = min(low + TILE, t)
        whole = _tile(q[:, :, low:high], k, v, slots, low, scale)
        if high - low == t:
            return whole
        if out is None or lse is None:
            out = whole.out.new_empty(*q.shape[:3], whole.out.shape[-1])
            lse = whole.lse.new_empty(q.shape[:3])
        out[:, :, low:high], lse[:, :, low:high] = whole
    assert out is not None and lse is not None
    return Partial(out, lse)


def _tile(q: Tensor, k: Tensor, v: Tensor, slots: Slots, low: int, scale: float) -> Partial:
    """Some queries, the first of which is number `low`."""
    b, h, t, d = q.shape
    folded = q.reshape(b, k.shape[1], -1, d)
    inner, edges = slots.tile(low, low + t)
    parts = []
    if inner is not None:
        at = slice(*inner)
        parts.append(fused(folded, k[:, :, at], v[:, :, at], scale))
    if edges:
        mask = slots.mask(q, low, low + t, edges)
        keys, values = (_side_by_side(x, edges) for x in (k, v))
        part = fused(folded, keys, values, scale, mask.repeat(h // k.shape[1], 1))
        blind = mask.isneginf().all(1)
        if bool(blind.any()):  # the kernel has NaN for a query without keys
            blind = blind.repeat(h // k.shape[1])
            part.out.masked_fill_(blind[:, None], 0.0)
            part.lse.masked_fill_(blind, float("-inf"))
        parts.append(part)
    if not parts:
        return nothing(q, v.shape[-1])
    whole = merge(parts)
    return Partial(whole.out.reshape(b, h, t, -1), whole.lse.reshape(b, h, t))


def bands(parts: Sequence[tuple[Region, Queries, KeyBlock]], *, scale: float) -> Partial:
    """All parts of one attention, as `band` has them, with a backward through them together.

    The weights of the whole softmax follow from its log-sum-exp, so the kernel's backward is right
    for each part when it is given the output and the log-sum-exp of all. Nobody can differentiate
    the log-sum-exp that comes back, so this cannot be merged.
    """
    tensors = [x for _, q, block in parts for x in (q.vectors, block.keys, block.values)]
    slots = [Slots.of(queries, block, region) for region, queries, block in parts]
    return Partial(*_Bands.apply(parts, slots, scale, *tensors))


class _Bands(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        parts: Sequence[tuple[Region, Queries, KeyBlock]],
        slots: Sequence[Slots],
        scale: float,
        *tensors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        outs = []
        for index, (region, queries, block) in enumerate(parts):
            q, k, v = tensors[3 * index : 3 * index + 3]
            asked, held = replace(queries, vectors=q), replace(block, keys=k, values=v)
            outs.append(band(asked, held, region, scale=scale))
        out, lse = merge(outs)
        # Tensors go through save_for_backward alone, so that checkpointing can drop them.
        ctx.meta = list(slots), scale
        ctx.save_for_backward(*tensors, out, lse)
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slots, scale = ctx.meta
        *tensors, out, lse = ctx.saved_tensors
        lse = torch.where(lse.isneginf(), 0.0, lse)  # who sees nothing: -inf less -inf is NaN
        found: list[Tensor] = []
        for index, mine in enumerate(slots):
            part = tensors[3 * index : 3 * index + 3]
            found += _part_backward(part, grads[0], out, lse, mine, scale)
        return None, None, None, *found


def _part_backward(
    part: Sequence[Tensor], d_out: Tensor, out: Tensor, lse: Tensor, slots: Slots, scale: float
) -> list[Tensor]:
    """What one part gives to its queries, keys and values."""
    q, k, v = part
    b, h, t, d = q.shape
    kv = k.shape[1]
    grads = [torch.zeros_like(at_least_float32(x)) for x in part]
    q, k, v, d_out, out = map(_by_one, (q, k, v, d_out, out))
    for low in range(0, t, TILE):
        high = min(low + TILE, t)
        inner, edges = slots.tile(low, high)
        rows = [x[:, :, low:high].reshape(b, kv, -1, x.shape[-1]) for x in (d_out, q, out)]
        total = lse[:, :, low:high].reshape(b, kv, -1)
        for runs, masked in (([inner] if inner else [], False), (edges, True)):
            if not runs:
                continue
            mask = slots.mask(q, low, high, runs).repeat(h // kv, 1) if masked else None
            keys, values = (_side_by_side(x, runs) for x in (k, v))
            dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                rows[0], rows[1], keys, values, rows[2], total, 0.0, False, attn_mask=mask,
                scale=scale,
            )  # fmt: skip
            grads[0][:, :, low:high] += dq.reshape(b, h, high - low, d)
            at = 0
            for begin, end in runs:
                grads[1][:, :, begin:end] += dk[:, :, at : at + end - begin]
                grads[2][:, :, begin:end] += dv[:, :, at : at + end - begin]
                at += end - begin
    return [grad.to(x.dtype) for grad, x in zip(grads, part, strict=True)]


def _by_one(x: Tensor) -> Tensor:
    """The kernel steps through the last dimension by one number, whatever its stride says."""
    return x if x.stride(-1) == 1 else x.contiguous()


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
    q, k, v = map(_by_one, (q, k, v))
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q, k, v, 0.0, False, attn_mask=mask, scale=scale
    )
    return Partial(out, lse)
