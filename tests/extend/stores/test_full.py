"""The store that keeps everything: its blocks grow without losing a token, and little waits."""

import torch

import lengthwise as lw
from lengthwise.core.keys import KeyBlock, concatenate


def tokens(start, count, heads=2, width=4):
    x = torch.arange(start, start + count).float()[None, None, :, None].expand(1, heads, -1, width)
    return KeyBlock(x, -x, torch.arange(start, start + count)[None, None], None, start)


def filled(forwards):
    """A state that has read forwards of so many tokens, and where each of them ended."""
    state, ends = lw.FullStore().state(), [0]
    for count in forwards:
        blocks = state.extend(tokens(ends[-1], count))
        ends.append(ends[-1] + count)
        assert sum(map(len, blocks)) == ends[-1] == state.held
    return state, ends[1:]


def test_nothing_is_lost_where_blocks_grow():
    for forwards in (
        [1] * 400,
        [300, *[1] * 200],
        [512] * 40,
        [9000, 1, 1, 700],
        [8192, 1, 8192, 3],
    ):
        state, ends = filled(forwards)
        held = concatenate(state.blocks())
        assert held.positions[0, 0].tolist() == list(range(ends[-1]))
        assert torch.equal(held.keys[0, 0, :, 0], torch.arange(ends[-1]).float())
        assert torch.equal(held.values, -held.keys)
        assert all(block.start is not None for block in state.blocks())
        allocated = sum(buffer.keys.shape[2] for buffer in state.buffers)
        assert allocated == lw.FullStore().slots(ends)
        # A block of up to 8,192 tokens is grown further, so there are few.
        assert len(state.blocks()) <= 1 + ends[-1] // 8192


def test_at_most_a_tenth_more_than_the_keys_themselves_from_two_thousand_tokens():
    for forwards in ([2048, *[1] * 64], [2000, *[1] * 200], [1024] * 4, [4096, *[1] * 20]):
        state, ends = filled(forwards)
        exact = 2 * 2 * 4 * 4 * ends[-1]  # keys and values, heads, numbers and their bytes
        positions = sum(buffer.positions.nbytes for buffer in state.buffers)
        assert state.bytes() - positions <= 1.1 * exact, forwards
