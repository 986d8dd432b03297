"""A few of what the files beside this one try by the hundred; run those by themselves."""

import shutil
from pathlib import Path

from tests.fuzz import arguments, checkpoints, gguf_files, kills, results
from tests.fuzz.trying import answer, fault, faults


def test_damaged_checkpoints(tmp_path: Path) -> None:
    assert faults(checkpoints.cases(0, tmp_path), range(20)) == []


def test_damaged_gguf_files(tmp_path: Path) -> None:
    case = gguf_files.cases(0, tmp_path)
    words = ["convert", str(tmp_path / "sound.gguf"), "-o", str(tmp_path / "sound")]
    assert answer(words)[0] == 0
    assert faults(case, range(20)) == []


def test_damaged_results(tmp_path: Path) -> None:
    assert faults(results.cases(0, tmp_path), range(12)) == []


def test_odd_arguments(tmp_path: Path) -> None:
    assert faults(arguments.cases(0, tmp_path), range(20)) == []


def test_the_lines_are_good_before_they_are_spoiled(tmp_path: Path) -> None:
    paths = arguments.make_paths(tmp_path)
    for command, (needed, _) in arguments.COMMANDS.items():
        if command in ("run", "extend", "plan", "pack"):
            shutil.rmtree(paths["out"], ignore_errors=True)
            words = [*command.split(), *needed.split()]
            ended = answer([arguments.filled(word, paths) for word in words])
            assert ended[0] == 0, ended


def test_faults_are_seen() -> None:
    """What the commands of this folder call wrong."""
    assert fault(2, "lengthwise: no such file\n") == fault(0, "") == ""
    assert "status 70" in fault(70, "lengthwise: internal error\n")
    assert "Traceback" in fault(2, "Traceback (most recent call last):\n")
    assert fault(2, "") and fault("no end in 60 s", "")
    wanted = {"out": "a directory", "out/a.json": {"loss": 1.0, "seconds": 3}}
    same = {"out": "a directory", "out/a.json": {"loss": 1.0}}
    compare = kills.compare
    assert compare(same, wanted, set(), frozenset({"seconds"})) == []
    assert compare({**same, ".out.1.new": b""}, wanted, set(), frozenset({"seconds"}))
    assert compare({"out": "a directory"}, wanted, set(), frozenset({"seconds"}))
    assert compare(same | {"out/a.json": {"loss": 2.0}}, wanted, set(), frozenset({"seconds"}))
