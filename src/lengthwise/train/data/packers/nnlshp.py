"""Non-negative least squares histogram-packing."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from lengthwise.train.data.packers.best_fit import best_fit
from lengthwise.train.data.packers.checks import checked_lengths

MOST_STRATEGIES = 25_000  # 512 tokens at depth 3 are 22,102; the matrix is dense
SHORT = 8  # lengths up to here weigh less: leaving their slots empty wastes little
SHORT_WEIGHT = 0.09


def nnlshp(lengths: Sequence[int] | np.ndarray, capacity: int, depth: int = 3) -> list[list[int]]:
    """Chooses how often to use each way of filling a bin exactly, by least squares.

    A strategy is a multiset of up to `depth` lengths that sum to the capacity. Non-negative least
    squares finds how many bins of each strategy hold the histogram of lengths best; rounding
    leaves some slots empty and some documents over, and those are packed best-fit.

    Source: Efficient Sequence Packing without Cross-contamination (2107.02027), NNLSHP,
    and the authors' nnlshp.py.
    Differs from the source: what is left over shares bins by best-fit decreasing, instead of a bin
    for each such document; a strategy none of whose slots finds a document makes no bin.

    Args:
        lengths: Tokens of every document, 1..capacity.
        capacity: Tokens that a bin holds, 2..512 at depth 3. 512 takes half a minute.
        depth: Most documents in a bin of a strategy, at least 1.

    Raises:
        ValueError: If a length is outside 1..capacity, the capacity below 2, the depth below 1, or
            there are too many strategies to enumerate.
    """
    from scipy.optimize import nnls

    checked = checked_lengths(lengths, capacity)
    if depth < 1:
        raise ValueError(f"depth must be at least 1 document, got {depth}")
    if len(checked) == 0:
        return []
    strategies = []
    for strategy in fillings(capacity, depth):
        strategies.append(strategy)
        if len(strategies) > MOST_STRATEGIES:
            raise ValueError(
                f"capacity {capacity} at depth {depth} has more than {MOST_STRATEGIES} strategies "
                "(512 at depth 3 is the most that nnlshp solves): pack with best_fit or spfhp"
            )
    slots = np.zeros((capacity, len(strategies)))  # how many documents of length row + 1
    for column, strategy in enumerate(strategies):
        for length in strategy:
            slots[length - 1, column] += 1
    histogram = np.bincount(checked, minlength=capacity + 1)[1:]
    weight = np.where(np.arange(1, capacity + 1) <= SHORT, SHORT_WEIGHT, 1.0)
    uses, _ = nnls(slots * weight[:, None], histogram * weight)
    return _fill(checked, capacity, strategies, np.rint(uses).astype(int).tolist())


def fillings(total: int, depth: int, least: int = 1) -> Iterator[tuple[int, ...]]:
    """All ascending tuples of 1..depth integers, each at least `least`, that sum to `total`."""
    if total >= least:
        yield (total,)
    if depth > 1:
        for first in range(least, total // 2 + 1):
            for rest in fillings(total - first, depth - 1, first):
                yield (first, *rest)


def _fill(
    lengths: np.ndarray, capacity: int, strategies: list[tuple[int, ...]], uses: list[int]
) -> list[list[int]]:
    waiting: dict[int, list[int]] = defaultdict(list)  # by length, first document last
    for index in range(len(lengths) - 1, -1, -1):
        waiting[int(lengths[index])].append(index)
    bins = []
    for strategy, times in zip(strategies, uses, strict=True):
        for _ in range(times):
            documents = sorted(waiting[length].pop() for length in strategy if waiting[length])
            if not documents:
                break  # the next bins of this strategy would be empty too
            bins.append(documents)
    over = np.array(sorted(index for indices in waiting.values() for index in indices), dtype=int)
    return bins + [over[documents].tolist() for documents in best_fit(lengths[over], capacity)]
