"""Intervals cover, sequential claims are rarely wrong, and pairs are compared as in scipy."""

import math

import pytest
import torch
from scipy import stats

from lengthwise.measure.statistics.effective import (
    EffectiveLength,
    capital,
    effective_length,
    paired,
    score_interval,
    sequential_interval,
    verdict,
)
from lengthwise.measure.statistics.intervals import wilson

RUNS = 2000


def draw(mean: float, count: int, generator: torch.Generator, parts: int = 1) -> list[float]:
    """Scores that are shares of `parts` right answers; `parts=1` is 0 or 1."""
    return (torch.rand(count, parts, generator=generator) < mean).double().mean(1).tolist()


@pytest.mark.parametrize(("count", "parts"), [(40, 1), (12, 4), (40, 3)])
def test_the_interval_of_a_fixed_number_of_items_covers(count: int, parts: int) -> None:
    generator = torch.Generator().manual_seed(count + parts)
    covered = 0
    for _ in range(RUNS):
        mean = 0.15 + 0.7 * torch.rand(1, generator=generator).item()
        interval = score_interval(draw(mean, count, generator, parts))
        covered += interval.low <= mean <= interval.high
    assert 0.93 <= covered / RUNS <= 0.97


@pytest.mark.parametrize("parts", [1, 4])
def test_the_interval_of_a_difference_covers(parts: int) -> None:
    generator = torch.Generator().manual_seed(parts)
    covered = 0
    for _ in range(RUNS):
        easy = torch.rand(40, 1, generator=generator)  # what both find hard or easy
        right = [
            ((easy + torch.rand(40, parts, generator=generator)) / 2 < bar).double().mean(1)
            for bar in (0.4, 0.55)
        ]
        # Of (u + v) / 2 below bar: 2 bar² up to one half, 1 - 2 (1 - bar)² above.
        truth = (1 - 2 * 0.45**2) - 2 * 0.4**2
        found = paired(right[0].tolist(), right[1].tolist()).difference
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / RUNS <= 0.97


