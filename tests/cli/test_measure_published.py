"""`lengthwise measure --suite longbench --data DIR`: a person's own copy of published sets."""

from collections.abc import Callable
from pathlib import Path

from tests.measure.published.copies import copy_of

from lengthwise.measure.run.results import Results
from lengthwise.names import PUBLISHED, RESULTS

Call = Callable[..., tuple[int, str, str]]


def test_sets_are_measured_go_on_and_are_compared(
    checkpoint: Path, tmp_path: Path, call: Call
) -> None:
    copy_of(tmp_path / "copy", "longbench_e")
    copy_of(tmp_path / "copy", "fables")
    names = "longbench_trec_e,longbench_hotpotqa_e,fables"
    words = ["--suite", names, "--data", tmp_path / "copy", "--lengths", "300"]
    for out, method in (("one", "plain"), ("two", "streamingllm:sinks=2,window=32")):
        folder = tmp_path / out
        status, shown, err = call("measure", checkpoint, "-o", folder, *words, "-m", method)
        assert status == 0, err
        assert "By words in the text, 300 tokens" in shown and "0-20%" in shown
        assert "FABLES: 1 of 1 books are there; of claims people found unfaithful" in err
        assert "By ability, 300 tokens" in (folder / "report.html").read_text()
    before = (tmp_path / "two" / RESULTS).read_bytes()
    assert len(Results.load(tmp_path / "two").rows) == 10
    status, _, err = call("measure", checkpoint, "-o", folder, *words, "-m", method)
    assert status == 0 and "10 measurements are there already" in err
    assert (tmp_path / "two" / RESULTS).read_bytes() == before
    status, shown, err = call("compare", tmp_path / "one", tmp_path / "two")
    assert status == 0, err
    assert "one: plain" in shown.split("By part of the book")[1]
    # A copy that has changed belongs to another measurement.
    (tmp_path / "copy" / "books" / "Book.txt").write_text("one two and another")
    status, _, err = call("measure", checkpoint, "-o", folder, *words, "-m", method)
    assert status == 2 and "belongs to another measurement: its tasks fables is" in err


def test_what_is_missing_is_said(checkpoint: Path, tmp_path: Path, call: Call) -> None:
    copy = copy_of(tmp_path / "copy", "longbench")
    (copy / "data" / "trec.jsonl").unlink()
    for name in PUBLISHED["longbench"].values():
        if name != "passage_count.jsonl":
            (copy / "data" / name).unlink(missing_ok=True)
    words = ("--suite", "longbench", "--data", copy, "--items", "2")
    status, _, err = call("measure", checkpoint, "-o", tmp_path / "out", *words)
    assert status == 0, err
    assert "left out: 20 of 21 sets of longbench" in err
    assert len(Results.load(tmp_path / "out").rows) == 2


def test_bad_input_in_one_line(
    checkpoint: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    out, copy = tmp_path / "out", copy_of(tmp_path / "copy", "longbench")

    def said(suite: str, *more: object) -> str:
        return refused("measure", checkpoint, "-o", out, "--suite", suite, *more)

    data = ("--data", copy)
    assert "add --data with its folder; nothing is downloaded" in said("longbench")
    assert "there is no folder" in said("longbench", "--data", tmp_path / "gone")
    assert "did you mean longbench_trec?" in said("longbench_trek", *data)
    assert "measure them one after the other" in said("quick,longbench", *data)
    assert "--data is for published sets (longbench, " in said("quick", *data)
    assert "--text is for tasks that are made here" in said("longbench", *data, "--text", copy)
    assert "expected coursera.jsonl, quality.jsonl, tpo.jsonl" in said("leval", *data)
    file = copy / "data" / "trec.jsonl"
    row = file.read_text().splitlines()[0]
    for broken, words in (
        (row + "\n" + row[:-9] + "\n", "trec.jsonl, line 2 is no JSON"),
        (row.replace("all_classes", "classes"), "line 1 lacks all_classes"),
        (row.replace('"trec"', '"longbench-v2"'), "unknown set 'longbench-v2'"),
        ("", "trec.jsonl holds no row"),
    ):
        file.write_text(broken)
        assert words in said("longbench_trec", *data), words
    assert not out.exists()
