"""Greedy (next fit): the order of concatenation, a baseline."""

from collections.abc import Sequence

import numpy as np

from lengthwise.train.data.packers.checks import checked_lengths


def greedy(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Documents as they come into the last bin; one that does not fit opens the next bin.

    Keeps the order of the documents, as concatenation does, but cuts none of them.

    Args:
        lengths: Tokens of every document, 1..capacity.
        capacity: Tokens that a bin holds, at least 2.

    Raises:
        ValueError: If a length is outside 1..capacity or the capacity is below 2.
    """
    checked = checked_lengths(lengths, capacity)
    ends = np.cumsum(checked)
    # Where the next bin begins, if one begins at this document.
    following = np.searchsorted(ends, ends - checked + capacity, side="right").tolist()
    bins = []
    start = 0
    while start < len(checked):
        bins.append(list(range(start, following[start])))
        start = following[start]
    return bins
