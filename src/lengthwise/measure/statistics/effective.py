"""How long a context is really: intervals of scores, tests while items come in, paired items."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean, wilson

Verdict = Literal["above", "below", "open", "refused"]
THRESHOLD, CONFIDENCE = 0.85, 0.95
_BETS = 20  # constant bets that the capital is spread over
_STEPS = 24  # halvings in search of a bound: to 1e-7


def score_interval(scores: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of a number of scores that was fixed beforehand, with its confidence interval.

    Wilson's interval where every score is 0 or 1. The expanded percentile bootstrap otherwise: the
    percentile interval of few values is too narrow, so its level is raised by the factor that
    turns a normal interval with the variance over n into Student's. Where all scores are the same,
    there is nothing to resample: Wilson's again, which is wide enough for any scores of that mean.

    Source: Wilson, JASA 22 (1927); Hesterberg, What teachers should know about the bootstrap,
    The American Statistician 69 (2015), section 4.4, expanded percentile interval.

    Args:
        scores: From 0 to 1, at least one, independent of each other.
        confidence: Coverage, between 0 and 1.

    Raises:
        ValueError: No score, one outside [0, 1], or a confidence out of range.
    """
    _check(scores, confidence)
    if len(set(scores)) == 1 or all(score in (0, 1) for score in scores):
        return wilson(math.fsum(scores), len(scores), confidence)
    return _bootstrap(torch.tensor(scores, dtype=torch.float64), confidence)


def _bootstrap(values: Tensor, confidence: float) -> Interval:
    return bootstrap_mean(values, torch.Generator().manual_seed(0), confidence)


def capital(scores: Sequence[float], threshold: float, side: Literal["above", "below"]) -> Tensor:
    """The logarithm of what a stake of 1 has become after each score, `[n]`; it begins at 0.

    The bet is that the mean is above (below) the threshold, at odds that are fair where the mean is
    the threshold. Where that is wrong, the capital is a supermartingale: it ever reaches c times
    its start with a probability of at most 1 / c (Ville's inequality), however often and whenever
    one looks.

    Source: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting,
    JRSS B 86 (2024), arXiv:2010.09686: the capital process, and its mean over a grid of constant
    bets (diversified Kelly betting).
    Differs from the source: bets are multiples of 1/20 of the largest that cannot lose more than
    everything, which is one of them; each side has a capital of its own.

    Args:
        scores: From 0 to 1; each has the same mean given those before it.
        threshold: Between 0 and 1.

    Raises:
        ValueError: A score or a threshold out of range.
    """
    _check_threshold(threshold)
    x = torch.tensor(scores, dtype=torch.float64)
    if len(x) and not (x.min() >= 0 and x.max() <= 1):
        raise ValueError("scores must be from 0 to 1")
    bets = torch.arange(1, _BETS + 1, dtype=torch.float64) / _BETS
    gain = (x - threshold) / threshold if side == "above" else (threshold - x) / (1 - threshold)
    # A rounded gain of -1 must not leave a negative capital.
    wealth = (1 + bets * gain[:, None]).clamp_min(0).log().cumsum(0)
    return wealth.logsumexp(1) - math.log(_BETS)


