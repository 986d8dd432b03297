"""`native.c` as operators of torch: turn, decode, unpack, step, paged and band of
`torch.ops.lengthwise`.

A compiler sees in them what they read, write and return, a profiler their names. Who may call
which with what is said in `native.py`; addresses of memory are taken here alone.
"""

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from lengthwise.core import built

PART = 11  # numbers that say what a part is
STEPS = (torch.float32, torch.bfloat16)  # of a decoding step and a rotation; a band is float32


@functools.cache
def serving(d: int, e: int, lanes: int) -> tuple[Any, str]:
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


def for_step(d: int, e: int) -> tuple[Any, str]:
    # Wide heads wait for memory, and two small vectors at a time waited less than a wide one.
    return serving(d, e, 16 if d <= 64 >= e else 8)


def for_rows(d: int, e: int) -> tuple[Any, str]:
    # Two vectors of values at a time.
    return serving(d, e // 2 if e % 2 == 0 else e, 16)


def steps(d: int, e: int) -> bool:
    """Whether C code takes decoding steps of heads of `d` numbers and values of `e` here."""
    return for_step(d, e)[0] is not None


def rows(d: int, e: int) -> bool:
    """Whether C code takes bands of heads of `d` numbers and values of `e` here; 0: rotations."""
    return for_rows(d, e)[0] is not None


for asked in (steps, rows):  # as torch.compiler.assume_constant_result, which loads the compiler
    asked._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _longs(numbers: Sequence[int]) -> bytes:
    """As C has them one behind the other; several times as fast as an array of ctypes."""
    return struct.pack(f"{len(numbers)}l", *numbers)


def _code(found: tuple[Any, str], first: Tensor, *others: Tensor) -> Any:
    """What was found, for vectors of one type that it reads."""
    library, words = found
    if library is None:
        raise RuntimeError(f"there is no C code for these heads here ({words})")
    kind = first.dtype
    for x in others:
        if x.dtype is not kind:
            raise ValueError(f"the C code reads vectors of one type, got {kind} and {x.dtype}")
    if kind not in STEPS:
        raise ValueError(f"the C code reads torch.float32 and torch.bfloat16, got {kind}")
    return library


def _whole(x: Tensor) -> Tensor:
    """Vectors without holes."""
    return x if x.stride()[-1] == 1 else x.contiguous()


def _flat(x: Tensor) -> Tensor:
    whole = x.dtype is torch.float32 and x.is_contiguous()
    return x if whole else x.to(torch.float32).contiguous()


def _turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    library = _code(for_rows(0, 0), x)
    x, cos, sin = _whole(x), cos.contiguous(), sin.contiguous()
    to = torch.empty_like(x, memory_format=torch.contiguous_format)
    t, pairs = cos.shape[2:]
    step, apart = (2, 1) if interleaved else (1, pairs)
    run = library.lengthwise_turn if x.dtype is torch.float32 else library.lengthwise_turn_half
    run(
        x.data_ptr(), *x.shape, *x.stride()[:3], pairs, step, apart, cos.data_ptr(),
        sin.data_ptr(), t * pairs if len(cos) > 1 else 0, to.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return to


def _turned_like(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    return x.new_empty(x.shape)


def _decode(
    queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    first = queries[0]
    b, h, t, d = first.shape
    kv, e = values[0].shape[1], values[0].shape[-1]
    library = _code(for_step(d, e), *queries, *keys, *values)
    flat = {id(x): _flat(x) for x in queries}
    kept: list[tuple[Tensor, Tensor]] = []
    parts: list[int] = []
    for x, k, v in zip(queries, map(_whole, keys), map(_whole, values), strict=True):
        kept.append((k, v))
        parts += (
            flat[id(x)].data_ptr(), k.data_ptr(), v.data_ptr(), k.shape[2],
            *k.stride()[:3], *v.stride()[:3], 0,
        )  # fmt: skip
    return _decoded(library, parts, first, kv, e, scale)


def _decoded(
    library: Any, parts: Sequence[int], first: Tensor, kv: int, e: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention over parts as `native.c` has them, of queries like the first."""
    b, h, t, d = first.shape
    out, lse = torch.empty(b, h, t, e), torch.empty(b, h, t)
    failed = library.lengthwise_decode(
        _longs(parts), len(parts) // PART, first.dtype is torch.bfloat16, b, kv, h // kv * t, d, e,
        scale, torch.get_num_threads(), out.data_ptr(), lse.data_ptr(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the sums of a decoding step")
    return out if first.dtype is torch.float32 else out.to(first.dtype), lse


def _unpack(
    queries: Sequence[Tensor], held: Sequence[Tensor], how: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    first, of = queries[0], iter(held)
    b, h, t, d = first.shape
    parts: list[int] = []
    kept: list[Tensor] = []  # while their addresses are in use
    for x, (kind, group, low, keys) in zip(
        queries, zip(*[iter(how)] * 4, strict=True), strict=True
    ):
        flat, k, v = _flat(x), _whole(next(of)), _whole(next(of))
        kept += [flat, k, v]
        packing = 0
        if kind:
            grids = [next(of) for _ in range(4 if kind == 2 else 2)]
            k_scale, v_scale = grids[0], grids[-2] if kind == 2 else grids[1]
            k_zero, v_zero = (grids[1], grids[3]) if kind == 2 else (None, None)
            group_of, inside = divmod(low, group)
            at_k, at_v = 2 * group_of * d, 2 * low  # bytes
            said = [
                kind, group, inside,
                k_scale.data_ptr() + at_k, 0 if k_zero is None else k_zero.data_ptr() + at_k,
                v_scale.data_ptr() + at_v, 0 if v_zero is None else v_zero.data_ptr() + at_v,
                *k_scale.stride()[:2], *v_scale.stride()[:2],
            ]  # fmt: skip
            kept.append(torch.tensor(said))
            packing = kept[-1].data_ptr()
            k, v = k[:, :, low:], v[:, :, low:]
        parts += (
            flat.data_ptr(), k.data_ptr(), v.data_ptr(), keys, *k.stride()[:3], *v.stride()[:3],
            packing,
        )  # fmt: skip
    kv, e = held[1].shape[1], held[1].shape[-1] * (2 if how[0] == 2 else 1)
    library = _code(for_step(d, e), *queries)
    return _decoded(library, parts, first, kv, e, scale)


def _unpacked_like(
    queries: Sequence[Tensor], held: Sequence[Tensor], how: Sequence[int], scale: float
) -> tuple[Tensor, Tensor]:
    e = held[1].shape[-1] * (2 if how[0] == 2 else 1)
    shape = queries[0].shape[:3]
    return queries[0].new_empty(*shape, e), queries[0].new_empty(shape, dtype=torch.float32)


def ragged(
    q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], *how: float
) -> tuple[Tensor, Tensor, Tensor]:
    """See `attention/ragged.py`; `how` is scale, keys of a tile, and workers."""
    (b, h, t, d), (kv, _, e) = q.shape, values[0].shape
    library, flat, rows = _code(for_step(d, e), q, *keys, *values), _flat(q), list[int]()
    for i, (k, v) in enumerate(zip(keys, values, strict=True)):
        at = flat.data_ptr() + 4 * i * h * t * d
        rows += (at, k.data_ptr(), v.data_ptr(), len(k[0]), 0, *k.stride()[:2])
        rows += (0, *v.stride()[:2], 0)
    outs = torch.empty(b, h, t, e), torch.empty(b, h, t), torch.empty(int(how[2])).long()
    to, halves, times = map(Tensor.data_ptr, outs), q.dtype is torch.bfloat16, h // kv * t
    if library.lengthwise_ragged(_longs(rows), halves, b, kv, times, d, e, *how, *to):
        raise MemoryError("no memory for the sums of a decoding step")
    return outs[0].to(q.dtype), outs[1], outs[2]


def _decoded_like(
    queries: Sequence[Tensor], keys: Sequence[Tensor], values: Sequence[Tensor], scale: float
) -> tuple[Tensor, Tensor]:
    shape = queries[0].shape[:3]
    lse = queries[0].new_empty(shape, dtype=torch.float32)
    return queries[0].new_empty(*shape, values[0].shape[-1]), lse


def _step(
    keys: Tensor, values: Tensor, positions: Tensor, q: Tensor, k: Tensor, v: Tensor,
    circles: Tensor, parts: Sequence[int], slot: int, position: int, ahead: int,
    interleaved: bool, factor: float, scale: float, others: Sequence[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    (b, h, _, d), (_, kv, _, e), kind = q.shape, v.shape, q.dtype
    library = _code(for_step(d, e), q, k, v, keys, values)
    q, k, v = _whole(q), _whole(k), _whole(v)
    size, to_k, to_v = kind.itemsize, keys.data_ptr(), values.data_ptr()
    by_k, by_v, by = keys.stride(), values.stride(), positions.stride()
    held = [(to_k, to_v, by_k, by_v)]
    for a, other in zip(others[::2], others[1::2], strict=True) if others else ():
        held.append((a.data_ptr(), other.data_ptr(), a.stride(), other.stride()))
    known, pairs = circles.shape[2:]
    angles, each = circles.data_ptr() + 4 * pairs * ahead, 4 * pairs * known
    runs: list[int] = []
    for i in range(0, len(parts), 4):
        which, first, count, circle = parts[i : i + 4]
        at_k, at_v, k_run, v_run = held[which]
        cosine = angles + 2 * circle * each
        runs += (
            at_k + first * k_run[2] * size, at_v + first * v_run[2] * size,
            count, *k_run[:3], *v_run[:3], cosine, cosine + each,
        )  # fmt: skip
    out = torch.empty_strided((b, h, 1, e), (h * e, e, h * e, 1), dtype=kind)  # heads last
    failed = library.lengthwise_step(
        _longs((
            q.data_ptr(), k.data_ptr(), v.data_ptr(),
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
            to_k + slot * by_k[2] * size, to_v + slot * by_v[2] * size, *by_k[:2], *by_v[:2],
            positions.data_ptr() + slot * by[2] * 8, by[0], position,
            angles, angles + each, pairs, interleaved, out.data_ptr(),
            size == 2, b, h, kv, d, e, torch.get_num_threads(), len(parts) // 4,
        )),
        _longs(runs), factor, scale,
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the sums of a decoding step")
    return out


def _stepped_like(keys: Tensor, values: Tensor, positions: Tensor, q: Tensor, *_: Any) -> Tensor:
    (b, h), e = q.shape[:2], values.shape[-1]
    return q.new_empty_strided((b, h, 1, e), (h * e, e, h * e, 1))


def _paged(
    keys: Tensor, values: Tensor, positions: Tensor, slots: Tensor, noted: Tensor, q: Tensor,
    k: Tensor, v: Tensor, at: Tensor, circles: Tensor, made: Tensor, rows: Sequence[int],
    how: Sequence[int], factor: float, scale: float, wanted: float,
    others: Sequence[Tensor] | None = None,
) -> Tensor:  # fmt: skip
    (b, h, _, d), (_, kv, _, e), kind = q.shape, v.shape, q.dtype
    library = _code(for_step(d, e), q, k, v, keys, values, *(others or ()))
    q, k, v, circles = _whole(q), _whole(k), _whole(v), circles.contiguous()
    slot, interleaved, *choice = how
    size, to_k, to_v = kind.itemsize, keys.data_ptr(), values.data_ptr()
    by_k, by_v, by, pairs = keys.stride(), values.stride(), positions.stride(), circles.shape[2]
    held: list[int] = []
    before = 0
    for a, other in zip(others[::2], others[1::2], strict=True) if others else ():
        held += (a.data_ptr(), other.data_ptr(), a.shape[2], *a.stride()[:3], *other.stride()[:3])
        before += a.shape[2]
    held += (to_k, to_v, slot + 1, *by_k[:3], *by_v[:3])
    choose, choices, bounds, asks, page, first, ranked, end, reads, first_noted, asked, spans = (
        choice
    )
    out = torch.empty_strided((b, h, 1, e), (h * e, e, h * e, 1), dtype=kind)  # heads last
    cosine = circles.data_ptr()
    sine = cosine + 4 * pairs * circles.shape[1]
    failed = library.lengthwise_paged(
        _longs((
            q.data_ptr(), k.data_ptr(), v.data_ptr(),
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2],
            to_k + slot * by_k[2] * size, to_v + slot * by_v[2] * size, *by_k[:2], *by_v[:2],
            positions.data_ptr() + slot * by[2] * 8, by[0], 0,
            cosine, sine, pairs, interleaved, out.data_ptr(),
            size == 2, b, h, kv, d, e, torch.get_num_threads(), 0,
            before + slot, slots.data_ptr(), slots.stride(0), at.data_ptr(), cosine, sine,
            made.data_ptr(), *made.stride()[:3], made.shape[1], made.shape[3],
            *choice[:6], noted.data_ptr(), *noted.stride()[:2], *choice[6:], len(held) // 9,
        )),
        _longs(rows), _longs(held), factor, scale, wanted,
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the sums of a decoding step")
    return out


def _paged_like(
    keys: Tensor, values: Tensor, positions: Tensor, slots: Tensor, noted: Tensor, q: Tensor,
    *_: Any,
) -> Tensor:  # fmt: skip
    (b, h), e = q.shape[:2], values.shape[-1]
    return q.new_empty_strided((b, h, 1, e), (h * e, e, h * e, 1))


def _band(
    q: Tensor, k: Tensor, v: Tensor, offset: int, near: int, far: int, first: int, last: int,
    scale: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    (b, h, t, d), e = q.shape, v.shape[-1]
    library = _code(for_rows(d, e), q, k, v)
    if q.dtype is not torch.float32:
        raise ValueError("the C code reads bands of float32, got bfloat16")
    q, k, v = _whole(q), _whole(k), _whole(v)
    out, lse = q.new_empty(b, h, t, e), q.new_empty(b, h, t)
    call = struct.pack(
        "26lf", q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), lse.data_ptr(),
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3],
        b, h, k.shape[1], t, k.shape[2], d, e, offset, near, far, first, last, scale,
    )  # fmt: skip
    if library.lengthwise_band(call, torch.get_num_threads()):
        raise MemoryError("no memory for the sums of a band of attention")
    return out, lse


def _band_like(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return q.new_empty(*q.shape[:3], v.shape[-1]), q.new_empty(q.shape[:3])


def _typed(library: Any) -> Any:
    pointer, number, word = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    library.lengthwise_decode.argtypes = [
        pointer, number, word, *[number] * 5, ctypes.c_float, word, pointer, pointer,
    ]  # fmt: skip
    library.lengthwise_ragged.argtypes = [
        pointer, word, *[number] * 5, ctypes.c_float, number, number, pointer, pointer, pointer,
    ]  # fmt: skip
    library.lengthwise_step.argtypes = [pointer, pointer, ctypes.c_float, ctypes.c_float]
    library.lengthwise_paged.argtypes = [pointer, pointer, pointer, *[ctypes.c_float] * 3]
    for turn in (library.lengthwise_turn, library.lengthwise_turn_half):
        turn.argtypes = [pointer, *[number] * 10, pointer, pointer, number, pointer, word]
        turn.restype = None
    library.lengthwise_band.argtypes = [pointer, word]
    return library


Like = Callable[..., Tensor | tuple[Tensor, Tensor]]
# What each is called with and what it changes (`!`), what runs it, and the empty result.
OPERATORS: tuple[tuple[str, Like, Like], ...] = (
    ("turn(Tensor x, Tensor cos, Tensor sin, bool interleaved) -> Tensor", _turn, _turned_like),
    (
        "decode(Tensor[] queries, Tensor[] keys, Tensor[] values, float scale) -> (Tensor, Tensor)",
        _decode,
        _decoded_like,
    ),
    (
        "unpack(Tensor[] queries, Tensor[] held, int[] how, float scale) -> (Tensor, Tensor)",
        _unpack,
        _unpacked_like,
    ),
    (
        "step(Tensor(a!) keys, Tensor(b!) values, Tensor(c!) positions, Tensor q, Tensor k, "
        "Tensor v, Tensor circles, int[] parts, int slot, int position, int ahead, "
        "bool interleaved, float factor, float scale, Tensor[]? others=None) -> Tensor",
        _step,
        _stepped_like,
    ),
    (
        "paged(Tensor(a!) keys, Tensor(b!) values, Tensor(c!) positions, Tensor(d!) slots, "
        "Tensor(e!) noted, Tensor q, Tensor k, Tensor v, Tensor at, Tensor circles, Tensor made, "
        "int[] rows, int[] how, float factor, float scale, float wanted, Tensor[]? others=None) "
        "-> Tensor",
        _paged,
        _paged_like,
    ),
    (
        "band(Tensor q, Tensor k, Tensor v, SymInt offset, SymInt near, SymInt far, SymInt first, "
        "SymInt last, float scale) -> (Tensor, Tensor)",
        _band,
        _band_like,
    ),
)

if not hasattr(torch.ops.lengthwise, "turn"):  # a module that is loaded again keeps the first ones
    LIBRARY = torch.library.Library("lengthwise", "DEF")
    for schema, run, like in OPERATORS:
        name = f"lengthwise::{LIBRARY.define(schema, tags=torch.Tag.needs_fixed_stride_order)}"
        LIBRARY.impl(name, run, "CPU")
        torch.library.register_fake(name, like, lib=LIBRARY)

turn = torch.ops.lengthwise.turn.default
decode = torch.ops.lengthwise.decode.default
unpack = torch.ops.lengthwise.unpack.default
step = torch.ops.lengthwise.step.default
paged = torch.ops.lengthwise.paged.default
band = torch.ops.lengthwise.band.default
