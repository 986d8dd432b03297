"""Loss by context, and the context from which on more of it does not help."""

import pytest
import torch

import lengthwise as lw
from lengthwise.measure.probes import effective_context, losses_by_context
from lengthwise.measure.tasks.loss import losses_by_position
from lengthwise.testing.models import KINDS, tiny_model

LADDER = [2, 4, 8, 16, 32, 64]


def seeded():
    return torch.Generator().manual_seed(0)


def test_the_context_of_a_model_that_looks_ten_back_is_found(looks_back, periodic):
    losses = losses_by_context(looks_back(10), periodic(10, 300), LADDER, block=1)
    assert losses.shape == (236, 6)
    flat = losses.mean(0)
    assert flat[:3].min() > 3 and flat[3:].max() < 0.5  # from 16 on the token 10 back is there
    found = effective_context(losses, LADDER, seeded())
    assert (found.value, found.low, found.high) == (16, 16, 16)
    # Of a block behind 8 tokens the last two have the token 10 back, behind 4 none.
    blocks = losses_by_context(looks_back(10), periodic(10, 300), [4, 8], block=4)
    assert (blocks[:, 1] < blocks[:, 0]).all()


@pytest.mark.parametrize("head", [None, 1])
@pytest.mark.parametrize("block", [1, 5])
def test_against_every_row_by_hand(head, block):
    model = tiny_model("llama").double()
    ids = torch.randint(3, 300, (60,), generator=seeded())
    losses = losses_by_context(model, ids, [3, 20], block=block, places=4, head=head, chunk=7)
    room = (60 - 20) // block
    for place in range(4):
        start = 20 + block * (place * room // 4)
        for column, context in enumerate((3, 20)):
            row = ids[start - context : start + block]
            if head is not None:
                row = torch.cat([torch.tensor([head]), row])
            by_hand = losses_by_position(model, row[None])[0, -block:].double().mean()
            torch.testing.assert_close(losses[place, column], by_hand, atol=1e-6, rtol=0)


@pytest.mark.parametrize("family", KINDS)
def test_every_family_and_adapted_models(family):
    model = tiny_model(family)
    ids = torch.randint(3, 300, (100,), generator=seeded())
    plain = losses_by_context(model, ids, [4, 12], places=3, chunk=16)
    with lw.adapted(model):
        again = losses_by_context(model, ids, [4, 12], places=3, chunk=16)
    torch.testing.assert_close(plain, again, atol=1e-4, rtol=1e-4)
    with lw.adapted(model, lw.StreamingLLM(sinks=2, window=6)):
        cut = losses_by_context(model, ids, [4, 12], places=3, block=1, chunk=16)
    assert cut.isfinite().all()


def test_memory_is_that_of_a_batch(looks_back, periodic):
    model = looks_back(4)
    losses_by_context(model, periodic(4, 500), [64], block=8, places=20)
    assert model.widest <= 64 + 8


def test_context_that_harms_is_no_help():
    """Beyond a window the loss rises: the effective context ends where it was lowest."""
    curve = torch.tensor([3.0, 2.5, 2.2, 2.2, 4.0, 6.0])
    noise = 0.05 * torch.randn(40, 1, generator=seeded(), dtype=torch.float64)
    found = effective_context(curve + noise, LADDER, seeded())
    assert (found.value, found.low, found.high) == (8, 8, 8)


def test_a_curve_that_still_falls_is_not_resolved():
    curve = torch.tensor([3.0, 2.8, 2.6, 2.4, 2.2, 2.0])
    found = effective_context(curve.repeat(20, 1), LADDER, seeded())
    assert found.value == found.high == LADDER[-1]


def test_the_interval_holds_the_truth_and_is_not_everything():
    """Noisy curves whose true end is 16: covered by nearly all intervals of 95%."""
    truth = torch.tensor([2.6, 2.3, 2.15, 2.0, 2.0, 2.0], dtype=torch.float64)
    generator = seeded()
    held, widths = 0, 0
    for _ in range(100):
        losses = truth + 0.25 * torch.randn(60, 6, generator=generator, dtype=torch.float64)
        found = effective_context(losses, LADDER, generator, tolerance=0.08, resamples=300)
        held += found.low <= 16 <= found.high
        widths += found.low == LADDER[0] and found.high == LADDER[-1]
    assert held >= 93
    assert widths == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"contexts": [4, 2]}, "contexts must be ascending"),
        ({"contexts": [0, 2]}, "contexts must be ascending"),
        ({"contexts": [200]}, "holds 0 blocks of 16 behind 200 tokens"),
        ({"places": 100}, "100 are wanted"),
        ({"block": 0}, "block must be at least 1"),
    ],
)
def test_bad_arguments(looks_back, periodic, change, words):
    given = {"contexts": [2, 4], "block": 16, "places": None} | change
    with pytest.raises(ValueError, match=words):
        losses_by_context(looks_back(2), periodic(4, 100), given.pop("contexts"), **given)


def test_bad_statistics():
    with pytest.raises(ValueError, match=r"losses must be \[places, 6\]"):
        effective_context(torch.zeros(3, 2), LADDER, seeded())
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        effective_context(torch.zeros(3, 6), LADDER, seeded(), tolerance=-1)
