"""Bands of distances and of keys, against loops."""

import itertools
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import lengthwise as lw
from lengthwise.core.attention import reachable, settled
from lengthwise.core.attention.chunked import coverage
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.pages import Paging
from lengthwise.core.regions import (
    OWN,
    Capped,
    ChunksBack,
    Divided,
    Fixed,
    Grouped,
    InChunk,
    Own,
    Region,
    Shifted,
    disjoint,
    same_segment,
    visible_pairs,
)

maybe = st.one_of(st.none(), st.integers(0, 14))
bands = st.fixed_dictionaries(
    {"near": st.integers(0, 8), "far": maybe, "first": st.integers(0, 8), "last": maybe}
)


def inside(band, q, k):
    """The definition, for two numbers."""
    return (
        q >= 0
        and k >= 0
        and q - k >= band["near"]
        and (band["far"] is None or q - k < band["far"])
        and k >= band["first"]
        and (band["last"] is None or k < band["last"])
    )


def pairs(region, length=16):
    p = torch.arange(-1, length)[None]
    return visible_pairs(region, p, p[:, None], 1)[0, 0]


def by_loops(rule, length=16):
    rows = range(-1, length)
    return torch.tensor([[rule(q, k) for k in rows] for q in rows])


@given(band=bands)
def test_a_band_shows_what_its_numbers_say(band):
    region = Region(**band)
    assert torch.equal(pairs(region), by_loops(lambda q, k: inside(band, q, k)))
    if region.empty:
        assert not pairs(region).any()


@given(one=bands, other=bands)
def test_within_is_both_bands(one, other):
    cut = Region(**one).within(**other)
    assert torch.equal(pairs(cut), pairs(Region(**one)) & pairs(Region(**other)))


def test_within_keeps_all_but_the_bands():
    def odd(b, h, q, k):
        return k % 2 == 1

    region = Region(q_place=Fixed(3), k_place=Grouped(2), also=odd, paged=True)
    cut = region.within(near=2, last=9, paged=True)
    assert cut == Region(near=2, last=9, q_place=Fixed(3), k_place=Grouped(2), also=odd, paged=True)
    assert region.within(near=2).paged  # as it was, unless said
    assert not region.within(near=2, paged=False).paged
    assert not replace(region, paged=False).within(near=2).paged


def test_a_predicate_narrows_a_band_by_batch_and_head():
    def also(b, h, q, k):
        return (k + b + h) % 2 == 0

    p = torch.arange(5).expand(2, 5)
    got = visible_pairs(Region(far=3, also=also), p, p[:, None], 3)
    for b, h, q, k in itertools.product(range(2), range(3), range(5), range(5)):
        assert bool(got[b, h, q, k]) == (0 <= q - k < 3 and (k + b + h) % 2 == 0)


def test_positions_of_each_kv_head_are_shared_by_its_group():
    k = torch.tensor([[[0, 1, 2], [4, -1, 1]]])
    got = visible_pairs(Region(), torch.tensor([[1, 4]]), k, heads=4)
    low, high = (
        [[True, True, False], [True, True, True]],
        [[False, False, True], [True, False, True]],
    )
    assert got.tolist() == [[low, low, high, high]]


def test_places_are_rules_that_compare():
    p = torch.tensor([0, 1, 5, 8, 9])
    assert Own()(p).tolist() == [0, 1, 5, 8, 9]
    assert Fixed(7)(p).tolist() == [7] * 5
    assert Capped(5)(p).tolist() == [0, 1, 5, 5, 5]
    assert Grouped(4, 10)(p).tolist() == [10, 10, 11, 12, 12]
    rules = [Own(), Fixed(0), Fixed(1), Capped(0), Capped(1), Grouped(1), Grouped(2), Grouped(2, 1)]
    for i, j in itertools.product(range(len(rules)), repeat=2):
        assert (rules[i] == rules[j]) == (i == j)
    assert Own() == OWN and Grouped(2) == Grouped(2, 0)
    assert len({*rules, Own(), Fixed(1), Grouped(2, 1)}) == len(rules)


