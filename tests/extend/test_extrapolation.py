"""The laws of RoPE extrapolation against numbers of the papers."""

import math

import pytest

from lengthwise.extend.extrapolation import (
    Reach,
    base_for,
    critical_base,
    critical_dimension,
    least_base,
    reach,
    turning_bases,
)


@pytest.mark.parametrize(("window", "dims"), [(2048, 82), (4096, 92), (16_384, 110)])
def test_critical_dimension(window, dims):
    assert critical_dimension(128, window) == dims


def test_no_model_has_more_critical_dimensions_than_dimensions():
    assert critical_dimension(32, 10_000_000) == 32


def test_critical_base():
    assert critical_base(4096, 4096) == pytest.approx(10_000)
    assert critical_base(4096, 16_384) == pytest.approx(71_738, rel=1e-4)


@pytest.mark.parametrize(("base", "thousands"), [(6e5, 89.4), (1e6, 129.0)])
def test_large_bases_have_a_hard_limit(base, thousands):
    got = reach(128, 4096, tuned=4096, base=base)
    assert got.breaks and got.critical == 92
    assert got.tokens / 1000 == pytest.approx(thousands, abs=0.1)


def test_small_bases_decay_slowly():
    assert reach(128, 4096, tuned=16_384, base=500) == Reach(16_384, False, 128)
    assert reach(128, 4096, tuned=4096, base=10_000) == Reach(4096, False, 92)
    assert reach(128, 4096, tuned=4096, base=2608).critical == 106


def test_at_the_critical_base_the_unrounded_limit_is_the_tuned_length():
    for tuned in (4096, 16_384, 100_000):
        base = critical_base(4096, tuned)
        exponent = math.log(4096 / (2 * math.pi)) / math.log(10_000)
        assert 2 * math.pi * base**exponent == pytest.approx(tuned)


def test_the_base_for_a_length_reaches_it_and_no_smaller_one_does():
    for length in (32_768, 131_072, 1_000_000):
        base = base_for(length, 128, 4096)
        assert reach(128, 4096, tuned=4096, base=base * 1.0001).tokens >= length
        assert reach(128, 4096, tuned=4096, base=base * 0.99).tokens < length


def test_turning_bases_and_the_bound_of_retrieval():
    assert [round(base) for base in turning_bases(4096)] == [2608, 1304, 652]
    assert least_base(4096) == pytest.approx(3.2e4, rel=0.02)
    assert least_base(131_072) == pytest.approx(9.1e6, rel=0.02)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: critical_dimension(127, 4096), "dim must be even, got 127"),
        (lambda: critical_dimension(128, 6), "window must be a whole number of at least 7, got 6"),
        (lambda: critical_dimension(128, 64, 1), "theta must be above 1, got 1"),
        (lambda: base_for(100, 128, 4096), "at least the window of 4096 tokens, got 100"),
        (lambda: reach(128, 4096, 3, 1e4), "tuned must be a whole number of at least 7, got 3"),
        (lambda: reach(128, 4096, 4096, 1), "base must be above 1, got 1"),
        (lambda: least_base(0), "length must be a whole number of at least 1"),
    ],
)
def test_mistakes(call, words):
    with pytest.raises(ValueError) as caught:
        call()
    assert words in str(caught.value)
