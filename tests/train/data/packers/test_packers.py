"""Every packer: each document once, none cut, no bin too full; best fit against plain best fit."""

import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.train.data.packers import PACKERS, best_fit, best_fit_bins, first_fit, greedy, spfhp
from lengthwise.train.data.packers.nnlshp import fillings, nnlshp

FAST = sorted(set(PACKERS) - {"exact", "nnlshp"})


@st.composite
def cases(draw, most_documents=60, capacities=(2, 3, 7, 16, 64)):
    capacity = draw(st.sampled_from(capacities))
    longest = draw(st.integers(1, capacity))  # all short, or anything
    return draw(st.lists(st.integers(1, longest), max_size=most_documents)), capacity


def check(bins: list[list[int]], lengths: list[int], capacity: int) -> None:
    assert sorted(index for documents in bins for index in documents) == list(range(len(lengths)))
    for documents in bins:
        assert 0 < sum(lengths[index] for index in documents) <= capacity
        assert all(type(index) is int for index in documents)


def plain_best_fit_decreasing(lengths: list[int], capacity: int) -> list[list[int]]:
    """One document at a time, looking at all bins; of equal bins the first."""
    bins: list[list[int]] = []
    space: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        room = [number for number in range(len(bins)) if space[number] >= lengths[index]]
        if room:
            number = min(room, key=lambda number: (space[number], number))
        else:
            number = len(bins)
            bins.append([])
            space.append(capacity)
        bins[number].append(index)
        space[number] -= lengths[index]
    return [sorted(documents) for documents in bins]


def plain_first_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    bins: list[list[int]] = []
    for index, length in enumerate(lengths):
        for documents in bins:
            if sum(lengths[other] for other in documents) + length <= capacity:
                documents.append(index)
                break
        else:
            bins.append([index])
    return bins


@pytest.mark.parametrize("name", FAST)
@given(case=cases())
@settings(max_examples=150, deadline=None)
def test_every_document_is_in_one_bin_and_no_bin_is_too_full(name, case) -> None:
    lengths, capacity = case
    check(PACKERS[name](lengths, capacity), lengths, capacity)


@pytest.mark.parametrize("name", ["exact", "nnlshp"])
@given(case=cases(most_documents=14, capacities=(2, 5, 12, 24)))
@settings(max_examples=40, deadline=None)
def test_the_solvers_keep_the_same_promises(name, case) -> None:
    lengths, capacity = case
    check(PACKERS[name](lengths, capacity), lengths, capacity)


@given(case=cases())
@settings(max_examples=400, deadline=None)
def test_best_fit_is_plain_best_fit_decreasing_document_for_document(case) -> None:
    lengths, capacity = case
    assert best_fit(lengths, capacity) == plain_best_fit_decreasing(lengths, capacity)


def test_best_fit_is_plain_best_fit_on_a_long_tail() -> None:
    generator = np.random.default_rng(0)
    lengths = np.clip(generator.lognormal(5.0, 1.2, 1500).astype(int), 1, 2048)
    bins = best_fit(lengths, 2048)
    assert bins == plain_best_fit_decreasing(lengths.tolist(), 2048)
    for number, documents in enumerate(bins):
        assert (best_fit_bins(lengths, 2048)[documents] == number).all()


def test_best_fit_with_a_capacity_that_needs_more_than_16_bits() -> None:
    generator = np.random.default_rng(1)
    lengths = generator.integers(1, 100_000, 200)
    assert best_fit(lengths, 100_000) == plain_best_fit_decreasing(lengths.tolist(), 100_000)


@given(case=cases(), seed=st.integers(0, 99))
@settings(max_examples=100, deadline=None)
def test_the_number_of_best_fit_bins_does_not_depend_on_the_order_of_documents(case, seed) -> None:
    lengths, capacity = case
    mixed = random.Random(seed).sample(lengths, len(lengths))
    assert len(best_fit(mixed, capacity)) == len(best_fit(lengths, capacity))


