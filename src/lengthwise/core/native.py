"""Attention in C for a processor: `native.c` called with torch's tensors."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lengthwise.core import built
from lengthwise.core.keys import KeyBlock, Room, Run
from lengthwise.core.partial import Partial

NO_LIMIT = 1 << 62
STEPS = (torch.float32, torch.bfloat16)  # of a decoding step and a rotation; a band is float32


class _Part(ctypes.Structure):
    _fields_ = [(name, ctypes.c_void_p) for name in ("q", "k", "v")] + [
        (name, ctypes.c_long)
        for name in ("keys", "k_batch", "k_head", "k_row", "v_batch", "v_head", "v_row")
    ]


class _Band(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "lse")),
        *((f"{x}_{axis}", ctypes.c_long) for x in "qkv" for axis in ("batch", "head", "row")),
        *((name, ctypes.c_long) for name in ("batch", "heads", "kv", "times", "keys", "d", "e")),
        *((name, ctypes.c_long) for name in ("offset", "near", "far", "first", "last")),
        ("scale", ctypes.c_float),
    ]


@functools.cache
def _serving(d: int, e: int, lanes: int) -> tuple[Any, str]:
    """The widest C code, of at most so many lanes, for heads of `d` numbers and values of `e`, or
    None, and in words.
    """
    kinds, reason = built.kinds()
    for kind in kinds:
        if kind.lanes <= lanes and d % kind.lanes == 0 == e % kind.lanes:
            library, reason = built.library(kind)
            if library is not None:
                return _typed(library), f"C with {kind.title}"
    return None, f"torch: {reason or 'heads of this size are not whole vectors'}"


def _step(d: int, e: int) -> tuple[Any, str]:
    # Wide heads wait for memory, and two small vectors at a time waited less than a wide one.
    return _serving(d, e, 16 if d <= 64 >= e else 8)


def _wide(d: int, e: int) -> tuple[Any, str]:
    # Two vectors of values at a time.
    return _serving(d, e // 2 if e % 2 == 0 else e, 16)


def why(d: int, e: int, *, band: bool = False) -> str:
    """What computes attention of heads of `d` numbers and values of `e` here; if torch, why.

    Args:
        band: Ask about many queries, not about a decoding step.
    """
    return (_wide if band else _step)(d, e)[1]


def takes(pairs: Sequence[tuple[Tensor, KeyBlock]]) -> bool:
    """Whether the C code reads these queries `[b, h, t, d]` and keys: float32 or bfloat16 on a CPU,
    heads of whole lanes, and a compiler to be had.
    """
    for x, block in pairs:
        k, v = block.keys, block.values
        if not _plain(x, k, v) or _step(k.shape[-1], v.shape[-1])[0] is None:
            return False
    return True


def takes_band(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the C code reads these queries `[b, h, t, d]`, keys and values for a band."""
    whole = q.dtype is torch.float32 and q.stride(-1) == 1 and _plain(q, k, v)
    return whole and _wide(q.shape[-1], v.shape[-1])[0] is not None


def _plain(q: Tensor, k: Tensor, v: Tensor) -> bool:
    on_cpu = k.device.type == "cpu" and q.dtype is k.dtype is v.dtype and q.dtype in STEPS
    whole = k.stride(-1) == 1 == v.stride(-1) and q.numel() > 0 and v.numel() > 0
    return on_cpu and whole


