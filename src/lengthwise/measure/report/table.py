"""From items to the numbers that the report shows."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import fmean, median

from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import ItemRow
from lengthwise.measure.statistics.effective import (
    EffectiveLength,
    effective_length,
    score_interval,
    sequential_interval,
    verdict,
)
from lengthwise.measure.statistics.intervals import Interval

DEPTHS = 5  # ranges of depth in a heat map


@dataclass(frozen=True)
class Cell:
    """The items of one method, task and length.

    Attributes:
        interval: Of the mean score, or None if every item was refused.
        count: Items that were answered.
        refused: Why the others were not, and how many.
    """

    interval: Interval | None
    count: int
    refused: dict[str, int]


@dataclass(frozen=True)
class Cost:
    """What answers cost: medians over items for seconds, the most for bytes; None if not known."""

    seconds: float
    first_token: float | None
    tokens_per_second: float | None
    held: int | None
    peak: int | None


@dataclass(frozen=True)
class Reach:
    """The effective length of a task, and from where on it surely fails."""

    found: EffectiveLength

    @property
    def low(self) -> int | None:
        """The longest length up to which the score was shown to be above the threshold."""
        return self.found.length

    @property
    def high(self) -> int | None:
        """The shortest length at which it was shown to be below; None if there was none."""
        return min((n for n, v in self.found.verdicts.items() if v == "below"), default=None)

    @property
    def read(self) -> bool:
        """Whether any length was answered."""
        return any(v != "refused" for v in self.found.verdicts.values())

    @property
    def words(self) -> str:
        """`1,024 to 4,096`: shown to read the one, shown to fail at the other."""
        if self.low is None:
            return str(self.found) if self.high is None else f"< {self.high:,}"
        if self.high is None:
            return f"≥ {self.low:,}"
        return f"{self.low:,} to {self.high:,}"


class Table:
    """Items looked up by method, task and length; every number is worked out once."""

    def __init__(self, results: Results) -> None:
        self.results = results
        asked = {row.method for row in results.rows}
        self.methods = [method for method in results.methods if method in asked]
        self.tasks, self.lengths = results.tasks, results.lengths
        self.threshold: float = results.plan["threshold"]
        self.adaptive: bool = results.plan["adaptive"]
        self._rows: dict[tuple[str, str, int], list[ItemRow]] = defaultdict(list)
        for row in sorted(results.rows, key=lambda row: row.index):
            self._rows[row.key[:3]].append(row)
        # Items that came in until the answer was clear need bounds that allow for it.
        estimate = sequential_interval if self.adaptive else score_interval
        self._interval: Callable[[tuple[float, ...]], Interval] = cache(estimate)
        self.reach = cache(self._reach)

    def rows(self, method: str, task: str, length: int) -> Sequence[ItemRow]:
        """By index; none if the cell was not asked for."""
        return self._rows.get((method, task, length), [])

    def task_lengths(self, task: str) -> list[int]:
        """Lengths at which any method was asked, shortest first."""
        return sorted({length for _, name, length in self._rows if name == task})

    def cell(self, method: str, task: str, length: int) -> Cell | None:
        """None if the cell was not asked for."""
        rows = self.rows(method, task, length)
        return self._cell(rows) if rows else None

    def _cell(self, rows: Iterable[ItemRow]) -> Cell:
        scores, refused = [], defaultdict[str, int](int)
        for row in rows:
            if row.score is None:
                refused[row.refused] += 1
            else:
                scores.append(row.score)
        interval = self._interval(tuple(scores)) if scores else None
        return Cell(interval, len(scores), dict(refused))

    def by_depth(self, method: str, task: str, length: int) -> list[Cell | None]:
        """The cell in `DEPTHS` ranges of depth, from the start of the text.

        An item counts in every range in which one of its facts lies: with the mean score of its
        facts there, or with that of the whole where a fact has none of its own.
        """
        rows = self.rows(method, task, length)
        ranges = []
        for i in range(DEPTHS):
            inside = [one for row in rows if (one := _within(row, i)) is not None]
            ranges.append(self._cell(inside) if inside else None)
        return ranges

    def has_depths(self, task: str) -> bool:
        """Whether the facts of a task lie somewhere."""
        return any(row.depths for key, rows in self._rows.items() if key[1] == task for row in rows)

    def chance(self, task: str) -> float:
        """The mean score of a guess."""
        chances = [
            row.chance
            for (_, name, _), rows in self._rows.items()
            if name == task
            for row in rows
            if row.score is not None
        ]
        return sum(chances) / max(len(chances), 1)

    def shortcut(self, task: str) -> tuple[float, str]:
        """The best score that shows no reading, a guess or a shortcut, and what it does."""
        by_name: dict[str, list[float]] = {}
        for (_, name, _), rows in self._rows.items():
            for row in rows if name == task else ():
                for what, score in row.shortcuts.items():
                    by_name.setdefault(what, []).append(score)
        means = {what: fmean(scores) for what, scores in by_name.items()}
        return max([(self.chance(task), "a guess"), *((v, k) for k, v in means.items())])

    def parts(self, method: str, task: str, length: int) -> dict[str, float]:
        """The mean of each part of the score; none where it has no parts."""
        found: dict[str, list[float]] = defaultdict(list)
        for row in self.rows(method, task, length):
            for name, value in row.parts.items():
                found[name].append(value)
        return {name: fmean(values) for name, values in found.items()}

    def part_names(self, task: str) -> list[str]:
        """The parts of a task's score, in its order."""
        rows = (r for m in self.methods for n in self.lengths for r in self.rows(m, task, n))
        return list(dict.fromkeys(name for row in rows for name in row.parts))

    def characters(self, task: str, length: int) -> float:
        """The mean number of characters of a prompt; 0 where they were not counted."""
        counts = [r.characters for m in self.methods for r in self.rows(m, task, length)]
        known = [count for count in counts if count]
        return fmean(known) if known else 0.0

    def common_tasks(self, length: int) -> list[str]:
        """Tasks at this length whose items every method has answered, all of them.

        A method without any answer at this length is not asked for. An adaptive suite reads on only
        where the score is high, so there it must be all tasks by all methods, or the mean would
        be over what went well.
        """
        answered = {method: self._answered(method, length) for method in self.methods}
        if self.adaptive:
            whole = all(tasks == set(self.tasks) for tasks in answered.values())
            return self.tasks if whole else []
        some = [tasks for tasks in answered.values() if tasks]
        return [task for task in self.tasks if some and all(task in tasks for tasks in some)]

    @property
    def common_lengths(self) -> list[int]:
        """Lengths at which any method has a cost."""
        return [n for n in self.lengths if any(self.cost(m, n) for m in self.methods)]

    def _answered(self, method: str, length: int) -> set[str]:
        """Tasks of which no item was refused."""
        found = set()
        for task in self.tasks:
            rows = self.rows(method, task, length)
            if rows and all(row.score is not None for row in rows):
                found.add(task)
        return found

    def overall(self, method: str, length: int) -> Interval | None:
        """The mean over the tasks that all methods have in common, each with the same weight."""
        cells = [self.cell(method, task, length) for task in self.common_tasks(length)]
        return mean_of([c.interval for c in cells if c is not None and c.interval is not None])

    def _reach(self, method: str, task: str) -> Reach:
        """The effective length of a method on a task.

        Where an item was refused, the length counts as refused: the others may be the easier ones.
        """
        scores = {}
        for length in self.task_lengths(task):
            rows = self.rows(method, task, length)
            answered = [row.score for row in rows if row.score is not None]
            if rows:
                scores[length] = answered if len(answered) == len(rows) else []
        return Reach(effective_length(scores, self.threshold))

    @property
    def too_few(self) -> int:
        """The number of items of a task, if no score of so many could be shown to be above the
        threshold; else 0.
        """
        most = max((self.results.counts[task] for task in self.tasks), default=0)
        return 0 if verdict([1.0] * most, self.threshold) == "above" else most

    def cost(self, method: str, length: int) -> Cost | None:
        """Over the tasks that all methods have in common; None if nothing was answered."""
        rows = [
            row
            for task in self.common_tasks(length)
            for row in self.rows(method, task, length)
            if row.score is not None
        ]
        if not rows:
            return None
        firsts = [row.first_token for row in rows if row.first_token is not None]
        after = [
            (row.tokens - 1, row.seconds - row.first_token)
            for row in rows
            if row.first_token is not None and row.tokens > 1 and row.seconds > row.first_token
        ]
        return Cost(
            median(row.seconds for row in rows),
            median(firsts) if firsts else None,
            sum(n for n, _ in after) / sum(s for _, s in after) if after else None,
            max((row.held for row in rows if row.held is not None), default=None),
            max((row.peak for row in rows if row.peak is not None), default=None),
        )

    def worst(self, most: int) -> list[ItemRow]:
        """Answers to read: the lowest scores, of every method and task in turn.

        Short prompts come first: where a model fails early there is most to learn.
        """
        queues: dict[tuple[str, str], list[ItemRow]] = defaultdict(list)
        for row in self.results.rows:
            if row.score is not None and row.score < 1:
                queues[(row.task, row.method)].append(row)
        for queue in queues.values():
            queue.sort(key=lambda row: (row.score, row.length, row.index), reverse=True)
        picked: list[ItemRow] = []
        while queues and len(picked) < most:
            for key in list(queues):
                picked.append(queues[key].pop())
                if not queues[key]:
                    del queues[key]
        order = {task: i for i, task in enumerate(self.tasks)}
        return sorted(picked[:most], key=lambda r: (order[r.task], r.length, r.index))


