import pytest
import torch

from lengthwise.measure.statistics import bootstrap_mean, wilson


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


def test_wilson_covers():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(2000):
        share = 0.1 + 0.8 * torch.rand(1, generator=generator).item()
        interval = wilson(float((torch.rand(40, generator=generator) < share).sum()), 40)
        covered += interval.low <= share <= interval.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_bootstrap_covers():
    generator = torch.Generator().manual_seed(0)
    covered = 0
    for _ in range(1000):
        interval = bootstrap_mean(torch.randn(100, generator=generator), generator, resamples=500)
        covered += interval.low <= 0 <= interval.high
    assert 0.92 <= covered / 1000 <= 0.97


def test_bootstrap_same_seed_same_bits():
    values = torch.arange(30.0)
    first, again = (bootstrap_mean(values, torch.Generator().manual_seed(3)) for _ in range(2))
    assert first == again
    assert first.low < first.value == 14.5 < first.high
    assert first != bootstrap_mean(values, torch.Generator().manual_seed(4))


@pytest.mark.parametrize("arguments", [(1, 0), (3, 2), (-1, 2), (1, 2, 1.0), (1, 2, 0.0)])
def test_wilson_refuses(arguments):
    with pytest.raises(ValueError):
        wilson(*arguments)


def test_bootstrap_refuses():
    with pytest.raises(ValueError, match="shape"):
        bootstrap_mean(torch.zeros(0), torch.Generator())
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_mean(torch.zeros(3), torch.Generator(), confidence=2)
