"""Dataset decomposition follows the paper's rule: the binary digits of a length, longest first."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.train.data.decomposition import bucket, decompose

powers = st.integers(0, 7).map(lambda exponent: 1 << exponent)


def test_the_papers_rule_on_an_example() -> None:
    assert decompose(1300) == [1024, 256, 16, 4]
    assert decompose(1) == [1]
    assert decompose(8192) == [8192]
    assert decompose(1300, largest=512) == [512, 512, 256, 16, 4]


@given(length=st.integers(1, 1 << 20))
def test_pieces_are_different_powers_of_two_in_falling_order(length) -> None:
    pieces = decompose(length)
    assert sum(pieces) == length
    assert all(piece & piece - 1 == 0 for piece in pieces)
    assert pieces == sorted(set(pieces), reverse=True)


@given(length=st.integers(1, 5000), largest=powers)
def test_a_bound_repeats_the_largest_piece(length, largest) -> None:
    pieces = decompose(length, largest)
    assert sum(pieces) == length
    assert max(pieces) <= largest
    shorter = [piece for piece in pieces if piece < largest]
    assert shorter == sorted(set(shorter), reverse=True)


@given(
    lengths=st.lists(st.integers(1, 300), max_size=20),
    smallest=powers,
    largest=st.none() | powers,
)
@settings(max_examples=200)
def test_buckets_are_the_decomposition_of_every_document(lengths, smallest, largest) -> None:
    if largest is not None and largest < smallest:
        smallest, largest = largest, smallest
    buckets = bucket(lengths, smallest, largest)
    found: dict[int, list[tuple[int, int]]] = {}
    dropped = 0
    for document, length in enumerate(lengths):
        start = 0
        for piece in decompose(length, largest):
            if piece >= smallest:
                found.setdefault(piece, []).append((document, start))
            else:
                dropped += piece
            start += piece
    assert {size: [tuple(r) for r in rows.tolist()] for size, rows in buckets.pieces.items()} == (
        found
    )
    assert buckets.dropped == dropped
    assert buckets.sizes == {size: len(rows) for size, rows in found.items()}


@given(lengths=st.lists(st.integers(1, 3000), min_size=1, max_size=10), smallest=powers)
def test_every_token_is_in_one_sequence_or_counted(lengths, smallest) -> None:
    """The authors' code drops the tail of every document under the smallest bucket in silence."""
    buckets = bucket(lengths, smallest)
    times = [np.zeros(length, dtype=int) for length in lengths]
    for size, rows in buckets.pieces.items():
        for document, start in rows.tolist():
            assert start + size <= lengths[document]
            times[document][start : start + size] += 1
    assert all((seen <= 1).all() for seen in times)
    assert sum(int((seen == 0).sum()) for seen in times) == buckets.dropped


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="length must be at least 1 token, got 0"):
        decompose(0)
    with pytest.raises(ValueError, match="largest must be a power of two, at least 1, got 12"):
        decompose(5, largest=12)
    with pytest.raises(ValueError, match="smallest must be a power of two"):
        bucket([5], smallest=0)
    with pytest.raises(ValueError, match=r"smallest must be at most largest \(4\), got 8"):
        bucket([5], smallest=8, largest=4)
    with pytest.raises(ValueError, match="length 0 of document 1"):
        bucket([5, 0])
