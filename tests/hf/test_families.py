"""An adapted model of every family computes what it did, in every way that it can be run.

Phi-3 changes its frequencies once the text is longer than 32 tokens, and hidden states keep those
of their time: pieces of a text are compared on one side of that border.
"""

import copy
import gc
import inspect
import weakref

import pytest
import torch
from transformers import LlamaForCausalLM

import lengthwise as lw
from lengthwise.hf.families import FAMILIES
from lengthwise.testing.models import PAD, VOCABULARY, tiny_model

every_family = pytest.mark.parametrize("family", FAMILIES)
LENGTHS = (50, 41, 35)  # of the rows of a padded batch


def tokens(rows, length, seed=1):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, (rows, length), generator=g)


def endless(family, **changes):
    """A model that never stops by itself."""
    return tiny_model(family, eos_token_id=None, **changes)


# transformers counts padding in the temperature of Llama 4, so there a padded row is not the row
# alone: where the two are compared, no text is long enough for it.
LONG_FLOOR = {"llama4_text": {"floor_scale": 8192}}


def padded(ids, lengths):
    """Row i cut to its last lengths[i] tokens, with left padding and its mask."""
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        mask[row, ids.shape[1] - length :] = 1
    return ids.masked_fill(mask == 0, PAD), mask


@torch.no_grad()
def logits(model, ids, **kw):
    return model(ids, **kw).logits


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@every_family
@pytest.mark.parametrize("length", [1, 16, 17, 50])
def test_logits_of_the_untouched_model(family, length):
    model, ids = tiny_model(family).double(), tokens(2, length)
    before = logits(model, ids)
    lw.adapt(model)
    close(logits(model, ids), before)
    close(logits(model, ids, use_cache=False), before)
    close(logits(model, None, inputs_embeds=model.get_input_embeddings()(ids)), before)
    close(logits(model, ids, logits_to_keep=1), before[:, -1:])


@every_family
def test_64_greedy_tokens_of_the_untouched_model(family):
    # From inside every window to beyond the trained one, and over Phi-3's border.
    model, ids = endless(family), tokens(2, 20)
    before = model.generate(ids, max_new_tokens=64, do_sample=False)
    assert before.shape == (2, 84) and len(before.unique()) > 10
    lw.adapt(model)
    assert torch.equal(model.generate(ids, max_new_tokens=64, do_sample=False), before)
    uncached = model.generate(ids, max_new_tokens=16, do_sample=False, use_cache=False)
    assert torch.equal(uncached, before[:, :36])


@every_family
def test_restore_gives_everything_back_bit_for_bit(family):
    model, ids = endless(family), tokens(2, 50)
    before = logits(model, ids)
    parts = [name for name, _ in model.named_modules()]
    settings = model.config.to_dict(), model.config._attn_implementation

    lw.adapt(model)
    model.generate(ids, max_new_tokens=2)
    lw.restore(model)
    assert torch.equal(logits(model, ids), before)

    with pytest.raises(KeyError, match="halfway"), lw.adapted(model, lw.SlidingWindow(window=4)):
        assert not torch.allclose(logits(model, ids), before, atol=1e-3)
        raise KeyError("halfway")
    assert torch.equal(logits(model, ids), before)

    assert [name for name, _ in model.named_modules()] == parts
    assert (model.config.to_dict(), model.config._attn_implementation) == settings
    assert "generate" not in vars(model) and "_lengthwise" not in vars(model)


@every_family
def test_adapting_adds_no_weights(family):
    model = tiny_model(family)
    before = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    lw.adapt(model)
    assert {name: tensor.data_ptr() for name, tensor in model.state_dict().items()} == before


@every_family
def test_a_padded_row_is_the_row_alone(family):
    model, ids = tiny_model(family), tokens(3, 50)
    alone = [logits(model, ids[i : i + 1, 50 - n :]) for i, n in enumerate(LENGTHS)]
    lw.adapt(model)
    left, mask = padded(ids, LENGTHS)
    ours = logits(model, left, attention_mask=mask)
    for row, length in enumerate(LENGTHS):
        close(ours[row : row + 1, 50 - length :], alone[row])


