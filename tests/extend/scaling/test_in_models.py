"""Scalings inside whole models: padding, caches, every family, and checkpoints for others."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import lengthwise as lw
from lengthwise.extend.adapt import binding_of
from lengthwise.hf.families import read_geometry
from lengthwise.testing.models import KINDS, PAD, VOCABULARY, WINDOW, tiny_model, tiny_tokenizer

IDS = torch.randint(3, VOCABULARY, (1, 150), generator=torch.Generator().manual_seed(7))
METHODS = ["llama3", "abf", "giraffe", "dynamic", "clex"]
METHODS += ["longrope", "short", "start", "two", "log"]


def method_for(name, model):
    pairs = next(layer.rotary for layer in read_geometry(model).layers if layer.rotary).dim // 2
    rising, ones = torch.linspace(1, 4, pairs).tolist(), [1.0] * pairs
    return {
        "llama3": lw.Llama3(factor=4),
        "abf": lw.ABF(base=5e6),
        "giraffe": lw.Giraffe(factor=2),
        "dynamic": lw.DynamicYaRN(),
        "clex": lw.CLEX((torch.linspace(1, 2, pairs).tolist(), rising)),
        "longrope": lw.LongRoPE(rising, 4),
        "short": lw.LongRoPE(rising, 4, short_factors=ones),
        "start": lw.LongRoPE(rising, 4, start_tokens=5),
        "log": lw.LogTemperature(),
        "two": lw.LongRoPE2(rising, 4),
        "two at 1": lw.LongRoPE2(rising, 4, attention_factor=1),
    }[name]


@pytest.mark.parametrize("family", KINDS)
@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_every_family_reads_and_writes_with_left_padding(family, name):
    model = tiny_model(family, eos_token_id=None)
    method = method_for(name, model)
    if not read_geometry(model).turns and name != "log":
        with pytest.raises(ValueError, match="would change nothing: in this"):
            lw.adapt(model, method)
        return
    plain = model(IDS, use_cache=False).logits
    lw.adapt(model, method)
    moved = (model(IDS, use_cache=False).logits - plain).abs().max()
    assert moved > 1e-3, "the method changed nothing"
    mask = torch.ones(2, 90, dtype=torch.long)
    mask[1, :20] = 0
    ids = IDS[:, :90].repeat(2, 1).masked_fill(mask == 0, PAD)
    how = {"max_new_tokens": 4, "do_sample": False}
    both = model.generate(ids, attention_mask=mask, **how)[:, 90:]
    assert torch.equal(both[0], model.generate(ids[:1], **how)[0, 90:])
    assert torch.equal(both[1], model.generate(ids[1:, 20:], **how)[0, 70:])


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "gemma3_text", "mistral"])
@pytest.mark.parametrize("name", ["llama3", "abf", "giraffe", "longrope", "short", "two at 1"])
@torch.no_grad()
def test_plain_transformers_reads_the_checkpoint(family, name, tmp_path):
    model = tiny_model(family)
    lw.adapt(model, method_for(name, model))
    reach = binding_of(model).engine.axes.scaling.reach(WINDOW)
    note = lw.save(model, tiny_tokenizer(), tmp_path / "saved")
    assert "without lengthwise" in note
    config = json.loads((tmp_path / "saved/config.json").read_text())
    assert "lengthwise" not in config and config["max_position_embeddings"] == reach
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    again, _ = lw.load(tmp_path / "saved")
    lw.adapt(again.eval())  # the model's own scaling, through our attention
    for length in (WINDOW // 2, 150):
        theirs = plain(IDS[:, :length], use_cache=False).logits
        assert (model(IDS[:, :length], use_cache=False).logits - theirs).abs().max() < 1e-4
        assert (again(IDS[:, :length], use_cache=False).logits - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["dynamic", "clex", "start", "log", "two"])
@torch.no_grad()
def test_what_transformers_lacks_is_loaded_by_lengthwise(name, tmp_path):
    model = tiny_model("llama")
    lw.adapt(model, method_for(name, model))
    ours = model(IDS, use_cache=False).logits
    assert "Only lengthwise.load" in lw.save(model, tiny_tokenizer(), tmp_path / "saved")
    loaded, _ = lw.load(tmp_path / "saved")
    assert binding_of(loaded).engine.axes == binding_of(model).engine.axes
    assert torch.equal(loaded.eval()(IDS, use_cache=False).logits, ours)


@pytest.mark.parametrize("name", ["start", "log"])
@torch.no_grad()
def test_chunks_and_single_tokens_read_what_one_forward_reads(name):
    model = tiny_model("llama").double()
    lw.adapt(model, method_for(name, tiny_model("llama")))
    whole = model(IDS[:, :100], use_cache=False).logits
    cache, pieces, done = lw.new_cache(model), [], 0
    for size in (3, 1, 1, 60, 1, 34):
        part = IDS[:, done : done + size]
        pieces.append(model(part, past_key_values=cache).logits)
        done += size
    torch.testing.assert_close(torch.cat(pieces, 1), whole, atol=1e-9, rtol=0)


def test_a_scaling_over_a_scaling_is_saved_by_name(tmp_path):
    model = lw.adapt(tiny_model("llama"), lw.LogTemperature(over=lw.YaRN(factor=4)))
    lw.save(model, tiny_tokenizer(), tmp_path / "saved")
    loaded, _ = lw.load(tmp_path / "saved")
    expected = lw.LogTemperature(over=lw.YaRN(factor=4))
    assert binding_of(loaded).engine.axes.scaling == expected


@torch.no_grad()
def test_no_factor_is_applied_twice(tmp_path):
    """A second search on an extended checkpoint: its factors replace those of the first."""
    first, second = (1.0, 1.5, 2.0, 4.0), (1.0, 2.0, 5.0, 16.0)
    once = lw.adapt(tiny_model("llama"), lw.LongRoPE(second, 16))
    lw.save(lw.adapt(tiny_model("llama"), lw.LongRoPE(first, 4)), tiny_tokenizer(), tmp_path / "a")
    model, tokenizer = lw.load(tmp_path / "a")
    assert model.config.max_position_embeddings == 4 * WINDOW
    lw.adapt(model.eval(), lw.LongRoPE(second, 16))
    assert binding_of(model).engine.geometry.window == WINDOW
    expected = once(IDS, use_cache=False).logits
    torch.testing.assert_close(model(IDS, use_cache=False).logits, expected)
    lw.save(model, tokenizer, tmp_path / "b")
    config = json.loads((tmp_path / "b/config.json").read_text())
    assert config["max_position_embeddings"] == 16 * WINDOW
    assert config["rope_parameters"]["original_max_position_embeddings"] == WINDOW
    torch.testing.assert_close(
        config["rope_parameters"]["long_factor"], list(second), atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_giraffes_longer_scale_replaces_the_tuned_one():
    rope = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
    tuned = tiny_model("llama", rope_parameters=rope)
    longer = tiny_model("llama", rope_parameters={**rope, "factor": 8.0})
    expected = longer(IDS, use_cache=False).logits
    lw.adapt(tuned, lw.GiraffeLinear(scale=8))
    torch.testing.assert_close(tuned(IDS, use_cache=False).logits, expected, atol=1e-5, rtol=1e-4)


def test_a_configuration_without_a_base_is_refused(tmp_path):
    model = tiny_model("llama")
    model.config.rope_parameters = {"rope_type": "linear", "factor": 2.0}
    with pytest.raises(ValueError, match="no rope_theta"):
        lw.adapt(model, lw.GiraffeLinear(scale=4))
    lw.save(tiny_model("llama"), tiny_tokenizer(), tmp_path / "saved")
    file = tmp_path / "saved/config.json"
    config = json.loads(file.read_text())
    del config["rope_parameters"]["rope_theta"], config["rope_theta"]
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="rope_parameters without rope_theta"):
        lw.load(tmp_path / "saved")


@torch.no_grad()
def test_a_row_that_outgrows_the_window_leaves_no_stale_key():
    """Attention over the cache is attention over keys at the new frequencies, in every layer."""
    model = tiny_model("llama", num_hidden_layers=1)
    for name in ("short", "two", "dynamic"):
        method = method_for(name, model)
        lw.adapt(model, method)
        cache = lw.new_cache(model)
        model(IDS[:, : WINDOW - 2], past_key_values=cache)
        grown = model(IDS[:, WINDOW - 2 : WINDOW + 8], past_key_values=cache).logits
        # One layer: what a key holds does not depend on how reading had come to it.
        whole = model(IDS[:, : WINDOW + 8], use_cache=False).logits[:, WINDOW - 2 :]
        torch.testing.assert_close(grown, whole)
        lw.restore(model)


@torch.no_grad()
def test_frequencies_of_the_model_are_those_of_the_longest_row():
    """Phi-3's longrope in a batch, as transformers reads it: a short row is read as a long one."""
    model = tiny_model("phi3")
    mask = torch.ones(2, 60, dtype=torch.long)
    mask[1, :40] = 0
    ids = IDS[:, :60].repeat(2, 1).masked_fill(mask == 0, PAD)
    given = {"attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    together, alone = model(ids, **given).logits, model(ids[1:, 40:]).logits
    lw.adapt(model)
    found = model(ids, **given).logits
    torch.testing.assert_close(found[mask.bool()], together[mask.bool()], atol=1e-5, rtol=0)
    torch.testing.assert_close(model(ids[1:, 40:]).logits, alone, atol=1e-5, rtol=0)
    assert (found[1, 40:] - alone[0]).abs().max() > 0.1