def mean_of(terms: Sequence[Interval]) -> Interval | None:
    """The mean of scores that do not depend on each other; None of none.

    Source: Zou and Donner, Construction of confidence limits about effect measures,
    Statistics in Medicine 27 (2008): bounds of a sum from bounds of its terms.
    """
    if not terms:
        return None
    mean = sum(term.value for term in terms) / len(terms)
    below = math.hypot(*(term.value - term.low for term in terms)) / len(terms)
    above = math.hypot(*(term.high - term.value for term in terms)) / len(terms)
    return Interval(mean, max(0.0, mean - below), min(1.0, mean + above))


def _within(row: ItemRow, part: int) -> ItemRow | None:
    """An item as it counts in one range of depth; None where no fact of it lies there."""
    here = [k for k, d in enumerate(row.depths) if min(int(d * DEPTHS), DEPTHS - 1) == part]
    if not here:
        return None
    return replace(row, score=fmean(row.found[k] for k in here)) if row.found else row


def refusals(results: Results) -> dict[tuple[str, str, int, str], int]:
    """How often something was refused, by method, task, length and reason."""
    counts: dict[tuple[str, str, int, str], int] = defaultdict(int)
    for rows in (results.readings, results.rows):
        for row in rows:
            if row.refused:
                counts[(*row.cell, row.refused)] += 1
    return dict(counts)
