"""Pages, where their tokens lie, and attention over the pages that queries chose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from lengthwise.core import pages as pages_module
from lengthwise.core.attention.reference import reference
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.pages import Paging, SlotMap, attend_pages
from lengthwise.core.regions import ByRank, Fixed, Grouped, Region
from lengthwise.core.rotary import Rotary

ROTARY = Rotary(100.0 ** -(torch.arange(3, dtype=torch.float64) / 3), 1.2)


def draw(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(size=st.integers(1, 9), first=st.integers(0, 9))
def test_pages_are_runs_of_positions(size, first):
    paging = Paging(size, first)
    positions = torch.arange(-1, 60)
    got = paging.page(positions)
    for p, page in zip(positions.tolist(), got.tolist(), strict=True):
        if p < first:
            assert page < 0
        else:
            assert first + page * size <= p <= first + (page + 1) * size - 1
            assert int(paging.last(torch.tensor(page))) == first + (page + 1) * size - 1


def arrivals(real, rows=3):
    """Logical positions `[rows, n]` of tokens that are real (1) or padding (0), per chunk."""
    seen, chunks = [0] * rows, []
    for chunk in real:
        lines = []
        for row, marks in enumerate(chunk):
            line = []
            for mark in marks:
                line.append(seen[row] if mark else -1)
                seen[row] += mark
            lines.append(line)
        chunks.append(torch.tensor(lines))
    return chunks


@st.composite
def chunks_with_padding(draw_):
    lengths = draw_(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    marks = [[[draw_(st.integers(0, 1)) for _ in range(n)] for _ in range(3)] for n in lengths]
    return arrivals(marks)


@given(chunks=chunks_with_padding(), keep=st.lists(st.integers(0, 2), min_size=1, max_size=4))
def test_a_slot_map_finds_every_token_between_any_padding(chunks, keep):
    slots = SlotMap()
    where = [{}, {}, {}]
    arrived = 0
    for chunk in chunks:
        slots.note(chunk)
        for row, line in enumerate(chunk.tolist()):
            where[row] |= {p: arrived + i for i, p in enumerate(line) if p >= 0}
        arrived += chunk.shape[1]
        asked = torch.arange(-1, 40).expand(3, -1)
        want = [[where[row].get(p, -1) for p in range(-1, 40)] for row in range(3)]
        assert slots.of(asked).tolist() == want
    assert slots.arrived == arrived
    assert slots.bytes() == slots.slots.numel() * 8
    slots.select_rows(torch.tensor(keep))
    got = slots.of(torch.arange(40).expand(len(keep), -1))
    assert got.tolist() == [[where[row].get(p, -1) for p in range(40)] for row in keep]


def test_a_slot_map_before_anything_arrived():
    slots = SlotMap()
    assert slots.bytes() == 0
    slots.select_rows(torch.tensor([0]))
    slots.note(torch.full((2, 3), -1))  # a chunk of nothing but padding
    assert slots.of(torch.tensor([[0, 1], [-1, 5]])).tolist() == [[-1, -1], [-1, -1]]
    slots.note(torch.tensor([[0, 1], [-1, 0]]))
    assert slots.of(torch.tensor([[0, 1], [0, 1]])).tolist() == [[3, 4], [4, -1]]


class Memory:
    """Keys in their order of arrival; a slot that is empty holds another token's."""

    def __init__(self, positions, b=3, kv=2, width=8):
        n = positions.shape[1]
        self.positions = positions
        self.keys, self.values = draw(1, b, kv, n, 8), draw(2, b, kv, n, width)
        self.slots = SlotMap()
        self.slots.note(positions)
        self.read = 0

    def gather(self, slots):
        b, _, m = slots.shape
        at = slots.clamp(min=0)[..., None]
        kv = self.keys.shape[1]
        keys = self.keys.gather(2, at.expand(b, kv, m, self.keys.shape[-1]))
        values = self.values.gather(2, at.expand(b, kv, m, self.values.shape[-1]))
        where = self.positions[:, None].expand(b, slots.shape[1], -1)
        positions = torch.where(slots >= 0, where.gather(2, slots.clamp(min=0)), -1)
        self.read += m
        return KeyBlock(keys, values, positions)

    def block(self):
        return KeyBlock(self.keys, self.values, self.positions[:, None])


