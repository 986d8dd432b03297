"""Blocks of keys and runs of queries, cut and joined."""

from dataclasses import replace

import pytest
import torch

from lengthwise.core.keys import KeyBlock, Queries, concatenate


def block(n, *, start=None, heads=1, segments=None, seed=0):
    g = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, 3, n, 4, generator=g), torch.randn(2, 3, n, 5, generator=g)
    positions = (torch.arange(n) + (start or 0)).expand(2, heads, n)
    return KeyBlock(keys, values, positions, segments, start)


def same(one, other):
    for name in ("keys", "values", "positions", "segments"):
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None) and (a is None or torch.equal(a, b)), name
    assert one.start == other.start


def test_slots_cut_every_part_and_move_the_start():
    whole = block(7, start=10, segments=torch.arange(14).view(2, 7))
    cut = whole.slots(2, 5)
    assert len(whole) == 7 and len(cut) == 3
    assert cut.start == 12 and cut.positions.tolist() == [[[12, 13, 14]]] * 2
    assert torch.equal(cut.keys, whole.keys[:, :, 2:5])
    assert torch.equal(cut.values, whole.values[:, :, 2:5])
    assert torch.equal(cut.segments, whole.segments[:, 2:5])
    same(cut.slots(1, 2), whole.slots(3, 4))
    assert block(4).slots(1, 3).start is None and block(4).slots(1, 3).segments is None


def test_times_cut_every_part_and_move_the_start():
    vectors, positions = torch.randn(2, 6, 5, 4), torch.arange(5).expand(2, 5) + 3
    whole = Queries(vectors, positions, torch.arange(10).view(2, 5), 3)
    cut = whole.times(1, 4)
    assert len(whole) == 5 and len(cut) == 3 and cut.start == 4
    assert torch.equal(cut.vectors, vectors[:, :, 1:4])
    assert torch.equal(cut.positions, positions[:, 1:4])
    assert torch.equal(cut.segments, whole.segments[:, 1:4])
    assert Queries(vectors, positions).times(0, 2).start is None


def test_joining_what_was_cut_gives_everything_back_but_the_start():
    whole = block(7, start=2, heads=3, segments=torch.arange(14).view(2, 7))
    joined = concatenate([whole.slots(0, 3), whole.slots(3, 3), whole.slots(3, 7)])
    same(joined, KeyBlock(whole.keys, whole.values, whole.positions, whole.segments, None))


def test_one_block_is_itself():
    only = block(3, start=1)
    assert concatenate([only]) is only


def test_shared_positions_join_positions_of_each_head():
    shared, each = block(2, start=0), block(3, start=2, heads=3, seed=1)
    joined = concatenate([shared, each])
    assert joined.positions.tolist() == [[[0, 1, 2, 3, 4]] * 3] * 2


def test_places_are_cut_and_not_mixed_with_blocks_that_have_none():
    whole = replace(block(7), places=torch.arange(7)[None, None] * 2)
    assert whole.slots(2, 4).places.tolist() == [[[4, 6]]]
    with pytest.raises(ValueError, match="places of their own"):
        concatenate([whole, block(2)])
