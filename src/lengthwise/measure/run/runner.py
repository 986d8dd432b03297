"""Carries out a measurement, item by item and reading by reading; what is finished stays so."""

import hashlib
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from rich.console import Console
from rich.markup import escape

from lengthwise.extend.adapt import is_adapted
from lengthwise.extend.method import Method
from lengthwise.files import hold
from lengthwise.measure.engines.base import Reader, Reply, Unordered
from lengthwise.measure.engines.local import LocalReader, out_of_memory
from lengthwise.measure.run.environment import hardware, versions
from lengthwise.measure.run.file import ResultsFile
from lengthwise.measure.run.items import Items
from lengthwise.measure.run.progress import Shown
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE, Cell, ItemRow, ReadingRow, ends
from lengthwise.measure.run.suites import Suite
from lengthwise.measure.statistics.effective import verdict
from lengthwise.measure.strategies.base import Strategy
from lengthwise.measure.strategies.reader import StrategyReader
from lengthwise.measure.tasks.base import Item, Reading, beside, token_count

_ANSWER = 1000  # tokens whose reading takes about as long as writing an answer


@runtime_checkable
class Adaptable(Protocol):
    """A reader whose model takes methods."""

    def adapt(self, *methods: Any) -> None:
        """Fit methods in, as `lengthwise.adapt` does, or a strategy, as `StrategyReader` does."""

    def restore(self) -> None:
        """Take them out again."""


def measure(
    reader: Reader,
    suite: Suite,
    methods: Mapping[str, Sequence[Method | Strategy]],
    lengths: Sequence[int],
    *,
    folder: Path,
    only: Collection[Cell] | None = None,
    seed: int = 0,
    text: str = "",
    command: str = "",
    console: Console | None = None,
) -> Results:
    """Measure everything that the folder does not hold yet, and return all of it.

    Args:
        reader: Answers, and is read with; one that is `Adaptable` is adapted to each method in
            turn.
        suite: Tasks that ask, and readings.
        methods: From a name to what `adapt` takes together, methods or, of a `StrategyReader`, a
            strategy; none is the plain model, which is all that another reader can be.
        lengths: In tokens. Of a reading that tells of all shorter lengths the longest is read.
        folder: For the file of results. One that is there is continued, and may get more methods,
            tasks and lengths; everything else must be the same.
        only: Cells to keep to; None is every method on every task and length.
        seed: Draws the items.
        text: What the tasks hide things in, so that another text is noticed.
        command: To run it again; kept with the results.
        console: Where progress is shown; None is the terminal.

    Raises:
        ValueError: A model that is adapted already, methods for a reader that takes none, a folder
            of another plan or in use, a threshold that a guess reaches, a reading of a reader that
            is no `LocalReader`, or over more text than there is; a reader that is gone. A length or
            method that is refused is no error: it becomes a row.
        OSError: The results cannot be written.
        KeyboardInterrupt: Passed on, after saying how to go on.
    """
    console = console or Console()
    local = reader.inner if isinstance(reader, StrategyReader) else reader
    if isinstance(local, LocalReader) and is_adapted(local.model):
        raise ValueError("measure adapts the model itself; call lengthwise.restore(model) first")
    if any(methods.values()) and not isinstance(reader, Adaptable):
        raise ValueError("methods are for a model in this process; a server has its own")
    if REFERENCE in methods:
        raise ValueError(f"{REFERENCE!r} is the name of the reference; call the method otherwise")
    _check_tokenizer(reader)
    cells = suite.cells(methods, lengths, only)
    _check_readings(reader, suite, cells)
    plan = {
        **suite.plan(),
        "reader": dict(reader.describe()),
        "seed": seed,
        "text": hashlib.sha256(text.encode()).hexdigest()[:12] if text else "",
    }
    with hold(folder):
        file = ResultsFile(folder, plan)
        session = {
            "command": command,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": versions(),
            "hardware": _hardware(reader),
            "suite": suite.name,
            "methods": {n: " + ".join(map(repr, chosen)) for n, chosen in methods.items()},
            "tasks": suite.settings(),
            "items": suite.counts(),
            "lengths": sorted(set(lengths)),
        }
        file.check(session)
        _Run(reader, suite, methods, file, session, seed, console).all(cells)
        return file.results


def _check_tokenizer(reader: Reader) -> None:
    try:
        token_count(reader.tokenizer, "a b")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"the tokenizer must be one of transformers, whose call gives input_ids; "
            f"{type(reader.tokenizer).__name__} does not: {error}"
        ) from None


def _check_readings(reader: Reader, suite: Suite, cells: Sequence[Cell]) -> None:
    for cell in cells:
        reading = suite.tasks[cell.task]
        if not isinstance(reading, Reading):
            continue
        if not isinstance(reader, LocalReader):
            raise ValueError(
                f"{cell.task} measures a model in this process; a server or workers can only be "
                "asked: choose a suite or tasks without loss and speed, as quick"
            )
        reading.check(reader.tokenizer, cell.length)


