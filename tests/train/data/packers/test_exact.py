"""The exact packer against brute force, and every other packer against the exact one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.train.data.packers import PACKERS, best_fit, exact


def fewest_bins(lengths: list[int], capacity: int) -> int:
    """By trying everything: each document into every different space, or a new bin."""
    order = sorted(lengths, reverse=True)
    best = len(order)

    def place(at: int, spaces: list[int]) -> None:
        nonlocal best
        if len(spaces) >= best:
            return
        if at == len(order):
            best = len(spaces)
            return
        for space in {space for space in spaces if space >= order[at]}:
            rest = list(spaces)
            rest.remove(space)
            place(at + 1, [*rest, space - order[at]])
        place(at + 1, [*spaces, capacity - order[at]])

    place(0, [])
    return best


small = st.integers(4, 20).flatmap(
    lambda capacity: st.tuples(
        st.lists(st.integers(1, capacity), min_size=1, max_size=8), st.just(capacity)
    )
)


@given(case=small)
@settings(max_examples=40, deadline=None)
def test_exact_is_what_brute_force_finds(case) -> None:
    lengths, capacity = case
    assert len(exact(lengths, capacity)) == fewest_bins(lengths, capacity)


def test_exact_finds_what_best_fit_misses() -> None:
    # Best fit puts 5 + 4 first and is left with a 3 and a 2 too many.
    lengths, capacity = [5, 4, 4, 3, 2, 2], 10
    assert len(best_fit(lengths, capacity)) == 3
    assert len(exact(lengths, capacity)) == 2


@pytest.mark.parametrize("seed", range(6))
def test_packers_against_the_optimum(seed) -> None:
    generator = np.random.default_rng(seed)
    capacity = int(generator.choice([24, 32, 48]))
    lengths = np.clip(generator.lognormal(np.log(capacity / 4), 0.8, 24).astype(int), 1, capacity)
    optimum = len(exact(lengths, capacity))
    assert optimum >= -(-int(lengths.sum()) // capacity)
    counts = {name: len(packer(lengths, capacity)) for name, packer in PACKERS.items()}
    assert min(counts.values()) >= optimum
    # What is proven of best-fit decreasing (Johnson 1974, Dosa 2007), and of next fit.
    assert counts["best_fit"] <= 11 / 9 * optimum + 6 / 9
    assert counts["greedy"] <= 2 * optimum - 1


def test_exact_refuses_what_is_not_small() -> None:
    lengths = np.random.default_rng(0).integers(1, 2048, 400)
    with pytest.raises(ValueError, match="exact is for small cases, pack with best_fit"):
        exact(lengths, 2048)


def test_exact_says_when_there_was_no_proof_in_time() -> None:
    lengths = np.random.default_rng(0).integers(20, 200, 60)
    with pytest.raises(ValueError, match=r"exact found no proof in 0\.0 seconds"):
        exact(lengths, 400, seconds=0.0)