def test_documents_see_only_themselves():
    q, k = torch.tensor([[0, 1]]), torch.tensor([[0, 0, 1]])
    assert same_segment(q, k).tolist() == [[[[True, True, False], [False, False, True]]]]
    assert same_segment(None, k) is None and same_segment(q, None) is None


def test_disjoint_finds_a_pair_that_is_seen_twice():
    assert disjoint([Region(far=4), Region(near=4)], 12)
    assert not disjoint([Region(far=5), Region(near=4)], 12)
    assert disjoint([Region(far=5), Region(near=4)], 4)  # no distance is that long
    assert not disjoint([Region(far=4), Region(near=3, last=1)], 12)
    assert disjoint([], 3)


@pytest.mark.parametrize(
    "layout",
    [
        lw.Causal(),
        lw.SlidingWindow(window=5),
        lw.LMInfinite(sinks=3, window=5),
        lw.LMInfinite(sinks=9, window=1),
        lw.SelfExtend(group=3, window=6),
        lw.CacheSlots(sinks=3, window=5),
        lw.FarAsOne(window=5),
        lw.STRING(shift=7, window=3),
        lw.ReRoPE(window=5),
        lw.LeakyReRoPE(factor=3, window=5),
        lw.DualChunk(chunk=11, window=4),
        lw.GALI(trained=11, window=3),
        lw.HiRoPE(starts=(0, 4, 9), pairs=4, split=2, window=6),
    ],
    ids=lambda layout: type(layout).__name__,
)
def test_regions_of_exported_layouts_are_disjoint(layout):
    regions = layout.regions()
    assert disjoint(regions, 40)
    assert disjoint(lw.StreamingLLM(sinks=4, window=7).restrict(regions), 40)
    pages = Paging(size=4, first=2)

    def in_a_page(b, h, q, k):  # what may be chosen, all of it
        return pages.last(pages.page(k)) <= q - 6

    cut = lw.InfLLM(pages=1, page_size=4, sinks=2, window=6).restrict(regions)
    assert disjoint([replace(r, also=in_a_page) if r.paged else r for r in cut], 40)


def test_every_exported_layout_is_checked_for_disjointness():
    from lengthwise.extend import layouts

    marked = test_regions_of_exported_layouts_are_disjoint.pytestmark[0].args[1]
    assert {type(layout).__name__ for layout in marked} == set(layouts.__all__)


runs = st.tuples(st.integers(0, 20), st.integers(1, 6))


def aligned(q_run, k_run):
    (q0, t), (k0, n) = q_run, k_run
    queries = Queries(torch.zeros(1, 1, t, 2), torch.arange(q0, q0 + t)[None], None, q0)
    kv = torch.zeros(1, 1, n, 2)
    return queries, KeyBlock(kv, kv, torch.arange(k0, k0 + n)[None, None], None, k0)


@given(band=bands, q_run=runs, k_run=runs)
@settings(max_examples=300)
def test_coverage_is_what_the_pairs_say(band, q_run, k_run):
    queries, block = aligned(q_run, k_run)
    region = Region(**band)
    seen = visible_pairs(region, queries.positions, block.positions, 1)
    got = coverage(region, queries, block)
    # A band cut by key positions may be empty on a tile without arithmetic seeing it.
    if got != "some":
        assert got == ("all" if seen.all() else "none" if not seen.any() else "some")
    else:
        assert not seen.all()


@given(band=bands, q_run=runs, k_run=runs)
@settings(max_examples=300)
def test_reachable_slots_at_consecutive_positions(band, q_run, k_run):
    queries, block = aligned(q_run, k_run)
    region = Region(**band)
    seen = visible_pairs(region, queries.positions, block.positions, 1)[0, 0].any(0)
    got = reachable(region, queries, block)
    held = torch.zeros_like(seen)
    if got is not None:
        assert got.start == int(got.positions[0, 0, 0])
        held[got.start - block.start : got.start - block.start + len(got)] = True
    assert torch.equal(seen, held)