@every_family
def test_padding_on_the_right_too(family):
    model, ids = tiny_model(family), tokens(3, 50)
    alone = [logits(model, ids[i : i + 1, :n]) for i, n in enumerate(LENGTHS)]
    lw.adapt(model)
    mask = torch.stack([(torch.arange(50) < n).long() for n in LENGTHS])
    ours = logits(model, ids.masked_fill(mask == 0, PAD), attention_mask=mask)
    for row, length in enumerate(LENGTHS):
        close(ours[row : row + 1, :length], alone[row])


@torch.no_grad()
def in_chunks(model, ids, sizes, mask=None):
    cache, done, out = lw.new_cache(model), 0, []
    for size in sizes:
        stop = done + size
        seen = None if mask is None else mask[:, :stop]
        step = model(ids[:, done:stop], past_key_values=cache, attention_mask=seen)
        assert step.past_key_values is cache and cache.get_seq_length() == stop
        out.append(step.logits)
        done = stop
    return torch.cat(out, dim=1)


@every_family
@pytest.mark.parametrize("sizes", [(35, 1, 9, 5), (1,) * 21, (7, 7, 7)])
def test_chunks_are_one_shot(family, sizes):
    length = sum(sizes)
    model, ids = tiny_model(family), tokens(2, length)
    before = logits(model, ids)
    lw.adapt(model)
    close(in_chunks(model, ids, sizes), before)


@every_family
def test_chunks_of_a_padded_batch(family):
    # Rows of 21, 12 and 4 tokens: the first chunk of the last row is nothing but padding.
    model, ids = tiny_model(family), tokens(3, 21)
    lengths = (21, 12, 4)
    alone = [logits(model, ids[i : i + 1, 21 - n :]) for i, n in enumerate(lengths)]
    lw.adapt(model)
    left, mask = padded(ids, lengths)
    ours = in_chunks(model, left, (8, 8, 1, 4), mask)
    for row, length in enumerate(lengths):
        close(ours[row : row + 1, 21 - length :], alone[row])


@every_family
def test_second_turn(family):
    model, first, then = endless(family), tokens(2, 36), tokens(2, 5, seed=2)
    one = model.generate(first, max_new_tokens=6, do_sample=False)
    both = torch.cat([one, then], dim=1)
    two = model.generate(both, max_new_tokens=6, do_sample=False)
    lw.adapt(model)
    # From the result, because Phi-3's generate puts an empty cache aside when a prompt is long.
    out = model.generate(first, max_new_tokens=6, do_sample=False, return_dict_in_generate=True)
    assert torch.equal(out.sequences, one)
    cache = out.past_key_values
    seen = cache.get_seq_length()
    assert 36 < seen < both.shape[1]
    ours = model.generate(both, max_new_tokens=6, do_sample=False, past_key_values=cache)
    assert torch.equal(ours, two)
    assert cache.get_seq_length() == seen + 5 + 6


@every_family
def test_generating_with_a_padded_batch(family):
    model, ids = endless(family), tokens(3, 50)
    alone = [
        model.generate(ids[i : i + 1, 50 - n :], max_new_tokens=12, do_sample=False)[0, n:]
        for i, n in enumerate(LENGTHS)
    ]
    lw.adapt(model)
    left, mask = padded(ids, LENGTHS)
    ours = model.generate(left, attention_mask=mask, max_new_tokens=12, do_sample=False)
    assert torch.equal(ours[:, 50:], torch.stack(alone))


@every_family
def test_beams_of_the_untouched_model(family):
    model, ids = endless(family, **LONG_FLOOR.get(family, {})), tokens(2, 40)
    left, mask = padded(ids, (40, 34))
    how = {"attention_mask": mask, "num_beams": 3, "max_new_tokens": 10, "do_sample": False}
    how |= {"num_return_sequences": 2, "return_dict_in_generate": True, "output_scores": True}
    before = model.generate(left, **how)
    assert len({tuple(row) for row in before.beam_indices.tolist()}) > 1
    lw.adapt(model)
    ours = model.generate(left, **how)
    assert torch.equal(ours.sequences, before.sequences)
    assert torch.equal(ours.beam_indices, before.beam_indices)
    close(ours.sequences_scores, before.sequences_scores)


