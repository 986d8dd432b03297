"""The file of a suite: a line for the plan, then a line for every session and every item."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lengthwise.measure.run.appending import append, begin, is_a, is_row, line, parsed
from lengthwise.measure.run.suite.rows import ItemRow
from lengthwise.measure.statistics.effective import (
    EffectiveLength,
    effective_length,
    score_interval,
    sequential_interval,
)
from lengthwise.measure.statistics.intervals import Interval
from lengthwise.names import SUITE_FILE

FORMAT = 1
_ITEM, _SESSION = "item", "session"
# What a plan and a session must hold for a report to be made of them.
PLAN: Mapping[str, Any] = {
    "suite": str, "tasks": Mapping[str, str], "items": int, "adaptive": bool, "threshold": float,
    "reader": Mapping[str, Any], "seed": int, "text": str,
}  # fmt: skip
SESSION: Mapping[str, Any] = {
    "command": str, "started": str, "versions": Mapping[str, str], "hardware": Mapping[str, Any],
    "methods": Mapping[str, str], "lengths": list[int],
}  # fmt: skip


@dataclass(frozen=True)
class SuiteResults:
    """A plan, the runs of the command that carried it out, and the answered items.

    Attributes:
        plan: What all rows have in common: `suite` (its name), `reader` (what answered: name,
            window, fingerprint or URL …), `seed`, `items` (of a task and length at most), `tasks`
            (from a name to how it is set), `adaptive` (whether items were spent where the answer
            was open) and `threshold` (the score that counts as still reading).
        sessions: Of each run: `command`, `started` (UTC), `versions`, `hardware`, `methods` (from
            a name to how Python writes it, empty for the plain model) and `lengths` (tokens).
        rows: In the order in which they were answered.
    """

    plan: dict[str, Any]
    sessions: list[dict[str, Any]] = field(default_factory=list)
    rows: list[ItemRow] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "SuiteResults":
        """Read a file, or the file in a folder; a damaged last line is left out.

        Raises:
            ValueError: Not such a file, or a damaged line before the last.
        """
        return _read(path / SUITE_FILE if path.is_dir() else path)[0]

    @property
    def methods(self) -> list[str]:
        """Names of the methods, in the order of their first rows."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that have rows, in the order of the plan."""
        measured = {row.task for row in self.rows}
        return [task for task in self.plan["tasks"] if task in measured]

    @property
    def lengths(self) -> list[int]:
        """Lengths that have rows, shortest first."""
        return sorted({row.length for row in self.rows})

    def cell(self, method: str, task: str, length: int) -> list[ItemRow]:
        """The rows of one method, task and length by their index."""
        found = (
            row
            for row in self.rows
            if row.length == length and row.task == task and row.method == method
        )
        return sorted(found, key=lambda row: row.index)

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
        """Up to which length a method's score of a task is above a threshold; the plan's by
        default. See `lengthwise.measure.statistics.effective.effective_length`. Where an item was
        refused, the length counts as refused: the others may be the easier ones.
        """
        scores: dict[int, list[float]] = {}
        for length in self.lengths:
            cell = self.cell(method, task, length)
            if cell:
                answered = [row.score for row in cell if row.score is not None]
                scores[length] = answered if len(answered) == len(cell) else []
        return effective_length(scores, threshold or self.plan["threshold"])


