"""First fit, in the order given: a baseline."""

from collections.abc import Sequence

import numpy as np

from lengthwise.train.data.packers.checks import as_lists, checked_lengths


def first_fit(lengths: Sequence[int] | np.ndarray, capacity: int) -> list[list[int]]:
    """Documents as they come, each into the first bin that has room for it.

    What axolotl's multipack sampler does: its documents are not sorted by length, so its packing
    is first fit and not first-fit decreasing, and depends on the order of the documents.

    Args:
        lengths: Tokens of every document, 1..capacity.
        capacity: Tokens that a bin holds, at least 2.

    Raises:
        ValueError: If a length is outside 1..capacity or the capacity is below 2.
    """
    checked = checked_lengths(lengths, capacity)
    # A tree of maxima over the spaces of as many bins as there are documents, all empty at first:
    # the leftmost leaf with room is found in log2(documents) steps.
    leaves = 1 << max(len(checked) - 1, 0).bit_length()
    space = [capacity] * (2 * leaves)
    bins = np.empty(len(checked), dtype=np.int64)
    for index, length in enumerate(checked.tolist()):
        node = 1
        while node < leaves:
            node *= 2
            if space[node] < length:
                node += 1
        bins[index] = node - leaves
        space[node] -= length
        while node > 1:
            node //= 2
            left, right = space[2 * node], space[2 * node + 1]
            space[node] = left if left > right else right
    return as_lists(bins)