def verdict(
    scores: Sequence[float], threshold: float = THRESHOLD, confidence: float = CONFIDENCE
) -> Verdict:
    """Whether the mean is above or below the threshold, as far as these scores tell.

    May be asked after every score: "above" is ever said where the mean is not above with a
    probability of at most 1 - confidence, and so is "below" where it is not below.

    Source: `capital`.

    Raises:
        ValueError: A score, a threshold or a confidence out of range.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}")
    needed = -math.log(1 - confidence)
    first: dict[Verdict, int] = {}
    for side in ("above", "below"):
        won = (capital(scores, threshold, side) >= needed).nonzero()
        if len(won):
            first[side] = int(won[0])
    return min(first, key=lambda side: first[side]) if first else "open"


def sequential_interval(scores: Sequence[float], confidence: float = CONFIDENCE) -> Interval:
    """The mean of scores whose number depended on them, with an interval that allows for it.

    All means against which no bet of `capital` has ever won; wider than `score_interval`, which
    would be too narrow after a stop that the scores themselves brought about.

    Source: `capital`; the confidence sequence is its inversion, half of the error on each side.

    Raises:
        ValueError: As `score_interval`.
    """
    _check(scores, confidence)
    needed = math.log(2 / (1 - confidence))

    def won(mean: float, side: Literal["above", "below"]) -> bool:
        return bool(capital(scores, mean, side).max() >= needed)

    # Against a larger mean a bet on "above" has won less, at every moment: bisection is exact.
    low, outside = 0.0, 1.0
    for _ in range(_STEPS):
        middle = (low + outside) / 2
        low, outside = (middle, outside) if won(middle, "above") else (low, middle)
    high, outside = 1.0, 0.0
    for _ in range(_STEPS):
        middle = (high + outside) / 2
        high, outside = (middle, outside) if won(middle, "below") else (high, middle)
    # Past samples may have ruled out what the mean has become since: the interval holds it anyway.
    mean = math.fsum(scores) / len(scores)
    return Interval(mean, min(low, mean), max(high, mean))


@dataclass(frozen=True)
class EffectiveLength:
    """Up to which length a score stays above a threshold.

    Attributes:
        length: The longest length at which, and at all shorter ones, the score is above the
            threshold; None if that could not be shown for the shortest.
        verdicts: Of every length that was read, shortest first. "open": the items do not tell.
        items: Of every length.
    """

    length: int | None
    verdicts: Mapping[int, Verdict]
    items: Mapping[int, int]

    @property
    def whole(self) -> bool:
        """Whether no length failed, so that the effective length may be greater still."""
        return all(verdict == "above" for verdict in self.verdicts.values())

    def __str__(self) -> str:
        if self.length is not None:
            return f"≥ {self.length:,}" if self.whole else f"{self.length:,}"
        if not self.verdicts:
            return "not measured"
        below = [length for length, verdict in self.verdicts.items() if verdict == "below"]
        return f"< {min(below):,}" if below else self.verdicts[min(self.verdicts)]


def effective_length(
    scores: Mapping[int, Sequence[float]],
    threshold: float = THRESHOLD,
    confidence: float = CONFIDENCE,
) -> EffectiveLength:
    """The longest length at which the score is still above the threshold.

    Lengths are tested from the shortest on, and the first that is not shown to be above ends the
    row. With a probability of `confidence` at least, no length up to the result has a mean score at
    or below the threshold: a wrong claim needs the first such length to pass its test, so nothing
    has to be paid for the number of lengths (fixed-sequence testing).

    Source: `verdict` at each length; Maurer, Hothorn and Lehmacher, Multiple comparisons in drug
    clinical trials and preclinical assays: a-priori ordered hypotheses (1995).

    Args:
        scores: Of every length, in the order in which the items were drawn. None at all, where the
            length was refused.

    Raises:
        ValueError: As `verdict`.
    """
    verdicts: dict[int, Verdict] = {}
    longest, going = None, True
    for length in sorted(scores):
        found = verdict(scores[length], threshold, confidence) if scores[length] else "refused"
        verdicts[length] = found
        going = going and found == "above"
        if going:
            longest = length
    return EffectiveLength(longest, verdicts, {n: len(scores[n]) for n in verdicts})


@dataclass(frozen=True)
class Paired:
    """Two readers on the same items.

    Attributes:
        items: How many both answered.
        difference: The mean of the second's score minus the first's, with its interval.
        better: Items that the second did better.
        worse: Items that the second did worse.
        p: Probability of so uneven a split of the items that differ if neither were better, exact;
            None where scores are not all 0 or 1.
    """

    items: int
    difference: Interval
    better: int
    worse: int
    p: float | None


def paired(
    first: Sequence[float], second: Sequence[float], confidence: float = CONFIDENCE
) -> Paired:
    """Compare two rows of scores of the same items.

    The expanded percentile bootstrap of the differences, as in `score_interval`; where all
    differences are the same, twice Wilson's interval of (difference + 1) / 2, less 1. For scores of
    0 and 1 McNemar's test as well, exact: among items that one of them got right and the other did
    not, either is as likely to be right.

    Source: McNemar, Note on the sampling error of the difference between correlated proportions
    or percentages, Psychometrika 12 (1947); Efron and Tibshirani, An Introduction to the Bootstrap
    (1993), chapter 13.

    Raises:
        ValueError: Rows of different lengths, no score, or one outside [0, 1].
    """
    if len(first) != len(second):
        raise ValueError(f"pairs need as many scores of both, got {len(first)} and {len(second)}")
    _check(first, confidence)
    _check(second, confidence)
    differences = [b - a for a, b in zip(first, second, strict=True)]
    if len(set(differences)) == 1:
        half = wilson(math.fsum((d + 1) / 2 for d in differences), len(differences), confidence)
        bounds = Interval(differences[0], 2 * half.low - 1, 2 * half.high - 1)
    else:
        bounds = _bootstrap(torch.tensor(differences, dtype=torch.float64), confidence)
    better, worse = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    exact = all(score in (0, 1) for score in (*first, *second))
    return Paired(len(first), bounds, better, worse, _mcnemar(better, worse) if exact else None)


def _mcnemar(better: int, worse: int) -> float:
    n = better + worse
    tail = sum(math.comb(n, k) for k in range(min(better, worse) + 1))
    return min(1.0, 2 * tail / 2**n)


def _check(scores: Sequence[float], confidence: float) -> None:
    if not scores:
        raise ValueError("an interval needs at least one score")
    if not all(0 <= score <= 1 for score in scores):
        raise ValueError("scores must be from 0 to 1")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}")


def _check_threshold(threshold: float) -> None:
    if not 0 < threshold < 1:
        raise ValueError(f"the threshold must be between 0 and 1, got {threshold!r}")