def test_first_fit_is_not_sorted_and_pays_for_it() -> None:
    """axolotl's multipack calls this first-fit decreasing, but nothing sorts its documents."""
    lengths = [30, 30, 30, 70, 70, 70]
    assert len(first_fit(lengths, 100)) == 4
    assert len(best_fit(lengths, 100)) == 3


@given(case=cases())
@settings(max_examples=150, deadline=None)
def test_first_fit_is_plain_first_fit(case) -> None:
    lengths, capacity = case
    assert first_fit(lengths, capacity) == plain_first_fit(lengths, capacity)


@given(case=cases())
@settings(max_examples=100, deadline=None)
def test_greedy_keeps_the_order_and_closes_a_bin_only_when_it_must(case) -> None:
    lengths, capacity = case
    bins = greedy(lengths, capacity)
    assert [index for documents in bins for index in documents] == list(range(len(lengths)))
    for documents, following in pairwise(bins):
        held = sum(lengths[index] for index in documents)
        assert held + lengths[following[0]] > capacity


@given(case=cases(), limit=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_spfhp_honours_its_limit(case, limit) -> None:
    lengths, capacity = case
    bins = spfhp(lengths, capacity, limit)
    check(bins, lengths, capacity)
    assert max(map(len, bins), default=0) <= limit


def test_spfhp_takes_the_bin_with_the_most_space() -> None:
    # Worst fit: the 3 goes to the bin of the 5, not to that of the 7, where it would fit exactly.
    assert spfhp([7, 5, 3], 10) == [[0], [1, 2]]
    assert best_fit([7, 5, 3], 10) == [[0, 2], [1]]


@pytest.mark.parametrize("name", FAST)
def test_equal_short_documents_share_bins(name) -> None:
    """The published SPFHP code gives each of 1,000 documents of 1 token a bin of its own."""
    assert len(PACKERS[name]([1] * 1000, 512)) == 2


def test_nnlshp_enumerates_the_strategies_that_the_paper_counts() -> None:
    strategies = list(fillings(512, 3))
    assert len(strategies) == len(set(strategies)) == 22_102
    assert all(sum(strategy) == 512 and len(strategy) <= 3 for strategy in strategies[::97])
    assert sorted(fillings(5, 3)) == [(1, 1, 3), (1, 2, 2), (1, 4), (2, 3), (5,)]


def test_nnlshp_finds_an_exact_packing() -> None:
    # 40 bins of 50 + 30 + 20 and 10 of 60 + 40, where best fit takes 60 + 30 first.
    lengths = [50, 30, 20] * 40 + [60, 40] * 10
    random.Random(0).shuffle(lengths)
    bins = nnlshp(lengths, 100)
    assert len(bins) == 50 < len(best_fit(lengths, 100))
    held = Counter(tuple(sorted(lengths[index] for index in documents)) for documents in bins)
    assert set(held) <= set(fillings(100, 3))


@pytest.mark.parametrize("name", sorted(PACKERS))
@pytest.mark.parametrize(
    ("lengths", "capacity", "message"),
    [
        ([3, 9, 4], 8, r"length 9 of document 1 is outside 1\.\.8"),
        ([3, 0], 8, r"length 0 of document 1 is outside 1\.\.8"),
        ([3, -2], 8, r"length -2 of document 1 is outside"),
        ([1], 1, "capacity must be at least 2 tokens .* got 1"),
        ([1.5, 2.0], 8, "must be one row of integers"),
        ([[1, 2], [3, 4]], 8, "must be one row of integers"),
    ],
)
def test_bad_lengths_are_named_on_one_line(name, lengths, capacity, message) -> None:
    with pytest.raises(ValueError, match=message) as error:
        PACKERS[name](lengths, capacity)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", sorted(PACKERS))
def test_no_documents_make_no_bins(name) -> None:
    assert PACKERS[name]([], 8) == []
    assert PACKERS[name](np.zeros(0, dtype=np.int32), 8) == []


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="limit must be at least 1"):
        spfhp([1], 8, limit=0)
    with pytest.raises(ValueError, match="depth must be at least 1"):
        nnlshp([1], 8, depth=0)
    with pytest.raises(ValueError, match="more than 25000 strategies"):
        nnlshp([1], 2048)
