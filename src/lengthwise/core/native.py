"""Attention in C for a processor: built once by the compiler at hand, kept in the user's cache."""

import ctypes
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lengthwise.core.keys import KeyBlock
from lengthwise.core.partial import Partial

SOURCE = Path(__file__).with_name("native.c")
LANES = 8  # floats that the C code handles at once
NO_LIMIT = 1 << 62


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


def takes(pairs: Sequence[tuple[Tensor, KeyBlock]]) -> bool:
    """Whether the C code reads these queries `[b, h, t, d]` and keys: float32 on a CPU, heads of
    whole lanes, and a compiler to be had.
    """
    for x, block in pairs:
        k, v = block.keys, block.values
        if not _plain(x, k, v) or k.shape[-1] % LANES or v.shape[-1] % LANES:
            return False
    return library() is not None


def takes_band(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the C code reads these queries `[b, h, t, d]`, keys and values for a band."""
    whole = q.shape[-1] % LANES == 0 and v.shape[-1] % (2 * LANES) == 0
    fits = whole and q.stride(-1) == 1
    return fits and _plain(q, k, v) and library() is not None


def _plain(q: Tensor, k: Tensor, v: Tensor) -> bool:
    on_cpu = k.device.type == "cpu" and q.dtype is k.dtype is v.dtype is torch.float32
    return on_cpu and k.stride(-1) == 1 == v.stride(-1)


def decode(pairs: Sequence[tuple[Tensor, KeyBlock]], scale: float) -> Partial:
    """One softmax of queries over all keys of all parts, nothing hidden.

    Args:
        pairs: Placed queries `[b, h, t, d]` and placed keys that `takes` has accepted.
    """
    first, block = pairs[0]
    b, h, t, d = first.shape
    kv, e = block.values.shape[1], block.values.shape[-1]
    flat = {id(x): x.contiguous() for x, _ in pairs}
    parts = (_Part * len(pairs))(
        *(
            _Part(
                flat[id(x)].data_ptr(), k.keys.data_ptr(), k.values.data_ptr(), len(k),
                *k.keys.stride()[:3], *k.values.stride()[:3],
            )
            for x, k in pairs
        )
    )  # fmt: skip
    out, lse = first.new_empty(b, h, t, e), first.new_empty(b, h, t)
    threads = torch.get_num_threads()
    shares = max(1, -(-threads // (b * kv)))
    failed = library().lengthwise_decode(
        parts, len(pairs), b, kv, h // kv * t, d, e, shares, scale, threads,
        out.data_ptr(), lse.data_ptr(),
    )  # fmt: skip
    if failed:
        raise MemoryError("no memory for the sums of a decoding step")
    return Partial(out, lse)


def takes_turn(x: Tensor, cos: Tensor) -> bool:
    """Whether the C code rotates these vectors: float32 on a CPU that nobody differentiates, nor
    the frequencies (CLEX learns them).
    """
    live = torch.is_grad_enabled() and (x.requires_grad or cos.requires_grad)
    plain = x.device.type == "cpu" and x.dtype is torch.float32 and x.stride(-1) == 1
    return plain and not live and library() is not None


def turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Vectors `[b, h, t, d]` that `takes_turn` has accepted, rotated by angles of all heads.

    Args:
        cos, sin: `[b, t, pairs]`, or with 1 for `b`, in float32.
    """
    to = torch.empty(x.shape)
    cos, sin = cos.contiguous(), sin.contiguous()
    pairs = cos.shape[-1]
    step, apart = (2, 1) if interleaved else (1, pairs)
    library().lengthwise_turn(
        x.data_ptr(), *x.shape, *x.stride()[:3], pairs, step, apart,
        cos.data_ptr(), sin.data_ptr(), cos[0].numel() if len(cos) > 1 else 0, to.data_ptr(),
        torch.get_num_threads(),
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
    if library().lengthwise_band(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("no memory for the sums of a band of attention")
    return Partial(out, lse)


@functools.cache
def library() -> Any:
    """The C functions, built if they have to be; None where they cannot be.

    They need Linux (to share torch's copy of OpenMP), a C compiler and, on x86, AVX2.
    Building takes less than a second, once on a machine. `LENGTHWISE_NATIVE=0` leaves them out.
    """
    flags = {"AVX2": ["-mavx2", "-mfma"], "AVX512": ["-mavx2", "-mfma"], "NEON": []}
    capability = torch.backends.cpu.get_cpu_capability()
    compiler = shutil.which(os.environ.get("CC", "cc"))
    wanted = sys.platform == "linux" and os.environ.get("LENGTHWISE_NATIVE") != "0"
    if capability not in flags or compiler is None or not wanted:
        return None
    options = ["-O3", "-fopenmp", "-fPIC", *flags[capability]]
    key = hashlib.sha256(b"\0".join([SOURCE.read_bytes(), " ".join(options).encode()]))
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lengthwise"
    built = home / f"native-{key.hexdigest()[:16]}.so"
    try:
        if not built.exists():
            _build(compiler, options, built)
        loaded = ctypes.CDLL(str(built))
    except (OSError, subprocess.SubprocessError):
        return None
    pointer, number, word = ctypes.c_void_p, ctypes.c_long, ctypes.c_int
    loaded.lengthwise_decode.argtypes = [
        pointer, *[number] * 7, ctypes.c_float, word, pointer, pointer,
    ]  # fmt: skip
    loaded.lengthwise_turn.argtypes = [
        pointer, *[number] * 10, pointer, pointer, number, pointer, word,
    ]  # fmt: skip
    loaded.lengthwise_turn.restype = None
    loaded.lengthwise_band.argtypes = [pointer, word]
    return loaded


def _build(compiler: str, options: Sequence[str], built: Path) -> None:
    built.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=built.parent) as folder:
        object_file, made = Path(folder) / "native.o", Path(folder) / "native.so"
        # OpenMP is left open here and found in torch's own copy when the library is loaded: two
        # copies in one process would fight for the cores.
        open_names = "-Wl,--unresolved-symbols=ignore-all"
        for command in (
            [compiler, *options, "-c", str(SOURCE), "-o", str(object_file)],
            [compiler, "-shared", open_names, str(object_file), "-lm", "-o", str(made)],
        ):
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        os.replace(made, built)
