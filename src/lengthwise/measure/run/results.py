"""What a measurement has found: the plan, the runs of the command, the items and the readings."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lengthwise.measure.run.rows import REFERENCE, Cell, ItemRow, ReadingRow
from lengthwise.measure.statistics.effective import (
    EffectiveLength,
    effective_length,
    score_interval,
    sequential_interval,
)
from lengthwise.measure.statistics.intervals import Interval


@dataclass(frozen=True)
class Results:
    """What `results.jsonl` holds.

    Two kinds of task: those that ask leave a row for each item (`rows`, looked up by `cell`,
    `scores`, `interval` and `effective`), and readings of the model itself leave one for each
    stretch of text (`readings`, looked up by `reading` and `values`). The values of `loss` are
    `block` (positions) and `losses` (mean nats of every block); those of `speed` are
    `first_token_seconds`, `tokens_per_second`, `cache_bytes` and `peak_bytes` (may be None).

    Attributes:
        plan: What all rows have in common: `reader` (what answered: name, window, fingerprint or
            URL …), `seed`, `text` (a hash of what things are hidden in), `adaptive` (whether items
            were spent where the answer was open), `batch` and `threshold` (the score that counts
            as still reading).
        sessions: Of each run: `command`, `started` (UTC), `versions`, `hardware`, `suite` (its
            name), `methods` (from a name to how Python writes it, empty for the plain model),
            `tasks` (from a name to how it is set), `items` (from a task's name to how many of each
            length at most) and `lengths` (tokens).
        rows: Items in the order in which they were answered.
        readings: In the order in which they were finished.
    """

    plan: dict[str, Any]
    sessions: list[dict[str, Any]] = field(default_factory=list)
    rows: list[ItemRow] = field(default_factory=list)
    readings: list[ReadingRow] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read a file, or the file in a folder; a damaged last line is left out.

        Raises:
            ValueError: Not such a file, one of another version, or a damaged line before the last.
        """
        from lengthwise.measure.run.file import load

        return load(path)

    @property
    def suite(self) -> str:
        """The names of the suites and tasks that were carried out."""
        named = ",".join(session["suite"] for session in self.sessions)
        # A comma before an option, as in `lveval:confusing=0,replaced=false`, parts no names.
        return ", ".join(dict.fromkeys(re.split(r",\s*(?![^,:]*=)", named)))

    @property
    def specs(self) -> dict[str, str]:
        """From a method's name to how Python writes it, empty for the plain model."""
        return self._merged("methods")

    @property
    def settings(self) -> dict[str, str]:
        """From a task's name to how it is set."""
        return self._merged("tasks")

    @property
    def counts(self) -> dict[str, int]:
        """From a task's name to how many items of each length it has at most."""
        return self._merged("items")

    def _merged(self, key: str) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for session in self.sessions:
            merged |= session[key]
        return merged

    @property
    def finished(self) -> list[ItemRow | ReadingRow]:
        """Items and readings."""
        return [*self.rows, *self.readings]

    @property
    def methods(self) -> list[str]:
        """Names of the methods that have rows or readings; the reference is none of them."""
        names = dict.fromkeys(row.method for row in self.finished if row.method != REFERENCE)
        return _in_order(names, self.specs)

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have items."""
        return _in_order(dict.fromkeys(row.task for row in self.rows), self.settings)

    @property
    def lengths(self) -> list[int]:
        """Lengths that have items, shortest first."""
        return sorted({row.length for row in self.rows})

    def cell(self, method: str, task: str, length: int) -> list[ItemRow]:
        """The items of one method, task and length by their index."""
        wanted = Cell(method, task, length)
        return sorted((r for r in self.rows if r.cell == wanted), key=lambda row: row.index)

    def scores(self, method: str, task: str, length: int) -> list[float]:
        """The scores of a cell by index, without what was refused."""
        return [r.score for r in self.cell(method, task, length) if r.score is not None]

    def interval(self, method: str, task: str, length: int) -> Interval | None:
        """The mean score of a cell and its 95% interval; None where nothing was answered.

        The interval allows for a number of items that depended on their scores, where it did.
        """
        scores = self.scores(method, task, length)
        if not scores:
            return None
        return (sequential_interval if self.plan["adaptive"] else score_interval)(scores)

    def effective(self, method: str, task: str, threshold: float | None = None) -> EffectiveLength:
        """Up to which length a method's score of a task is above the plan's threshold, or another.

        See `effective_length`. Where an item was refused, the length counts as refused: the others
        may be the easier ones.
        """
        scores: dict[int, list[float]] = {}
        for length in self.lengths:
            cell = self.cell(method, task, length)
            if cell:
                answered = [row.score for row in cell if row.score is not None]
                scores[length] = answered if len(answered) == len(cell) else []
        return effective_length(scores, threshold or self.plan["threshold"])

    def reading(self, method: str, task: str, length: int) -> list[ReadingRow]:
        """The readings of one method, task and length by their sample; none if it was not read."""
        wanted = Cell(method, task, length)
        return sorted((r for r in self.readings if r.cell == wanted), key=lambda row: row.sample)

    def values(self, method: str, task: str, length: int) -> list[Mapping[str, Any]]:
        """What the readings of a cell measured, by sample; none if one was refused or is missing,
        for then the others are over another text.
        """
        found = self.reading(method, task, length)
        whole = len(found) == self.counts.get(task, len(found))
        return [row.values for row in found] if whole and not any(r.refused for r in found) else []

    def read_methods(self, task: str) -> list[str]:
        """Names of the methods that a reading measured at some length, the reference first."""
        measured = {row.method for row in self.readings if row.task == task and not row.refused}
        return [name for name in (REFERENCE, *self.methods) if name in measured]

    def read_lengths(self, task: str) -> list[int]:
        """Lengths at which a reading measured something, shortest first."""
        return sorted({r.length for r in self.readings if r.task == task and not r.refused})


def _in_order(found: Iterable[str], known: Iterable[str]) -> list[str]:
    """What was found, in the order of those that are known; others behind them."""
    there = list(found)
    return sorted(there, key=[*dict.fromkeys([*known, *there])].index)
