"""Sorted and balanced batches: every document once, little padding, no rank waits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.train.data.balance import balanced_batches, sorted_batches

lengths_of_documents = st.lists(st.integers(1, 64), max_size=60)


def long_tail(documents: int, longest: int, seed: int = 0) -> np.ndarray:
    drawn = np.random.default_rng(seed).lognormal(5.0, 1.3, documents).astype(int)
    return np.clip(drawn, 1, longest)


@given(lengths=lengths_of_documents, rows=st.integers(1, 9), seed=st.integers(0, 9))
def test_sorted_batches_hold_every_document_once(lengths, rows, seed) -> None:
    batches = sorted_batches(lengths, rows, np.random.default_rng(seed))
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= rows for batch in batches)
    assert len(batches) == -(-len(lengths) // rows)


def test_sorted_batches_keep_the_longest_documents() -> None:
    """LongAlign's sort_and_group.py leaves out documents of 65,536 tokens and more in silence."""
    lengths = [100, 70_000, 65_536, 200]
    batches = sorted_batches(lengths, 2, np.random.default_rng(0))
    assert sorted(map(sorted, batches)) == [[0, 3], [1, 2]]


def test_sorted_batches_pad_less_than_batches_in_random_order() -> None:
    lengths = long_tail(2000, 8192)

    def padded(batches) -> int:
        return sum(max(lengths[batch]) * len(batch) - sum(lengths[batch]) for batch in batches)

    ordered = sorted_batches(lengths, 8, np.random.default_rng(0))
    mixed = np.random.default_rng(0).permutation(2000).reshape(-1, 8).tolist()
    assert padded(ordered) < padded(mixed) / 20
    longest = [max(lengths[batch]) for batch in ordered]
    assert longest != sorted(longest)


@pytest.mark.parametrize("cost", ["quadratic", "linear"])
@given(lengths=lengths_of_documents, ranks=st.integers(1, 5))
@settings(max_examples=100, deadline=None)
def test_balanced_batches_hold_every_document_once(cost, lengths, ranks) -> None:
    steps = balanced_batches(lengths, ranks, 64, cost)
    assert all(len(step) == ranks for step in steps)
    batches = [batch for step in steps for batch in step]
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in batch) <= 64 for batch in batches)
    if not all(batches):
        assert max(map(len, batches), default=0) <= 1  # fewer documents than places


def waiting(lengths: np.ndarray, steps, power: int) -> float:
    """How much longer all steps take than with the cost spread evenly over the ranks."""
    costs = np.array([[sum(lengths[batch] ** power) for batch in step] for step in steps])
    return float(costs.max(axis=1).sum() / costs.mean(axis=1).sum())


@pytest.mark.parametrize(("cost", "power"), [("quadratic", 2), ("linear", 1)])
def test_balanced_batches_wait_less_than_greedy_ones(cost, power) -> None:
    from lengthwise.train.data.packers import best_fit

    lengths = long_tail(3000, 4096)
    bins = best_fit(lengths, 4096)
    bins = [bins[at] for at in np.random.default_rng(0).permutation(len(bins))]
    shuffled = [bins[at : at + 4] for at in range(0, len(bins) // 4 * 4, 4)]
    balanced = waiting(lengths, balanced_batches(lengths, 4, 4096, cost), power)
    assert balanced < 1.02
    assert balanced - 1 < (waiting(lengths, shuffled, power) - 1) / (5 if power == 2 else 1)


def test_documents_move_within_a_step_to_the_rank_with_the_least_cost() -> None:
    lengths = np.random.default_rng(60).integers(1, 300, 60)  # few batches, of unlike costs
    assert waiting(lengths, balanced_batches(lengths, 8, 4096), 2) < 1.05


def test_equal_sums_do_not_mean_equal_squares() -> None:
    # Two ranks of 64 tokens: one document of 64, or 64 documents of 1, cost 64 times as much.
    lengths = np.array([64, 64, *[1] * 128])
    steps = balanced_batches(lengths, 2, 64, "quadratic")
    assert waiting(lengths, steps, 2) == 1.0


def test_costly_steps_come_first() -> None:
    lengths = long_tail(500, 2048)
    steps = balanced_batches(lengths, 2, 2048)
    total = [sum(int(lengths[index]) ** 2 for batch in step for index in batch) for step in steps]
    assert total == sorted(total, reverse=True)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="rows must be at least 1 document, got 0"):
        sorted_batches([1], 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="length 0 of document 1"):
        sorted_batches([4, 0], 2, np.random.default_rng(0))
    with pytest.raises(ValueError, match="ranks must be at least 1, got 0"):
        balanced_batches([1], 0, 8)
    with pytest.raises(ValueError, match=r"length 9 of document 0 is outside 1\.\.8"):
        balanced_batches([9], 1, 8)
    with pytest.raises(ValueError, match="cost must be one of quadratic, linear, got 'cubic'"):
        balanced_batches([1], 1, 8, "cubic")
