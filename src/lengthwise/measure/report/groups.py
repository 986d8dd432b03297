"""Scores of items that belong together: by level, by length bin, by place in a book."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lengthwise.measure.report.table import mean_of
from lengthwise.measure.run.results import Results
from lengthwise.measure.statistics.effective import score_interval, sequential_interval
from lengthwise.measure.statistics.intervals import Interval

Entry = tuple[str, str, Results]  # a label, a method and the results that it is in


@dataclass(frozen=True)
class Line:
    """Scores of one method.

    Attributes:
        task: Whose items they are; empty for the mean over tasks, each with the same weight.
        cells: For every group the mean score and how many items stand behind it; None without any.
    """

    task: str
    label: str
    cells: list[tuple[Interval, int] | None]


@dataclass(frozen=True)
class Grouping:
    """What items are told apart by, at one length.

    Attributes:
        name: As `level`.
        groups: As `16k` and `32k`, from small to large.
    """

    name: str
    length: int
    groups: list[str]
    lines: list[Line]


def groupings(entries: Sequence[Entry]) -> list[Grouping]:
    """Every grouping with two groups or more; none where items belong to no groups."""
    found: dict[tuple[str, int], dict[tuple[str, str, str], list[float]]] = {}
    adaptive = {label: results.plan["adaptive"] for label, _, results in entries}
    for label, method, results in entries:
        for row in results.rows:
            if row.method != method or row.score is None:
                continue
            for name, group in row.groups.items():
                cells = found.setdefault((name, row.length), {})
                cells.setdefault((label, row.task, group), []).append(row.score)
    made = []
    for (name, length), cells in sorted(found.items()):
        groups = sorted({group for _, _, group in cells}, key=_size)
        if len(groups) < 2:
            continue
        lines = []
        tasks = list(dict.fromkeys(task for _, task, _ in cells))
        for label, _, _ in entries:
            estimate = sequential_interval if adaptive[label] else score_interval
            by_task = {
                task: [
                    (estimate(scores), len(scores)) if scores else None
                    for scores in (cells.get((label, task, group), []) for group in groups)
                ]
                for task in tasks
            }
            if len(tasks) > 1:
                lines.append(Line("", label, _means(list(by_task.values()))))
            several = [t for t, row in by_task.items() if sum(cell is not None for cell in row) > 1]
            lines += [Line(task, label, by_task[task]) for task in several]
        lines.sort(key=lambda line: (line.task != "", line.task))  # each task's methods together
        made.append(Grouping(name, length, groups, lines))
    return made


def _means(
    rows: Sequence[Sequence[tuple[Interval, int] | None]],
) -> list[tuple[Interval, int] | None]:
    means: list[tuple[Interval, int] | None] = []
    for column in zip(*rows, strict=True):
        known = [cell for cell in column if cell is not None]
        mean = mean_of([interval for interval, _ in known])
        means.append(None if mean is None else (mean, sum(count for _, count in known)))
    return means


def _size(group: str) -> tuple[float, str]:
    """Groups that begin with a number stand in the order of these, before the others."""
    found = re.match(r"(\d+)(k?)", group)
    return (int(found[1]) * 1000 ** bool(found[2]) if found else float("inf"), group)