def spelled(queries, chosen, paging, memory, region, **kw):
    """Dense attention under the mask "my page, among those that I chose", looked up by loops."""
    rows = []
    for b in range(len(chosen)):
        times = {p: i for i, p in enumerate(queries.positions[b].tolist()) if p >= 0}
        allowed = torch.zeros(4, 64, 64, dtype=torch.bool)
        for p, time in times.items():
            for k in range(paging.first, 64):
                page = (k - paging.first) // paging.size
                for h in range(4):
                    mine = chosen[b, h // (4 // chosen.shape[1])]
                    allowed[h, p, k] = page < chosen.shape[3] and mine[time, page]

        def also(_, h, q, k, allowed=allowed, before=region.also):
            mine = allowed[h, q.clamp(min=0), k.clamp(min=0)] & (q >= 0) & (k >= 0)
            return mine if before is None else mine & before(_, h, q, k)

        one = Queries(queries.vectors[b : b + 1], queries.positions[b : b + 1])
        held = memory.block()
        row = KeyBlock(*(getattr(held, n)[b : b + 1] for n in ("keys", "values", "positions")))
        alone = Region(region.near, region.far, region.first, region.last,
                       region.q_place, region.k_place, also, region.score)  # fmt: skip
        rows.append(reference(one, row, [alone], rotary=ROTARY, stored=kw["stored"], scale=0.4))
    return torch.cat([r.out for r in rows]), torch.cat([r.lse for r in rows])


POSITIONS = torch.tensor(
    [
        [*range(24)],
        [-1] * 5 + [*range(19)],
        [*range(9), -1, -1, 9, 10, -1, *range(11, 21)],  # padding in the middle
    ]
)


def even(b, h, q, k):
    return (k + h) % 2 == 0


@pytest.mark.parametrize("tile", [1, 4, 128])
@pytest.mark.parametrize("impl", ["chunked", "decode", "auto", "reference"])
@pytest.mark.parametrize("first, size", [(0, 4), (2, 3)])
@pytest.mark.parametrize(
    "region",
    [
        Region(),
        Region(near=3),
        Region(near=2, far=15, q_place=Fixed(9), k_place=Fixed(0)),
        Region(near=1, q_place=Grouped(3, 4), k_place=Grouped(3), also=even),
    ],
    ids=["all", "near", "fixed", "predicate"],
)
def test_chosen_pages_equal_dense_attention_under_their_mask(
    tile, impl, first, size, region, monkeypatch
):
    monkeypatch.setattr(pages_module, "QUERY_TILE", tile)
    memory, paging = Memory(POSITIONS), Paging(size, first)
    queries = Queries(draw(0, 3, 4, 11, 8), POSITIONS[:, 13:])
    g = torch.Generator().manual_seed(size)
    kw = {"rotary": ROTARY, "stored": None, "scale": 0.4}
    for heads in (1, 2):
        chosen = torch.rand(3, heads, 11, (24 - first) // size + 1, generator=g) < 0.4
        chosen[0, :, 2] = False  # a query that reads nothing
        chosen[1, :, :, 1:] = False  # and a row that reads less than others
        got = attend_pages(
            queries, chosen, paging, memory.slots, memory.gather, region, impl=impl, **kw
        )
        out, lse = spelled(queries, chosen, paging, memory, region, **kw)
        assert_close(got.out, out, rtol=0, atol=1e-10)
        assert_close(got.lse, lse, rtol=0, atol=1e-10)


def test_pages_in_a_row_stand_where_their_rank_puts_them():
    """Every pair by itself, with the distance that counting the chosen pages gives."""
    memory, paging, end = Memory(POSITIONS), Paging(3, 2), 40
    queries = Queries(draw(0, 3, 4, 11, 8), POSITIONS[:, 13:])
    g = torch.Generator().manual_seed(1)
    chosen = torch.rand(3, 2, 11, 8, generator=g) < 0.4
    region = Region(near=1, q_place=Fixed(45), k_place=ByRank())
    want = torch.zeros(3, 4, 11, 8, dtype=torch.float64)
    for b in range(3):
        slot_of = {p: slot for slot, p in enumerate(POSITIONS[b].tolist()) if p >= 0}
        for h in range(4):
            for t, asked in enumerate(queries.positions[b].tolist()):
                scores, values = [], []
                mine = chosen[b, h // 2, t].nonzero()[:, 0].tolist()
                for rank, page in enumerate(mine):
                    for offset in range(3):
                        position = 2 + 3 * page + offset
                        if position not in slot_of or position >= asked:
                            continue
                        at = torch.tensor([[[end - 3 * (len(mine) - rank) + offset]]])
                        key = memory.keys[b, h // 2, slot_of[position]][None, None, None]
                        q = queries.vectors[b, h, t][None, None, None]
                        q = ROTARY.rotate(q, torch.tensor([[[45]]]))
                        scores.append((q * ROTARY.rotate(key, at)).sum() * 0.4)
                        values.append(memory.values[b, h // 2, slot_of[position]])
                if scores:
                    weights = torch.softmax(torch.stack(scores), 0)
                    want[b, h, t] = (weights[:, None] * torch.stack(values)).sum(0)
    args = (paging, memory.slots, memory.gather, region, end)
    for impl in ("reference", "chunked", "decode", "auto"):
        kw = {"rotary": ROTARY, "stored": None, "scale": 0.4, "impl": impl}
        assert_close(attend_pages(queries, chosen, *args, **kw).out, want, rtol=0, atol=1e-10)
    with pytest.raises(ValueError, match="a key by itself has none"):
        attend_pages(queries, chosen, *args[:-1], **kw)


@given(seed=st.integers(0, 10**6), tile=st.integers(1, 6), size=st.integers(1, 5))
@settings(max_examples=40)
def test_queries_between_any_padding_read_their_own_pages(seed, tile, size):
    g = torch.Generator().manual_seed(seed)
    real = (torch.rand(3, 20, generator=g) < 0.7).long()
    memory = Memory(torch.where(real > 0, real.cumsum(1) - 1, -1))
    queries = Queries(draw(0, 3, 4, 9, 8), memory.positions[:, 11:])
    chosen = torch.rand(3, 1, 9, 20 // size + 1, generator=g) < 0.5
    kw = {"rotary": ROTARY, "stored": None, "scale": 0.4}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages_module, "QUERY_TILE", tile)
        got = attend_pages(
            queries, chosen, Paging(size), memory.slots, memory.gather, Region(), **kw
        )
    out, lse = spelled(queries, chosen, Paging(size), memory, Region(), **kw)
    assert_close(got.out, out, rtol=0, atol=1e-10)
    assert_close(got.lse, lse, rtol=0, atol=1e-10)


def test_only_chosen_pages_are_read_and_neighbours_do_not_matter():
    memory, paging = Memory(POSITIONS), Paging(4)
    queries = Queries(draw(0, 3, 4, 11, 8), POSITIONS[:, 13:])
    chosen = torch.zeros(3, 1, 11, 6, dtype=torch.bool)
    chosen[:, :, :, 2] = True
    kw = {"rotary": ROTARY, "stored": None, "scale": 0.4}
    args = (paging, memory.slots, memory.gather, Region(near=1))
    alone = attend_pages(queries, chosen, *args, **kw)
    assert memory.read == paging.size
    chosen[:, :, 5] = True
    together = attend_pages(queries, chosen, *args, **kw)
    others = [i for i in range(11) if i != 5]
    assert_close(together.out[:, :, others], alone.out[:, :, others], rtol=0, atol=1e-12)
    assert not torch.allclose(together.out[:, :, 5], alone.out[:, :, 5])


def test_no_pages_give_the_empty_part():
    memory = Memory(POSITIONS, width=5)
    queries = Queries(draw(0, 3, 4, 11, 8), POSITIONS[:, 13:])
    kw = {"rotary": ROTARY, "stored": None, "scale": 0.4}
    for pages in (0, 3):
        none = torch.zeros(3, 1, 11, pages, dtype=torch.bool)
        got = attend_pages(queries, none, Paging(4), memory.slots, memory.gather, Region(), **kw)
        assert got.out.shape == (3, 4, 11, 5) and not got.out.any()
        assert bool(got.lse.isneginf().all())