def decode(pairs: Sequence[tuple[Tensor, KeyBlock]], scale: float) -> Partial:
    """One softmax of queries over all keys of all parts, nothing hidden.

    Args:
        pairs: Placed queries `[b, h, t, d]` and placed keys that `takes` has accepted.
    """
    first, block = pairs[0]
    b, h, t, d = first.shape
    kv, e = block.values.shape[1], block.values.shape[-1]
    flat = {id(x): x.to(torch.float32).contiguous() for x, _ in pairs}
    parts = (_Part * len(pairs))(
        *(
            _Part(
                flat[id(x)].data_ptr(), k.keys.data_ptr(), k.values.data_ptr(), len(k),
                *k.keys.stride()[:3], *k.values.stride()[:3],
            )
            for x, k in pairs
        )
    )  # fmt: skip
    out, lse = torch.empty(b, h, t, e), torch.empty(b, h, t)
    failed = _step(d, e)[0].lengthwise_decode(
        parts, len(pairs), first.dtype is torch.bfloat16, b, kv, h // kv * t, d, e, scale,
        torch.get_num_threads(), out.data_ptr(), lse.data_ptr(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the sums of a decoding step")
    return Partial(out.to(first.dtype), lse)


class Turns:
    """Angles of consecutive positions from `first` on, where `step` finds those of one.

    Args:
        circle: Their cosines and sines `[1, 1, positions, pairs]` in float32; None where nothing is
            turned.
    """

    def __init__(self, first: int, circle: tuple[Tensor, Tensor] | None) -> None:
        self.first, self.pairs = first, 0
        self.held = None if circle is None else tuple(x.contiguous() for x in circle)
        self.cosines = self.sines = 0
        if self.held is not None:
            assert all(len(x) == x.shape[1] == 1 for x in self.held)
            self.cosines, self.sines = (x.data_ptr() for x in self.held)
            self.pairs = self.held[0].shape[-1]

    def at(self, position: int) -> tuple[int, int]:
        """Where cosines and sines of a position lie."""
        behind = 4 * self.pairs * (position - self.first)
        return self.cosines + behind, self.sines + behind


def step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    room: Room,
    position: int,
    turns: Turns,
    parts: Sequence[tuple[Run, Turns]],
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
        turns: For the key.
        parts: Of what the room holds then, each with those of the query for it.
        factor: Multiplies what is turned.
    """
    keys, values, positions, slot, _ = room
    kind = q.dtype
    if not (q.is_cpu and keys.is_cpu and k.dtype is v.dtype is kind is keys.dtype is values.dtype):
        return None
    (b, h, _, d), (q_batch, q_head, _, q_one) = q.shape, q.stride()
    (_, kv, _, e), (v_batch, v_head, _, v_one) = v.shape, v.stride()
    k_batch, k_head, _, k_one = k.stride()
    at_k, at_v, at = keys.stride(), values.stride(), positions.stride()
    library = _step(d, e)[0]
    whole = q_one == k_one == v_one == at_k[3] == at_v[3] == 1 and kind in STEPS
    held = keys.shape[0] == b > 0 and keys.shape[1] == kv and keys.shape[3] == d
    if not (whole and held and positions.shape[1] == 1) or library is None:
        return None
    out, size = torch.empty((b, 1, h, e), dtype=kind), kind.itemsize
    runs: list[int] = []
    for (k_run, v_run, first, count, _), mine in parts:
        by_k, by_v = (at_k, at_v) if k_run is keys else (k_run.stride(), v_run.stride())
        runs += (
            k_run.data_ptr() + first * by_k[2] * size, v_run.data_ptr() + first * by_v[2] * size,
            count, *by_k[:3], *by_v[:3], *mine.at(position),
        )  # fmt: skip
    failed = library.lengthwise_step(
        _longs(
            q.data_ptr(), k.data_ptr(), v.data_ptr(),
            q_batch, q_head, k_batch, k_head, v_batch, v_head,
            keys.data_ptr() + slot * at_k[2] * size, values.data_ptr() + slot * at_v[2] * size,
            at_k[0], at_k[1], at_v[0], at_v[1],
            positions.data_ptr() + slot * at[2] * 8, at[0], position,
            *turns.at(position), turns.pairs, interleaved, out.data_ptr(),
            size == 2, b, h, kv, d, e, torch.get_num_threads(), len(parts),
        ),
        _longs(*runs), factor, scale,
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the sums of a decoding step")
    return out.transpose(1, 2)


def _longs(*numbers: int) -> Any:
    return (ctypes.c_long * len(numbers))(*numbers)


def takes_turn(x: Tensor, cos: Tensor) -> bool:
    """Whether the C code rotates these vectors: float32 or bfloat16 on a CPU, by frequencies that
    nobody learns (CLEX does).
    """
    plain = x.dtype in STEPS and x.device.type == "cpu" and x.stride(-1) == 1
    learned = torch.is_grad_enabled() and cos.requires_grad
    return plain and not learned and _wide(0, 0)[0] is not None


def turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Vectors `[b, h, t, d]` that `takes_turn` has accepted, rotated by angles of all heads; with a
    gradient, which is turned back.

    Args:
        cos, sin: `[b, 1, t, pairs]`, or with 1 for `b`, in float32.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        turned: Tensor = _Turn.apply(x, cos, sin, interleaved)
        return turned
    return _turn(x, cos, sin, interleaved)


class _Turn(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.interleaved = interleaved
        return _turn(x, cos, sin, interleaved)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        cos, sin = ctx.saved_tensors
        grad = grads[0] if grads[0].stride(-1) == 1 else grads[0].contiguous()
        return _turn(grad, cos, -sin, ctx.interleaved), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    to = torch.empty(x.shape, dtype=x.dtype)
    cos, sin = cos.contiguous(), sin.contiguous()
    t, pairs = cos.shape[2:]
    step, apart = (2, 1) if interleaved else (1, pairs)
    library = _wide(0, 0)[0]
    run = library.lengthwise_turn if x.dtype is torch.float32 else library.lengthwise_turn_half
    run(
        x.data_ptr(), *x.shape, *x.stride()[:3], pairs, step, apart, cos.data_ptr(),
        sin.data_ptr(), t * pairs if len(cos) > 1 else 0, to.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return to


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
    b, h, t, d = q.shape
    e = v.shape[-1]
    out, lse = q.new_empty(b, h, t, e), q.new_empty(b, h, t)
    call = _Band(
        *(x.data_ptr() for x in (q, k, v, out, lse)),
        *(stride for x in (q, k, v) for stride in x.stride()[:3]),
        b, h, k.shape[1], t, k.shape[2], d, e,
        offset, near, NO_LIMIT if far is None else far, first, last, scale,
    )  # fmt: skip
    if _wide(d, e)[0].lengthwise_band(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("no memory for the sums of a band of attention")
    return Partial(out, lse)


def _typed(library: Any) -> Any:
    pointer, number, word = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.lengthwise_decode.argtypes = [
        pointer, number, word, *[number] * 5, ctypes.c_float, word, pointer, pointer,
    ]  # fmt: skip
    library.lengthwise_step.argtypes = [pointer, pointer, ctypes.c_float, ctypes.c_float]
    for turn in (library.lengthwise_turn, library.lengthwise_turn_half):
        turn.argtypes = [pointer, *[number] * 10, pointer, pointer, number, pointer, word]
        turn.restype = None
    library.lengthwise_band.argtypes = [pointer, word]
    return library
