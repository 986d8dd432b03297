"""The streaming packer: every document once, few bins open, and its two limits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.train.data.packers import StreamingPacker, greedy

documents = st.lists(st.integers(1, 32), max_size=80)


def run(lengths: list[int], capacity: int, open_bins: int) -> tuple[list[list[int]], int]:
    """All bins, and how many were closed before the end."""
    packer = StreamingPacker(capacity, open_bins)
    closed = [bin for index, length in enumerate(lengths) for bin in packer.add(index, length)]
    return closed + packer.finish(), len(closed)


@given(lengths=documents, open_bins=st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_every_document_is_in_one_bin_and_few_bins_are_open(lengths, open_bins) -> None:
    packer = StreamingPacker(32, open_bins)
    bins: list[list[int]] = []
    for index, length in enumerate(lengths):
        bins += packer.add(index, length)
    rest = packer.finish()
    assert len(rest) <= open_bins
    assert packer.finish() == []
    bins += rest
    assert sorted(index for documents in bins for index in documents) == list(range(len(lengths)))
    assert all(0 < sum(lengths[index] for index in documents) <= 32 for documents in bins)


@given(lengths=documents)
@settings(max_examples=100, deadline=None)
def test_one_open_bin_is_greedy(lengths) -> None:
    assert run(lengths, 32, 1)[0] == greedy(lengths, 32)


@given(lengths=documents)
@settings(max_examples=100, deadline=None)
def test_enough_open_bins_are_best_fit_in_the_order_given(lengths) -> None:
    bins: list[list[int]] = []
    space: list[int] = []
    for index, length in enumerate(lengths):
        room = [number for number in range(len(bins)) if space[number] >= length]
        if room:
            number = min(room, key=lambda number: (space[number], number))
        else:
            number = len(bins)
            bins.append([])
            space.append(32)
        bins[number].append(index)
        space[number] -= length
    assert sorted(run(lengths, 32, len(lengths) + 1)[0]) == sorted(bins)


def test_a_full_bin_is_closed_at_once() -> None:
    packer = StreamingPacker(10, 4)
    assert packer.add(7, 6) == []
    assert packer.add(8, 4) == [[7, 8]]
    assert packer.add(9, 10) == [[9]]
    assert packer.finish() == []


def test_the_fullest_bin_is_closed_when_there_is_no_room() -> None:
    packer = StreamingPacker(10, 2)
    assert packer.add(0, 6) == packer.add(1, 7) == []
    assert packer.add(2, 8) == [[1]]
    assert packer.finish() == [[0], [2]]


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="capacity must be at least 2"):
        StreamingPacker(1)
    with pytest.raises(ValueError, match="open_bins must be at least 1, got 0"):
        StreamingPacker(8, 0)
    packer = StreamingPacker(8)
    for length in (0, 9):
        with pytest.raises(ValueError, match=rf"length {length} of document 3 is outside 1\.\.8"):
            packer.add(3, length)
