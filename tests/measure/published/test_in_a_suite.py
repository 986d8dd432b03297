"""Published sets in a suite: few rows, broken rows, rows of other versions, marks within lines."""

import io
import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from lengthwise.measure.engines.base import Reply
from lengthwise.measure.published import (
    FABLES,
    CNNSum,
    LEval,
    LongBench,
    LongBenchWrite,
    PublishedLVEval,
)
from lengthwise.measure.run.runner import measure
from lengthwise.measure.run.suites import Suite
from lengthwise.measure.tasks import DocumentQA, Item
from lengthwise.testing.models import tiny_tokenizer

TOKENIZER = tiny_tokenizer()
BENCH: dict[str, Any] = {
    "input": "q", "context": "one two", "answers": ["x"], "length": 4, "all_classes": None,
}  # fmt: skip


def bench(dataset: str, **change: Any) -> dict[str, Any]:
    return BENCH | {"dataset": dataset} | change


Make = Callable[[Path], Any]
SETS: dict[str, tuple[Make, dict[str, Any], float]] = {
    # How it is made, a row of it, and the chance of a guess.
    "open": (LongBench, bench("narrativeqa"), 0.0),
    "classes": (
        LongBench,
        bench("trec", answers=["Food"], all_classes=["Food", "City", "Dish", "Food dish"]),
        3 / 8,  # "Food dish" names both, which is half right
    ),
    "paragraphs": (
        LongBench,
        bench(
            "passage_retrieval_en", answers=["Paragraph 2"],
            context="Paragraph 1: a\n\nParagraph 2: b\n\nParagraph 3: Paragraph 1 again",
        ),
        1 / 3,
    ),
    "options": (
        lambda file: LEval(file, "options"),
        {"input": "d", "instructions": ["q"], "outputs": ["B"], "evaluation": "exam"},
        1 / 4,
    ),
    "several options": (
        lambda file: LEval(file, "options"),
        {"input": "d", "instructions": ["q"], "outputs": ["ABC"], "evaluation": "exam"},
        3 / 16,
    ),
    "math": (
        lambda file: LEval(file, "math"),
        {"input": "d", "instructions": ["q"], "outputs": ["7"], "evaluation": "exam"},
        0.0,
    ),
    "lveval": (PublishedLVEval, bench("hotpotwikiqa_mixup_16k", answer_keywords="x"), 0.0),
    "write": (LongBenchWrite, {"prompt": "p", "type": "t", "length": 100}, 0.0),
}  # fmt: skip


def file_of(folder: Path, *rows: dict[str, Any] | str) -> Path:
    file = folder / "rows.jsonl"
    said = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    file.write_text("\n".join(said) + "\n", encoding="utf-8")
    return file


class Oracle:
    """Answers what the task calls right."""

    tokenizer = TOKENIZER

    def __init__(self, task: Any) -> None:
        self.task, self.asked = task, list[Item]()

    def describe(self) -> dict[str, object]:
        return {"name": "oracle", "window": None}

    def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
        for item in items:
            self.asked.append(item)
            yield Reply(self.task.oracle(item.record), 3, 0.1, 0.2)


def carry_out(task: Any, folder: Path, **settings: Any) -> tuple[list[Any], list[Item]]:
    reader = Oracle(task)
    console = Console(file=io.StringIO())
    results = measure(
        reader, Suite("mine", {"set": task}, **settings), {"plain": ()}, [900], folder=folder,
        console=console,
    )  # fmt: skip
    return results.rows, reader.asked


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("adaptive", [False, True])
def test_fewer_rows_than_items_are_asked_once(name: str, adaptive: bool, tmp_path: Path) -> None:
    make, row, chance = SETS[name]
    key = "input" if "input" in row else "prompt"
    task = make(file_of(tmp_path, *[row | {key: f"question {i}"} for i in range(5)]))
    # What begins a batch of an adaptive suite may be more than there is.
    rows, asked = carry_out(task, tmp_path / "out", items=12, batch=2, adaptive=adaptive)
    assert [one.score for one in rows] == [1.0] * 5
    assert len({item.prompt for item in asked}) == 5
    assert [one.chance for one in rows] == pytest.approx([chance] * 5)
    again, none = carry_out(task, tmp_path / "out", items=12, batch=2, adaptive=adaptive)
    assert again == rows and not none
    item, rng = asked[0], random.Random(0)
    scores = [task.score(task.guess(item, rng), item) for _ in range(400)]
    assert sum(scores) / 400 == pytest.approx(chance, abs=0.08)


def test_items_are_the_same_rows_however_many_are_asked_for(tmp_path: Path) -> None:
    task = LongBench(file_of(tmp_path, *[bench("qasper", input=f"q{i}") for i in range(60)]))
    many = task.build(TOKENIZER, 900, 60, seed=3)
    for count in (1, 7, 21, 59):
        assert task.build(TOKENIZER, 900, count, seed=3) == many[:count]
    assert len({item.prompt for item in many}) == 60