holes = st.lists(st.integers(-1, 9), min_size=1, max_size=3)
narrow = st.fixed_dictionaries(
    {
        "near": st.integers(0, 3),
        "far": st.one_of(st.none(), st.integers(1, 6)),
        "first": st.integers(0, 3),
        "last": st.one_of(st.none(), st.integers(2, 9)),
    }
)


@given(band=narrow, queries=st.lists(holes, min_size=2, max_size=2), data=st.data())
@settings(max_examples=300)
def test_reachable_slots_anywhere(band, queries, data):
    t = min(map(len, queries))
    q = torch.tensor([row[:t] for row in queries])
    n = data.draw(st.integers(1, 4))
    slots = st.lists(st.integers(-1, 9), min_size=4 * n, max_size=4 * n)
    k = torch.tensor(data.draw(slots)).view(2, 2, n)
    marked = torch.arange(n, dtype=torch.float)[None, None, :, None].expand(2, 2, n, 1)
    region = Region(**band)
    seen = visible_pairs(region, q, k, 2).flatten(0, 2).any(0)
    got = reachable(region, Queries(torch.zeros(2, 2, t, 1), q), KeyBlock(marked, marked, k))
    kept = [] if got is None else got.keys[0, 0, :, 0].long().tolist()
    assert got is None or kept == list(range(kept[0], kept[-1] + 1))
    assert set(seen.nonzero()[:, 0].tolist()) <= set(kept)


def test_places_that_restart_shift_and_shrink():
    p = torch.tensor([[0, 1, 5, 6, 7, 13]])
    assert InChunk(6)(p).tolist() == [[0, 1, 5, 0, 1, 1]]
    assert InChunk(6, shift=6, limit=8)(p).tolist() == [[6, 7, 8, 6, 7, 7]]
    assert Shifted(-2)(p).tolist() == [[-2, -1, 3, 4, 5, 11]]
    assert Divided(4, 2)(p).tolist() == [[0.5, 0.75, 1.75, 2, 2.25, 3.75]]


@given(
    chunk=st.integers(1, 6),
    near=st.integers(0, 3),
    more=st.one_of(st.none(), st.integers(1, 3)),
    band=bands,
    q_start=st.integers(0, 20),
    k_start=st.integers(0, 20),
    t=st.integers(1, 9),
    n=st.integers(1, 9),
)
@settings(deadline=None)
def test_a_range_of_keys_is_a_loop_over_chunks(chunk, near, more, band, q_start, k_start, t, n):
    far = None if more is None else near + more
    region = Region(**band, range_of=ChunksBack(chunk, near, far))
    q, k = torch.arange(q_start, q_start + t), torch.arange(k_start, k_start + n)
    seen = visible_pairs(region, q[None], k[None, None], 1)[0, 0]
    for i, a in enumerate(q.tolist()):
        for j, b in enumerate(k.tolist()):
            back = a // chunk - b // chunk
            inside_chunks = back >= near and (far is None or back < far)
            assert seen[i, j] == (inside(band, a, b) and inside_chunks)
    queries = Queries(torch.zeros(1, 1, t, 2), q[None], None, q_start)
    block = KeyBlock(torch.zeros(1, 1, n, 2), torch.zeros(1, 1, n, 2), k[None, None], None, k_start)
    covered = coverage(region, queries, block)
    assert {"all": seen.all(), "none": not seen.any(), "some": True}[covered]
    cut = reachable(region, queries, block)
    held = torch.zeros_like(seen)
    if cut is not None:
        held[:, cut.start - k_start : cut.start - k_start + len(cut)] = True
    assert not (seen & ~held).any()
    plain = settled(region, queries)
    assert plain.range_of is None or plain is region
    assert torch.equal(visible_pairs(plain, q[None], k[None, None], 1)[0, 0], seen)
