"""Files and directories appear whole or not at all, and what a kill left does not stay."""

import errno
import os
from pathlib import Path

import pytest

from lengthwise.files import restore, whole_directory, write_text


def fill(target: Path, text: str) -> None:
    with whole_directory(target) as fresh:
        (fresh / "file").write_text(text)


def killed(target: Path, moment: str, text: str = "half") -> None:
    """Fill `target` in a process that dies: while it fills, or before the last rename."""
    child = os.fork()
    if child == 0:
        with whole_directory(target) as fresh:
            (fresh / "file").write_text(text)
            if moment == "filling":
                os._exit(0)
            renames, replace = [], os.replace

            def die(*words: object) -> None:
                renames.append(words)
                if len(renames) == 2:
                    os._exit(0)
                replace(*words)  # type: ignore[arg-type]

            os.replace = die  # type: ignore[assignment]
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


def test_what_a_kill_left_is_removed_by_the_next_run(tmp_path: Path) -> None:
    target = tmp_path / "model"
    killed(target, "filling")
    assert len(list(tmp_path.iterdir())) == 1 and not target.exists()
    fill(target, "whole")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_renames_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "model"
    fill(target, "old")
    killed(target, "renaming")
    assert not target.exists()
    restore(target)
    assert (target / "file").read_text() == "old"
    killed(target, "renaming")
    fill(target, "new")
    assert (target / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_another_process_is_filling_is_let_alone(tmp_path: Path) -> None:
    target = tmp_path / "model"
    with whole_directory(target) as fresh:
        (fresh / "file").write_text("mine")
        child = os.fork()
        if child == 0:
            fill(target, "theirs")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert (target / "file").read_text() == "theirs" and (fresh / "file").exists()
    assert (target / "file").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_names_that_begin_alike_are_other_directories(tmp_path: Path) -> None:
    (tmp_path / ".model.2.12.old").mkdir()
    restore(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == [".model.2.12.old"]
    restore(tmp_path / "model.2")
    assert [path.name for path in tmp_path.iterdir()] == ["model.2"]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "whatever"), Exception("I/O error: No space left (os error 28)")],
)
def test_a_full_disk_names_the_path_and_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    target = tmp_path / "model"
    fill(target, "old")
    with pytest.raises(OSError) as caught, whole_directory(target) as fresh:
        (fresh / "file").write_text("new")
        raise error
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(target))
    assert (target / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no"), whole_directory(tmp_path / "model"):
        raise ValueError("no")
    assert not list(tmp_path.iterdir())


def test_a_text_that_cannot_be_written_names_its_path(tmp_path: Path, monkeypatch) -> None:
    file = tmp_path / "numbers.json"
    write_text(file, "old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError) as caught:
            write_text(file, "new")
    assert caught.value.filename == str(file)
    assert file.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
