import io
import json
import resource
import signal
from contextlib import contextmanager
from dataclasses import asdict

import pytest
from rich.console import Console

from lengthwise.measure.report import print_report
from lengthwise.measure.report.report import html
from lengthwise.measure.run.results import Cell, Results, ResultsFile, Row, grid
from lengthwise.measure.run.suite.file import SuiteFile

PLAN = {"model": "tiny", "fingerprint": "abc", "seed": 0}


@contextmanager
def no_room(size):
    """Files cannot grow beyond `size` bytes: what the system then does is what a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)


def row(method="plain", length=8, **values):
    return Row(method, "", "words", length, values, "", 0.5, 0, {"torch": "2"}, {"device": "cpu"})


def test_grid_goes_from_short_to_long():
    cells = grid("loss", ["a", "b"], [20, 10, 20])
    assert [(c.method, c.length) for c in cells] == [("a", 10), ("b", 10), ("a", 20), ("b", 20)]
    assert {c.task for c in cells} == {"loss"}


def test_rows_come_back(tmp_path):
    file = ResultsFile(tmp_path / "deep" / "results.jsonl", PLAN)
    file.add(row(words="üß\n"))
    file.add(row("other", first=1.5))
    again = ResultsFile(file.path, PLAN).results
    assert again.rows == file.results.rows == [row(words="üß\n"), row("other", first=1.5)]
    assert again.plan == file.results.plan
    assert len(file.path.read_text(encoding="utf-8").splitlines()) == 3


def test_a_kill_at_any_byte_loses_the_last_row_only(tmp_path):
    file = ResultsFile(tmp_path / "results.jsonl", PLAN)
    file.add(row("first", words="ü"))
    whole = file.path.read_bytes()
    file.add(row("second", words="ü"))
    complete = file.path.read_bytes()
    for end in range(len(whole), len(complete)):
        file.path.write_bytes(complete[:end])
        resumed = ResultsFile(file.path, PLAN)
        assert [r.method for r in resumed.results.rows] == ["first"]
        assert file.path.read_bytes() == whole
    resumed.add(row("second", words="ü"))
    assert file.path.read_bytes() == complete


def test_another_plan_is_refused_and_nothing_is_lost(tmp_path):
    file = ResultsFile(tmp_path / "results.jsonl", PLAN)
    file.add(row())
    before = file.path.read_bytes()
    with pytest.raises(ValueError, match=r"its seed is 0, now it is 1; choose another output"):
        ResultsFile(file.path, {**PLAN, "seed": 1})
    assert file.path.read_bytes() == before


@pytest.mark.parametrize("content", [b"", b"my notes", b"my notes\n", b'{"a": 1}\n', b"\xff\xfe\n"])
def test_a_foreign_file_is_refused_and_stays(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="is no file of results"):
        ResultsFile(path, PLAN)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", ["{broken", "[]", '{"method": "plain"}'])
def test_a_damaged_line_is_named(tmp_path, line):
    file = ResultsFile(tmp_path / "results.jsonl", PLAN)
    file.add(row())
    with open(file.path, "a", encoding="utf-8") as out:
        out.write(line + "\n" + json.dumps(asdict(row())) + "\n")
    with pytest.raises(ValueError, match="line 3 is damaged"):
        Results.load(file.path)


def test_lookups():
    refused = Row("bad", "", "words", 8, {}, "because", 0.1, 0, {}, {})
    results = Results(PLAN, [row(length=16, a=1), row("other"), refused])
    assert results.methods("words") == ["plain", "other"]
    assert results.lengths("words") == [8, 16]
    assert results.values("plain", "words", 16) == {"a": 1}
    assert results.values("plain", "words", 8) is None
    assert results.values("bad", "words", 8) is None
    assert refused.cell == Cell("bad", "words", 8)


VALUES = {
    "loss": {"block": 4, "losses": [[1.0, 2.0]]},
    "passkey": {
        "score": 1.0, "low": 0.3, "high": 1.0, "scores": [1.0], "depths": [0.5],
        "answers": ["1"], "replies": ["1"],
    },
    "speed": {
        "first_token_seconds": 0.1, "tokens_per_second": 9.0, "cache_bytes": 9, "peak_bytes": None,
    },
}  # fmt: skip


def damaged(value):
    """Values of other types in the place of one."""
    yield from (None, True, "x", -1, 2.5, [], {}, [None], [[]], {"a": 1}, 10**30)


def test_rows_of_other_types_are_damaged_lines(tmp_path):
    """Whatever is loaded can be reported; half a thousand damaged rows."""
    path = tmp_path / "results.jsonl"
    refused = 0
    for task, values in VALUES.items():
        sound = Row("plain", "", task, 8, values, "", 0.5, 0, {"torch": "2"}, {"cores": 2})
        whole = {
            "lengthwise_results": 1, "window": 8, "parameters": 9, "dtype": "float32", "text": "t",
            "loss_samples": 1, "passkey_count": 1, "decode_steps": 1, "chunk": 4, **PLAN,
        }  # fmt: skip
        entries = [
            {**asdict(sound), key: other} for key in asdict(sound) for other in damaged(sound)
        ] + [
            {**asdict(sound), "values": {**values, key: other}}
            for key in values
            for other in damaged(sound)
        ]
        for entry in [asdict(sound), *entries]:
            path.write_text(json.dumps(whole) + "\n" + json.dumps(entry) + "\n")
            try:
                results = Results.load(path)
            except ValueError as error:
                assert "line 2 is damaged" in str(error)
                refused += 1
                continue
            html(results.as_measurement(), "again")
            print_report(results.as_measurement(), Console(file=io.StringIO()))
    assert refused > 200


def test_a_full_disk_loses_nothing_that_was_there(tmp_path):
    file = ResultsFile(tmp_path / "results.jsonl", PLAN)
    file.add(row("first"))
    before = file.path.read_bytes()
    with no_room(len(before) + 20), pytest.raises(OSError, match="1 measurements before it are"):
        file.add(row("second"))
    assert file.path.read_bytes() == before
    file.add(row("second"))
    assert len(Results.load(file.path).rows) == 2


@pytest.mark.parametrize("begin", ["results", "suite"])
def test_a_full_disk_at_the_first_byte_leaves_nothing(tmp_path, begin):
    folder = tmp_path / "out"
    for room in (0, 10):
        with no_room(room), pytest.raises(OSError) as error:
            if begin == "results":
                ResultsFile(folder / "results.jsonl", PLAN)
            else:
                SuiteFile(folder, PLAN)
        assert str(error.value.filename).startswith(str(folder))
        assert not list(folder.iterdir())


def test_half_characters_are_written_as_marks(tmp_path):
    file = ResultsFile(tmp_path / "results.jsonl", PLAN)
    file.add(row(reply="a\ud800b", pair="\ud83d\ude00"))
    assert Results.load(file.path).rows[0].values == {"reply": "a\ufffdb", "pair": "\U0001f600"}
