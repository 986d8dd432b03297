"""HeadScale on models without positions: the formula, tuning, checkpoints."""

import pytest
import torch

import lengthwise as lw
from lengthwise.testing.models import VOCABULARY, tiny_model, tiny_tokenizer

SCALES = (tuple(1 + 0.2 * h for h in range(6)), tuple(2 - 0.1 * h for h in range(6)))


def nope(**changes):
    return tiny_model("smollm3", no_rope_layers=[0, 0], **changes)


def tokens(rows, length, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=g)


@torch.no_grad()
def logits(model, ids, **kw):
    return model(input_ids=ids, **kw).logits


def test_it_is_the_model_with_scaled_query_weights():
    model, ids = nope().double(), tokens(2, 40)
    with lw.adapted(model, lw.HeadScale(SCALES)):
        ours = logits(model, ids)
    plain = logits(model, ids)
    for layer, row in zip(model.model.layers, SCALES, strict=True):
        weight = layer.self_attn.q_proj.weight.data
        weight.mul_(torch.tensor(row, dtype=torch.float32).repeat_interleave(8)[:, None])
    assert (ours - logits(model, ids)).abs().max() < 1e-10
    assert (ours - plain).abs().max() > 1e-3


def test_ones_change_nothing_and_restore_is_bit_for_bit():
    model, ids = nope(), tokens(2, 40)
    plain = logits(model, ids)
    with lw.adapted(model):
        ours = logits(model, ids)
    with lw.adapted(model, lw.HeadScale(((1,) * 6,) * 2)):
        assert torch.equal(logits(model, ids), ours)
    assert torch.equal(logits(model, ids), plain)


def test_padding_decoding_and_generate():
    model, ids = lw.adapt(nope(), lw.HeadScale(SCALES)), tokens(2, 40)
    mask = torch.ones_like(ids)
    mask[0, :9] = 0
    together = logits(model, ids, attention_mask=mask)
    assert (together[:1, 9:] - logits(model, ids[:1, 9:])).abs().max() < 1e-5
    cache = lw.new_cache(model)
    parts = [
        logits(model, p, past_key_values=cache) for p in (ids[:, :37], *ids[:, 37:].split(1, 1))
    ]
    assert (torch.cat(parts, 1) - logits(model, ids)).abs().max() < 1e-5
    how = {"max_new_tokens": 5, "do_sample": False}
    generated = model.generate(ids, **how)
    assert torch.equal(generated, model.generate(ids, use_cache=False, **how))


def test_over_a_log_length_temperature():
    model, ids = nope(), tokens(1, 100)
    with lw.adapted(model, lw.HeadScale(((1,) * 6,) * 2, over=lw.LogTemperature())):
        ours = logits(model, ids)
    with lw.adapted(model, lw.LogTemperature()):
        assert torch.equal(logits(model, ids), ours)


def test_save_and_load(tmp_path):
    model, ids = lw.adapt(nope(), lw.HeadScale(SCALES)), tokens(1, 40)
    lw.save(model, tiny_tokenizer(), tmp_path / "saved")
    loaded, _ = lw.load(tmp_path / "saved")
    assert torch.equal(logits(loaded.eval(), ids), logits(model, ids))


def test_only_one_number_a_head_is_tuned():
    model = nope(num_attention_heads=4, num_key_value_heads=2)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    batches = [tokens(1, 72, seed=seed) % 5 + 3 for seed in range(2)]

    def loss(*methods):
        with lw.adapted(model, *methods), torch.no_grad():
            return sum(model(input_ids=ids, labels=ids).loss.item() for ids in batches)

    start = lw.HeadScale(((1.6,) * 4,) * 2)
    tuned = lw.tune_head_scale(model, batches, steps=10, lr=0.1)
    assert [len(row) for row in tuned.scales] == [4, 4]
    assert all(scale >= 1 for row in tuned.scales for scale in row)
    assert loss(tuned) < loss(start) - 1e-3
    assert tuned == lw.tune_head_scale(model, batches, steps=10, lr=0.1)  # same seed, same bits
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not model.training and "_lengthwise" not in model.__dict__


def test_the_gradient_is_that_of_the_loss():
    # One step of Adam at the full rate moves every number by the rate, against its gradient.
    model, ids = nope(), tokens(1, 80)
    tuned = torch.tensor(lw.tune_head_scale(model, [ids], steps=1, lr=1e-3, start=1.5).scales)

    def loss(layer, head, by):
        scales = [[1.5] * 6 for _ in range(2)]
        scales[layer][head] += by
        with lw.adapted(model.double(), lw.HeadScale(scales)), torch.no_grad():
            return model(input_ids=ids, labels=ids).loss.item()

    for layer, head in ((0, 0), (0, 5), (1, 3)):
        slope = loss(layer, head, 0.02) - loss(layer, head, -0.02)
        assert (tuned[layer, head] - 1.5).sign().item() == (-1 if slope > 0 else 1)


def refusal(call):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_bad_input():
    assert "above 0, got 0.0" in refusal(lambda: lw.HeadScale(((1, 0),)))
    assert "a row of numbers" in refusal(lambda: lw.HeadScale(()))
    assert "over must be a scaling" in refusal(lambda: lw.HeadScale(SCALES, over=lw.Causal()))
    message = refusal(lambda: lw.adapt(nope(), lw.HeadScale(((1.0,) * 4,))))
    assert "2 layers of 6 heads, got 1 rows of 4 numbers" in message
    model, ids = nope(), tokens(1, 8)
    for words, given in (
        ("steps must be a whole number of at least 1", {"steps": 0}),
        ("start must be at least 1", {"start": 0.5}),
        ("lr must be above 0", {"lr": 0}),
    ):
        assert words in refusal(lambda: lw.tune_head_scale(model, [ids], **given))  # noqa: B023
    assert "[b, t] with at least 2 tokens" in refusal(lambda: lw.tune_head_scale(model, []))
    with lw.adapted(model):
        assert "not adapted" in refusal(lambda: lw.tune_head_scale(model, [ids]))
