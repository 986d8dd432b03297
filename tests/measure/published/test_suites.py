"""Every published suite from a folder: what is asked, what reports tell apart, what is refused."""

import io
import json
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.measure.published.copies import copy_of

from lengthwise.measure.engines.base import Reply
from lengthwise.measure.published import leval, longbench, lveval, suite_of
from lengthwise.measure.report import print_report, report
from lengthwise.measure.report.comparison import print_comparison
from lengthwise.measure.report.groups import groupings
from lengthwise.measure.run.own_copy import find_sets, left_out
from lengthwise.measure.run.parquet import write_parquet
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.runner import measure
from lengthwise.measure.tasks import Item
from lengthwise.names import PUBLISHED, RESULTS
from lengthwise.testing.models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()

# What the report of a suite tells apart.
GROUPS = {
    "longbench": {"words in the text", "ability"}, "longbench_e": {"words in the text", "ability"},
    "leval": {"questions"}, "published_lveval": {"level"}, "cnnsum": {"tier"},
    "fables": {"people said", "evidence", "part of the book"},
    "longbench_write": {"words asked for", "kind of text"},
    "longbench_write_en": {"words asked for", "kind of text"},
    "longwrite_ruler": {"words asked for", "kind of text"},
}  # fmt: skip


class Knowing:
    """Answers rightly, but for the items of which `wrong` says that it does not."""

    tokenizer = TOKENIZER

    def __init__(self, wrong: Callable[[Item], bool] = lambda item: False) -> None:
        self.wrong, self.asked = wrong, 0

    def describe(self) -> dict[str, object]:
        return {"name": "knowing", "window": None}

    def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
        for item in items:
            self.asked += 1
            right = item.answer or " ".join(["word"] * item.record["words"])
            yield Reply("" if self.wrong(item) else right, 3, 0.1, 0.2)


def carry_out(
    folder: Path, names: list[str], reader: Knowing, out: str = "out", **settings: Any
) -> Results:
    suite = suite_of(",".join(names), find_sets(names, folder), folder, **settings)
    quiet = Console(file=io.StringIO())
    return measure(
        reader, suite, {"plain": ()}, [10_000], folder=folder / out, console=quiet
    )  # fmt: skip


def printed(show: Callable[[Console], None]) -> str:
    shown = io.StringIO()
    show(Console(file=shown, width=200))
    return shown.getvalue()