@every_family
def test_samples_of_the_untouched_model(family):
    model, ids = endless(family), tokens(2, 36)
    how = {"do_sample": True, "top_p": 0.9, "num_return_sequences": 2, "max_new_tokens": 10}
    torch.manual_seed(3)  # generate draws from the global generator
    before = model.generate(ids, **how)
    assert not torch.equal(before[0], before[1])
    lw.adapt(model)
    torch.manual_seed(3)
    assert torch.equal(model.generate(ids, **how), before)


@every_family
def test_prefill_in_chunks(family):
    model, ids = endless(family, **LONG_FLOOR.get(family, {})), tokens(2, 21)
    left, mask = padded(ids, (21, 10))
    how = {"attention_mask": mask, "max_new_tokens": 10, "do_sample": False}
    before = model.generate(left, **how)
    lw.adapt(model)
    assert torch.equal(model.generate(left, prefill_chunk_size=7, **how), before)


@every_family
def test_generating_from_embeddings(family):
    model, ids = endless(family), tokens(2, 20)
    before = model.generate(ids, max_new_tokens=6, do_sample=False)[:, 20:]
    lw.adapt(model)
    embeds = model.get_input_embeddings()(ids)
    ours = model.generate(inputs_embeds=embeds, max_new_tokens=6, do_sample=False)
    assert torch.equal(ours, before)


def exact(family):
    """A float64 model in training mode."""
    return tiny_model(family).double().train()


def gradients(model, *losses):
    """The gradient of the summed losses, each computed by its own forward first."""
    model.zero_grad()
    sum(loss() for loss in losses).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def same_gradients(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(ours[name], gradient, atol=tolerance * scale, rtol=0)


@every_family
def test_a_training_step_of_the_untouched_model(family):
    # transformers rounds angles to float32 even in a float64 model, hence not 1e-10; and its
    # eager attention knows no padding on the left in float64.
    model, ids = exact(family), tokens(3, 50)
    mask = torch.stack([(torch.arange(50) < n).long() for n in LENGTHS])

    def loss():
        return model(ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)).loss

    before = gradients(model, loss)
    lw.adapt(model)
    same_gradients(gradients(model, loss), before, 1e-5)


@every_family
def test_packed_documents_train_as_if_alone(family):
    model, ids = exact(family), tokens(1, 45)
    lengths = (22, 1, 22)
    documents = ids.split(lengths, dim=1)
    positions = torch.cat([torch.arange(n) for n in lengths])[None]
    segments = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])[None]
    lw.adapt(model)

    def summed(logits, ids):  # a document's first token is nobody's target
        rows = logits[0, :-1].log_softmax(-1)
        return -rows.gather(1, ids[0, 1:, None]).sum()

    def packed():
        out = model(ids, position_ids=positions, segment_ids=segments).logits
        pieces = out.split(lengths, dim=1)
        return sum(summed(piece, one) for piece, one in zip(pieces, documents, strict=True))

    alone = [lambda one=one: summed(model(one).logits, one) for one in documents]
    # Norms of Gemma and Cohere round to float32.
    tolerance = 1e-5 if family.startswith(("gemma", "cohere")) else 1e-10
    same_gradients(gradients(model, packed), gradients(model, *alone), tolerance)


@every_family
def test_layers_run_again_in_the_backward(family):
    """Two forwards, then one backward: each layer must find the positions of its own forward."""
    model, ids = exact(family), tokens(2, 30)
    left, mask = padded(ids, (30, 12))
    losses = [
        lambda: model(ids, labels=ids).loss,
        lambda: model(left, attention_mask=mask, labels=ids).loss,
    ]
    lw.adapt(model)
    before = gradients(model, *losses)
    model.activation_checkpointing_enable()
    same_gradients(gradients(model, *losses), before, 1e-12)


