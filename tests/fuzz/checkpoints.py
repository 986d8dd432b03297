"""Damage a checkpoint in many ways, and hold the commands to their word: one line, status 0 or 2.

    python tests/fuzz/checkpoints.py                       500 damages
    python tests/fuzz/checkpoints.py --count 50 --seed 3
    python tests/fuzz/checkpoints.py --only 17             one of them, with its traceback

Every damage is of one file: a value of another type or size, a key less, a file cut short, a byte
flipped, JSON nested a hundred thousand deep. Commands run in this process, one after the other.
"""

import json
import random
import resource
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.trying import Case, Ended, answer, main, reading

FILES = (
    "config.json", "config.json", "config.json", "tokenizer.json", "tokenizer.json",
    "tokenizer_config.json", "tokenizer_config.json", "generation_config.json",
    "model.safetensors", "model.safetensors.index.json",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 3, 2**31, 10**30, 0.5, 1e308, float("nan"), float("inf"), "", "x",
    "1e4", "../..", "\ud800", "[/b]", "\u2028", [], [1, "a"], [[]], {}, {"a": {"b": None}},
    {"": 1}, {"type": "x"}, ["default"] * 3, -7, 10**12, "{% for", "{{ 1/0 }}", [None, "x"],
    {"format": 1, "methods": [3]},
)  # fmt: skip
# Written where they may not have been.
KEYS = (
    "lengthwise", "max_position_embeddings", "rope_theta", "rope_parameters", "vocab_size",
    "num_hidden_layers", "eos_token_id", "max_length", "chat_template", "model_max_length",
)  # fmt: skip
MEMORY = 16 << 30  # bytes of address space


def make_sound(folder: Path) -> Path:
    """A tiny checkpoint in parts, and a text beside it."""
    from lengthwise.testing.models import tiny_model, tiny_tokenizer

    model = tiny_model("llama")
    model.generation_config.eos_token_id = None
    sound = folder / "sound"
    model.save_pretrained(sound)
    tiny_tokenizer().save_pretrained(sound)
    names = dict.fromkeys(model.state_dict(), "model.safetensors")
    listed = {"metadata": {"total_size": 1}, "weight_map": names}
    (sound / "model.safetensors.index.json").write_text(json.dumps(listed))
    (folder / "text.txt").write_text("The reader keeps a window open on the text. " * 12)
    return sound


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to every value inside; of a long list, to its first few."""
    found = [path]
    if isinstance(value, dict):
        keys = list(value)
        for key in keys if len(keys) < 100 else keys[:20]:
            found += places(value[key], (*path, key))
    elif isinstance(value, list):
        for key in range(min(len(value), 5)):
            found += places(value[key], (*path, key))
    return found


def damage(name: str, data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Other bytes for a file, and what was done to them."""
    kind = rng.choice(
        ["value"] * 8 + ["add"] * 3 + ["key", "key", "cut", "flip", "deep", "empty", "junk"]
    )
    if kind == "cut":
        size = rng.randrange(len(data))
        return data[:size], f"cut to {size} bytes"
    if kind == "flip":
        at, value = rng.randrange(min(len(data), 4000)), rng.randrange(256)
        return data[:at] + bytes([value]) + data[at + 1 :], f"byte {at} is {value}"
    if kind == "empty":
        return b"", "empty"
    if kind == "junk":
        return rng.randbytes(200), "junk"
    if name.endswith(".safetensors"):
        size = int.from_bytes(data[:8], "little")
        header, what = damage_json(json.loads(data[8 : 8 + size]), kind, rng)
        said = len(header) if rng.random() < 0.8 else rng.choice([0, 1, 2**40, 2**63])
        return said.to_bytes(8, "little") + header + data[8 + size :], f"header, {what}"
    return damage_json(json.loads(data), kind, rng)


def damage_json(value: Any, kind: str, rng: random.Random) -> tuple[bytes, str]:
    if kind == "deep":
        depth = rng.choice([50, 1200, 100_000])
        opened = '{"a":' if rng.random() < 0.5 else "["
        closed = "}" if opened[0] == "{" else "]"
        return (opened * depth + "1" + closed * depth).encode(), f"{depth} deep in {opened}"
    if kind == "add" and isinstance(value, dict):
        key = rng.choice(KEYS)
        value[key] = rng.choice(VALUES)
        return json.dumps(value).encode(), f"{key} is {value[key]!r}"
    at = rng.choice(places(value)[1:] or [()])
    if not at:
        return b"[]", "a list"
    inside = value
    for key in at[:-1]:
        inside = inside[key]
    if kind == "key":
        del inside[at[-1]]
        return json.dumps(value).encode(), f"without {at}"
    inside[at[-1]] = rng.choice(VALUES)
    return json.dumps(value).encode(), f"{at} is {inside[at[-1]]!r}"


def command(model: Path, folder: Path, rng: random.Random) -> list[str]:
    """One that reads the checkpoint."""
    lines = reading(model, folder)
    pi = ["extend", model, "-o", folder / "out", "-m", "pi:factor=2"]
    train = ["plan", model, "--device", "h100", "--train"]
    words = rng.choice([*lines, lines[0], pi, train])
    return [str(word) for word in words]


def cases(seed: int, folder: Path) -> Case:
    """Damaged checkpoints, and a command for each."""
    sound = make_sound(folder)

    def case(number: int) -> tuple[str, Callable[[], Ended]]:
        words, what = damaged(number, seed, sound, folder)
        line = " ".join(words).replace(str(folder), "")
        return f"{what[:200]} | {line}", partial(answer, words)

    return case


def damaged(number: int, seed: int, sound: Path, folder: Path) -> tuple[list[str], str]:
    """Write one damaged checkpoint; the command to try, and what the damage is."""
    rng = random.Random(f"{seed} {number}")
    broken = folder / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    shutil.copytree(sound, broken)
    name = rng.choice(FILES)
    if name != "model.safetensors.index.json":  # for a list of weights comes before one file
        (broken / "model.safetensors.index.json").unlink()
    data, what = damage(name, (sound / name).read_bytes(), rng)
    (broken / name).write_bytes(data)
    return command(broken, folder, rng), f"{name}: {what}"


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    sys.exit(main(__doc__, "damages", 500, cases))