def test_questions_of_ones_own_are_not_asked_twice(tmp_path: Path) -> None:
    file = tmp_path / "questions.json"
    entries = [
        {"question": f"Who is {i}?", "answer": f"name{i}", "context": [["t", [f"It is {i}."]]]}
        for i in range(3)
    ]
    file.write_text(json.dumps(entries))
    rows, asked = carry_out(DocumentQA("hotpot", file), tmp_path / "out", items=8)
    assert len(rows) == 3 and len({item.record["question"] for item in asked}) == 3


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c"])
def test_a_line_ends_at_a_line_feed_alone(mark: str, tmp_path: Path) -> None:
    # Control characters are written as escapes, the others as they are.
    for name, (make, row, _) in SETS.items():
        key = "input" if "input" in row else "prompt"
        task = make(file_of(tmp_path, row | {key: f"one{mark}two"}, row))
        assert len(task.rows()) == 2 and f"one{mark}two" in task.rows()[0].prompt, name


def test_rows_of_another_version_are_refused_by_line(tmp_path: Path) -> None:
    cases: list[tuple[Make, dict[str, Any], str]] = [
        (LongBench, bench("qasper", answers="x"), "answers must be a list of texts, got 'x'"),
        (LongBench, bench("qasper", answers=[]), "answers must be a list of texts"),
        (LongBench, bench("qasper", context=None), "context must be a text, got None"),
        (LongBench, bench("qasper", length="4k"), "length must be a number of words"),
        (LongBench, bench("trec"), "none of the answers .* is among all_classes"),
        (LongBench, bench("trec", all_classes="Food"), "all_classes must be a list"),
        (LongBench, bench("passage_retrieval_en"), "answers must name a paragraph"),
        (LongBench, bench("longbench-v2"), "unknown set 'longbench-v2'"),
        (PublishedLVEval, bench("cmrc_mixup", answer_keywords=["x"]), "answer_keywords must be"),
        (LongBenchWrite, {"prompt": "p", "type": "t", "length": "100"}, "a number of words"),
        (LongBenchWrite, {"prompt": "p", "type": "t", "length": 0}, "at least 1, got 0"),
        (CNNSum, {"context": "c", "summary": None}, "summary must be a text"),
    ]
    level = {"input": "d", "instructions": ["q"], "outputs": ["B"], "evaluation": "exam"}
    for kind, change, said in [
        ("options", {"outputs": ["yes"]}, "'yes' is no answer that replies of options can match"),
        ("math", {"outputs": ["seven"]}, "'seven' is no answer"),
        ("exact", {"outputs": [" "]}, "' ' is no answer"),
        ("f1", {"outputs": "B"}, "outputs must be a list of texts, got 'B'"),
        ("f1", {"outputs": ["a", "b"]}, "not as many outputs as instructions"),
    ]:
        cases.append((lambda file, kind=kind: LEval(file, kind), level | change, said))
    for make, row, said in cases:
        with pytest.raises(ValueError, match=rf"rows.jsonl, line 1: .*{said}") as error:
            make(file_of(tmp_path, row))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a": NaN}', "it holds NaN, which is no number"),
        ('{"a": 1e999}', "a number beyond 64 bits"),
        ('{"a": "\\ud800"}', "half a character"),
        ("3", "line 1 is no JSON object"),
    ],
)
def test_lines_that_are_no_sound_json(line: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said) as error:
        LongBench(file_of(tmp_path, line))
    assert "rows.jsonl, line 1" in str(error.value) and len(str(error.value)) < 300


def test_a_score_that_cannot_be_given_is_said_before_anything_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "jieba", None)
    task = CNNSum(file_of(tmp_path, {"context": "从前", "summary": "山"}))
    rows, asked = carry_out(task, tmp_path / "out", items=2)
    assert not asked and "pip install jieba" in rows[0].refused


def test_fables_in_a_suite(tmp_path: Path) -> None:
    claims = {str(i): {"claim": f"c{i}", "label": ("Yes", "No")[i % 2]} for i in range(3)}
    file = tmp_path / "FABLES.json"
    file.write_text(json.dumps({"FABLES": {"B": {"M": {"claims": claims}}}}))
    (tmp_path / "B.txt").write_text("A book.")
    rows, asked = carry_out(FABLES(file, tmp_path), tmp_path / "out", items=9)
    assert [row.score for row in rows] == [1.0] * 3 == [2 * row.chance for row in rows]
    assert len(asked) == 3
    only = {"0": {"claim": "c", "label": "PartialSupport"}}
    file.write_text(json.dumps({"FABLES": {"B": {"M": {"claims": only}}}}))
    with pytest.raises(ValueError, match="holds no claim labelled Yes or No"):
        FABLES(file, tmp_path)
