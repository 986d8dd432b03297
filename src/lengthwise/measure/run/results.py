"""The file of results: one JSON line for the plan, then one for every finished cell."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lengthwise.measure.run.appending import append, begin, is_a, is_row, line, parsed
from lengthwise.measure.run.suite.results import Results as Measurement
from lengthwise.measure.run.suite.rows import ItemRow, ReadingRow

FORMAT = 1
PARTIAL = ".part"  # behind the name of the results: blocks of a loss that is not finished
# The loss of the untouched model with a context inside its window: what others are judged against.
REFERENCE = "inside the window"


@dataclass(frozen=True)
class Cell:
    """One thing to measure: a method, a task ("loss", "passkey", "speed") and a length (tokens)."""

    method: str
    task: str
    length: int


def grid(task: str, methods: Iterable[str], lengths: Iterable[int]) -> list[Cell]:
    """Every method at every length, shortest first."""
    names = list(methods)
    return [Cell(name, task, length) for length in sorted(set(lengths)) for name in names]


@dataclass(frozen=True)
class Row:
    """A finished cell.

    Attributes:
        spec: The methods as Python writes them; empty for the plain model.
        values: What was measured; empty where the cell was refused.
        refused: Why nothing could be measured, or the empty string.
        seconds: What the cell took.
    """

    method: str
    spec: str
    task: str
    length: int
    values: Mapping[str, Any]
    refused: str
    seconds: float
    seed: int
    versions: Mapping[str, str]
    hardware: Mapping[str, Any]

    @property
    def cell(self) -> Cell:
        return Cell(self.method, self.task, self.length)


@dataclass(frozen=True)
class Results:
    """A plan's settings and its finished cells.

    Attributes:
        plan: What every cell has in common: the model, the text, the seed, counts.
        rows: In the order in which they were finished.
    """

    plan: Mapping[str, Any]
    rows: list[Row] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read a file of results; a last line that was cut off is left out.

        Raises:
            ValueError: Not such a file, or a damaged line before the last.
        """
        # What follows the last line break was never finished.
        lines = path.read_bytes().split(b"\n")[:-1]
        plan = parsed(lines[0]) if lines else None
        if plan is None or plan.get("lengthwise_results") != FORMAT:
            raise ValueError(f"{path} is no file of results of this version of lengthwise")
        rows = []
        for number, words in enumerate(lines[1:], start=2):
            entry = parsed(words)
            if entry is None or not _is_sound(entry, plan):
                raise ValueError(
                    f"{path}: line {number} is damaged; delete that line to measure it again"
                )
            rows.append(Row(**entry))
        return cls(plan, rows)

    def methods(self, task: str) -> list[str]:
        """Names of the methods that were measured on a task, in the order of their first cells."""
        return list(dict.fromkeys(r.method for r in self.rows if r.task == task and not r.refused))

    def lengths(self, task: str) -> list[int]:
        """Lengths that were measured on a task."""
        return sorted({r.length for r in self.rows if r.task == task and not r.refused})

    def values(self, method: str, task: str, length: int) -> Mapping[str, Any] | None:
        """What a cell measured, or None if it is missing or was refused."""
        for row in self.rows:
            if row.cell == Cell(method, task, length) and not row.refused:
                return row.values
        return None

    def as_measurement(self) -> Measurement:
        """The same as items and readings, of which reports are made."""
        plan, tasks = self.plan, dict.fromkeys(row.task for row in self.rows)
        reader = {"name": plan["model"], **{k: plan[k] for k in _READER if k in plan}}
        counts = {"loss": plan.get("loss_samples", 1), "passkey": plan.get("passkey_count", 1)}
        session = {
            "command": "", "started": "", "suite": "measured", "tasks": {t: t for t in tasks},
            "methods": {row.method: row.spec for row in self.rows if row.method != REFERENCE},
            "items": {task: counts.get(task, 1) for task in tasks},
            "lengths": sorted({row.length for row in self.rows}),
            "versions": self.rows[0].versions if self.rows else {},
            "hardware": self.rows[0].hardware if self.rows else {},
        }  # fmt: skip
        known = {"text": plan.get("text", ""), "seed": plan["seed"], "threshold": 0.85}
        made = Measurement({"reader": reader, "adaptive": False, **known}, [session])
        for row in self.rows:
            cell = (row.method, row.task, row.length)
            if row.task == "passkey":
                for i, depth in enumerate(row.values.get("depths", [0.0])):
                    score, answer, reply = (
                        row.values[key][i] if row.values else None
                        for key in ("scores", "answers", "replies")
                    )
                    seconds = row.seconds / counts["passkey"]
                    made.rows.append(
                        ItemRow(
                            *cell, i, score, 0.0, (depth,), "", answer or "", reply or "", 0, None,
                            seconds, None, None, row.refused, 0,
                        )
                    )  # fmt: skip
                continue
            each = row.values.get("losses", [None])
            for i, losses in enumerate(each):
                values = dict(row.values) if losses is None else {**row.values, "losses": losses}
                seconds = row.seconds / len(each)
                made.readings.append(ReadingRow(*cell, i, values, row.refused, seconds, 0))
        return made


