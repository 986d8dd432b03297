"""Curricula over buckets: every sequence once, constant tokens a step, short before long."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.train.data.curriculum import GrowLinear, GrowP2, Plan, Uniform

EVERY = [Uniform, GrowLinear, GrowP2]
sizes = st.dictionaries(st.sampled_from([8, 16, 32, 64]), st.integers(0, 40), min_size=1)


def make(curriculum, sizes: dict[int, int], tokens: int = 64, seed: int = 0) -> Plan:
    return curriculum.plan(sizes, tokens, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", EVERY)
@given(sizes=sizes, cycles=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_every_sequence_once_and_constant_tokens_a_step(kind, sizes, cycles) -> None:
    plan = make(kind(cycles), sizes)
    seen: dict[int, list[int]] = {length: [] for length in sizes}
    for step in plan.steps:
        assert step.length * len(step.rows) == 64
        seen[step.length] += step.rows.tolist()
    for length, size in sizes.items():
        left = plan.left_over.get(length, np.zeros(0, dtype=int)).tolist()
        assert sorted(seen[length] + left) == list(range(size))
        assert len(left) < 64 // length


@pytest.mark.parametrize("kind", EVERY)
def test_cycles_follow_each_other_and_share_every_bucket_evenly(kind) -> None:
    plan = make(kind(4), {8: 80, 16: 80, 32: 80})
    cycles = [step.cycle for step in plan.steps]
    assert cycles == sorted(cycles) and set(cycles) == {0, 1, 2, 3}
    for length in (8, 16, 32):
        of_length = [step.cycle for step in plan.steps if step.length == length]
        counts = [of_length.count(cycle) for cycle in range(4)]
        assert max(counts) - min(counts) <= 1


def test_the_odds_of_the_paper() -> None:
    assert Uniform().odds(6) == [1, 1, 1, 1, 1, 1]
    assert GrowLinear().odds(6) == [6, 5, 4, 3, 2, 1]
    assert GrowP2().odds(6) == [32, 16, 8, 4, 2, 1]
    assert (Uniform().cycles, GrowLinear().cycles, GrowP2().cycles) == (1, 8, 8)


def mean_length_by_quarter(curriculum) -> list[float]:
    sizes = {8: 3200, 16: 1600, 32: 800, 64: 400}  # equal tokens, as in the paper
    lengths = [step.length for step in make(curriculum, sizes).steps]
    return [float(np.mean(part)) for part in np.array_split(lengths, 4)]


def test_growing_curricula_grow_and_the_uniform_one_does_not() -> None:
    steep, gentle = mean_length_by_quarter(GrowP2(1)), mean_length_by_quarter(GrowLinear(1))
    flat = mean_length_by_quarter(Uniform(1))
    # Until the shortest bucket is used up, the odds and so the mean stay what they are.
    assert steep[0] < steep[2] < steep[3]
    assert gentle[0] < gentle[2] < gentle[3]
    assert steep[0] < gentle[0] < flat[0]
    assert max(flat) / min(flat) < 1.3 < 2 < steep[-1] / steep[0]


def test_each_cycle_goes_from_short_to_long() -> None:
    plan = make(GrowP2(3), {8: 3200, 16: 1600, 32: 800, 64: 400})
    for cycle in range(3):
        lengths = [step.length for step in plan.steps if step.cycle == cycle]
        first, *_, last = np.array_split(lengths, 4)
        assert np.mean(last) > 2 * np.mean(first)


def test_the_same_seed_gives_the_same_plan_and_another_seed_another() -> None:
    def flat(seed: int) -> list[tuple[int, list[int]]]:
        plan = make(GrowP2(2), {8: 90, 32: 30}, seed=seed)
        return [(step.length, step.rows.tolist()) for step in plan.steps]

    assert flat(3) == flat(3) != flat(4)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="cycles must be at least 1, got 0"):
        Uniform(0)
    with pytest.raises(ValueError, match="got 48 for sequences of 32: take a multiple of 32"):
        make(Uniform(), {16: 1, 32: 1}, tokens=48)
    with pytest.raises(ValueError, match="bucket 8 must have 0 or more sequences, has -1"):
        make(Uniform(), {8: -1})
