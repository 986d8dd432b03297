"""What the report says of a task beside its mean score: parts, contour, base score, perplexity."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp
from statistics import fmean

import torch

from lengthwise.measure.report.table import DEPTHS, Table
from lengthwise.measure.statistics.intervals import bootstrap_mean
from lengthwise.measure.tasks.contour import contour

CONTOUR = 0.75  # the score whose contour Needle Threading draws
BASE_SHARE = 0.85  # of the base score, above which NoLiMa calls a length effective
_BASE_UPTO = 1024  # tokens of the lengths that a base score may come from
_OF_BASE = "nolima"  # how the tasks begin that are held against their base score


@dataclass(frozen=True)
class Contour:
    """Where the score of one range of depth falls below `CONTOUR`.

    Attributes:
        tokens: The length, between two measured ones by interpolation; 0 where the shortest fails.
        whole: Whether no length failed, so that the longest stands for what may be more.
        characters: About as many characters of prompt; 0 where they were not counted.
    """

    tokens: float
    whole: bool
    characters: float

    def __str__(self) -> str:
        if not self.tokens:
            return "below the shortest"
        words = f"{'≥ ' * self.whole}{self.tokens:,.0f}"
        return words + (f" ({self.characters:,.0f} characters)" if self.characters else "")


def contours(table: Table, method: str, task: str) -> list[Contour | None]:
    """One for each of `DEPTHS` ranges of depth, then one for all; None where nothing was answered.

    Source: Roberts et al., Needle Threading (arXiv:2411.05000), section 4.3.
    """
    scores: list[dict[int, float]] = [{} for _ in range(DEPTHS + 1)]
    for length in table.task_lengths(task):
        ranges = [*table.by_depth(method, task, length), table.cell(method, task, length)]
        for known, cell in zip(scores, ranges, strict=True):
            if cell is not None and cell.interval is not None:
                known[length] = cell.interval.value
    return [_contour(table, task, known) if known else None for known in scores]


def _contour(table: Table, task: str, scores: Mapping[int, float]) -> Contour:
    tokens = contour(scores, CONTOUR)
    nearest = min(scores, key=lambda length: abs(length - tokens))
    characters = table.characters(task, nearest) * tokens / nearest
    return Contour(tokens, tokens == max(scores) and scores[max(scores)] >= CONTOUR, characters)


@dataclass(frozen=True)
class AgainstBase:
    """The score of a method at every length, held against that where it reads best.

    Attributes:
        base: The best mean score of the lengths up to 1,024 tokens, or of the shortest.
        at: Its length.
        length: The longest length whose mean score is at least `BASE_SHARE` of it, as the source
            counts; 0 where none is.
        shown: The same, where the 95% interval of the difference on the same items says so too, at
            this length and all shorter ones from the base on.
    """

    base: float
    at: int
    length: int
    shown: int

    def __str__(self) -> str:
        words = f"base {self.base:.0%} at {self.at:,}; effective {self.length:,}"
        return f"{words}, shown up to {self.shown:,}" if self.shown else f"{words}, none shown"


def against_base(table: Table, method: str, task: str) -> AgainstBase | None:
    """None for tasks that are not held against a base score, or where nothing was answered.

    Source: Modarressi et al., NoLiMa (arXiv:2502.05167), section 4: effective is the longest length
    with at least 0.85 of the base score.
    Differs from the source: the base score is the best mean of the short lengths, not of the best
    of each needle.
    """
    if not task.startswith(_OF_BASE):
        return None
    scores: dict[int, dict[int, float]] = {}
    for length in table.task_lengths(task):
        known = {r.index: r.score for r in table.rows(method, task, length) if r.score is not None}
        if known:
            scores[length] = known
    if not scores:
        return None
    means = {length: fmean(known.values()) for length, known in scores.items()}
    short = [length for length in means if length <= _BASE_UPTO] or [min(means)]
    at = max(short, key=lambda length: (means[length], length))
    length = max((n for n, mean in means.items() if 0 < BASE_SHARE * means[at] <= mean), default=0)
    shown = 0
    for longer in sorted(n for n in means if n >= at):
        both = sorted(scores[at].keys() & scores[longer].keys())
        gaps = [scores[longer][i] - BASE_SHARE * scores[at][i] for i in both]
        drawn = torch.Generator().manual_seed(0)
        if len(gaps) < 2 or bootstrap_mean(torch.tensor(gaps), drawn).low <= 0:
            break
        shown = longer
    return AgainstBase(means[at], at, length, shown)


def perplexity(table: Table, method: str, length: int) -> float | None:
    """Of the first `length` tokens of the text that was read for the loss; None if it was not."""
    results = table.results
    for read in results.read_lengths("loss"):
        values = results.values(method, "loss", read)
        if read >= length and values:
            means = [fmean(one["losses"][: max(length // one["block"], 1)]) for one in values]
            return exp(min(fmean(means), 700.0))
    return None
