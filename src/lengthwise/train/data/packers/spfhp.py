"""Shortest-pack-first histogram-packing."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from lengthwise.train.data.packers.checks import as_lists, checked_lengths


def spfhp(
    lengths: Sequence[int] | np.ndarray, capacity: int, limit: int | None = None
) -> list[list[int]]:
    """Longest document first, each into the bin with the most space (worst fit).

    Spreads short documents over all bins, so bins hold similar numbers of documents.

    Source: Efficient Sequence Packing without Cross-contamination (2107.02027), SPFHP,
    and the authors' spfhp.py. Counts at a time, as there.
    Differs from the source: documents of one length that fit nowhere share new bins. The authors'
    code opens a bin for each of them: 1,000 documents of 1 token become 1,000 bins of 1 token.

    Args:
        lengths: Tokens of every document, 1..capacity.
        capacity: Tokens that a bin holds, at least 2.
        limit: Most documents in one bin, at least 1; None for no limit.

    Raises:
        ValueError: If a length is outside 1..capacity, the capacity below 2 or the limit below 1.
    """
    checked = checked_lengths(lengths, capacity)
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be at least 1 document or None, got {limit}")
    most = capacity if limit is None else limit
    order = np.argsort(-checked, kind="stable")
    bins = np.empty(len(checked), dtype=np.int64)
    # space -> (documents in each, first bin, bins); the last one is used first
    groups: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    open_spaces = 0  # bit s is set while groups[s] is not empty
    opened = at = 0
    values, counts = np.unique(checked, return_counts=True)
    for length, count in zip(values[::-1].tolist(), counts[::-1].tolist(), strict=True):
        end = at + count
        while at < end:
            if open_spaces >> length:
                space = open_spaces.bit_length() - 1
                inside, first, size = groups[space].pop()
                if not groups[space]:
                    open_spaces ^= 1 << space
            else:
                each = min(capacity // length, most)
                space, inside, first, size = capacity, 0, opened, -(-(end - at) // each)
                opened += size
            take = min(size, end - at)
            bins[order[at : at + take]] = np.arange(first, first + take)
            at += take
            parts = [(space, inside, first + take, size - take)]
            if inside + 1 < most:
                parts.append((space - length, inside + 1, first, take))
            for rest, documents, start, number in parts:
                if rest and number:
                    groups[rest].append((documents, start, number))
                    open_spaces |= 1 << rest
    return as_lists(bins)
