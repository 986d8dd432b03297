"""A suite is carried out item by item, and goes on where it stopped with nothing asked twice."""

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

import lengthwise as lw
from lengthwise.measure.engines.base import Reply
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.run.items import Items
from lengthwise.measure.run.parquet import write_parquet
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.runner import measure
from lengthwise.measure.run.suites import Suite
from lengthwise.measure.tasks import NIAH, Item, Lines, Passkey, TSort
from lengthwise.testing.models import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
FILLER = "\n".join(f"line {i} of the filler, with {i * i % 97} things in it" for i in range(300))
SMALL = Suite("quick", {"niah": NIAH(budget=16), "lines": Lines()}, items=3)
ADAPTIVE = Suite("effective", {"lines": Lines()}, items=64, batch=16, adaptive=True)


class Scripted:
    """Right where a rule says so; notes what it was asked, and may be stopped."""

    tokenizer = TOKENIZER

    def __init__(self, right: Callable[[Item], bool] = lambda item: True) -> None:
        self.right, self.asked = right, list[Item]()
        self.stop: int | None = None

    def describe(self) -> dict[str, object]:
        return {"name": "scripted", "window": None}

    def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
        for item in items:
            if self.stop is not None and len(self.asked) >= self.stop:
                raise KeyboardInterrupt
            self.asked.append(item)
            yield Reply(item.answer if self.right(item) else "no", 3, 0.1, 0.2)


def carry_out(
    reader: object, folder: Path, suite: Suite = SMALL, lengths: Sequence[int] = (512, 700), **more
) -> Results:
    console = Console(file=io.StringIO())
    methods = more.pop("methods", {"plain": ()})
    return measure(reader, suite, methods, lengths, folder=folder, console=console, **more)


def content(results: Results) -> list[object]:
    """Rows without what may differ between two runs."""
    blank = {"first_token": None, "seconds": 0, "held": 0, "peak": 0, "session": 0}
    return [replace(row, **blank) for row in results.rows]


def test_every_item_has_a_row(tmp_path: Path) -> None:
    reader = Scripted(lambda item: item.length == 512)
    results = carry_out(reader, tmp_path)
    assert Results.load(tmp_path) == results
    keys = {(row.task, row.length, row.index) for row in results.rows}
    assert keys == {(t, n, i) for t in ("niah", "lines") for n in (512, 700) for i in range(3)}
    assert [row.score for row in results.rows] == [float(row.length == 512) for row in results.rows]
    row, item = results.rows[0], reader.asked[0]
    assert (row.prompt[:300], row.prompt[-900:]) == (item.prompt[:300], item.prompt[-900:])
    assert (row.depths, row.answer) == (item.depths, item.answer)
    (session,) = results.sessions
    assert session["methods"] == {"plain": ""} and session["lengths"] == [512, 700]
    assert session["versions"]["lengthwise"] and session["hardware"]["cores"]


@pytest.mark.parametrize("suite", [SMALL, ADAPTIVE], ids=["fixed", "adaptive"])
def test_an_interruption_anywhere_changes_nothing(tmp_path: Path, suite: Suite) -> None:
    def right(item: Item) -> bool:
        return item.length == 512 or hash_of(item) % 100 < 80

    whole = Scripted(right)
    undisturbed = carry_out(whole, tmp_path / "whole", suite)
    broken = Scripted(right)
    # Before the first item; within a cell; where the second batch of 16 has told enough, but is
    # not whole; near the end.
    stops = [n for n in (0, 1, 5, 28) if n < len(whole.asked) - 2] + [len(whole.asked) - 2]
    for broken.stop in stops:
        with pytest.raises(KeyboardInterrupt):
            carry_out(broken, tmp_path / "broken", suite)
    broken.stop = None
    results = carry_out(broken, tmp_path / "broken", suite)
    assert content(results) == content(undisturbed)
    assert broken.asked == whole.asked  # nothing twice
    assert len({row.key for row in results.rows}) == len(results.rows)
    # The session in which nothing was answered left no line.
    assert len(results.sessions) == len(stops)
    assert [row.session for row in results.rows] == sorted(row.session for row in results.rows)


