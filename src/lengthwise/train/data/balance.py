"""Batches of similar lengths, and batches of similar cost on every rank."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from lengthwise.train.data.packers.best_fit import best_fit
from lengthwise.train.data.packers.checks import checked_lengths

Cost = Literal["quadratic", "linear"]
POWER = {"quadratic": 2, "linear": 1}


def sorted_batches(
    lengths: Sequence[int] | np.ndarray, rows: int, generator: np.random.Generator
) -> list[list[int]]:
    """Batches of documents of similar length, in random order, so that little is padded.

    Source: LongAlign (2401.18058), sorted batching: sort, cut into batches, shuffle those.
    Differs from the source: every document is in a batch. The authors' code leaves out those of
    65,536 tokens and more without a word.

    Args:
        lengths: Tokens of every document, at least 1.
        rows: Documents of a batch, at least 1; the last batch may have fewer.
        generator: Draws the order of the batches, and of documents of equal length.

    Raises:
        ValueError: If a length or `rows` is below 1.
    """
    if rows < 1:
        raise ValueError(f"rows must be at least 1 document, got {rows}")
    checked = checked_lengths(lengths, int(np.max(lengths, initial=2)))
    shuffled = generator.permutation(len(checked))
    order = shuffled[np.argsort(checked[shuffled], kind="stable")].tolist()
    batches = [order[start : start + rows] for start in range(0, len(order), rows)]
    return [batches[at] for at in generator.permutation(len(batches))]


def balanced_batches(
    lengths: Sequence[int] | np.ndarray, ranks: int, tokens: int, cost: Cost = "quadratic"
) -> list[list[list[int]]]:
    """For every step and every data-parallel rank a batch, so that no rank waits for another.

    A step takes as long as its costliest rank. Documents are packed best-fit into batches of up to
    `tokens` tokens, batches of similar cost share a step, and within a step documents move to the
    rank with the least cost so far wherever that lowers the highest.

    Source: ours; ProLong (2410.02660) sorts the sequences of a step by the same sum of squares.

    Args:
        lengths: Tokens of every document, 1..tokens.
        ranks: Data-parallel ranks, at least 1.
        tokens: Most tokens on one rank in one step, at least 2.
        cost: "quadratic" counts a document's tokens squared, as attention costs; "linear" counts
            its tokens, as everything else costs.

    Returns:
        `[steps][ranks]` lists of indices into `lengths`, every index once; rank r trains on
        `[step[r] for step in steps]`. Costly steps come first, so that a lack of memory shows at
        once; shuffle them for training. A batch is empty only if there are fewer documents than
        places.

    Raises:
        ValueError: If a length is outside 1..tokens, `ranks` is below 1 or the cost has another
            name.
    """
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    if cost not in POWER:
        raise ValueError(f"cost must be one of {', '.join(POWER)}, got {cost!r}")
    checked = checked_lengths(lengths, tokens)
    sizes, costs = checked.tolist(), (checked ** POWER[cost]).tolist()

    def spent(batch: list[int]) -> int:
        return sum(costs[index] for index in batch)

    batches = sorted(best_fit(checked, tokens), key=spent, reverse=True)
    while len(batches) % ranks:  # give the last step a batch for every rank
        at = next((at for at, batch in enumerate(batches) if len(batch) > 1), None)
        if at is None:
            batches.append([])
        else:
            halves = _spread(batches.pop(at), 2, tokens, sizes, costs)
            assert halves is not None
            batches = sorted(batches + halves, key=spent, reverse=True)
    steps = []
    for start in range(0, len(batches), ranks):
        step = batches[start : start + ranks]
        moved = _spread([index for batch in step for index in batch], ranks, tokens, sizes, costs)
        if moved is not None and max(map(spent, moved)) < max(map(spent, step)):
            step = moved
        steps.append(step)
    return steps


def _spread(
    documents: list[int], ranks: int, tokens: int, sizes: list[int], costs: list[int]
) -> list[list[int]] | None:
    """Longest first to the rank with the least cost that has room; None if one has no room."""
    batches: list[list[int]] = [[] for _ in range(ranks)]
    held, spent = [0] * ranks, [0] * ranks
    for index in sorted(documents, key=lambda index: (-sizes[index], index)):
        rank = -1
        for other in range(ranks):
            has_room = held[other] + sizes[index] <= tokens
            if has_room and (rank < 0 or spent[other] < spent[rank]):
                rank = other
        if rank < 0:
            return None
        batches[rank].append(index)
        held[rank] += sizes[index]
        spent[rank] += costs[index]
    return [sorted(batch) for batch in batches]
