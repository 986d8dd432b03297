"""What the bundled model shows, on files that it never saw: the claims of the README."""

import pytest
import torch

import lengthwise as lw
from lengthwise.measure import Passkey, in_window_losses, losses_by_position
from lengthwise.measure.engines.greedy import answers
from lengthwise.measure.tasks.text import held_out_text

WINDOW = 512


@pytest.fixture(scope="module")
def demo():
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    text = held_out_text()
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return model.eval(), tokenizer, text, torch.tensor([[tokenizer.bos_token_id, *ids]])


@pytest.fixture(scope="module")
def reference(demo):
    model, _, _, ids = demo
    return in_window_losses(model, ids[:, : 8 * WINDOW], WINDOW, 0).flatten()


def far_excess(model, ids, reference, *methods):
    """Mean loss above the reference over the last four of eight windows, nats per token."""
    with lw.adapted(model, *methods):
        losses = losses_by_position(model, ids[:, : 8 * WINDOW]).flatten()
    return (losses - reference)[4 * WINDOW :].mean().item()


def test_the_plain_model_fails_past_its_window(demo, reference):
    model, _, _, ids = demo
    losses = losses_by_position(model, ids[:, : 8 * WINDOW]).flatten()
    assert (losses - reference)[4 * WINDOW :].mean() >= 1.5


@pytest.mark.parametrize(
    "method", [lw.LMInfinite(sinks=4, window=508), lw.StreamingLLM(sinks=4, window=508)], ids=str
)
def test_sinks_and_a_window_keep_the_loss(demo, reference, method):
    model, _, _, ids = demo
    assert far_excess(model, ids, reference, method) <= 0.1


def test_streaming_keeps_the_loss_at_64_windows_in_constant_memory(demo):
    model, _, _, ids = demo
    long = ids[:, : 64 * WINDOW]
    near = torch.cat([ids[:, :1], long[:, -4 * WINDOW - 1 :]], dim=1)
    inside = in_window_losses(model, near, WINDOW, 0).flatten()[-3 * WINDOW :].mean()
    with lw.adapted(model, lw.StreamingLLM(sinks=4, window=508)):
        losses = losses_by_position(model, long).flatten()
    assert losses[-3 * WINDOW :].mean() - inside <= 0.1


@pytest.mark.parametrize(
    "method, found",
    [
        (None, 0),
        (lw.SelfExtend(group=16, window=128), 3),
        (lw.InfLLM(pages=8, page_size=32, sinks=4, window=256), 3),
    ],
    ids=str,
)
def test_passkeys_at_four_windows(demo, method, found):
    model, tokenizer, text, _ = demo
    task = Passkey(text)
    items = task.build(tokenizer, 4 * WINDOW, 4, seed=1)
    with lw.adapted(model, *([method] if method else [])):
        texts = answers(model, tokenizer, items)
    scores = [task.score(reply, item) for reply, item in zip(texts, items, strict=True)]
    assert sum(scores) == 0 if found == 0 else sum(scores) >= found
