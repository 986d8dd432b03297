"""The file of results: one JSON line for the plan, then one for every finished cell."""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1
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
        plan = _parse(lines[0]) if lines else None
        if plan is None or plan.get("lengthwise_results") != FORMAT:
            raise ValueError(f"{path} is no file of results of this version of lengthwise")
        rows = []
        for number, line in enumerate(lines[1:], start=2):
            entry = _parse(line)
            if entry is None or entry.keys() != Row.__dataclass_fields__.keys():
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


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


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
            first = path.with_name(path.name + ".tmp")
            first.write_text(json.dumps(self.results.plan, ensure_ascii=False) + "\n", "utf-8")
            os.replace(first, path)

    def add(self, row: Row) -> None:
        """Append a finished cell; it is on the disk when this returns."""
        line = json.dumps(asdict(row), allow_nan=False, ensure_ascii=False) + "\n"
        with open(self.path, "ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.results.rows.append(row)


def _check_same_plan(path: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if old.get(key) != value:
            raise ValueError(
                f"{path} belongs to another measurement: its {key.replace('_', ' ')} is "
                f"{old.get(key)!r}, now it is {value!r}; choose another output or delete the file"
            )
