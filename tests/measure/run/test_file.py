"""The file of results survives kills, full disks and a second run."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lengthwise.files import hold
from lengthwise.measure.report.comparison import print_comparison
from lengthwise.measure.report.report import html
from lengthwise.measure.run.file import FORMAT, ResultsFile
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE, ItemRow, ReadingRow
from lengthwise.names import RESULTS

PLAN = {
    "seed": 0, "adaptive": False, "batch": 16, "threshold": 0.85, "text": "",
    "reader": {"name": "tiny", "window": 64},
}  # fmt: skip
SESSION = {
    "suite": "quick", "tasks": {"niah": "NIAH()", "vt": "VT()", "loss": "Loss()"},
    "items": {"niah": 4, "vt": 4, "loss": 1}, "command": "lengthwise measure …",
    "methods": {"plain": ""}, "lengths": [512],
    "started": "2026-01-02T03:04:05+00:00", "versions": {"torch": "2"}, "hardware": {"cores": 2},
}  # fmt: skip
ROW = ItemRow(
    method="plain", task="niah", length=512, index=0, score=1.0, chance=1e-7, depths=(0.25,),
    prompt="A special …", answer="1234567", reply=" 1234567", tokens=8, first_token=0.01,
    seconds=0.2, held=1000, peak=None, refused="", session=0,
)  # fmt: skip
LOSS = ReadingRow("plain", "loss", 512, 0, {"block": 128, "losses": [4.0, 3, 2, 1]}, "", 0.5, 0)


def filled(folder: Path, count: int = 3) -> ResultsFile:
    with hold(folder):
        file = ResultsFile(folder, PLAN)
        file.begin(SESSION)
        for index in range(count):
            file.add(replace(ROW, index=index))
    return file


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    file = filled(tmp_path)
    for place in (tmp_path, tmp_path / RESULTS):
        results = Results.load(place)
        assert results == file.results
        assert results.rows[0] == ROW and results.rows[0].depths == (0.25,)
        assert results.sessions == [SESSION]
        assert results.plan == {"lengthwise_results": FORMAT, **PLAN}


def test_views(tmp_path: Path) -> None:
    results = filled(tmp_path).results
    refused = replace(ROW, index=3, score=None, refused="out of memory", task="vt")
    results.rows.append(refused)
    results.rows.append(replace(ROW, index=4, task="vt", score=0.5))
    assert (results.methods, results.tasks, results.lengths) == (["plain"], ["niah", "vt"], [512])
    assert [row.index for row in results.cell("plain", "niah", 512)] == [0, 1, 2]
    assert results.scores("plain", "vt", 512) == [0.5]
    assert results.interval("plain", "niah", 512).value == 1.0
    assert results.interval("plain", "niah", 1024) is None
    # What remains of a length where something was refused may be the easier part.
    assert results.effective("plain", "vt").verdicts == {512: "refused"}
    assert results.effective("plain", "niah").verdicts == {512: "open"}
    assert results.effective("plain", "niah", threshold=0.1).length == 512


@pytest.mark.parametrize(
    "end", [b'{"item": {"method"', b'{"item": {"a": 1}}\n', b"\x00\x00\n", b"{"]
)
def test_a_damaged_last_line_is_dropped_and_written_over(tmp_path: Path, end: bytes) -> None:
    filled(tmp_path)
    sound = (tmp_path / RESULTS).read_bytes()
    (tmp_path / RESULTS).write_bytes(sound + end)
    assert len(Results.load(tmp_path).rows) == 3
    with hold(tmp_path):
        ResultsFile(tmp_path, PLAN).add(replace(ROW, index=3))
    assert (tmp_path / RESULTS).read_bytes().startswith(sound + b'{"item": {"method": "plain"')
    assert [row.index for row in Results.load(tmp_path).rows] == [0, 1, 2, 3]


def test_a_damaged_line_before_the_last_is_named(tmp_path: Path) -> None:
    filled(tmp_path)
    lines = (tmp_path / RESULTS).read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:20] + b"\n"
    (tmp_path / RESULTS).write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="line 4 is damaged; delete that line"):
        Results.load(tmp_path)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ({"lengthwise_suite": 1}, "another version of lengthwise .format 1, this one reads 2."),
        ({"lengthwise_results": 1}, "another version of lengthwise .format 1, this one reads 2."),
        ({"other": 1}, "no file of results; name another"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, first: dict, said: str) -> None:
    (tmp_path / RESULTS).write_text(json.dumps(first) + "\n")
    with pytest.raises(ValueError, match=said):
        Results.load(tmp_path)
    with hold(tmp_path), pytest.raises(ValueError, match=said):
        ResultsFile(tmp_path, PLAN)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 1}, "its seed is 0, now it is 1"),
        ({"reader": {"name": "tiny", "window": 128}}, "its reader window is 64, now it is 128"),
    ],
)
def test_another_plan_is_refused(tmp_path: Path, change: dict, said: str) -> None:
    filled(tmp_path)
    with hold(tmp_path), pytest.raises(ValueError) as error:
        ResultsFile(tmp_path, {**PLAN, **change})
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"tasks": {"vt": "VT(2)"}}, "its tasks vt is 'VT()', now it is 'VT(2)'"),
        ({"items": {"vt": 5}}, "its items vt is 4, now it is 5"),
        ({"methods": {"plain": "YaRN()"}}, "measured 'plain' as the plain model, now it is YaRN()"),
    ],
)
def test_the_same_name_for_another_thing_is_refused(
    tmp_path: Path, change: dict, said: str
) -> None:
    file = filled(tmp_path)
    with pytest.raises(ValueError) as error:
        file.check({**SESSION, **change})
    assert said in str(error.value) and "\n" not in str(error.value)
    more = {"tasks": {"qa": "QA()"}, "items": {"qa": 9}, "methods": {"yarn": "YaRN()"}}
    file.check({**SESSION, **more})
    file.begin({**SESSION, **more})
    assert file.results.settings == {**SESSION["tasks"], "qa": "QA()"}
    assert file.results.counts["vt"] == 4 and file.results.specs == {"plain": "", "yarn": "YaRN()"}


def test_readings_come_back_and_are_looked_up(tmp_path: Path) -> None:
    file = filled(tmp_path, count=1)
    for row in (
        LOSS, replace(LOSS, method=REFERENCE), replace(LOSS, length=1024, values={}, refused="no"),
    ):  # fmt: skip
        file.add(row)
    results = Results.load(tmp_path)
    assert results == file.results and results.readings[0] == LOSS
    assert results.methods == ["plain"] and results.tasks == ["niah"] and results.lengths == [512]
    assert results.read_methods("loss") == [REFERENCE, "plain"]
    assert results.read_lengths("loss") == [512]
    assert results.values("plain", "loss", 512) == [LOSS.values]
    assert results.values("plain", "loss", 1024) == results.values("plain", "speed", 512) == []
    assert [row.refused for row in results.reading("plain", "loss", 1024)] == ["no"]
    # One of two stretches is another text than both.
    results.sessions[0]["items"]["loss"] = 2
    assert results.values("plain", "loss", 512) == []


def test_blocks_last_until_their_reading_is_finished(tmp_path: Path) -> None:
    file = filled(tmp_path)
    other = (REFERENCE, *LOSS.key[1:])
    file.keep(LOSS.key, [4.0])
    file.keep(other, [9.0, 8.0])
    file.keep(LOSS.key, [3.0, 2.0])
    again = ResultsFile(tmp_path, PLAN)
    assert again.blocks(LOSS.key) == [4.0, 3.0, 2.0] and again.blocks(other) == [9.0, 8.0]
    assert again.blocks((*LOSS.key[:3], 1)) == [] and again.results.readings == []
    again.keep(LOSS.key, [1.0])
    again.add(LOSS)
    assert again.blocks(LOSS.key) == [] and again.blocks(other) == [9.0, 8.0]
    after = ResultsFile(tmp_path, PLAN)
    assert after.results == again.results and after.blocks(other) == [9.0, 8.0]
    after.add(replace(LOSS, method=REFERENCE))
    lines = [json.loads(line) for line in file.path.read_text().splitlines()]
    assert [next(iter(line)) for line in lines[1:]] == ["session", *["item"] * 3, *["reading"] * 2]


def test_blocks_lose_what_was_cut_off_and_nothing_else(tmp_path: Path) -> None:
    file = filled(tmp_path)
    before = len(file.path.read_bytes())
    file.keep(LOSS.key, [4.0, 3.0, 2.0])
    content = file.path.read_bytes()
    for end in range(before, len(content) + 1):
        file.path.write_bytes(content[:end])
        count = content[before:end].count(b"\n")
        assert ResultsFile(tmp_path, PLAN).blocks(LOSS.key) == [4.0, 3.0, 2.0][:count]
        sound = content[: before + content[before:end].rfind(b"\n") + 1]
        assert file.path.read_bytes() == sound
    # A disk that is full when the blocks give way to their reading leaves them where they are.
    file.path.write_bytes(content)
    with no_room(len(content) - 100), pytest.raises(OSError, match="the 3 measurements before it"):
        ResultsFile(tmp_path, PLAN).add(LOSS)
    assert file.path.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


@contextmanager
def no_room(size: int) -> Iterator[None]:
    """Files cannot grow beyond `size` bytes: what the system then does is what a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def test_a_full_disk_loses_nothing_that_was_there(tmp_path: Path) -> None:
    file = filled(tmp_path)
    before = file.path.read_bytes()
    said = "the 3 measurements before it are kept: make room"
    with no_room(len(before) + 50), pytest.raises(OSError, match=said) as error:
        file.add(replace(ROW, index=3))
    assert error.value.filename == str(file.path)
    assert file.path.read_bytes() == before and len(file.results.rows) == 3
    file.add(replace(ROW, index=3))
    assert len(Results.load(tmp_path).rows) == 4


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    said = pytest.raises(ValueError, match="another lengthwise is writing into")
    with hold(tmp_path), said, hold(tmp_path):
        pass
    with hold(tmp_path):
        pass


