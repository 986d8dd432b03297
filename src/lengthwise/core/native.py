"""Attention in C for a processor: `native.c` called with torch's tensors."""

import ctypes
import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lengthwise.core import built
from lengthwise.core.keys import KeyBlock
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
    threads = torch.get_num_threads()
    shares = max(1, -(-threads // (b * kv)))
    failed = _step(d, e)[0].lengthwise_decode(
        parts, len(pairs), first.dtype is torch.bfloat16, b, kv, h // kv * t, d, e, shares, scale,
        threads, out.data_ptr(), lse.data_ptr(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the sums of a decoding step")
    return Partial(out.to(first.dtype), lse)


def takes_turn(x: Tensor, cos: Tensor) -> bool:
    """Whether the C code rotates these vectors: float32 or bfloat16 on a CPU that nobody
    differentiates, nor the frequencies (CLEX learns them).
    """
    plain = x.dtype in STEPS and x.device.type == "cpu" and x.stride(-1) == 1
    live = plain and torch.is_grad_enabled() and (x.requires_grad or cos.requires_grad)
    return plain and not live and _wide(0, 0)[0] is not None


def turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Vectors `[b, h, t, d]` that `takes_turn` has accepted, rotated by angles of all heads.

    Args:
        cos, sin: `[b, 1, t, pairs]`, or with 1 for `b`, in float32.
    """
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
        pointer, number, word, *[number] * 6, ctypes.c_float, word, pointer, pointer,
    ]  # fmt: skip
    for turn in (library.lengthwise_turn, library.lengthwise_turn_half):
        turn.argtypes = [pointer, *[number] * 10, pointer, pointer, number, pointer, word]
        turn.restype = None
    library.lengthwise_band.argtypes = [pointer, word]
    return library
