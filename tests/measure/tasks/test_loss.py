import pytest
import torch
from torch.nn.functional import cross_entropy

import lengthwise as lw
from lengthwise.measure.tasks.loss import (
    block_size,
    blocks,
    in_window_losses,
    in_window_pieces,
    loss_pieces,
    losses_by_position,
)


def one_shot(model, ids):
    with torch.no_grad():
        logits = model(input_ids=ids).logits[:, :-1]
    return cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")


@pytest.mark.parametrize("chunk", [1, 7, 64, 199, 200, 512])
def test_chunks_change_nothing(model, ids, chunk):
    expected = one_shot(model, ids)
    torch.testing.assert_close(losses_by_position(model, ids, chunk), expected, atol=1e-4, rtol=0)
    assert expected.std() > 0.3  # a model that ignored everything would pass too


def test_adapted_models_are_read_the_same_way(model, ids):
    expected = one_shot(model, ids)
    with lw.adapted(model):
        losses = losses_by_position(model, ids, chunk=50)
    torch.testing.assert_close(losses, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("window", [8, 9, 64])
@pytest.mark.parametrize("headed", [True, False])
@pytest.mark.parametrize("length", [3, 60, 63, 64, 65, 97, 200])
def test_in_window_losses_against_every_window_by_hand(model, ids, window, headed, length):
    """Token p is read in the first window whose second half holds it, or in the very last one."""
    ids = ids[:, :length]
    head = 0 if headed else None
    lead = int(headed)
    losses = in_window_losses(model, ids, window, head, chunk=32)
    assert losses.shape == (2, length - 1)
    size, step = window - lead, window // 2
    for p in range(1, length):
        first = lead
        while p >= first + size:  # the token lies behind this window
            first += step
        first = max(lead, min(first, length - size))
        begin = ids[:, first:p]
        context = torch.cat([ids[:, :1], begin], dim=1) if headed else begin
        assert context.shape[1] < window
        if length > window and p >= window:
            assert context.shape[1] >= window - step - 1
        with torch.no_grad():
            logits = model(input_ids=context).logits[:, -1]
        expected = cross_entropy(logits, ids[:, p], reduction="none")
        torch.testing.assert_close(losses[:, p - 1], expected, atol=2e-4, rtol=0)


def test_in_window_losses_never_see_far(model, ids):
    """A change of a token that lies a window back moves nothing."""
    changed = ids.clone()
    changed[:, 1:60] = 5
    before = in_window_losses(model, ids, 32, head=0)
    after = in_window_losses(model, changed, 32, head=0)
    assert torch.equal(before[:, 60 + 32 :], after[:, 60 + 32 :])
    assert not torch.allclose(before[:, 30:60], after[:, 30:60])


@pytest.mark.parametrize("chunk", [1, 16, 64])
def test_the_rest_of_a_text_is_the_end_of_the_whole(model, ids, chunk):
    """To the bit, and the head computes nothing for what is known."""
    row = ids[:1]
    whole = losses_by_position(model, row, chunk)
    computed = []
    model.lm_head.register_forward_hook(lambda *call: computed.append(call[2].shape[1]))
    for skip in (0, 1, 15, 16, 17, 100, 198):
        computed.clear()
        rest = torch.cat([*loss_pieces(model, row, chunk, skip)], dim=1)
        assert torch.equal(rest, whole[:, skip:])
        assert sum(n for n in computed if n > 1) <= 199 - skip // chunk * chunk
    read = []
    model.register_forward_pre_hook(lambda *call: read.append(1))
    for window, head in ((32, 0), (33, None), (300, 0)):
        read.clear()
        whole = in_window_losses(model, row, window, head, chunk)
        every = len(read)
        read.clear()
        for skip in (0, 1, 40, 150, 198):
            rest = torch.cat([*in_window_pieces(model, row, window, head, chunk, skip)], dim=1)
            assert torch.equal(rest, whole[:, skip:])
        assert len(read) < 5 * every if (window, chunk) == (32, 1) else len(read) <= 5 * every


def test_blocks_come_as_soon_as_they_are_full(model, ids):
    losses = losses_by_position(model, ids[:1], 64)
    for block in (1, 7, 64, 300):
        padded = torch.cat([torch.full((1, 1), torch.nan), losses.double()], dim=1)
        means = [float(part.nanmean(dim=1)) for part in padded.split(block, dim=1)]
        for size in (1, 10, 199):
            for known in {0, len(means) // 2, len(means) - 1}:
                pieces = losses[:, max(known * block - 1, 0) :].split(size, dim=1)
                found = [mean for some in blocks(pieces, block, known) for mean in some]
                assert found[1:] == means[known:][1:]
                assert found[0] == means[known] or (block == 1 and not known)  # has no loss


def test_blocks():
    losses = torch.arange(1.0, 11.0)[None]  # positions 1 to 10
    assert [*blocks([losses], 4)] == [[2.0, 5.5], [9.0]]
    assert block_size(8192, 512) == 64
    assert block_size(100, 512) == 12


def test_a_broken_model_is_refused(model, ids):
    with torch.no_grad():
        model.lm_head.weight[7] = torch.nan
    with pytest.raises(ValueError, match="position 1 is not a finite number"):
        losses_by_position(model, ids)


def test_training_mode_is_refused(model, ids):
    model.train()
    with pytest.raises(ValueError, match=r"model\.eval"):
        losses_by_position(model, ids)


def test_too_little_is_refused(model, ids):
    with pytest.raises(ValueError, match="at least 2 tokens, got 1"):
        losses_by_position(model, ids[:, :1])
    with pytest.raises(ValueError, match="window must be at least 4 tokens, got 3"):
        in_window_losses(model, ids, 3, head=0)
    with pytest.raises(ValueError, match="chunk must be at least 1 token, got 0"):
        losses_by_position(model, ids, chunk=0)
