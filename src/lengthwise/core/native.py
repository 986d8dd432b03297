"""Attention in C for a processor: what it takes, and `operators.py` called with it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lengthwise.core import operators
from lengthwise.core.keys import KeyBlock, Room
from lengthwise.core.operators import STEPS
from lengthwise.core.packed import KINDS, PackedBlock
from lengthwise.core.partial import Partial

NO_LIMIT = 1 << 62


def why(d: int, e: int, *, band: bool = False) -> str:
    """What computes attention of heads of `d` numbers and values of `e` here; if torch, why.

    Args:
        band: Ask about many queries, not about a decoding step.
    """
    return (operators.for_rows if band else operators.for_step)(d, e)[1]


def takes(pairs: Sequence[tuple[Tensor, KeyBlock]]) -> bool:
    """Whether the C code reads these queries `[b, h, t, d]` and keys: float32 or bfloat16 on a CPU,
    heads of whole lanes, and a compiler to be had.
    """
    for x, block in pairs:
        if isinstance(block, PackedBlock):
            if not _packed(x, block):
                return False
            continue
        k, v = block.keys, block.values
        if not _plain(x, k, v) or not operators.steps(k.shape[-1], v.shape[-1]):
            return False
    return True


def _packed(x: Tensor, block: PackedBlock) -> bool:
    held = block.held
    d, e = held.widths
    kind = x.is_cpu and held.keys.is_cpu and x.dtype is held.dtype and x.dtype in STEPS
    return kind and len(block) > 0 < x.numel() and operators.steps(d, e)


def takes_band(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the C code reads these queries `[b, h, t, d]`, keys and values for a band."""
    whole = q.dtype is torch.float32 and q.stride(-1) == 1 and _plain(q, k, v)
    return whole and operators.rows(q.shape[-1], v.shape[-1])


def _plain(q: Tensor, k: Tensor, v: Tensor) -> bool:
    on_cpu = k.device.type == "cpu" and q.dtype is k.dtype is v.dtype and q.dtype in STEPS
    whole = k.stride(-1) == 1 == v.stride(-1) and q.numel() > 0 and v.numel() > 0
    return on_cpu and whole


def decode(pairs: Sequence[tuple[Tensor, KeyBlock]], scale: float) -> Partial:
    """One softmax of queries over all keys of all parts, nothing hidden.

    Args:
        pairs: Placed queries `[b, h, t, d]` and placed keys that `takes` has accepted.
    """
    queries, blocks = zip(*pairs, strict=True)
    if any(isinstance(block, PackedBlock) for block in blocks):
        how: list[int] = []
        held: list[Tensor] = []
        for block in blocks:
            if isinstance(block, PackedBlock):
                packed = block.held
                how += (KINDS.index(packed.kind) + 1, packed.group, block.low, len(block))
                held += packed.tensors()
            else:
                how += (0, 0, 0, len(block))
                held += (block.keys, block.values)
        return Partial(*operators.unpack(queries, held, how, scale))
    keys, values = [block.keys for block in blocks], [block.values for block in blocks]
    return Partial(*operators.decode(queries, keys, values, scale))


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    room: Room,
    position: int,
    circles: Tensor,
    ahead: int,
    parts: Sequence[int],
    others: Sequence[Tensor],
    *,
    factor: float,
    interleaved: bool,
    scale: float,
) -> Tensor | None:
    """One token of every row: its key is turned and kept with its value in the room for it, its
    query turned, and its attention over the parts computed, `[b, h, 1, e]`.

    What `turn`, copies and `decode` compute, for vectors `[b, h or kv, 1, d or e]`. None, and
    nothing is kept, where the C code does not take them: see `takes`.

    Args:
        circles: Cosines and sines of some positions, `[circles, 2, positions, pairs]` in float32
            and whole; without pairs where nothing is turned. The first circle is for the key.
        ahead: Which of these positions is the token's.
        parts: Of what the room holds then, four numbers each: the buffer (0 is where the room is),
            its first slot, how many, and the circle of the query for it.
        others: Keys and values of buffers 1, 2, ... one after the other.
        factor: Multiplies what is turned.
    """
    keys, values, positions, slot, _ = room
    kind = q.dtype
    if not (q.is_cpu and keys.is_cpu and k.dtype is v.dtype is kind is keys.dtype is values.dtype):
        return None
    (b, _, _, d), (_, kv, _, e), (rows, heads, _, width) = q.shape, v.shape, keys.shape
    whole = q.stride()[3] == k.stride()[3] == v.stride()[3] == 1 == keys.stride()[3]
    whole = whole and values.stride()[3] == 1 == positions.shape[1] and kind in STEPS
    if not (whole and rows == b > 0 and heads == kv and width == d and operators.steps(d, e)):
        return None
    out: Tensor = operators.step(
        keys, values, positions, q, k, v, circles, parts, slot, position, ahead,
        interleaved, factor, scale, others or None,
    )  # fmt: skip
    return out


