"""Every row once an epoch, shared out over ranks, and the rest of an epoch after a kill."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.train.data.sampler import PackedSampler, PlannedSampler


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 4), st.integers(0, 9))
def test_ranks_together_see_every_row_once(rows, batch, ranks, seed):
    left = rows % (batch * ranks)
    drop = 0 < left < ranks
    samplers = [
        PackedSampler(rows, batch=batch, seed=seed, rank=rank, ranks=ranks, drop_last=drop)
        for rank in range(ranks)
    ]
    batches = [list(sampler) for sampler in samplers]
    assert len({len(b) for b in batches}) == 1 and len(batches[0]) == len(samplers[0])
    seen = [n for mine in batches for b in mine for n in b]
    assert len(seen) == len(set(seen)) == rows - (left if drop else 0)
    assert all(0 < len(b) <= batch for mine in batches for b in mine)


def test_orders_follow_seed_and_epoch():
    def order(**kw):
        return [n for b in PackedSampler(50, batch=4, **kw) for n in b]

    assert order() == order()
    assert order() != order(seed=1) and order() != order(epoch=1)
    assert order() != list(range(50))
    sampler = PackedSampler(50, batch=4)
    sampler.set_epoch(1)
    assert [n for b in sampler for n in b] == order(epoch=1)


def test_a_killed_run_goes_on_where_it_was():
    whole = list(PackedSampler(50, batch=4, seed=2, epoch=3))
    rest = PackedSampler(50, batch=4, seed=2, epoch=3, start=5)
    assert list(rest) == whole[5:] and len(rest) == len(whole) - 5
    rest.set_epoch(4)
    assert len(list(rest)) == len(whole)


def test_a_plan_is_followed():
    plan = [[3, 1], [0, 2, 4, 5]]
    assert list(PlannedSampler(plan)) == plan
    assert list(PlannedSampler(plan, rank=1, ranks=2)) == [[1], [2, 5]]
    assert list(PlannedSampler(plan, start=1)) == plan[1:]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 0, "batch": 1}, "rows must be at least 1, got 0"),
        ({"rows": 3, "batch": 0}, "batch must be at least 1, got 0"),
        ({"rows": 3, "batch": 1, "rank": 2, "ranks": 2}, "rank must be from 0 to 1, got 2"),
        ({"rows": 5, "batch": 1, "ranks": 4}, "1 rows for 4 ranks.*drop_last=True"),
        ({"rows": 5, "batch": 1, "start": 6}, "start must be from 0 to 5 batches, got 6"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PackedSampler(**arguments)


def test_refused_plans():
    with pytest.raises(ValueError, match="step 1 has 1 rows for 2 ranks"):
        PlannedSampler([[1, 2], [3]], ranks=2)
    with pytest.raises(ValueError, match="start must be from 0 to 1 steps, got 2"):
        PlannedSampler([[1]], start=2)