# What does not depend on the family.


def test_adapting_twice_is_refused():
    model, ids = tiny_model("llama"), tokens(1, 30)
    lw.adapt(model, lw.SlidingWindow(window=4))
    before = logits(model, ids)
    with pytest.raises(ValueError, match=r"adapted already; call lengthwise\.restore"):
        lw.adapt(model)
    with pytest.raises(ValueError, match="adapted already"), lw.adapted(model):
        pass
    assert torch.equal(logits(model, ids), before)


def test_restoring_what_is_not_adapted_is_refused():
    with pytest.raises(ValueError, match=r"not adapted; call lengthwise\.adapt"):
        lw.restore(tiny_model("llama"))


def test_a_generate_of_the_model_itself_survives():
    model, ids = endless("llama"), tokens(1, 10)
    calls = []

    def own(*args, **kwargs):
        calls.append(kwargs)
        return LlamaForCausalLM.generate(model, *args, **kwargs)

    model.generate = own
    with lw.adapted(model):
        model.generate(ids, max_new_tokens=2)
    assert model.generate is own and len(calls) == 1


def test_a_deep_copy_is_adapted_on_its_own():
    model, ids = endless("llama"), tokens(2, 30)
    plain = model.generate(ids, max_new_tokens=8, do_sample=False)
    lw.adapt(model, lw.SlidingWindow(window=4))
    before = model.generate(ids, max_new_tokens=8, do_sample=False)
    twin = copy.deepcopy(model)
    assert torch.equal(twin.generate(ids, max_new_tokens=8, do_sample=False), before)
    with torch.no_grad():
        model.lm_head.weight.neg_()
    assert torch.equal(twin.generate(ids, max_new_tokens=8, do_sample=False), before)
    with pytest.raises(ValueError, match="another model or adaptation"):
        twin(ids, past_key_values=lw.new_cache(model))
    lw.restore(twin)
    assert torch.equal(twin.generate(ids, max_new_tokens=8, do_sample=False), plain)
    assert not torch.equal(model.generate(ids, max_new_tokens=8, do_sample=False), plain)
    lw.restore(model)


def test_a_forward_leaves_nothing_behind():
    model = lw.adapt(tiny_model("llama"))
    with torch.no_grad():
        cache = weakref.ref(model(tokens(1, 20)).past_key_values)
    gc.collect()
    assert cache() is None


def test_gradients_do_not_cost_the_context():
    """Somebody who forgets `torch.no_grad` still gets a cache; training keeps none by itself."""
    model, ids = tiny_model("llama"), tokens(2, 30)
    before = logits(model, ids)
    lw.adapt(model)
    out = model(ids[:, :20])
    ours = model(ids[:, 20:], past_key_values=out.past_key_values).logits.detach()
    close(ours, before[:, 20:])
    model.train()
    assert model(ids).past_key_values is None
    assert model(ids, use_cache=True).past_key_values.get_seq_length() == 30


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_prompt_lookup(family):
    """Drafts that are wrong are taken back out of the cache."""
    model, ids = endless(family), tokens(1, 10).repeat(1, 4)
    before = model.generate(ids, max_new_tokens=24, do_sample=False)
    lw.adapt(model)
    how = {"max_new_tokens": 24, "do_sample": False, "prompt_lookup_num_tokens": 3}
    cropped = []
    cache = lw.new_cache(model)
    cache.crop = lambda count: (cropped.append(count), type(cache).crop(cache, count))
    assert torch.equal(model.generate(ids, past_key_values=cache, **how), before)
    assert min(cropped) < 0