def takes_paged(q: Tensor, k: Tensor, v: Tensor, room: Room) -> bool:
    """Whether `paged` takes a token of every row, `[b, h or kv, 1, d or e]`, and what a store
    holds.
    """
    kind, (b, _, _, d), (_, kv, _, e) = q.dtype, q.shape, v.shape
    if b == 0 or kind not in STEPS or not operators.steps(d, e):
        return False
    held = [x for run in room.runs for x in (run.keys, run.values)]
    alike = all(x.is_cpu and x.dtype is kind and x.stride()[3] == 1 for x in (q, k, v, *held))
    fits = room.keys.shape[:2] == (b, kv) and room.keys.shape[3] == d
    return alike and fits and room.positions.shape[1] == 1


def paged(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    room: Room,
    at: Tensor,
    slots: Tensor,
    made: Tensor,
    noted: Tensor,
    circles: Tensor,
    rows: Sequence[int],
    how: Sequence[int],
    *,
    factor: float,
    interleaved: bool,
    scale: float,
    wanted: float,
) -> Tensor:
    """One token of every row, as in `step`, which reads spans of positions and chosen pages.

    For what `takes_paged` has accepted, of rows that have had their tokens in order and without
    gaps. The pages with the largest whole numbers nearest to score times `wanted` are read, of
    equal ones the oldest. The token is kept, and its slot is written into the table.

    Args:
        at: Its position in every row `[b]`.
        slots: Where positions lie `[b, limit]`.
        made: Summaries of pages `[b, heads, pages, w]`, heads of queries or of keys, in float32.
        noted: `[b, kv, m]`, to which the weights of spans are added that say so.
        circles: Cosines and sines of some places `[2, places, pairs]`, in float32.
        rows: For every row: the circle of its key; the first page that it may choose, one past
            the last, and the first position that it sees in them; the circles of its queries; and
            its spans, each with its first position, how many, which query reads it, the circle by
            which its first key is turned (-1 for none) and whether its weights are noted.
        how: Tokens of a page and where the first begins; pages to choose; choices of a row; whether
            summaries are by sign; which query asks, -1 for one that is not turned; the first
            position that is noted; the circle of place 0 and one past the last place, where
            pages stand in a row, else -1; which query reads pages; queries and spans of a row.
    """
    others = [x for run in room.runs if run.keys is not room.keys for x in (run.keys, run.values)]
    out: Tensor = operators.paged(
        room.keys, room.values, room.positions, slots, noted, q, k, v, at, circles, made, rows,
        (room.slot, interleaved, *how), factor, scale, wanted, others or None,
    )  # fmt: skip
    return out


def takes_turn(x: Tensor, cos: Tensor) -> bool:
    """Whether the C code rotates these vectors: float32 or bfloat16 on a CPU, by frequencies that
    nobody learns (CLEX does).
    """
    plain = x.dtype in STEPS and x.device.type == "cpu" and x.stride(-1) == 1
    learned = torch.is_grad_enabled() and cos.requires_grad
    return plain and not learned and operators.rows(0, 0)


def turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Vectors `[b, h, t, d]` that `takes_turn` has accepted, rotated by angles of all heads; with a
    gradient, which is turned back.

    Args:
        cos, sin: `[b, 1, t, pairs]`, or with 1 for `b`, in float32.
    """
    live = torch.is_grad_enabled() and x.requires_grad
    # A formula at the operator itself would cost every call a second way through Python.
    turned: Tensor = (_Turn.apply if live else operators.turn)(x, cos, sin, interleaved)
    return turned


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        turned: Tensor = operators.turn(x, cos, sin, interleaved)
        return turned

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        return operators.turn(grads[0], cos, -sin, ctx.interleaved), None, None, None


def band(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    offset: int,
    near: int,
    far: int | None,
    first: int,
    last: int,
    scale: float,
) -> Partial:
    """Query i of `[b, h, t, d]` sees the slots j of `[b, kv, n, d]` with `first <= j < last` and
    `near <= i + offset - j < far`; `takes_band` has accepted the three.
    """
    beyond = NO_LIMIT if far is None else far
    return Partial(*operators.band(q, k, v, offset, near, beyond, first, last, scale))