def test_the_lock_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from lengthwise.files import hold\n"
        "with hold(Path(sys.argv[1])):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="another lengthwise is writing into"), hold(tmp_path):
            pass
    finally:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        other.stdout.close()
    with hold(tmp_path):
        assert ResultsFile(tmp_path, PLAN).results.rows == []


def test_rows_and_sessions_of_other_types_are_damaged_lines(tmp_path: Path) -> None:
    """Whatever is loaded can be compared and reported."""
    filled(tmp_path).add(LOSS)
    file = tmp_path / RESULTS
    lines = file.read_text().split("\n")
    others = (None, True, "x", -1, 2.5, [], {}, [None], {"a": 1}, 10**30)
    refused = 0
    for number, kind in ((0, None), (1, "session"), (2, "item"), (5, "reading")):
        entry = json.loads(lines[number])
        for key in entry if kind is None else entry[kind]:
            for other in others:
                changed = json.loads(lines[number])
                (changed if kind is None else changed[kind])[key] = other
                around = [*lines[:number], json.dumps(changed), *lines[number + 1 :]]
                file.write_text("\n".join(around))
                try:
                    results = Results.load(tmp_path)
                    quiet = Console(file=io.StringIO())
                    print_comparison([(file, results)], quiet)
                    html(results, "again")
                except ValueError as error:
                    assert "\n" not in str(error)
                    refused += 1
    assert refused > 200
