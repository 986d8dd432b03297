"""What selectors with pages share."""

import torch

import lengthwise as lw
from lengthwise.core.keys import KeyBlock


def test_slots_of_each_head_are_gathered_from_any_block():
    g = torch.Generator().manual_seed(0)
    for rows in (1, 3):
        store = lw.FullStore().state()
        keys, values = torch.randn(rows, 2, 700, 4, generator=g), torch.randn(rows, 2, 700, 6)
        positions = torch.arange(700).expand(rows, 1, -1) - 5 * torch.arange(rows)[:, None, None]
        positions = positions.clamp(min=-1)
        for low, high in ((0, 300), (300, 301), (301, 700)):
            cut = slice(low, high)
            store.extend(KeyBlock(keys[:, :, cut], values[:, :, cut], positions[:, :, cut]))
        assert len(store.blocks()) > 1
        slots = torch.randint(-1, 700, (rows, 2, 40), generator=g)
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