def test_what_had_no_answer_is_asked_again(tmp_path: Path) -> None:
    """A refusal for now is counted as one, and lasts until the next run; a final one stays."""

    class Failing(Scripted):
        down = True

        def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
            for number, reply in enumerate(super().answer(items)):
                if number == 0 and self.down:
                    reply = Reply("", 0, None, 1.0, refused="busy", again=True)
                elif number == 1:
                    reply = Reply("", 0, None, 1.0, refused="filtered")
                yield reply

    reader = Failing()
    first = carry_out(reader, tmp_path)
    assert [row.again for row in first.rows] == [True, False, False] * 4
    assert Results.load(tmp_path) == first
    assert first.scores("plain", "niah", 512) == [1.0]
    reader.down, reader.asked = False, []
    second = carry_out(reader, tmp_path)
    assert len(reader.asked) == 4 and {row.index for row in second.rows if row.session == 1} == {0}
    assert Results.load(tmp_path) == second
    assert len({row.key for row in second.rows}) == len(second.rows) == 12
    assert second.scores("plain", "niah", 512) == [1.0, 1.0]
    assert [r.refused for r in second.cell("plain", "niah", 512)] == ["", "filtered", ""]
    before = (tmp_path / "results.jsonl").read_bytes()
    assert carry_out(reader, tmp_path) == second and len(reader.asked) == 4
    assert (tmp_path / "results.jsonl").read_bytes() == before


def test_an_adaptive_suite_goes_on_where_no_answer_came(tmp_path: Path) -> None:
    whole = carry_out(Scripted(), tmp_path / "whole", ADAPTIVE)

    class Failing(Scripted):
        def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
            for number, reply in enumerate(super().answer(items)):
                bad = Reply("", 0, None, 1.0, refused="busy", again=True)
                yield bad if number % 5 == 1 else reply

    open_ = carry_out(Failing(), tmp_path / "out", ADAPTIVE)
    assert open_.lengths == [512] and len(open_.rows) == 16  # what failed may be what is hard
    healed = carry_out(Scripted(), tmp_path / "out", ADAPTIVE)
    by_key = {row.key: row.score for row in whole.rows}
    assert {row.key: row.score for row in healed.rows} == by_key


def test_answers_are_written_as_they_come(tmp_path: Path) -> None:
    class Backwards(Scripted):
        def as_they_come(self, items: Sequence[Item]) -> Iterator[tuple[int, Reply]]:
            for number in reversed(range(len(items))):
                (reply,) = super().answer([items[number]])
                yield number, reply

    reader = Backwards()
    reader.stop = 2
    with pytest.raises(KeyboardInterrupt):
        carry_out(reader, tmp_path)
    assert [row.index for row in Results.load(tmp_path).rows] == [2, 1]
    reader.stop = None
    results = carry_out(reader, tmp_path)
    assert {row.score for row in results.rows} == {1.0} and len(reader.asked) == 12
    for task in SMALL.tasks:
        answers = [row.answer for row in results.cell("plain", task, 700)]
        items = SMALL.tasks[task].build(TOKENIZER, 700, 3, 0)
        assert answers == [item.answer for item in items]


def hash_of(item: Item) -> int:
    return sum(map(ord, item.answer)) * 7919


def test_a_finished_suite_is_left_as_it_is(tmp_path: Path) -> None:
    reader = Scripted()
    first = carry_out(reader, tmp_path)
    before = (tmp_path / "results.jsonl").read_bytes()
    assert carry_out(Scripted(), tmp_path) == first
    assert (tmp_path / "results.jsonl").read_bytes() == before
    more = carry_out(reader, tmp_path, lengths=(900,))
    assert {row.session for row in more.rows} == {0, 1} and len(more.rows) == 18


def test_items_go_where_the_answer_is_open(tmp_path: Path) -> None:
    def right(item: Item) -> bool:  # all, nearly all, none
        return item.length == 512 or (item.length == 700 and hash_of(item) % 10 != 0)

    reader = Scripted(right)
    results = carry_out(reader, tmp_path, ADAPTIVE, lengths=(512, 700, 900))
    spent = results.effective("plain", "lines").items
    assert spent[512] == 32  # all right: enough after two looks
    assert spent[700] == 64  # 0.9 against 0.85: open to the end
    assert 900 not in spent  # not reached
    assert str(results.effective("plain", "lines")) == "512"

    failing = carry_out(Scripted(lambda item: False), tmp_path / "none", ADAPTIVE)
    assert failing.effective("plain", "lines").items == {512: 16}


def test_a_length_that_is_too_short_for_a_task_is_one_refused_row(tmp_path: Path) -> None:
    reader = Scripted()
    results = carry_out(reader, tmp_path, lengths=(70, 512))
    refused = [row for row in results.rows if row.refused]
    assert {(row.task, row.length, row.index) for row in refused} >= {("niah", 70, 0)}
    assert "too short" in refused[0].refused and refused[0].score is None
    assert len([row for row in results.rows if row.length == 512]) == 6
    asked = len(reader.asked)
    assert carry_out(reader, tmp_path, lengths=(70, 512)) == results
    assert len(reader.asked) == asked


