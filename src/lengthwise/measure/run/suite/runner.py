"""Carries out a suite item by item; what is answered stays answered."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from lengthwise.extend.adapt import is_adapted
from lengthwise.extend.method import Method
from lengthwise.files import hold
from lengthwise.measure.engines.base import Reader, Reply, Unordered
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.run.environment import hardware, versions
from lengthwise.measure.run.suite.file import SuiteFile, SuiteResults
from lengthwise.measure.run.suite.items import Items
from lengthwise.measure.run.suite.rows import ItemRow
from lengthwise.measure.run.suite.suites import Suite
from lengthwise.measure.statistics.effective import verdict
from lengthwise.measure.tasks.base import Item, token_count

Cell = tuple[str, str, int]  # method, task, length
_ANSWER = 1000  # tokens whose reading takes about as long as writing an answer
_HEAD, _TAIL = 300, 900  # characters of a prompt that are kept


@runtime_checkable
class Adaptable(Protocol):
    """A reader whose model takes methods."""

    def adapt(self, *methods: Method) -> None:
        """Fit methods in, as `lengthwise.adapt` does."""

    def restore(self) -> None:
        """Take them out again."""


def run_suite(
    reader: Reader,
    suite: Suite,
    methods: Mapping[str, Sequence[Method]],
    lengths: Sequence[int],
    *,
    folder: Path,
    seed: int = 0,
    text: str = "",
    command: str = "",
    console: Console | None = None,
) -> SuiteResults:
    """Answer every item that the folder does not hold yet, and return all of them.

    Args:
        reader: Answers; one that is `Adaptable` is adapted to each method in turn.
        methods: From a name to the methods that `adapt` takes together; none is the plain model,
            which is all that another reader can be.
        lengths: In tokens.
        folder: For the file of results. One that is there is continued, and may get more methods
            and lengths; everything else must be the same.
        seed: Draws the items.
        text: What the tasks hide things in, so that another text is noticed.
        command: To run it again; kept with the results.
        console: Where progress is shown; None is the terminal.

    Raises:
        ValueError: A model that is adapted already, methods for a reader that takes none, a folder
            of another plan or in use, a threshold that a guess reaches, a reader that is gone. A
            length that is refused is no error: it becomes a row.
        OSError: The results cannot be written.
        KeyboardInterrupt: Passed on, after saying how to go on.
    """
    console = console or Console()
    if isinstance(reader, LocalReader) and is_adapted(reader.model):
        raise ValueError("run_suite adapts the model itself; call lengthwise.restore(model) first")
    if any(methods.values()) and not isinstance(reader, Adaptable):
        raise ValueError("methods are for a model in this process; a server has its own")
    _check_tokenizer(reader)
    plan = {
        **suite.plan(),
        "reader": dict(reader.describe()),
        "seed": seed,
        "text": hashlib.sha256(text.encode()).hexdigest()[:12] if text else "",
    }
    with hold(folder):
        file = SuiteFile(folder, plan)
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
        _Run(reader, suite, methods, file, session, seed, console).all(sorted(set(lengths)))
        return file.results


def _check_tokenizer(reader: Reader) -> None:
    try:
        token_count(reader.tokenizer, "a b")
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"the tokenizer must be one of transformers, whose call gives input_ids; "
            f"{type(reader.tokenizer).__name__} does not: {error}"
        ) from None


def _hardware(reader: Reader) -> dict[str, Any]:
    if isinstance(reader, LocalReader):
        return hardware(reader.model.device)
    return {**hardware(torch.device("cpu")), "device": "outside this process"}


class _Run:
    """One run of the command over a file."""

    def __init__(
        self,
        reader: Reader,
        suite: Suite,
        methods: Mapping[str, Sequence[Method]],
        file: SuiteFile,
        session: Mapping[str, Any],
        seed: int,
        console: Console,
    ) -> None:
        self.reader, self.suite, self.methods = reader, suite, methods
        self.file, self.session, self.seed, self.console = file, session, seed, console
        self.number: int | None = None  # of the session; it gets a line with its first row
        self.counts = suite.counts()
        self.cells: dict[Cell, dict[int, ItemRow]] = {}
        for row in file.results.rows:
            self.cells.setdefault(row.key[:3], {})[row.index] = row

    def all(self, lengths: Sequence[int]) -> None:
        """Every length, task and method."""
        cells, there = self._plan(lengths), sum(not row.again for row in self.file.results.rows)
        self.console.print(
            f"{self.suite.name}: {sum(self.counts[task] for _, task, _ in cells):,} items with "
            f"{sum(length * self.counts[task] for _, task, length in cells):,} tokens"
            + (" at most" if self.suite.adaptive else "")
        )
        for task, count in self.counts.items():
            if count < self.suite.items:
                self.console.print(f"{escape(task)} has {count} items only", soft_wrap=True)
        if there:
            words = f"{escape(str(self.file.path))}: {there} items are answered already"
            self.console.print(words, soft_wrap=True)
        columns = (
            TextColumn("{task.description:<44}", markup=False),
            BarColumn(),
            TextColumn("{task.percentage:3.0f}%"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self.left = {cell: self._missing(cell) for cell in cells}
        self.progress = Progress(*columns, console=self.console)
        self.bar = self.progress.add_task("", total=sum(self.left.values()))
        try:
            with self.progress:
                for length in lengths:
                    self._length(length)
            if again := sum(row.again for row in self.file.results.rows):
                words = f"{again} items got no answer; run the same command again to ask them again"
                self.console.print(words, soft_wrap=True)
        except KeyboardInterrupt:
            words = (
                f"\nInterrupted. {self.file.path} keeps the {len(self.file.results.rows)} items "
                "that are answered; run the same command again to go on from there."
            )
            self.console.print(escape(words), soft_wrap=True)
            raise

    def _plan(self, lengths: Sequence[int]) -> list[Cell]:
        return [(m, t, n) for n in lengths for t in self.suite.tasks for m in self.methods]

    def _missing(self, cell: Cell) -> int:
        """About how many tokens are left to read for a cell; the time left is judged by it."""
        there = sum(not row.again for row in self.cells.get(cell, {}).values())
        return max(self.counts[cell[1]] - there, 0) * (cell[2] + _ANSWER)

    def _length(self, length: int) -> None:
        for name, task in self.suite.tasks.items():
            count = self.counts[name]
            first = min(self.suite.batch, count) if self.suite.adaptive else count
            items = Items(task, self.reader.tokenizer, length, self.seed, first)
            for method in self.methods:
                cell = (method, name, length)
                self.progress.update(self.bar, description=f"{name} {length:,} · {method}")
                if self._reached(cell):
                    self._cell(cell, items)
                # What the scores have made needless is no work left.
                total = self.progress.tasks[self.bar].total or 0
                self.progress.update(self.bar, total=max(total - self.left.pop(cell), 1))

    def _reached(self, cell: Cell) -> bool:
        """Whether an adaptive suite goes on to this length: the one before it was above."""
        method, task, length = cell
        shorter = [n for m, t, n in self.cells if (m, t) == (method, task) and n < length]
        if not self.suite.adaptive or not shorter:
            return True
        scores = self._scores((method, task, max(shorter)))
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
            self._tell(cell, list(there.values()))

    def _replies(self, asked: Sequence[Item]) -> Iterator[tuple[int, Reply]]:
        """Replies with their items' places: what is there is written down, whatever is not yet."""
        if isinstance(self.reader, Unordered):
            yield from self.reader.as_they_come(asked)
            return
        for place, (_, reply) in enumerate(zip(asked, self.reader.answer(asked), strict=True)):
            yield place, reply

    def _check_threshold(self, task: str, items: Sequence[Item]) -> None:
        chance = max(self.suite.tasks[task].chance(item) for item in items)
        if self.suite.adaptive and chance >= self.suite.threshold:
            raise ValueError(
                f"a guess scores {chance:.2f} on {task}, so to be above {self.suite.threshold} "
                "says nothing; choose a higher --threshold"
            )

    def _adapt(self, method: str) -> None:
        if self.methods[method] and isinstance(self.reader, Adaptable):
            self.reader.adapt(*self.methods[method])

    def _restore(self, method: str) -> None:
        if self.methods[method] and isinstance(self.reader, Adaptable):
            self.reader.restore()

    def _add(self, cell: Cell, index: int, item: Item | None, reply: Reply) -> None:
        """Write down what came of an item; of a cell that was refused as a whole there is none."""
        method, name, length = cell
        task = self.suite.tasks[name]
        if self.number is None:
            self.number = self.file.begin(self.session)
        row = ItemRow(
            method=method,
            task=name,
            length=length,
            index=index,
            score=None if item is None or reply.refused else task.score(reply.text, item),
            chance=0.0 if item is None else task.chance(item),
            depths=() if item is None else item.depths,
            prompt="" if item is None else _ends(item.prompt),
            answer="" if item is None else item.answer,
            reply=reply.text,
            tokens=reply.tokens,
            first_token=reply.first_token,
            seconds=reply.seconds,
            held=reply.held,
            peak=reply.peak,
            refused=reply.refused,
            session=self.number,
            again=reply.again,
        )
        self.file.add(row)
        self.cells[cell][index] = row
        effort = min(length + _ANSWER, self.left[cell])
        self.left[cell] -= effort
        self.progress.advance(self.bar, effort)

    def _tell(self, cell: Cell, rows: list[ItemRow]) -> None:
        """A line for what was refused; where there is no bar, one for every cell."""
        method, task, length = cell
        label = escape(f"{task} {length:,} · {method}")
        reasons = dict.fromkeys(row.refused for row in rows if row.refused)
        for reason in reasons:
            words = f"[yellow]refused[/] {label}: {escape(reason)}"
            self.progress.console.print(words, soft_wrap=True)
        scores = [row.score for row in rows if row.score is not None]
        if scores and not self.console.is_terminal:
            mean = sum(scores) / len(scores)
            self.progress.console.print(f"{label}: {mean:.2f} of {len(scores)} items")


def _ends(prompt: str) -> str:
    """The start and the end of a prompt, where the question stands."""
    if len(prompt) <= _HEAD + _TAIL:
        return prompt
    left_out = len(prompt) - _HEAD - _TAIL
    return f"{prompt[:_HEAD]}\n[… {left_out:,} characters …]\n{prompt[-_TAIL:]}"
