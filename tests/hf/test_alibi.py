"""ALiBi models: slopes divided by a factor, on models that keep their own attention and cache."""

import copy
import math
import threading

import pytest
import torch
import transformers as hf

import lengthwise as lw
from lengthwise.hf.other import kind_of
from lengthwise.hf.release import CACHE
from lengthwise.testing.models import tiny_tokenizer

WINDOW = 16
CONFIGS = {
    "bloom": {"hidden_size": 48, "n_layer": 2, "n_head": 6, "seq_length": WINDOW},
    "mpt": {"d_model": 48, "n_layers": 2, "n_heads": 6, "max_seq_len": WINDOW, "use_cache": True},
    "falcon": {
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "alibi": True,
        "max_position_embeddings": WINDOW,
    },
}
CLASSES = {
    "bloom": hf.BloomForCausalLM,
    "mpt": hf.MptForCausalLM,
    "falcon": hf.FalconForCausalLM,
}
FAMILIES = list(CONFIGS)


def model_of(family, **changes):
    extra = {"vocab_size": 320, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = hf.AutoConfig.for_model(family, **{**CONFIGS[family], **extra, **changes})
    with torch.random.fork_rng(devices=[]):
        model = CLASSES[family](config)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15, generator=g)
    return model.eval()


def tokens(rows, length, seed=1):
    return torch.randint(3, 320, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, ids, **kw):
    return model(input_ids=ids, **kw).logits


def slopes(family, heads):
    """Bloom's and Falcon's: those of 4 heads and every other of 8; MPT's: those of 8 reordered."""
    if family == "mpt":
        of_eight = [2.0 ** -(k + 1) for k in range(8)]
        return torch.tensor((of_eight[1::2] + of_eight[::2])[:heads])
    of_four, of_eight = (
        [2.0 ** (-2 * (k + 1)) for k in range(4)],
        [2.0 ** -(k + 1) for k in range(8)],
    )
    return torch.tensor((of_four + of_eight[::2])[:heads])


def first_layer_by_hand(model, family, ids, divide):
    """The output of the first attention, from its projections and the paper's formula."""
    base = model.base_model
    block = base.blocks[0] if family == "mpt" else base.h[0]
    rows, length = ids.shape
    if family == "mpt":
        hidden = block.norm_1(base.wte(ids))
        q, k, v = (x.view(rows, length, 6, 8) for x in block.attn.Wqkv(hidden).chunk(3, -1))
        out = block.attn.out_proj
    elif family == "bloom":
        hidden = block.input_layernorm(base.word_embeddings_layernorm(base.word_embeddings(ids)))
        fused = block.self_attention.query_key_value(hidden).view(rows, length, 6, 3, 8)
        q, k, v = fused.unbind(3)
        out = block.self_attention.dense
    else:
        hidden = block.input_layernorm(base.word_embeddings(ids))
        fused = block.self_attention.query_key_value(hidden).view(rows, length, 8, 8)
        q, k, v = fused[:, :, :6], fused[:, :, 6:7], fused[:, :, 7:]
        out = block.self_attention.dense
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    distance = torch.arange(length)[:, None] - torch.arange(length)
    # Falcon adds its bias before it divides by the root of the head's dimension.
    scale = math.sqrt(8) if family == "falcon" else 1.0
    bias = -slopes(family, 6)[:, None, None] / divide / scale * distance
    scores = q @ k.transpose(-1, -2) / math.sqrt(8) + bias
    scores = scores.masked_fill(distance < 0, -torch.inf)
    return out((scores.softmax(-1) @ v).transpose(1, 2).reshape(rows, length, 48))