_READER = ("fingerprint", "parameters", "dtype", "window", "chunk")
# What the values of the runner's own tasks are; other tasks have values of their own.
_VALUES: Mapping[str, Mapping[str, Any]] = {
    "loss": {"block": int, "losses": list[list[float]]},
    "passkey": {
        "score": float, "low": float, "high": float, "scores": list[float], "depths": list[float],
        "answers": list[str], "replies": list[str],
    },
    "speed": {
        "first_token_seconds": float, "tokens_per_second": float, "cache_bytes": int,
        "peak_bytes": int | None,
    },
}  # fmt: skip


def _is_sound(entry: Any, plan: Mapping[str, Any]) -> bool:
    """Whether a line is a row that a report can be made of."""
    if not is_row(entry, Row) or entry["length"] < 1 or entry["seconds"] < 0:
        return False
    values, hints = entry["values"], _VALUES.get(entry["task"])
    if entry["refused"] or hints is None:
        return True
    if values.keys() != hints.keys() or not all(is_a(values[k], h) for k, h in hints.items()):
        return False
    if entry["task"] == "loss":
        count = plan.get("loss_samples", len(values["losses"]))
        columns = -(-entry["length"] // max(values["block"], 1))
        return bool(
            values["block"] >= 1
            and len(values["losses"]) == count >= 1
            and all(len(row) == columns for row in values["losses"])
        )
    if entry["task"] == "passkey":
        found = [values[key] for key in ("scores", "depths", "answers", "replies")]
        shares = [values["score"], values["low"], values["high"], *found[0], *found[1]]
        return len({*map(len, found)}) == 1 and bool(found[0]) and all(0 <= x <= 1 for x in shares)
    return all(x is None or x >= 0 for x in values.values())


class ResultsFile:
    """Appends rows so that a kill at any moment loses the unfinished cell and nothing else."""

    def __init__(self, path: Path, plan: Mapping[str, Any]) -> None:
        """Open or begin the file.

        Raises:
            ValueError: The file belongs to another plan, or is no file of results.
        """
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self.results = Results.load(path)
            _check_same_plan(path, self.results.plan, plan)
            os.truncate(path, path.read_bytes().rindex(b"\n") + 1)
        else:
            self.results = Results({"lengthwise_results": FORMAT, **plan})
            begin(path, self.results.plan)

    def add(self, row: Row) -> None:
        """Append a finished cell; it is on the disk when this returns.

        Raises:
            OSError: The disk is full, for one. What was there before is still there, whole.
        """
        append(self.path, asdict(row), f"the {len(self.results.rows)} measurements")
        self.results.rows.append(row)


class Unfinished:
    """The blocks of a loss that is being read, kept beside the results until it is finished.

    A reading of hours that is cut off goes on from them; whatever else is kept there is dropped.
    """

    def __init__(self, results: Path, cell: Cell, spec: str) -> None:
        self._path = results.with_name(results.name + PARTIAL)
        self._head = {"cell": asdict(cell), "spec": spec}
        lines = self._path.read_bytes().split(b"\n")[:-1] if self._path.exists() else []
        self.samples: list[list[float]] = []
        if not lines or parsed(lines[0]) != self._head:
            begin(self._path, self._head)
            return
        sound = len(lines[0]) + 1
        for words in lines[1:]:  # the number of the sample, and the mean of its next block
            entry = parsed(words)
            known = entry is not None and is_a(entry.get("loss"), float)
            sample = entry.get("sample") if entry is not None else None
            if not known or sample not in (len(self.samples) - 1, len(self.samples)):
                break
            assert entry is not None
            if sample == len(self.samples):
                self.samples.append([])
            self.samples[-1].append(float(entry["loss"]))
            sound += len(words) + 1
        os.truncate(self._path, sound)

    def of(self, sample: int) -> list[float]:
        """The blocks that are known of a stretch of the text."""
        return list(self.samples[sample]) if sample < len(self.samples) else []

    def add(self, sample: int, losses: Sequence[float]) -> None:
        """Keep the next blocks of a stretch."""
        with open(self._path, "ab") as file:  # no more is lost with the machine than a reading
            for loss in losses:
                file.write(line({"sample": sample, "loss": loss}).encode())


def forget_unfinished(results: Path) -> None:
    """Drop the blocks of a loss that were kept beside results: all is finished."""
    results.with_name(results.name + PARTIAL).unlink(missing_ok=True)


def _check_same_plan(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if old.get(key) != value:
            raise ValueError(
                f"{path} belongs to another measurement: its {key.replace('_', ' ')} is "
                f"{old.get(key)!r}, now it is {value!r}; choose another output or delete the file"
            )