@pytest.mark.parametrize(("threshold", "parts"), [(0.85, 1), (0.85, 4), (0.5, 1)])
def test_claims_are_rarely_wrong_however_often_one_looks(threshold: float, parts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    wrong = {"above": 0, "below": 0, "open": 0}
    for _ in range(RUNS):  # the mean is the threshold, where either claim is wrong
        wrong[verdict(draw(threshold, 128, generator, parts), threshold)] += 1
    assert wrong["above"] <= 0.05 * RUNS
    assert wrong["below"] <= 0.05 * RUNS
    assert wrong["above"] + wrong["below"] > 0.01 * RUNS  # the looks do cost something


def test_an_effective_length_is_rarely_too_great() -> None:
    generator = torch.Generator().manual_seed(0)
    means = {512: 0.97, 1024: 0.85, 2048: 0.97, 4096: 0.85}
    claimed = 0
    for _ in range(RUNS):
        scores = {length: draw(mean, 96, generator) for length, mean in means.items()}
        found = effective_length(scores, 0.85).length
        claimed += found is not None and found > 512
    assert claimed <= 0.05 * RUNS


def test_an_interval_holds_after_a_stop_that_the_scores_brought_about() -> None:
    generator = torch.Generator().manual_seed(0)
    sequential = fixed = 0
    needed = math.log(20)  # where `verdict` is no longer open
    for _ in range(300):
        scores = draw(0.8, 128, generator)
        either = torch.maximum(*(capital(scores, 0.8, side) for side in ("above", "below")))
        stop = next((n + 1 for n, won in enumerate(either >= needed) if won), 128)
        interval, other = sequential_interval(scores[:stop]), score_interval(scores[:stop])
        sequential += interval.low <= 0.8 <= interval.high
        fixed += other.low <= 0.8 <= other.high
    assert sequential >= 0.95 * 300
    assert fixed < sequential


def test_capital_is_the_mean_of_constant_bets() -> None:
    scores, threshold = [1.0, 0.25, 0.0, 1.0, 0.5], 0.6
    for side, sign, most in (("above", 1, 1 / 0.6), ("below", -1, 1 / 0.4)):
        wealth = [1.0] * 20
        for n, score in enumerate(scores):
            bets = [sign * (k + 1) / 20 * most for k in range(20)]
            gains = [1 + bet * (score - threshold) for bet in bets]
            wealth = [w * gain for w, gain in zip(wealth, gains, strict=True)]
            found = capital(scores, threshold, side)[n]
            assert found.exp().item() == pytest.approx(sum(wealth) / 20, rel=1e-9)


def test_verdicts() -> None:
    assert verdict([1.0] * 32, 0.85) == "above"  # what a first look at a perfect reader sees
    assert verdict([1.0] * 8, 0.85) == "open"
    assert verdict([0.0] * 3, 0.85) == "below"
    assert verdict([0.25] * 12, 0.85) == "below"
    assert verdict([], 0.85) == "open"
    # What was shown stays shown.
    assert verdict([1.0] * 32 + [0.0] * 9, 0.85) == "above"


def test_the_sequential_interval_is_where_no_bettor_has_won() -> None:
    scores = draw(0.7, 60, torch.Generator().manual_seed(1), parts=2)
    found = sequential_interval(scores)
    needed = math.log(2 / 0.05)
    for mean, side in ((found.low, "above"), (found.high, "below")):
        inside, outside = mean - 1e-5, mean + 1e-5
        if side == "above":
            inside, outside = outside, inside
        assert capital(scores, inside, side).max() < needed <= capital(scores, outside, side).max()
    narrow = score_interval(scores)
    assert found.low < narrow.low < found.value < narrow.high < found.high


def test_effective_lengths() -> None:
    good, bad, few = [1.0] * 40, [0.0] * 10, [1.0] * 5
    every = effective_length({1024: good, 512: good})
    assert every == EffectiveLength(1024, {512: "above", 1024: "above"}, {512: 40, 1024: 40})
    assert every.whole and str(every) == "≥ 1,024"
    # A length that is read again after one that failed does not count.
    assert effective_length({512: good, 1024: bad, 2048: good}).length == 512
    assert str(effective_length({512: good, 1024: few, 2048: good})) == "512"
    assert str(effective_length({512: bad})) == "< 512"
    assert str(effective_length({512: few})) == "open"
    assert str(effective_length({512: few, 1024: bad, 2048: bad})) == "< 1,024"
    assert str(effective_length({512: []})) == "refused"
    assert str(effective_length({})) == "not measured"


def test_scores_that_are_all_the_same_leave_something_open() -> None:
    assert score_interval([1.0] * 6) == wilson(6, 6)
    assert score_interval([0.25] * 6) == wilson(1.5, 6)
    assert score_interval([0.5]).low < 0.1
    same = paired([1.0, 0.0, 1.0], [1.0, 0.0, 1.0])
    assert same.difference.low < -0.3 and same.difference.high > 0.3 and same.p == 1.0


@pytest.mark.parametrize(("better", "worse"), [(0, 0), (1, 0), (5, 15), (9, 2), (7, 7)])
def test_mcnemar_is_the_exact_binomial_test(better: int, worse: int) -> None:
    first = [0.0] * better + [1.0] * worse + [1.0] * 4
    second = [1.0] * better + [0.0] * worse + [1.0] * 4
    found = paired(first, second)
    assert (found.items, found.better, found.worse) == (better + worse + 4, better, worse)
    expected = stats.binomtest(better, better + worse).pvalue if better + worse else 1.0
    assert found.p == pytest.approx(expected)
    assert paired([*first, 0.5], [*second, 0.5]).p is None


def test_bad_input() -> None:
    for wrong in (lambda: score_interval([]), lambda: sequential_interval([])):
        with pytest.raises(ValueError, match="at least one score"):
            wrong()
    with pytest.raises(ValueError, match="from 0 to 1"):
        score_interval([0.5, 1.5])
    with pytest.raises(ValueError, match="from 0 to 1"):
        verdict([-0.5])
    with pytest.raises(ValueError, match="between 0 and 1, got 1"):
        verdict([1.0], threshold=1)
    with pytest.raises(ValueError, match="confidence"):
        verdict([1.0], confidence=1.0)
    with pytest.raises(ValueError, match="as many scores of both, got 1 and 2"):
        paired([1.0], [1.0, 0.0])
