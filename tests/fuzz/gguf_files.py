"""Damage a GGUF file in many ways, and hold the commands to their word: one line, status 0 or 2.

    python tests/fuzz/gguf_files.py                       300 damages
    python tests/fuzz/gguf_files.py --count 50 --seed 3
    python tests/fuzz/gguf_files.py --only 17             one of them, with its traceback

A file is cut short, in every section of its head too, or a few of its bytes are others, or one
number or word of its head lies: a count, a length, a type, a dimension, an offset, a statement of
the model, a token. Commands run in this process, within the memory and the time that it allows.
"""

import random
import resource
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

if __name__ == "__main__":
    sys.path[:1] = [str(Path(__file__).parents[2])]

import gguf
import numpy as np
from tests.fuzz.trying import Case, Ended, answer, main, reading

MEMORY = 16 << 30  # bytes of address space
NUMBERS = (0, 1, 2, 3, 7, 9, 31, 255, 2**16, 2**31 - 1, 2**32 - 1, 2**33, 2**62, 2**64 - 1)


def make_sound(folder: Path) -> Path:
    """A tiny Llama in halves and in blocks, and a text beside it."""
    from tests.hf.test_gguf import model_of, write

    model = model_of("llama", hidden_size=64, num_attention_heads=8)
    sound = folder / "sound.gguf"
    says = {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}
    write(sound, model, says, kind=gguf.GGMLQuantizationType.Q8_0)
    (folder / "text.txt").write_text("The reader keeps a window open on the text. " * 12)
    return sound


def places(sound: Path) -> list[tuple[str, int, np.ndarray]]:
    """Every number and word of the head: whose it is, where it begins, and what it is."""
    reader = gguf.GGUFReader(sound)
    named = [(name, field) for name, field in reader.fields.items() if field.offset]
    named += [(f"tensor {one.name}", one.field) for one in reader.tensors]
    found = [(name, at, np.frombuffer(sound.read_bytes()[at : at + size], kind)) for
             name, at, size, kind in (("version", 4, 4, "<u4"), ("tensors", 8, 8, "<u8"),
                                      ("entries", 16, 8, "<u8"))]  # fmt: skip
    for name, field in named:
        at, parts = field.offset, field.parts
        for part in parts if len(parts) < 20 else [*parts[:8], *parts[-4:]]:
            if part is not None and len(part):
                start = part.ctypes.data - reader.data.ctypes.data if part.base is not None else at
                found.append((name, start, np.array(part)))
    return found


def damage(data: bytes, spots: list[tuple[str, int, np.ndarray]], rng: random.Random) -> tuple[
    bytes, str
]:  # fmt: skip
    """Other bytes for a file, and what was done to them."""
    head = spots[-1][1] + 8
    kind = rng.choice(["lie"] * 8 + ["flip"] * 3 + ["cut", "cut in the head", "empty", "junk"])
    if kind.startswith("cut"):
        size = rng.randrange(head if kind.endswith("head") else len(data))
        return data[:size], f"cut to {size} bytes"
    if kind == "empty":
        return b"", "empty"
    if kind == "junk":
        return b"GGUF" + rng.randbytes(200), "junk"
    if kind == "flip":
        changed = bytearray(data)
        spread = [rng.randrange(4, head) for _ in range(3)]
        for at in spread:
            changed[at] = rng.randrange(256)
        return bytes(changed), f"bytes {spread} are others"
    name, start, part = rng.choice(spots)
    value = _lie(part, rng)
    return data[:start] + value + data[
        start + len(value) :
    ], f"{name}: {part[:4]} is {value[:12]!r}"


def _lie(part: np.ndarray, rng: random.Random) -> bytes:
    size = part.dtype.itemsize
    if part.dtype.kind == "f":
        number = rng.choice([0.0, -1.0, 1e30, float("nan"), float("inf"), 1e-30])
        return np.array([number], part.dtype).tobytes()
    if size == 1:
        return rng.randbytes(len(part))
    at = rng.randrange(len(part))
    others = [int(part[at]) + step for step in (-1, 1, 8)] + list(NUMBERS)
    changed = part.copy()
    changed[at] = np.array([rng.choice(others) % (1 << 8 * size)], np.uint64).astype(part.dtype)[0]
    return changed.tobytes()


def command(model: Path, folder: Path, rng: random.Random) -> list[str]:
    """One that reads the file."""
    convert = ["convert", model, "-o", folder / "out"]
    words = rng.choice([*reading(model, folder), convert, convert])
    return [str(word) for word in words]


def cases(seed: int, folder: Path) -> Case:
    """Damaged files, and a command for each."""
    sound = make_sound(folder)
    data, spots = sound.read_bytes(), places(sound)

    def case(number: int) -> tuple[str, Callable[[], Ended]]:
        rng = random.Random(f"{seed} {number}")
        broken = folder / "broken.gguf"
        shutil.rmtree(folder / "out", ignore_errors=True)
        changed, what = damage(data, spots, rng)
        broken.write_bytes(changed)
        words = command(broken, folder, rng)
        return f"{what} | {' '.join(words).replace(str(folder), '')}", partial(answer, words)

    return case


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.exit(main(__doc__, "damages", 300, cases))