def _hardware(reader: Reader) -> dict[str, Any]:
    reader = reader.inner if isinstance(reader, StrategyReader) else reader
    if isinstance(reader, LocalReader):
        return hardware(reader.model.device)
    return {**hardware(torch.device("cpu")), "device": "outside this process"}


class _Run:
    """One run of the command over a file."""

    def __init__(
        self,
        reader: Reader,
        suite: Suite,
        methods: Mapping[str, Sequence[Method | Strategy]],
        file: ResultsFile,
        session: Mapping[str, Any],
        seed: int,
        console: Console,
    ) -> None:
        self.reader, self.suite, self.methods = reader, suite, methods
        self.file, self.session, self.seed, self.console = file, session, seed, console
        self._number: int | None = None
        self.counts = suite.counts()
        self.cells: dict[Cell, dict[int, ItemRow]] = {}
        for row in file.results.rows:
            self.cells.setdefault(row.cell, {})[row.index] = row
        self.read = {row.key for row in file.results.readings}

    def all(self, cells: Sequence[Cell]) -> None:
        """Every cell, in this order."""
        self._announce(cells)
        try:
            with Shown(self.console, {cell: self._missing(cell) for cell in cells}) as self.shown:
                for (task, length), same in groupby(cells, lambda cell: (cell.task, cell.length)):
                    self._task(task, length, list(same))
            if again := sum(row.again for row in self.file.results.rows):
                words = f"{again} items got no answer; run the same command again to ask them again"
                self.console.print(words, soft_wrap=True)
        except KeyboardInterrupt:
            words = (
                f"\nInterrupted. {self.file.path} keeps the {self.file.count} measurements that "
                f"are finished{', and parts of one that is not' if self.file.unfinished else ''}; "
                "run the same command again to go on from there."
            )
            self.console.print(escape(words), soft_wrap=True)
            raise

    def _announce(self, cells: Sequence[Cell]) -> None:
        asked = [c for c in cells if not isinstance(self.suite.tasks[c.task], Reading)]
        parts = []
        if asked:
            items = sum(self.counts[c.task] for c in asked)
            tokens = sum(c.length * self.counts[c.task] for c in asked)
            most = " at most" if self.suite.adaptive else ""
            parts.append(f"{items:,} item{'s' * (items != 1)} with {tokens:,} tokens{most}")
        if len(asked) < len(cells):
            readings = sum(self.counts[c.task] for c in cells if c not in asked)
            parts.append(f"{readings} reading{'s' * (readings != 1)}")
        self.console.print(f"{escape(self.suite.name)}: {', '.join(parts)}")
        for task in dict.fromkeys(cell.task for cell in asked):
            if self.counts[task] < self.suite.items:
                words = f"{escape(task)} has only {self.counts[task]} of {self.suite.items} items"
                self.console.print(words, soft_wrap=True)
        if there := self.file.count - sum(row.again for row in self.file.results.rows):
            words = f"{escape(str(self.file.path))}: {there} measurements are there already"
            self.console.print(words, soft_wrap=True)

    def _missing(self, cell: Cell) -> int:
        """About how many tokens are left to read for a cell."""
        if isinstance(self.suite.tasks[cell.task], Reading):
            left = [i for i in range(self.counts[cell.task]) if (*cell, i) not in self.read]
            return len(left) * 2 * cell.length  # the reference and the peak read everything twice
        there = sum(not row.again for row in self.cells.get(cell, {}).values())
        return max(self.counts[cell.task] - there, 0) * (cell.length + _ANSWER)

    def _task(self, name: str, length: int, cells: Sequence[Cell]) -> None:
        """One task and length, for every method."""
        task, count = self.suite.tasks[name], self.counts[name]
        if not isinstance(task, Reading):
            first = min(self.suite.batch, count) if self.suite.adaptive else count
            items = Items(task, self.reader.tokenizer, length, self.seed, first)
        for cell in cells:
            self.shown.begin(cell)
            if isinstance(task, Reading):
                self._readings(cell, task)
            elif self._reached(cell):
                self._cell(cell, items)
            self.shown.end(cell)

    def _readings(self, cell: Cell, reading: Reading) -> None:
        """Measure what is missing of one method and length."""
        assert isinstance(self.reader, LocalReader)
        if cell.method == REFERENCE:
            assert reading.reference is not None
            reading = reading.reference
        missing = [i for i in range(reading.samples) if (*cell, i) not in self.read]
        rows = [self._reading(cell, reading, sample, self.reader) for sample in missing]
        seconds = sum(row.seconds for row in rows if not row.refused)
        self.shown.tell(cell, [row.refused for row in rows], f"{seconds:.1f} s" if seconds else "")

    def _reading(
        self, cell: Cell, reading: Reading, sample: int, reader: LocalReader
    ) -> ReadingRow:
        began, values, refused = time.perf_counter(), dict[str, Any](), ""
        key = (*cell, sample)

        def keep(blocks: Sequence[float]) -> None:
            self._session()
            self.file.keep(key, blocks)

        try:
            self._adapt(cell.method)
            try:
                known = self.file.blocks(key)
                values = dict(reading.measure(reader, cell.length, sample, known, keep))
            finally:
                self._restore(cell.method)
        except ValueError as error:
            refused = str(error)
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            refused = f"out of memory on {reader.model.device}"
        row = ReadingRow(
            *key, values, refused, round(time.perf_counter() - began, 3), self._session()
        )
        self.file.add(row)
        self.read.add(row.key)
        self.shown.advance(cell, 2 * cell.length)
        return row

    def _reached(self, cell: Cell) -> bool:
        """Whether an adaptive suite goes on to this length: the one before it was above."""
        method, task, length = cell
        shorter = [n for m, t, n in self.cells if (m, t) == (method, task) and n < length]
        if not self.suite.adaptive or not shorter:
            return True
        scores = self._scores(Cell(method, task, max(shorter)))
        return scores is not None and verdict(scores, self.suite.threshold) == "above"

    def _scores(self, cell: Cell, count: int | None = None) -> list[float] | None:
        """Scores of the first `count` items of a cell; None where one of them was refused."""
        rows = self.cells[cell]
        scores = [rows[index].score for index in sorted(rows)[:count]]
        known = [score for score in scores if score is not None]
        return known if len(known) == len(scores) else None

    def _batches(self, cell: Cell) -> Iterator[list[int]]:
        """Numbers of the items to have answered: all at once, or as long as the answer is open."""
        count = self.counts[cell[1]]
        if not self.suite.adaptive:
            yield list(range(count))
            return
        for first in range(0, count, self.suite.batch):
            stop = min(first + self.suite.batch, count)
            yield list(range(first, stop))
            # No item beyond the batch: a run that was killed in the next one must decide the same.
            scores = self._scores(cell, stop)
            if scores is None or verdict(scores, self.suite.threshold) != "open":
                return

    def _cell(self, cell: Cell, items: Items) -> None:
        """Answer what is missing of one method, task and length."""
        there = self.cells.setdefault(cell, {})
        if any(not row.prompt for row in there.values()):
            return  # refused as a whole, before an item was made
        asked_now = False
        for wanted in self._batches(cell):
            missing = [index for index in wanted if index not in there or there[index].again]
            if not missing:
                continue
            asked_now = True
            try:
                asked = items.take(missing)
                self._adapt(cell[0])
            except ValueError as error:
                self._add(cell, missing[0], None, Reply("", 0, None, 0.0, refused=str(error)))
                break
            try:
                self._check_threshold(cell[1], asked)
                for place, reply in self._replies(asked):
                    self._add(cell, missing[place], asked[place], reply)
            finally:
                self._restore(cell[0])
        if asked_now:
            scores = [row.score for row in there.values() if row.score is not None]
            found = f"{sum(scores) / len(scores):.2f} of {len(scores)} items" if scores else ""
            self.shown.tell(cell, [row.refused for row in there.values()], found)

    def _replies(self, asked: Sequence[Item]) -> Iterator[tuple[int, Reply]]:
        """Replies with their items' places: what is there is written down, whatever is not yet."""
        if isinstance(self.reader, Unordered):
            yield from self.reader.as_they_come(asked)
            return
        for place, (_, reply) in enumerate(zip(asked, self.reader.answer(asked), strict=True)):
            yield place, reply

    def _check_threshold(self, task: str, items: Sequence[Item]) -> None:
        chance = max(self.suite.asking(task).chance(item) for item in items)
        if self.suite.adaptive and chance >= self.suite.threshold:
            raise ValueError(
                f"a guess scores {chance:.2f} on {task}, so to be above {self.suite.threshold} "
                "says nothing; choose a higher --threshold"
            )

    def _adapt(self, method: str) -> None:
        if self.methods.get(method) and isinstance(self.reader, Adaptable):
            self.reader.adapt(*self.methods[method])

    def _restore(self, method: str) -> None:
        if self.methods.get(method) and isinstance(self.reader, Adaptable):
            self.reader.restore()

    def _session(self) -> int:
        """The number of this run, which gets a line with the first that it measures."""
        if self._number is None:
            self._number = self.file.begin(self.session)
        return self._number

    def _add(self, cell: Cell, index: int, item: Item | None, reply: Reply) -> None:
        """Write down what came of an item; of a cell that was refused as a whole there is none."""
        method, name, length = cell
        task = self.suite.asking(name)
        row = ItemRow(
            method=method,
            task=name,
            length=length,
            index=index,
            score=None if item is None or reply.refused else task.score(reply.text, item),
            chance=0.0 if item is None else task.chance(item),
            depths=() if item is None else item.depths,
            prompt="" if item is None else ends(item.prompt),
            answer="" if item is None else item.answer,
            reply=reply.text,
            tokens=reply.tokens,
            first_token=reply.first_token,
            seconds=reply.seconds,
            held=reply.held,
            peak=reply.peak,
            refused=reply.refused,
            session=self._session(),
            again=reply.again,
            read=reply.read,
            groups={} if item is None else item.record.get("groups", {}),
            **({} if item is None else beside(task, item, reply.text, not reply.refused)),
        )
        self.file.add(row)
        self.cells[cell][index] = row
        self.shown.advance(cell, length + _ANSWER)
