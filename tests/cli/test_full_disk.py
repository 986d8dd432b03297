"""A disk that is full: one line with the path that the person named, and nothing left there."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from tests.hf.test_gguf import model_of, write

Call = Callable[..., tuple[int, str, str]]
SmallDisk = Callable[[int], AbstractContextManager[None]]


# Too little for weights, for the texts beside them (the tokenizer), and for anything at all.
@pytest.mark.parametrize("size", [20_000, 2_000, 0])
def test_outputs(
    size: int, checkpoint: Path, novel: Path, tmp_path: Path, call: Call, small_disk: SmallDisk
) -> None:
    place, gguf = tmp_path / "place", write(tmp_path / "model.gguf", model_of("llama"))
    place.mkdir()
    context = ("--text", novel, "--contexts", "8,16", "--places", 2, "--block", 4)
    for words in (
        ("extend", checkpoint, "-m", "pi:factor=2", "-o", place / "out"),
        ("convert", gguf, "-o", place / "out"),
        ("pack", novel, "--tokenizer", "demo", "--capacity", 64, "--workers", 1, "-o", place / "p"),
        ("probe", "context", checkpoint, *context, "--json", place / "numbers.json"),
    ):
        if size and "--json" in words:
            continue
        with small_disk(size):
            status, _, line = call(*words)
        assert (status, line.count("\n")) == (2, 1), line
        assert str(words[-1]) in line and "too large" in line.lower(), line
        assert not list(place.iterdir()), line