def test_an_assistant_model_adapted_or_not():
    model, assistant, ids = endless("llama"), endless("llama", seed=1), tokens(1, 30)
    how = {"max_new_tokens": 12, "do_sample": False}
    before = model.generate(ids, **how)
    lw.adapt(model)
    assert torch.equal(model.generate(ids, assistant_model=assistant, **how), before)
    lw.adapt(assistant, lw.SlidingWindow(window=8))
    assert torch.equal(model.generate(ids, assistant_model=assistant, **how), before)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        {
            "rope_type": "longrope",
            "factor": 4.0,
            "short_factor": [1.0, 1.0, 1.2, 1.4],
            "long_factor": [1.5, 2.0, 3.0, 4.0],
            "original_max_position_embeddings": 16,
        },
        {"rope_type": "proportional", "partial_rotary_factor": 0.5},
    ],
    ids=lambda rope: rope["rope_type"],
)
@pytest.mark.parametrize("length", [10, 30])
def test_scalings_that_a_checkpoint_carries(rope, length):
    parameters = {"rope_theta": 1000.0, **rope}
    model = tiny_model("llama", max_position_embeddings=16, rope_parameters=parameters)
    ids = tokens(2, length)
    before = logits(model, ids)
    lw.adapt(model)
    close(logits(model, ids), before)


def test_a_scaled_layer_type_of_gemma_3():
    parameters = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
        "full_attention": {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 8.0},
    }
    model, ids = tiny_model("gemma3_text", rope_parameters=parameters), tokens(2, 50)
    before = logits(model, ids)
    lw.adapt(model)
    close(logits(model, ids), before)


def test_restore_where_frequencies_follow_the_length():
    """transformers keeps the frequencies of the longest text so far: ours must not reset them."""
    parameters = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
    model = tiny_model("llama", max_position_embeddings=16, rope_parameters=parameters)
    ids = tokens(1, 50)
    logits(model, ids)
    before = logits(model, ids[:, :30])
    with lw.adapted(model):
        logits(model, ids[:, :10])
    assert torch.equal(logits(model, ids[:, :30]), before)


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "olmo2"])
def test_a_window_that_the_model_ignores(family):
    """Converted checkpoints carry settings of their former family."""
    model = tiny_model(family, sliding_window=8, layer_types=["sliding_attention"] * 2)
    ids = tokens(1, 30)
    before = logits(model, ids)
    lw.adapt(model)
    close(logits(model, ids), before)


def test_bfloat16_is_as_near_to_float32_as_transformers_is():
    model, ids = tiny_model("llama"), tokens(2, 50)
    exact = logits(model, ids)
    model.bfloat16()
    theirs = (logits(model, ids).float() - exact).abs().mean()
    lw.adapt(model)
    ours = (logits(model, ids).float() - exact).abs().mean()
    assert ours < 1.5 * theirs


@pytest.mark.parametrize("family", ["qwen2", "gpt_oss", "gpt_neox"])
def test_float16_with_large_biases_and_padding_gives_numbers(family):
    """Biases of 150, as large as Qwen2's: products of queries and keys leave float16 behind."""
    model, (ids, mask) = tiny_model(family).to(torch.float16), padded(tokens(2, 50), (50, 41))
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.bias", "k_proj.bias", "query_key_value.bias")):
            parameter.data.fill_(150.0)
    with lw.adapted(model):
        assert logits(model, ids, attention_mask=mask)[mask.bool()].isfinite().all()
    for method in (lw.InfLLM(pages=1, page_size=4, window=8), lw.StreamingLLM(window=12)):
        with lw.adapted(model, method):
            assert logits(model, ids, attention_mask=mask)[mask.bool()].isfinite().all()


def test_positional_arguments_are_understood():
    model, ids = endless("llama"), tokens(2, 20)
    left, mask = padded(ids, (20, 8))
    before = logits(model, left, attention_mask=mask)
    lw.adapt(model)
    with torch.no_grad():
        close(model(left, mask).logits[0], before[0])
    assert list(inspect.signature(model.generate).parameters) == ["args", "kwargs"]
    config = copy.deepcopy(model.generation_config)
    config.max_new_tokens, config.use_cache = 3, False
    out = model.generate(ids, config, return_dict_in_generate=True)
    assert out.sequences.shape == (2, 23) and out.past_key_values is None
