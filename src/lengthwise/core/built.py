"""The C code of this room: built once by the compiler at hand, kept in the user's cache."""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SOURCE = Path(__file__).with_name("native.c")
ASKED = "LENGTHWISE_NATIVE"  # 0, avx2 or avx512: the most that the C code may use of a processor
SEAL = hashlib.sha256().digest_size


class BuildWarning(RuntimeWarning):
    """C code that cannot be built, or not be kept: results are the same, and slower."""


@dataclass(frozen=True)
class Kind:
    """What a build may use of a processor, and how many floats it handles at once."""

    title: str
    lanes: int
    flags: tuple[str, ...]


AVX2 = Kind("AVX2", 8, ("-mavx2", "-mfma"))
AVX512 = Kind(
    "AVX-512",
    16,
    (*AVX2.flags, *(f"-mavx512{x}" for x in ("f", "vl", "bw", "dq")), "-mprefer-vector-width=512"),
)


def kinds() -> tuple[tuple[Kind, ...], str]:
    """What this processor and `LENGTHWISE_NATIVE` allow, the widest first; if nothing, why not.

    Raises:
        ValueError: If `LENGTHWISE_NATIVE` is none of its words.
    """
    asked = os.environ.get(ASKED, "")
    if asked not in ("", "0", "1", "avx2", "avx512"):
        raise ValueError(f"{ASKED} must be 0, 1, avx2 or avx512, got {asked!r}")
    capability = torch.backends.cpu.get_cpu_capability()  # heeds ATEN_CPU_CAPABILITY
    have = {"AVX512": (AVX512, AVX2), "AVX2": (AVX2,)}.get(capability, ())
    if sys.platform != "linux":  # torch's copy of OpenMP is found by its name there
        return (), "the C code needs Linux"
    if asked == "0":
        return (), f"{ASKED}=0"
    if not have:
        return (), f"the C code needs AVX2, torch finds {capability}"
    return tuple(kind for kind in have if asked != "avx2" or kind is AVX2), ""


@functools.cache
def library(kind: Kind) -> tuple[Any, str]:
    """The C functions, built if they have to be; None where they cannot be, and why.

    Building takes about a second, once on a machine. One that fails is warned of.
    """
    compiler = shlex.split(os.environ.get("CC") or "cc")
    try:
        loaded = _load(kind, compiler)
        return loaded, "" if loaded else f"no C compiler ({shlex.join(compiler)})"
    except (OSError, subprocess.SubprocessError) as error:
        why = f"building the C code with {shlex.join(compiler)} failed: {_first_line(error)}"
        warnings.warn(
            f"{why}. Slower code takes its place; name another compiler by CC, or write {ASKED}=0",
            BuildWarning,
            stacklevel=2,
        )
        return None, why


def _first_line(error: Exception) -> str:
    said = (error.stderr if isinstance(error, subprocess.CalledProcessError) else "") or str(error)
    if isinstance(error, OSError):  # of the loader: behind the name of a file that is gone
        said = said.partition(": ")[2] or said
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line), lines[0] if lines else repr(error))


def _load(kind: Kind, compiler: list[str]) -> Any:
    """The library out of the cache, or a new one that goes there if it can; None for no compiler.

    Raises:
        OSError: If what was built does not load.
        subprocess.SubprocessError: If it cannot be built.
    """
    options = ["-O3", "-fopenmp", "-fPIC", *kind.flags]
    about = " ".join([platform.machine(), *options])
    key = hashlib.sha256(SOURCE.read_bytes() + about.encode()).hexdigest()[:16]
    home = _home()
    if home is not None:
        kept = home / f"native-{key}.so"
        with suppress(OSError):  # there is none, or it was built beside another C library
            if _sealed(kept):
                return ctypes.CDLL(str(kept))
    if not compiler or shutil.which(compiler[0]) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        made = _build(compiler, options, Path(folder))
        if home is not None:
            with suppress(OSError):  # the disk is full, or libraries there cannot be run
                return _kept(made, kept)
        return ctypes.CDLL(str(made))


def _home() -> Path | None:
    """A folder that nobody else writes to: what lies there is code that will be run."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lengthwise"
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = home.stat()
        if held.st_uid == os.geteuid() and held.st_mode & 0o022:
            home.chmod(held.st_mode & ~0o022)  # made under a umask that lets a group write
            held = home.stat()
    except (OSError, RuntimeError):  # nobody's home, or one that cannot be written
        return None
    if held.st_uid != os.geteuid() or held.st_mode & 0o022:
        warnings.warn(
            f"{home} belongs to somebody else, so no code in it is run and each process builds the "
            "C code anew; name a folder of your own by XDG_CACHE_HOME",
            BuildWarning,
            stacklevel=2,
        )
        return None
    return home


def _sealed(file: Path) -> bool:
    """Whether a library is ours and whole: its last bytes are the digest of all before them."""
    held = file.lstat()
    ours = stat.S_ISREG(held.st_mode) and held.st_uid == os.geteuid()
    if not ours or held.st_mode & 0o022:
        return False
    content = file.read_bytes()
    return hashlib.sha256(content[:-SEAL]).digest() == content[-SEAL:]


def _kept(made: Path, kept: Path) -> Any:
    """Copy a library into the cache in one step, whoever else does the same, and load it there.

    Raises:
        OSError: If it cannot be written or does not load; nothing is left.
    """
    content = made.read_bytes()
    handle, fresh = tempfile.mkstemp(dir=kept.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content + hashlib.sha256(content).digest())
        loaded = ctypes.CDLL(fresh)
        os.replace(fresh, kept)
    except OSError:
        with suppress(OSError):
            os.unlink(fresh)
        raise
    return loaded


def _build(compiler: list[str], options: list[str], folder: Path) -> Path:
    object_file, made = folder / "native.o", folder / "native.so"
    # OpenMP is left open here and found in torch's own copy when the library is loaded: two
    # copies in one process would fight for the cores.
    open_names = "-Wl,--unresolved-symbols=ignore-all"
    for command in (
        [*compiler, *options, "-c", str(SOURCE), "-o", str(object_file)],
        [*compiler, "-shared", open_names, str(object_file), "-lm", "-o", str(made)],
    ):
        subprocess.run(
            command, check=True, capture_output=True, timeout=60, text=True, errors="replace",
            env={**os.environ, "LC_ALL": "C"},
        )  # fmt: skip
    return made
