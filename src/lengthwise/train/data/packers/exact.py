"""The fewest bins possible, by integer programming: for small cases and for judging the others."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from lengthwise.train.data.packers.checks import checked_lengths

MOST_ARCS = 50_000

Arc = tuple[int, int]  # from a filling of the bin, by a document of this length


def exact(
    lengths: Sequence[int] | np.ndarray, capacity: int, seconds: float = 60.0
) -> list[list[int]]:
    """As few bins as can be, proven by HiGHS.

    A bin is a path from filling 0 upwards, each arc a document; documents of one length are
    exchangeable. Longer documents come first on a path, so few fillings can be reached.

    Source: the arc-flow model of Valério de Carvalho, Exact solution of bin-packing problems using
    column generation and branch-and-bound, Annals of Operations Research 86 (1999), section 3.

    Args:
        lengths: Tokens of every document, 1..capacity.
        capacity: Tokens that a bin holds, at least 2.
        seconds: When to give up.

    Raises:
        ValueError: If a length is outside 1..capacity, the capacity below 2, the case is too large
            (50,000 arcs), or there is no proof in time.
    """
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    checked = checked_lengths(lengths, capacity)
    if len(checked) == 0:
        return []
    values, counts = np.unique(checked, return_counts=True)
    arcs = _arcs(values[::-1].tolist(), counts[::-1].tolist(), capacity)
    begins, sizes = np.array(arcs).T
    kinds, columns, ones = np.searchsorted(values, sizes), np.arange(len(arcs)), np.ones(len(arcs))
    packed = csr_array((ones, (kinds, columns)))
    shape = (capacity + 1, len(arcs))
    arriving = csr_array((ones, (begins + sizes, columns)), shape=shape)
    leaving = csr_array((ones, (begins, columns)), shape=shape)
    result = milp(
        (begins == 0).astype(float),  # every bin leaves filling 0 once
        integrality=ones,
        bounds=Bounds(0, counts[kinds]),
        constraints=[
            LinearConstraint(packed, counts, counts),
            LinearConstraint((arriving - leaving)[1:], 0, np.inf),  # bins end at any filling
        ],
        options={"time_limit": seconds, "mip_rel_gap": 0.0},
    )
    if result.status != 0:
        raise ValueError(
            f"exact found no proof in {seconds} seconds for {len(checked)} documents of "
            f"{len(values)} lengths: give it more seconds or pack with best_fit"
        )
    return _bins(checked, arcs, np.rint(result.x).astype(int).tolist())


def _arcs(lengths: list[int], counts: list[int], capacity: int) -> list[Arc]:
    """The arcs that a bin can use whose documents come longest first."""
    reached = {0}
    arcs: list[Arc] = []
    for length, count in zip(lengths, counts, strict=True):
        heads = reached
        begins: set[int] = set()
        for _ in range(min(count, capacity // length)):
            heads = {head for head in heads if head + length <= capacity} - begins
            begins |= heads
            heads = {head + length for head in heads}
        arcs += [(begin, length) for begin in sorted(begins)]
        reached = reached | {begin + length for begin in begins}
        if len(arcs) > MOST_ARCS:
            raise ValueError(
                f"{len(lengths)} different lengths at capacity {capacity} are more than {MOST_ARCS}"
                " arcs: exact is for small cases, pack with best_fit"
            )
    return arcs


def _bins(lengths: np.ndarray, arcs: list[Arc], flow: list[int]) -> list[list[int]]:
    """Walk the flow from filling 0 until none is left; each walk is a bin."""
    leaving: dict[int, list[list[int]]] = defaultdict(list)  # begin -> [length, times] to use
    for (begin, length), times in zip(arcs, flow, strict=True):
        if times:
            leaving[begin].append([length, times])
    waiting: dict[int, list[int]] = defaultdict(list)
    for index in range(len(lengths) - 1, -1, -1):
        waiting[int(lengths[index])].append(index)
    bins = []
    while leaving[0]:
        filling, documents = 0, []
        while leaving[filling]:
            step = leaving[filling][-1]
            step[1] -= 1
            if step[1] == 0:
                leaving[filling].pop()
            documents.append(waiting[step[0]].pop())
            filling += step[0]
        bins.append(sorted(documents))
    return bins
