"""Intervals for what is measured."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor


@dataclass(frozen=True)
class Interval:
    """An estimate with the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence!r}")


def wilson(successes: float, count: int, confidence: float = 0.95) -> Interval:
    """The score interval of a proportion. It stays inside [0, 1] and holds for few items too.

    Source: Wilson, Probable inference, the law of succession, and statistical inference,
    JASA 22 (1927).

    Args:
        successes: From 0 to `count`.
        count: Items, at least 1.
        confidence: Coverage, between 0 and 1.

    Raises:
        ValueError: An argument out of range.
    """
    _check_confidence(confidence)
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"wilson needs 0 <= successes <= count >= 1, got {successes} of {count}")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / count
    scale = 1 + z * z / count
    centre = (share + z * z / (2 * count)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    low, high = max(0.0, centre - half), min(1.0, centre + half)
    # Exact at the ends, where rounding would leave 1e-17 or 1 - 1e-16.
    return Interval(share, 0.0 if share == 0 else low, 1.0 if share == 1 else high)


def bootstrap_mean(
    values: Tensor, generator: torch.Generator, confidence: float = 0.95, resamples: int = 2000
) -> Interval:
    """The expanded percentile bootstrap interval of a mean.

    The percentile interval of few values is too narrow: of eight normal ones it holds the mean in
    89% of all cases, not 95%. So its level is raised by the factor that turns a normal interval
    with the variance over n into Student's.

    For a paired comparison give the differences. Values that depend on each other (the losses of
    neighbouring tokens) must be averaged over blocks first, or the interval is too narrow. So it is
    for few values that are very skewed.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13; Hesterberg,
    What teachers should know about the bootstrap, The American Statistician 69 (2015), section 4.4.

    Args:
        values: `[n]`, at least one; of one the interval is that value, which says nothing.
        generator: Draws the resamples; the same state gives the same interval.
        confidence: Coverage, between 0 and 1.
        resamples: Bootstrap samples.

    Raises:
        ValueError: No values, or a confidence out of range.
    """
    _check_confidence(confidence)
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"bootstrap_mean needs values of shape [n], n >= 1, got {values.shape}")
    values, n = values.double(), len(values)
    tail = (1 - confidence) / 2
    if n > 1:
        from scipy.special import stdtrit

        tail = NormalDist().cdf(math.sqrt(n / (n - 1)) * float(stdtrit(n - 1, tail)))
    draws = torch.randint(n, (resamples, n), generator=generator)
    means = values[draws].mean(dim=1)
    tails = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = means.quantile(tails).tolist()
    return Interval(values.mean().item(), low, high)