def _read(path: Path) -> tuple[SuiteResults, int]:
    """What a file holds, and how many of its bytes are sound."""
    lines = path.read_bytes().split(b"\n")
    plan = parsed(lines[0]) if len(lines) > 1 else None
    if plan is None or "lengthwise_suite" not in plan:
        hint = ""
        if plan is not None and "lengthwise_results" in plan:
            hint = " but of a measurement without --suite"
        raise ValueError(f"{path} is no file of results of a suite{hint}; name another file")
    if plan["lengthwise_suite"] != FORMAT:
        raise ValueError(
            f"{path} was written by another version of lengthwise (format "
            f"{plan['lengthwise_suite']!r}, this one reads {FORMAT}); choose another directory"
        )
    for key, hint in PLAN.items():
        if not is_a(plan.get(key), hint):
            raise ValueError(
                f"{path}: line 1 is damaged, its {key} is {plan.get(key)!r:.60}; choose another "
                "directory or add --force"
            )
    results, sound = SuiteResults(plan), len(lines[0]) + 1
    rows: dict[tuple[str, str, int, int], ItemRow] = {}
    last = len(lines) - 2 if lines[-1] == b"" else len(lines) - 1
    for number, words in enumerate(lines[1:-1], start=1):
        entry = parsed(words)
        if entry is not None and entry.keys() == {_SESSION} and _is_session(entry[_SESSION]):
            results.sessions.append(entry[_SESSION])
        elif entry is not None and entry.keys() == {_ITEM} and _is_item(entry[_ITEM], plan):
            depths = tuple(entry[_ITEM]["depths"])
            row = ItemRow(**{**entry[_ITEM], "depths": depths})
            rows.pop(row.key, None)  # one that was refused for now, and asked again
            rows[row.key] = row
        elif number == last:
            break
        else:
            raise ValueError(
                f"{path}: line {number + 1} is damaged; delete that line to measure it again"
            )
        sound += len(words) + 1
    results.rows.extend(rows.values())
    return results, sound


def _is_item(entry: Any, plan: Mapping[str, Any]) -> bool:
    # Rows from before it was kept lack `again`.
    return (
        is_row(entry, ItemRow, without="again")
        and entry["task"] in plan["tasks"]
        and all(0 <= x <= 1 for x in (entry["chance"], entry["score"] or 0, *entry["depths"]))
        and min(entry[key] for key in ("index", "tokens", "seconds", "session")) >= 0
        and entry["length"] >= 1
    )


def _is_session(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and entry.keys() >= SESSION.keys()
        and all(is_a(entry[key], hint) for key, hint in SESSION.items())
    )


class SuiteFile:
    """Appends rows, so that a kill at any moment loses what is not answered and nothing else.

    with hold(folder):
        file = SuiteFile(folder, plan)
        file.begin(session)
        file.add(row)
    """

    def __init__(self, folder: Path, plan: Mapping[str, Any]) -> None:
        """Open or begin the file; the folder must be held.

        Raises:
            ValueError: The file belongs to another plan, or is no file of results.
        """
        self.path = folder / SUITE_FILE
        self.results = SuiteResults({"lengthwise_suite": FORMAT, **plan})
        self._open()
        self._again = {row.key for row in self.results.rows if row.again}

    def _open(self) -> None:
        if not self.path.exists():
            begin(self.path, self.results.plan)
            return
        # As JSON has it: a tuple of the new plan is a list in the file.
        new = json.loads(line(self.results.plan))
        self.results, sound = _read(self.path)
        _check_same_plan(self.path, self.results.plan, new)
        os.truncate(self.path, sound)

    def begin(self, session: Mapping[str, Any]) -> int:
        """Append the line of a run; its number, which the rows of the run bear."""
        self._append({_SESSION: dict(session)})
        self.results.sessions.append(dict(session))
        return len(self.results.sessions) - 1

    def add(self, row: ItemRow) -> None:
        """Append an item; it is on the disk when this returns. It takes the place of one that was
        refused for now.

        Raises:
            OSError: The disk is full, for one. What was there before is still there, whole.
        """
        self._append({_ITEM: asdict(row)})
        if row.key in self._again:
            self.results.rows[:] = [old for old in self.results.rows if old.key != row.key]
        self.results.rows.append(row)

    def _append(self, entry: Mapping[str, Any]) -> None:
        append(self.path, entry, f"the {len(self.results.rows)} items")


def _check_same_plan(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        before = old.get(key)
        if before == value:
            continue
        if isinstance(before, dict) and isinstance(value, dict):  # name what differs, not all
            inner = next(k for k in [*before, *value] if before.get(k) != value.get(k))
            key, before, value = f"{key} {inner}", before.get(inner), value.get(inner)
        raise ValueError(
            f"{path} belongs to another measurement: its {key.replace('_', ' ')} is {before!r}, "
            f"now it is {value!r}; choose another directory or add --force"
        )