@pytest.fixture(autouse=True)
def characters(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the segmenter that makes every character a word."""
    module = types.ModuleType("jieba")
    module.cut = lambda text, cut_all: list(text)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jieba", module)


def test_names_are_those_that_are_scored() -> None:
    assert {f"longbench_{name}" for name in longbench.SETS} == {*PUBLISHED["longbench"]}
    assert {*leval.CLOSED} < {name.removeprefix("leval_") for name in PUBLISHED["leval"]}
    known = {*lveval.ENGLISH, *lveval.CHINESE, "dureader_mixup"}
    tasks = [name.removeprefix("published_lveval_") for name in PUBLISHED["published_lveval"]]
    assert {name.rpartition("_")[0] for name in tasks} == known
    assert {*GROUPS} == {*PUBLISHED}


@pytest.mark.parametrize("suite", PUBLISHED)
def test_a_suite_asks_every_row_once_and_tells_groups_apart(suite: str, tmp_path: Path) -> None:
    copy_of(tmp_path, suite)
    if suite == "published_lveval":  # without the published code it is refused
        for file in (tmp_path / "data").glob("dureader*"):
            file.unlink()
    reader = Knowing()
    results = carry_out(tmp_path, [suite], reader)
    tasks = find_sets([suite], tmp_path)
    asked = {"leval": 6, "fables": 4}.get(suite, 3)
    assert len(results.rows) == asked * len(tasks) == reader.asked
    assert [row.score for row in results.rows] == pytest.approx([1] * reader.asked, abs=1e-6)
    assert {name for row in results.rows for name in row.groups} == GROUPS[suite]
    assert carry_out(tmp_path, [suite], reader).rows == results.rows
    assert reader.asked == len(results.rows)  # nothing is asked twice
    again = Results.load(tmp_path / "out")
    assert [row.groups for row in again.rows] == [row.groups for row in results.rows]
    told_apart = {found.name for found in groupings([("plain", "plain", results)])}
    several = {name for name in GROUPS[suite] if name not in ("evidence", "kind of text")}
    assert told_apart == several
    page = report.html(results, "again")
    assert all(f"By {name}, 10,000 tokens" in page for name in several)


def test_errors_are_found_where_they_are(tmp_path: Path) -> None:
    copy_of(tmp_path, "longbench_e", rows=6)
    longest = Knowing(lambda item: item.record["groups"]["words in the text"] == "8k+")
    results = carry_out(tmp_path, ["longbench_hotpotqa_e", "longbench_trec_e"], longest)
    shown = printed(lambda console: print_report(results, console))
    (head,) = [line for line in shown.splitlines() if "0-4k" in line and "8k+" in line]
    assert head.split() == ["task", "method", "0-4k", "4-8k", "8k+"]
    below = shown[shown.index(head) :].splitlines()
    (row,) = [line.split() for line in below if line.split()[:3] == ["all", "tasks", "plain"]]
    assert [word for word in row if word.endswith("%") and "–" not in word] == [
        "100%",
        "100%",
        "0%",
    ]
    copy_of(tmp_path, "fables")
    late = Knowing(lambda item: item.depths[0] > 0.5)
    results = carry_out(tmp_path, ["fables"], late, "late")
    (found,) = [
        one for one in groupings([("plain", "plain", results)]) if one.name == "part of the book"
    ]
    assert found.groups == ["0-20%", "80-100%"]
    assert [cell[0].value for cell in found.lines[0].cells if cell] == [1.0, 0.0]


def test_two_models_by_tier_side_by_side(tmp_path: Path) -> None:
    copy_of(tmp_path, "cnnsum")
    long = ("64k", "128k")
    plain = Knowing(lambda item: item.record["groups"]["tier"] in long)
    files = [
        (tmp_path / name, carry_out(tmp_path, ["cnnsum"], reader, name))
        for name, reader in (("unscaled", plain), ("scaled", Knowing()))
    ]
    shown = printed(lambda console: print_comparison(files, console))
    rows = [line.split() for line in shown.splitlines() if "all tasks" in line]
    assert "By tier, 10,000 tokens" in shown and "16k" in shown
    scores = [[word for word in row if word.endswith("%") and "–" not in word] for row in rows]
    assert scores == [["100%", "100%", "0%", "0%"], ["100%"] * 4]


def test_files_of_before_are_read_and_rows_without_groups_are_written_as_before(
    tmp_path: Path,
) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    copy_of(tmp_path, "leval", rows=1)
    results = carry_out(tmp_path, ["leval_tpo"], Knowing())
    file = tmp_path / "out" / RESULTS
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    for line in lines:
        line.get("item", {}).pop("groups", None)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    before = Results.load(tmp_path / "out")
    assert len(before.rows) == len(results.rows) and before.rows[0].groups == {}
    assert not groupings([("plain", "plain", before)])
    table = pq.read_table(write_parquet(results, tmp_path))
    assert dict(table.column("groups")[0].as_py()) == {"questions": "closed"}


def test_a_folder_that_does_not_hold_what_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere"):
        find_sets(["longbench"], tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"has no file of leval; expected coursera.jsonl, "):
        find_sets(["leval"], tmp_path)
    copy_of(tmp_path, "longbench")
    (tmp_path / "data" / "trec.jsonl").unlink()
    with pytest.raises(ValueError, match=r"no file of longbench_trec; expected trec.jsonl$"):
        find_sets(["longbench_trec"], tmp_path)
    found = find_sets(["longbench"], tmp_path)
    assert len(found) == 20
    assert left_out(["longbench"], [*found]).endswith("left out: 1 of 21 sets of longbench")
    assert left_out(["longbench_lcc"], ["longbench_lcc"]) == ""
    (tmp_path / "lcc.jsonl").write_text("")
    with pytest.raises(ValueError, match=r"lcc.jsonl and .*lcc.jsonl are the same set"):
        find_sets(["longbench_lcc"], tmp_path)
    (tmp_path / "data" / "lcc.jsonl").unlink()
    with pytest.raises(ValueError, match=r"lcc.jsonl holds no row"):
        suite_of("x", find_sets(["longbench_lcc"], tmp_path), tmp_path)