def test_a_reader_that_refuses_is_written_down_and_one_that_is_gone_is_raised(
    tmp_path: Path,
) -> None:
    class Short(Scripted):
        def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
            for item in items:
                if item.length > 600:
                    yield Reply("", 0, None, 0.1, refused="longer than the server reads (600)")
                else:
                    yield from super().answer([item])

    results = carry_out(Short(), tmp_path / "short")
    assert all((row.score is None) == (row.length == 700) for row in results.rows)
    assert results.effective("plain", "niah").verdicts[700] == "refused"

    class Gone(Scripted):
        def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
            yield from super().answer(items[:2])
            raise ValueError("the server at … does not answer any more")

    with pytest.raises(ValueError, match="does not answer any more"):
        carry_out(Gone(), tmp_path / "gone")
    assert len(Results.load(tmp_path / "gone").rows) == 2


def test_methods_are_compared_on_the_same_items(tmp_path: Path) -> None:
    reader = LocalReader(tiny_model("llama"), TOKENIZER, name="tiny")
    suite = Suite("quick", {"passkey": Passkey(FILLER)}, items=2)
    methods = {"plain": (), "short": (lw.StreamingLLM(sinks=2, window=32),)}
    results = carry_out(reader, tmp_path, suite, (300, 600), methods=methods)
    for length in (300, 600):
        plain, short = (results.cell(name, "passkey", length) for name in methods)
        assert [row.prompt for row in plain] == [row.prompt for row in short]
        assert short[0].held < plain[0].held
    assert results.plan["reader"]["name"] == "tiny"
    assert not lw.extend.adapt.is_adapted(reader.model)
    changed = {"short": (lw.StreamingLLM(sinks=2, window=48),)}
    with pytest.raises(ValueError, match=r"measured 'short' as StreamingLLM.*another name"):
        carry_out(reader, tmp_path, suite, (300,), methods=changed)


def test_a_method_that_does_not_fit_is_refused_row_by_row(tmp_path: Path) -> None:
    reader = LocalReader(tiny_model("llama"), TOKENIZER)
    suite = Suite("quick", {"lines": Lines()}, items=2)
    wrong = {"plain": (), "alibi": (lw.ALiBiPI(factor=2),)}
    results = carry_out(reader, tmp_path, suite, (512,), methods=wrong)
    assert [row.refused for row in results.cell("plain", "lines", 512)] == ["", ""]
    (row,) = results.cell("alibi", "lines", 512)
    assert "is for models with linear biases" in row.refused


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a server has its own"):
        carry_out(Scripted(), tmp_path, methods={"x": (lw.YaRN(factor=2),)})
    reader = LocalReader(tiny_model("llama"), TOKENIZER)
    with lw.extend.adapt.adapted(reader.model), pytest.raises(ValueError, match="restore"):
        carry_out(reader, tmp_path)
    carry_out(Scripted(), tmp_path)
    with pytest.raises(ValueError, match="its seed is 0, now it is 1"):
        carry_out(Scripted(), tmp_path, seed=1)

    guessed = replace(ADAPTIVE, tasks={"tsort": TSort()}, threshold=0.04)
    with pytest.raises(ValueError, match=r"a guess scores 0.04 on tsort.*higher --threshold"):
        carry_out(Scripted(), tmp_path / "guessed", guessed, lengths=(900,))

    class Strange(Scripted):
        tokenizer = object()

    with pytest.raises(ValueError, match="tokenizer must be one of transformers"):
        carry_out(Strange(), tmp_path / "strange")


def test_an_item_is_the_same_in_whatever_order_it_is_asked_for() -> None:
    once, again = (Items(Lines(), TOKENIZER, 600, 0, first=4) for _ in range(2))
    far = once.take([13, 2])
    assert [again.take([index])[0] for index in (2, 13)] == [far[1], far[0]]
    assert len({item.prompt for item in once.take(list(range(16)))}) == 16


def test_the_table_in_parquet_says_the_same(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    results = carry_out(Scripted(), tmp_path, lengths=(70, 512))
    table = pq.read_table(write_parquet(results, tmp_path))
    kinds = {"depths": tuple, "found": tuple, "groups": dict, "shortcuts": dict, "parts": dict}
    rows = [{**row, **{k: kind(row[k]) for k, kind in kinds.items()}} for row in table.to_pylist()]
    assert rows == [vars(row) for row in results.rows]
    assert b'"suite": "quick"' in table.schema.metadata[b"lengthwise_sessions"]
