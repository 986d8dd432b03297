"""STRING, ReRoPE and dual chunk attention against their papers' tables and limits."""

import math

import pytest
import torch

import lengthwise as lw
from lengthwise.testing.bench import Bench


def distances(layout, length):
    """The apparent distance of every causal pair, by the layout's own table; -1 elsewhere."""
    p = torch.arange(length)
    seen, distance = layout.reference(p[:, None], p[None])
    return distance.where(seen & (p[None] <= p[:, None]), -1)


def by_regions(layout, length):
    """The same from what attention really uses: the places of its regions."""
    p = torch.arange(length)
    table = torch.full((length, length), -1.0, dtype=torch.float64)
    zero = torch.zeros((), dtype=torch.long)
    for region in layout.regions():
        seen = region.visible(zero, zero, p[:, None], p[None])
        apart = region.q_place(p)[:, None] - region.k_place(p)[None]
        table = torch.where(seen, apart.double(), table)
    return table


@pytest.mark.parametrize(
    "layout",
    [
        lw.STRING(shift=7, window=3),
        lw.STRING(shift=1, window=1),
        lw.ReRoPE(window=4),
        lw.LeakyReRoPE(factor=2.5, window=4),
        lw.DualChunk(chunk=9, window=3),
        lw.DualChunk(chunk=8, window=4),
        lw.GALI(trained=9, window=2, factor=4),
    ],
    ids=lambda layout: type(layout).__name__,
)
def test_the_regions_are_the_table(layout):
    assert torch.allclose(by_regions(layout, 41), distances(layout, 41).double(), atol=1e-12)


def test_string_moves_far_distances_down():
    row = distances(lw.STRING(shift=6, window=2), 10)[9].tolist()
    assert row == [5, 4, 3, 2, 5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize("length", [5, 6, 20, 33])
def test_the_largest_distance_of_string_is_the_cards(length):
    shift, window = 9, 4
    largest = distances(lw.STRING(shift=shift, window=window), length).max().item()
    assert largest == max(min(length, shift) - 1, length - 1 - shift + window)


def test_rerope_stops_and_leaky_rerope_slows():
    assert distances(lw.ReRoPE(window=3), 7)[6].tolist() == [3, 3, 3, 3, 2, 1, 0]
    leaky = distances(lw.LeakyReRoPE(factor=4, window=3), 7)[6].tolist()
    assert leaky == [3.75, 3.5, 3.25, 3.0, 2.0, 1.0, 0.0]


def test_leaky_rerope_becomes_rerope_as_its_factor_grows():
    bench = Bench()
    tensors = bench.tensors(1, 40)
    hard = bench.run(bench.engine(lw.ReRoPE(window=8)), tensors)
    soft = bench.run(bench.engine(lw.LeakyReRoPE(factor=1e9, window=8)), tensors)
    assert (hard - soft).abs().max() < 1e-6


def test_dual_chunk_is_the_example_of_its_paper():
    """Section 3 with a window of 10 and chunks of 6: successive 6 7 8 9 9 9, inter 9."""
    table = distances(lw.DualChunk(chunk=9, window=3), 18)
    assert table[3, :4].tolist() == [3, 2, 1, 0]  # intra
    assert table[6:12, 0].tolist() == [6, 7, 8, 9, 9, 9]  # successive, key at place 0
    assert (table[12:, :6] == 9 - torch.arange(6)).all()  # inter
    assert table.max() == 9


@pytest.mark.parametrize("chunk, window", [(9, 3), (12, 5), (20, 1), (10, 5)])
def test_dual_chunk_keeps_near_distances_and_bounds_far_ones(chunk, window):
    p = torch.arange(70)
    table, true = distances(lw.DualChunk(chunk=chunk, window=window), 70), p[:, None] - p[None]
    near = (true >= 0) & (true <= window)
    assert torch.equal(table[near], true[near])
    assert table.max() <= chunk


def test_the_temperature_of_dual_chunk_follows_the_query():
    layout = lw.DualChunk(chunk=12, window=4, trained=10)
    factor = layout.sharpness(0, 64, torch.tensor([[-1, 0, 9, 10, 99]]))[0, 0]
    expected = [1, 1, 1, (0.1 * math.log(1.1) + 1) ** 2, (0.1 * math.log(10) + 1) ** 2]
    assert factor.tolist() == pytest.approx(expected, abs=1e-12)
    assert lw.DualChunk(chunk=12, window=4).sharpness(0, 64, torch.tensor([[99]])) is None
