"""Checkpoints are whole or not there; a damaged one falls back; the disk may be full."""

import errno
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import torch

from lengthwise.train.loop.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from lengthwise.train.loop.metrics import Metrics, read_metrics

CPU = torch.device("cpu")
SmallDisk = Callable[[int], AbstractContextManager[None]]


def state(number: int) -> dict[str, object]:
    return {"weights": {"a": torch.full((1000,), float(number))}, "seconds": 1.5}


def refuse(words: str) -> None:
    raise AssertionError(words)


def test_what_is_saved_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "none", refuse, CPU) is None
    for step in (2, 4, 6):
        save_checkpoint(tmp_path, step, state(step))
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000006", "step-00000004"]
    found = load_checkpoint(tmp_path, refuse, CPU)
    assert found is not None and found[0] == 6
    assert torch.equal(found[1]["weights"]["a"], torch.full((1000,), 6.0))
    assert found[1]["seconds"] == 1.5


@pytest.mark.parametrize("fault", ["flipped", "cut", "no manifest", "bad manifest", "no state"])
def test_a_damaged_one_falls_back_and_says_so(tmp_path: Path, fault: str) -> None:
    for step in (2, 4):
        save_checkpoint(tmp_path, step, state(step))
    newest = checkpoints(tmp_path)[0]
    file = newest / "state.pt"
    data = bytearray(file.read_bytes())
    if fault == "flipped":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif fault == "cut":
        file.write_bytes(data[:-10])
    elif fault == "no state":
        file.unlink()
    elif fault == "no manifest":
        (newest / "manifest.json").unlink()
    else:
        (newest / "manifest.json").write_text("{}")
    said: list[str] = []
    found = load_checkpoint(tmp_path, said.append, CPU)
    assert found is not None and found[0] == 2
    assert torch.equal(found[1]["weights"]["a"], torch.full((1000,), 2.0))
    assert len(said) == 1 and "step-00000004 is damaged" in said[0]
    # Trained again to the same step, the damaged one is replaced.
    save_checkpoint(tmp_path, 4, state(5))
    again = load_checkpoint(tmp_path, refuse, CPU)
    assert again is not None and again[0] == 4


def test_all_damaged_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 2, state(2))
    (checkpoints(tmp_path)[0] / "state.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"every checkpoint in .* is damaged; begin anew"):
        load_checkpoint(tmp_path, lambda words: None, CPU)


def test_what_a_kill_left_is_swept(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 2, state(2))
    left = tmp_path / ".step-00000004.123.new"
    left.mkdir()
    (left / "state.pt").write_bytes(b"half")
    found = load_checkpoint(tmp_path, refuse, CPU)
    assert found is not None and found[0] == 2 and not left.exists()


def test_a_kill_before_old_ones_are_removed_leaves_none(tmp_path: Path) -> None:
    for step in (2, 4, 6):
        save_checkpoint(tmp_path / str(step), step, state(step))
        (tmp_path / str(step) / f"step-{step:08d}").rename(tmp_path / f"step-{step:08d}")
    assert len(checkpoints(tmp_path)) == 3
    found = load_checkpoint(tmp_path, refuse, CPU)
    assert found is not None and found[0] == 6
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000006", "step-00000004"]


def test_a_full_disk_leaves_the_old_one(tmp_path: Path, small_disk: SmallDisk) -> None:
    save_checkpoint(tmp_path, 2, state(2))
    with small_disk(2048), pytest.raises(OSError) as found:
        save_checkpoint(tmp_path, 4, state(4))
    assert found.value.errno == errno.EFBIG and "step-00000004" in str(found.value.filename)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
    assert load_checkpoint(tmp_path, refuse, CPU) is not None


def test_metrics_after_a_kill_stand_there_once(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    first = Metrics(file, 0)
    for step in range(4):
        first.write(step, loss=float(step))
    first.close()
    with open(file, "a") as torn:
        torn.write('{"step": 4, "lo')
    again = Metrics(file, 2)
    again.write(3, loss=9.0)
    again.close()
    assert [(x["step"], x["loss"]) for x in read_metrics(file)] == [
        (0, 0.0), (1, 1.0), (2, 2.0), (3, 9.0),
    ]  # fmt: skip
    Metrics(file, 0).close()
    assert read_metrics(file) == []
    file.write_text('{"step": 1, "text": "one\u2028two"}\n', encoding="utf-8")
    assert read_metrics(file) == [{"step": 1, "text": "one\u2028two"}]