def first_layer(model, family, ids):
    base = model.base_model
    block = base.blocks[0].attn if family == "mpt" else base.h[0].self_attention
    caught = []
    out = block.out_proj if family == "mpt" else block.dense
    hook = out.register_forward_hook(lambda module, args, output: caught.append(output))
    logits(model, ids)
    hook.remove()
    return caught[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("factor", [1, 4])
def test_the_formula(family, factor):
    # Falcon's biases are exact in bfloat16 at so few tokens.
    model, ids = model_of(family), tokens(2, 30 if family != "mpt" else WINDOW)
    with lw.adapted(model, lw.ALiBiPI(factor)), torch.no_grad():
        ours = first_layer(model, family, ids)
        by_hand = first_layer_by_hand(model, family, ids, factor)
    assert (ours - by_hand).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_factor_one_and_restore_are_bit_for_bit(family):
    model, ids = model_of(family), tokens(2, WINDOW)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    before = [logits(model, ids), logits(model, ids, attention_mask=mask)]
    for method in (lw.ALiBiPI(1), lw.DynamicALiBiPI(), lw.OwnScaling()):
        with lw.adapted(model, method):
            assert torch.equal(logits(model, ids), before[0])
            assert torch.equal(logits(model, ids, attention_mask=mask), before[1])
    with lw.adapted(model, lw.ALiBiPI(4)):
        assert (logits(model, ids) - before[0]).abs().max() > 1e-3  # no silent no-op
    assert torch.equal(logits(model, ids), before[0])
    assert not model.base_model._forward_pre_hooks and not model.base_model._forward_hooks
    assert "_lengthwise" not in model.__dict__


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("length", [WINDOW, 3 * WINDOW])
def test_decoding_is_prefill(family, length):
    model, ids = model_of(family), tokens(2, length)
    lw.adapt(model, lw.ALiBiPI(3))
    whole = logits(model, ids)
    cache = hf.DynamicCache(config=model.config)
    parts = [ids[:, : length - 5], *ids[:, length - 5 :].split(1, dim=1)]
    with torch.no_grad():
        out = [model(input_ids=p, past_key_values=cache, use_cache=True).logits for p in parts]
    assert (torch.cat(out, 1) - whole).abs().max() < 2e-5


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", [lw.ALiBiPI(3), lw.DynamicALiBiPI()], ids=["fixed", "dynamic"])
def test_left_padding(family, method):
    model, length, pad = model_of(family), 3 * WINDOW, 11
    lw.adapt(model, method)
    ids, mask = tokens(2, length), torch.ones(2, length, dtype=torch.long)
    mask[0, :pad] = 0
    if family == "mpt" and isinstance(method, lw.DynamicALiBiPI):
        with pytest.raises(ValueError, match="one bias for all rows") as error:
            logits(model, ids, attention_mask=mask)
        assert "\n" not in str(error.value)
        return
    together = logits(model, ids, attention_mask=mask)
    assert (together[:1, pad:] - logits(model, ids[:1, pad:])).abs().max() < 2e-5
    assert (together[1:] - logits(model, ids[1:])).abs().max() < 2e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_dynamic_is_fixed_with_the_factor_of_the_text(family):
    model, ids = model_of(family), tokens(2, 3 * WINDOW)
    with lw.adapted(model, lw.DynamicALiBiPI()):
        dynamic = logits(model, ids)
    with lw.adapted(model, lw.ALiBiPI(3)):
        assert (logits(model, ids) - dynamic).abs().max() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_generate(family):
    model, ids = model_of(family), tokens(2, 2 * WINDOW)
    lw.adapt(model, lw.ALiBiPI(2))
    how = {"max_new_tokens": 5, "do_sample": False}
    with_cache = model.generate(ids, use_cache=True, **how)
    assert torch.equal(with_cache, model.generate(ids, use_cache=False, **how))
    # Beam search reorders the cache; the pad token in a prompt is masked by generate.
    assert model.generate(ids, num_beams=2, **how).shape == (2, 2 * WINDOW + 5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_copy_scales_for_itself(family):
    model, ids = model_of(family), tokens(1, 2 * WINDOW)
    lw.adapt(model, lw.DynamicALiBiPI())
    twin = copy.deepcopy(model)
    adapted = logits(model, ids)
    lw.restore(model)
    assert torch.equal(logits(twin, ids), adapted)
    assert torch.equal(logits(lw.restore(twin), ids[:, :WINDOW]), logits(model, ids[:, :WINDOW]))


@pytest.mark.parametrize("family", FAMILIES)
def test_save_load_and_explain(family, tmp_path):
    model, ids = model_of(family), tokens(1, 2 * WINDOW)
    lw.adapt(model, lw.ALiBiPI(2))
    note = lw.save(model, tiny_tokenizer(), tmp_path / "saved")
    assert "Only lengthwise.load applies ALiBiPI" in note
    loaded, _ = lw.load(tmp_path / "saved")
    assert torch.equal(logits(loaded.eval(), ids), logits(model, ids))
    said = lw.explain(loaded)
    assert "ALiBiPI(factor=2)" in said and "slopes times 0.5 at every length" in said
    with lw.adapted(lw.restore(loaded), lw.DynamicALiBiPI()):
        assert f"{4 * WINDOW:>10,}  0.25" in lw.explain(loaded)


def test_a_text_beyond_mpts_window():
    # Plain transformers has no bias for it.
    model, ids = model_of("mpt"), tokens(1, WINDOW + 1)
    with pytest.raises(RuntimeError):
        logits(model, ids)
    longer = model_of("mpt", max_seq_len=2 * WINDOW)
    with lw.adapted(model):
        assert torch.equal(logits(model, ids), logits(longer, ids))


def test_checkpointed_training():
    model, ids = model_of("bloom", hidden_dropout=0.0, attention_dropout=0.0).train(), tokens(1, 24)
    lw.adapt(model, lw.ALiBiPI(2))
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(input_ids=ids, labels=ids).loss.backward()
        gradients.append(model.base_model.h[0].self_attention.query_key_value.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-7)
    lw.adapt(lw.restore(model), lw.DynamicALiBiPI())
    with pytest.raises(ValueError, match="gradient checkpointing"):
        model(input_ids=ids)


def refusal(call):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_fit(family):
    model = model_of(family)
    for method in (lw.SelfExtend(), lw.StreamingLLM(window=8), lw.InfLLM()):
        message = refusal(lambda: lw.adapt(model, method))  # noqa: B023
        assert message.startswith(f"{family} computes attention by itself")
        assert type(method).__name__ in message and "ALiBiPI" in message
    message = refusal(lambda: lw.adapt(model, lw.YaRN(factor=4)))
    assert message == (
        "YaRN is for models with rotary positions or none, and "
        f"{family} has linear biases (ALiBi); use lw.ALiBiPI(factor=…) or lw.DynamicALiBiPI()"
    )
    assert "TempScale" in refusal(lambda: lw.adapt(model, lw.TempScale(0.8)))
    assert "_lengthwise" not in model.__dict__ and not model.base_model._forward_pre_hooks
    lw.adapt(model, lw.ALiBiPI(2))
    assert "adapted already" in refusal(lambda: lw.adapt(model, lw.ALiBiPI(2)))
    assert "transformers' own cache" in refusal(lambda: lw.new_cache(model))


def test_bad_numbers_and_models():
    for factor in (0.5, float("nan"), "4", True):
        assert "ALiBiPI: factor must be at least 1" in refusal(lambda: lw.ALiBiPI(factor))  # noqa: B023
    model = model_of("bloom")
    del model.config.seq_length
    assert "set model.config.seq_length" in refusal(lambda: lw.adapt(model, lw.ALiBiPI(2)))
    rotary = model_of("falcon", alibi=False)
    assert kind_of(rotary) is None
    assert "ALiBiPI is for models with linear biases" in refusal(
        lambda: lw.adapt(rotary, lw.ALiBiPI(2))
    )
    with lw.adapted(mask_model := model_of("falcon"), lw.DynamicALiBiPI()):
        message = refusal(
            lambda: logits(mask_model, tokens(1, 4), attention_mask=torch.ones(1, 1, 4, 4))
        )
    assert "2-D attention mask" in message


def test_threads_with_one_model(together):
    for family in FAMILIES:
        model = lw.adapt(model_of(family), lw.DynamicALiBiPI())
        assert not together(lambda length, model=model: logits(model, tokens(1, length))), family


def test_a_forward_in_the_middle_of_another():
    """Between two layers of one forward a whole other one runs, in a thread of its own."""
    for family in FAMILIES:
        model = lw.adapt(model_of(family), lw.DynamicALiBiPI())
        base = model.base_model
        second = base.blocks[1] if family == "mpt" else base.h[1]
        alone = logits(model, tokens(1, 40))
        for other in (10, 100):
            hooks = []

            def elsewhere(module, args, model=model, other=other, hooks=hooks):
                hooks.pop().remove()
                thread = threading.Thread(target=logits, args=(model, tokens(1, other)))
                thread.start()
                thread.join()

            hooks.append(second.register_forward_pre_hook(elsewhere, prepend=True))
            assert torch.equal(logits(model, tokens(1, 40)), alone), family


def test_a_forward_that_was_interrupted_leaves_nothing_behind():
    model = lw.adapt(model_of("bloom"), lw.DynamicALiBiPI())
    alone = logits(model, tokens(1, 40))

    def stop(module, args):
        raise KeyboardInterrupt

    hook = model.base_model.h[1].register_forward_pre_hook(stop)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            logits(model, tokens(1, 10))
    hook.remove()
    assert torch.equal(logits(model, tokens(1, 40)), alone)


def test_packed_documents_are_refused():
    """Their layers would read a row as one text; nothing else says so."""
    for family in FAMILIES:
        for method in (lw.ALiBiPI(2), lw.DynamicALiBiPI()):
            with lw.adapted(model_of(family), method) as model:
                with pytest.raises(ValueError, match=f"{family} reads one text a row.*segment_ids"):
                    logits(model, tokens(1, 4), segment_ids=torch.tensor([[0, 0, 1, 1]]))
                assert logits(model, tokens(1, 4)).isfinite().all()


def test_another_number_of_rows_than_the_cache_has():
    for family in FAMILIES:
        for method in (lw.ALiBiPI(2), lw.DynamicALiBiPI()):
            model = lw.adapt(model_of(family), method)
            cache = hf.DynamicCache(config=model.config)
            logits(model, tokens(2, 8), **{CACHE: cache})
            for rows, length in ((1, 1), (3, 1), (1, 4), (1, 20)):
                ids, given = tokens(rows, length), {CACHE: cache}
                message = refusal(lambda: logits(model, ids, **given))  # noqa: B023
                assert f"holds 2 rows and the tokens have {rows}" in message
            logits(model, tokens(2, 1), **{CACHE: cache})
