import json
from dataclasses import asdict

import pytest

from lengthwise.measure.results import Cell, Results, ResultsFile, Row, grid

PLAN = {"model": "tiny", "fingerprint": "abc", "seed": 0}


def row(method="plain", length=8, **values):
    return Row(method, "", "speed", length, values, "", 0.5, 0, {"torch": "2"}, {"device": "cpu"})


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
    refused = Row("bad", "", "speed", 8, {}, "because", 0.1, 0, {}, {})
    results = Results(PLAN, [row(length=16, a=1), row("other"), refused])
    assert results.methods("speed") == ["plain", "other"]
    assert results.lengths("speed") == [8, 16]
    assert results.values("plain", "speed", 16) == {"a": 1}
    assert results.values("plain", "speed", 8) is None
    assert results.values("bad", "speed", 8) is None
    assert refused.cell == Cell("bad", "speed", 8)
