import math

import pytest
import torch

from lengthwise.measure.statistics.intervals import bootstrap_mean, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_against_published_values(successes, count, low, high):
    interval = wilson(successes, count)
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert interval.value == successes / count


def test_wilson_is_symmetric():
    few, many = wilson(3, 12), wilson(9, 12)
    assert (1 - few.high, 1 - few.low) == pytest.approx((many.low, many.high))
    assert wilson(12, 12).high == 1


@pytest.mark.parametrize("count", [10, 20, 50, 200])
def test_wilson_covers(count):
    """On average over all shares. At one share the coverage of any such interval jumps about."""
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(2000):
        share = torch.rand(1, generator=generator).item()
        interval = wilson(float((torch.rand(count, generator=generator) < share).sum()), count)
        covered += interval.low <= share <= interval.high
    assert 0.93 <= covered / 2000 <= 0.97


def partly_right(count, generator):
    """Scores of a task with partial credit: a third 0, a third 1, the others anywhere."""
    kind = torch.randint(3, (count,), generator=generator)
    return torch.where(kind == 2, torch.rand(count, generator=generator), kind.float())


@pytest.mark.parametrize(
    ("draw", "count", "mean"),
    [
        (lambda n, g: torch.randn(n, generator=g), 8, 0.0),
        (lambda n, g: torch.randn(n, generator=g), 30, 0.0),
        (partly_right, 20, 0.5),
        (lambda n, g: -torch.log1p(-torch.rand(n, generator=g)), 200, 1.0),
    ],
    ids=["normal 8", "normal 30", "partial credit 20", "exponential 200"],
)
def test_bootstrap_covers(draw, count, mean):
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(2000):
        interval = bootstrap_mean(
            draw(count, generator), generator, resamples=1000 if count < 100 else 500
        )
        covered += interval.low <= mean <= interval.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_bootstrap_same_seed_same_bits():
    values = torch.arange(30.0)
    first, again = (bootstrap_mean(values, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again
    assert first.low < first.value == 14.5 < first.high
    assert first != bootstrap_mean(values, torch.Generator().manual_seed(4))


def test_bootstrap_of_many_values_is_the_percentile_interval():
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0)).double()
    found = bootstrap_mean(values, torch.Generator().manual_seed(0))
    error = values.std().item() / math.sqrt(2000)
    assert found.low == pytest.approx(values.mean().item() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(values.mean().item() + 1.96 * error, abs=0.1 * error)


def test_bootstrap_of_one_value():
    found = bootstrap_mean(torch.tensor([0.5]), torch.Generator().manual_seed(0))
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("arguments", [(1, 0), (3, 2), (-1, 2), (1, 2, 1.0), (1, 2, 0.0)])
def test_wilson_refuses(arguments):
    with pytest.raises(ValueError):
        wilson(*arguments)


def test_bootstrap_refuses():
    with pytest.raises(ValueError, match="shape"):
        bootstrap_mean(torch.zeros(0), torch.Generator())
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean(torch.zeros(3), torch.Generator(), confidence=2)
