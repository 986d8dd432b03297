"""What selectors with pages share."""

import torch

import lengthwise as lw
from lengthwise.core.keys import KeyBlock
from lengthwise.extend.selectors.paged import largest
from lengthwise.testing.bench import Bench


def test_slots_of_each_head_are_gathered_from_any_block():
    g = torch.Generator().manual_seed(0)
    for rows in (1, 3):
        store = lw.FullStore().state()
        keys, values = torch.randn(rows, 2, 9000, 4, generator=g), torch.randn(rows, 2, 9000, 6)
        positions = torch.arange(9000).expand(rows, 1, -1) - 5 * torch.arange(rows)[:, None, None]
        positions = positions.clamp(min=-1)
        for low, high in ((0, 8300), (8300, 8301), (8301, 9000)):
            cut = slice(low, high)
            store.extend(KeyBlock(keys[:, :, cut], values[:, :, cut], positions[:, :, cut]))
        assert len(store.blocks()) > 1  # a block is copied as it grows, but not beyond 8,192 keys
        slots = torch.randint(-1, 9000, (rows, 2, 40), generator=g)
        for asked in (slots, slots[:, :1]):
            got = store.gather(asked)
            for b in range(rows):
                for h in range(2):
                    for i, slot in enumerate(asked[b, h % asked.shape[1]].tolist()):
                        at = got.positions[b, h % asked.shape[1], i]
                        assert at == (positions[b, 0, slot] if slot >= 0 else -1)
                        if slot >= 0:
                            assert torch.equal(got.keys[b, h, i], keys[b, h, slot])
                            assert torch.equal(got.values[b, h, i], values[b, h, slot])


def test_of_equal_pages_the_first_are_read():
    for row, count, wanted in (
        ([1.0, 3, 3, 2, 3], 2, [0, 1, 1, 0, 0]),
        ([2.0, 2, 2, 2, 5], 3, [1, 1, 0, 0, 1]),
    ):
        wide = torch.tensor([row + [0.5] * 500, row + [-9.0] * 500])  # where topk takes others
        assert largest(wide, count)[:, :5].long().tolist() == [wanted] * 2
        assert largest(wide, count).sum().item() == 2 * count
    # Pages hold the same keys and other values: rounding, which chunks change, must not choose.
    bench = Bench()
    q, k, v = bench.tensors(1, 120)
    k = k[:, :, :4].repeat(1, 1, 30, 1)
    engine = bench.engine(lw.InfLLM(pages=3, page_size=4, sinks=4, window=8))
    state, reads = engine.new_state(0), []
    whole = bench.run(engine, (q, k, v), [120], state=state)
    parts = bench.run(engine, (q, k, v), [53, *[1] * 67])
    assert (whole - parts).abs().max() < 1e-10
    gather = state.store.gather
    state.store.gather = lambda slots: reads.append(slots) or gather(slots)
    bench.run(engine, bench.tensors(1, 1), [1], state=state, start=120)
    assert reads[-1].flatten().tolist() == [*range(4, 16)]
