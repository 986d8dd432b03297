"""Results side by side: pairs are the same items, or it is said why not."""

import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from lengthwise.measure.report.comparison import entries, over_lengths, pairs, print_comparison
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE, ItemRow, ReadingRow

PLAN = {"seed": 0, "text": "", "adaptive": False, "threshold": 0.85}
SESSION = {"methods": {}, "tasks": {"niah": "NIAH()"}, "items": {"niah": 20}}


def results(
    scores: dict[str, list[float | None]], lengths=(512,), task: str = "NIAH()", **plan: object
) -> Results:
    """A file in which each method has these scores at every length."""
    rows = [
        ItemRow(
            method=method, task="niah", length=length, index=index, score=score, chance=0.0,
            depths=(), prompt=f"prompt {index} of {length}", answer=f"{index}", reply="", tokens=1,
            first_token=None, seconds=0.1, held=None, peak=None,
            refused="" if score is not None else "too long", session=0,
        )
        for length in lengths
        for method, each in scores.items()
        for index, score in enumerate(each)
    ]  # fmt: skip
    return Results({**PLAN, **plan}, [{**SESSION, "tasks": {"niah": task}}], rows)


def shown(*files: tuple[str, Results], threshold: float | None = None) -> str:
    console = Console(file=io.StringIO(), width=160)
    print_comparison([(Path(name), found) for name, found in files], console, threshold)
    return console.file.getvalue()


def test_methods_of_one_file() -> None:
    found = results({"plain": [0.0] * 30, "yarn": [1.0] * 28 + [0.0, None]}, (512, 1024))
    text = shown(("a.jsonl", found))
    assert "0.97 0.83–0.99 (29)" in text and "0.00 0.00–0.11 (30)" in text
    assert "yarn against plain" in text
    rows = [line.split() for line in text.splitlines()]
    (row,) = (row for row in rows if row[:3] == ["niah", "512", "29"])
    assert (row[3], row[-3:]) == ("+0.97", ["28", "0", "0.000"])
    assert any(row[:4] == ["niah", "all", "29", "+0.97"] for row in rows)


def test_effective_lengths_follow_the_threshold() -> None:
    found = results({"plain": [1.0] * 40})
    assert "≥ 512" in shown(("a.jsonl", found))
    assert "above 0.99 with" in shown(("a.jsonl", found), threshold=0.99)
    assert "≥ 512" not in shown(("a.jsonl", found), threshold=0.99)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": 7}, "niah is not paired: the seeds differ (0 and 7)"),
        ({"task": "NIAH(queries=4)"}, "set differently (NIAH() and NIAH(queries=4))"),
        ({"text": "abc"}, "the texts differ in which things are hidden"),
    ],
)
def test_what_cannot_be_paired_is_said(change: dict[str, object], reason: str) -> None:
    ours, theirs = results({"plain": [1.0] * 3}), results({"plain": [0.0] * 3}, **change)
    text = shown(("a.jsonl", ours), ("b.jsonl", theirs))
    assert reason in text
    assert "a: plain" in text and "b: plain" in text and "0.00 0.00–0.56 (3)" in text
    assert "-1.00" not in text


def test_other_items_under_the_same_number_are_noticed() -> None:
    ours, theirs = results({"plain": [1.0] * 3}), results({"plain": [0.0] * 3})
    theirs.rows[1] = replace(theirs.rows[1], prompt="cut by another tokenizer")
    text = shown(("a.jsonl", ours), ("b.jsonl", theirs))
    assert "niah is not paired: the items differ, as they do for other tokenizers" in text
    first, second = entries([(Path("a.jsonl"), ours), (Path("b.jsonl"), theirs)])
    assert pairs(first, second, "niah", 512) is None


def test_an_item_counts_once_over_all_lengths() -> None:
    each = [{0: (1.0, 0.0), 1: (1.0, 1.0), 2: (0.0, 1.0)}, {0: (0.0, 1.0), 2: (1.0, 1.0)}]
    assert over_lengths(each) == [(0.5, 0.5), (0.5, 1.0)]


def test_names_tell_files_apart(tmp_path: Path) -> None:
    found = results({"plain": [1.0]})
    one, two = tmp_path / "x" / "out", tmp_path / "y" / "out"
    for folder in (one, two):
        folder.mkdir(parents=True)
    every = entries([(one / "results.jsonl", found), (two, found), (Path("z.jsonl"), found)])
    assert [e.label for e in every] == ["out (1): plain", "out (2): plain", "z: plain"]
    with pytest.raises(ValueError, match="has nothing that is finished yet"):
        entries([(Path("a.jsonl"), Results(PLAN))])


def test_losses_stand_side_by_side() -> None:
    """With what each file's own reference says; files of readings alone have no scores."""

    def read(**nats: float) -> Results:
        rows = [
            ReadingRow(method, "loss", 128, 0, {"block": 8, "losses": [2.0 + x] * 16}, "", 1.0, 0)
            for method, x in {REFERENCE: 0.0, **nats}.items()
        ]
        session = {"methods": nats, "tasks": {"loss": "Loss()"}, "items": {"loss": 1}}
        return Results({**PLAN, "reader": {"window": 64}}, [session], [], rows)

    words = shown(("a", read(plain=1.5, yarn=0.25)), ("b", read(plain=0.05)))
    assert [line.split() for line in words.splitlines() if line.startswith((" a:", " b:"))] == [
        ["a:", "plain", "3.50", "+1.50", "3.50", "+1.50"],
        ["a:", "yarn", "2.25", "+0.25", "2.25", "+0.25"],
        ["b:", "plain", "2.05", "+0.05", "2.05", "+0.05"],
    ]
    assert "to 64" in words and "Effective" not in words and "against" not in words
