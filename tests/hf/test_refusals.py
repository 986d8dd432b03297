"""What an adapted model cannot honour it refuses, in one line, and nothing is changed."""

import copy
import json
from pathlib import Path

import pytest
import torch
import transformers as hf
from transformers import DynamicCache

import lengthwise as lw
from lengthwise.hf.families import FAMILIES, UnsupportedModelError, why_not
from lengthwise.hf.files import SIZES, find_config
from lengthwise.testing.models import COMMON, VOCABULARY, tiny_model

SMALL = {"vocab_size": 50, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA_LIKE = {**SMALL, "hidden_size": 16, "intermediate_size": 16, "num_key_value_heads": 1}
NO_ROTARY = "it has no rotary positions"
UNKNOWN = "its attention has not been checked"
STATE = "some of its layers keep a state instead of keys, with nothing to place and "
LATENT = "its attention is latent: keys and values are unpacked from one small vector, which"

OTHERS = {
    "gpt2": (hf.GPT2LMHeadModel, {"n_embd": 16, "n_layer": 1, "n_head": 2}, NO_ROTARY),
    "bert": (
        hf.BertLMHeadModel,
        {**SMALL, "hidden_size": 16, "intermediate_size": 16, "is_decoder": True},
        NO_ROTARY,
    ),
    "umt5": (
        hf.UMT5ForConditionalGeneration,
        {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2},
        "it is an encoder-decoder",
    ),
    "gptj": (
        hf.GPTJForCausalLM,
        {"n_embd": 16, "n_layer": 1, "n_head": 2, "rotary_dim": 4},
        UNKNOWN,
    ),
    "granitemoe": (hf.GraniteMoeForCausalLM, LLAMA_LIKE, UNKNOWN),
    "jamba": (
        hf.JambaForCausalLM,
        {**LLAMA_LIKE, "num_hidden_layers": 2, "attn_layer_offset": 1, "attn_layer_period": 2,
         "use_mamba_kernels": False},
        STATE,
    ),
    "deepseek_v2": (
        hf.DeepseekV2ForCausalLM,
        {**LLAMA_LIKE, "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4,
         "qk_nope_head_dim": 4, "v_head_dim": 8, "first_k_dense_replace": 1},
        LATENT,
    ),
    "gemma3": (
        hf.Gemma3ForConditionalGeneration,
        {
            "text_config": {**LLAMA_LIKE, "head_dim": 8},
            "vision_config": {
                **SMALL, "hidden_size": 16, "intermediate_size": 16,
                "image_size": 28, "patch_size": 14,
            },
            "mm_tokens_per_image": 4,
        },
        "it is multimodal; lengthwise.text_model takes the language model out of a gemma3",
    ),
}  # fmt: skip


def tokens(rows, length):
    g = torch.Generator().manual_seed(1)
    return torch.randint(3, VOCABULARY, (rows, length), generator=g)


def refusal(call, kind=ValueError):
    with pytest.raises(kind) as error:
        call()
    message = str(error.value)
    assert message and "\n" not in message
    return message


@pytest.mark.parametrize("kind", OTHERS)
def test_other_architectures(kind):
    architecture, settings, why = OTHERS[kind]
    settings = {"vocab_size": 50, **settings} if kind != "gemma3" else settings
    model = architecture(hf.AutoConfig.for_model(kind, **settings))
    attention = model.config._attn_implementation
    message = refusal(lambda: lw.adapt(model), UnsupportedModelError)
    assert message.startswith(f"{kind} is not supported: {why}") and "; supported are " in message
    assert all(family in message for family in FAMILIES)
    assert model.config._attn_implementation == attention and not model._forward_pre_hooks


def test_families_that_keep_no_keys_say_what_they_keep():
    for kinds, why in (
        (
            "jamba zamba zamba2 bamba falcon_h1 qwen3_next granitemoehybrid lfm2 lfm2_moe mamba "
            "recurrent_gemma kimi_linear nemotron_h olmo_hybrid bailing_hybrid minimax",
            STATE,
        ),
        (
            "deepseek_v2 deepseek_v3 deepseek_v32 kimi_k25 minicpm3 glm4_moe_lite longcat_flash",
            LATENT,
        ),
    ):
        for kind in kinds.split():
            assert why_not(hf.AutoConfig.for_model(kind)).startswith(why), kind


def test_a_model_without_a_language_model_head():
    config = hf.AutoConfig.for_model("llama", **COMMON)
    for architecture in (hf.LlamaModel, hf.LlamaForSequenceClassification):
        model = architecture(config)
        message = refusal(lambda: lw.adapt(model), UnsupportedModelError)  # noqa: B023
        assert message == (
            f"{architecture.__name__} is not supported: it is no causal language model"
        )


def test_a_bidirectional_model():
    model = tiny_model("gemma3_text", use_bidirectional_attention=True)
    assert "bidirectional attention" in refusal(lambda: lw.adapt(model), UnsupportedModelError)


def test_what_is_no_transformers_model():
    message = refusal(lambda: lw.adapt(torch.nn.Linear(2, 2)), UnsupportedModelError)
    assert message == (
        "adapt takes a transformers model, got Linear; adapt the model inside a wrapper"
    )


def test_the_configuration_of_an_adapted_model_is_its_own():
    shared = tiny_model("llama").config
    model, other = (hf.LlamaForCausalLM(shared).eval() for _ in range(2))
    with lw.adapted(model), lw.adapted(other):
        for one in (model, other):
            one(tokens(1, 4))
            assert one.config is not shared and one.config is one.model.layers[0].self_attn.config
        assert shared._attn_implementation == "sdpa"
    for copied in (False, True):
        with lw.adapted(model):
            config = copy.deepcopy(model.config) if copied else model.config
            other = hf.LlamaForCausalLM(config).eval()
            message = refusal(lambda: other(tokens(1, 4)))  # noqa: B023
            assert "set by lengthwise.adapt, not by name; two models need two" in message
            with lw.adapted(other):
                other(tokens(1, 4))
            assert other.config._attn_implementation == "sdpa"
            other(tokens(1, 4))
            model(tokens(1, 4))
    assert model.config._attn_implementation == "sdpa"


def test_our_attention_chosen_by_name():
    config = hf.AutoConfig.for_model("llama", **COMMON)
    model = hf.AutoModelForCausalLM.from_config(config, attn_implementation="lengthwise")
    assert "set by lengthwise.adapt, not by name" in refusal(lambda: model(tokens(1, 4)))


@pytest.fixture
def adapted():
    return lw.adapt(tiny_model("llama", attention_dropout=0.1))


def test_masks_with_four_dimensions(adapted):
    mask = torch.zeros(1, 1, 4, 4)
    message = refusal(lambda: adapted(tokens(1, 4), attention_mask=mask))
    assert "2-D attention mask" in message and "(1, 1, 4, 4)" in message


def test_a_mask_of_the_wrong_length(adapted):
    cache = lw.new_cache(adapted)
    with torch.no_grad():
        adapted(tokens(1, 6), past_key_values=cache)
    mask = torch.ones(1, 4, dtype=torch.long)
    message = refusal(lambda: adapted(tokens(1, 4), attention_mask=mask, past_key_values=cache))
    assert message == (
        "attention_mask must cover the 6 tokens seen and the 4 new ones, got 4 columns"
    )
    assert cache.get_seq_length() == 6 and cache.lengths.tolist() == [6]


def test_positions_that_start_again(adapted):
    positions = torch.tensor([[0, 1, 0, 1]])
    message = refusal(lambda: adapted(tokens(1, 4), position_ids=positions))
    assert "pass segment_ids" in message


def test_segments_on_some_forwards_of_a_cache(adapted):
    segments = torch.tensor([[0, 0, 1, 1]])
    for first, then in ((None, segments), (segments, None)):
        cache = lw.new_cache(adapted)
        with torch.no_grad():
            adapted(tokens(1, 4), past_key_values=cache, segment_ids=first)
        message = refusal(
            lambda: adapted(tokens(1, 4), past_key_values=cache, segment_ids=then)  # noqa: B023
        )
        assert "with every forward on a cache or with none" in message


@pytest.mark.parametrize("filled", [False, True])
def test_the_cache_of_somebody_else(filled, adapted):
    # Even an empty one: we could not fill it, and its owner would go on without the past.
    cache = DynamicCache()
    if filled:
        with torch.no_grad():
            tiny_model("llama")(tokens(1, 4), past_key_values=cache)
    for call, how in ((adapted, {}), (adapted.generate, {"max_new_tokens": 2})):
        message = refusal(lambda: call(tokens(1, 5), past_key_values=cache, **how))  # noqa: B023
        assert message == (
            "an adapted model takes its own cache and not a DynamicCache; start with "
            "lengthwise.new_cache(model)"
        )


def test_the_cache_of_another_adaptation(adapted):
    cache = lw.new_cache(adapted)
    lw.adapt(lw.restore(adapted), lw.SlidingWindow(window=4))
    for model in (adapted, lw.adapt(tiny_model("llama"))):
        message = refusal(lambda: model(tokens(1, 4), past_key_values=cache))  # noqa: B023
        assert "another model or adaptation; take one from lengthwise.new_cache(model)" in message
    assert "not adapted" in refusal(lambda: lw.new_cache(tiny_model("llama")))


def test_a_cache_of_ours_in_an_untouched_model(adapted):
    ids, used, unused = tokens(1, 4), lw.new_cache(adapted), lw.new_cache(adapted)
    with torch.no_grad():
        adapted(ids, past_key_values=used)
        lw.restore(adapted)
        for cache in (used, unused):
            message = refusal(lambda: adapted(ids[:, :1], past_key_values=cache))  # noqa: B023
            assert "serves only the adapted model" in message


def test_attention_dropout(adapted):
    adapted.train()
    assert "no attention dropout, got 0.1; set it to 0" in refusal(lambda: adapted(tokens(1, 4)))
    adapted.eval()(tokens(1, 4))


def test_attention_weights(adapted):
    message = refusal(lambda: adapted(tokens(1, 4), output_attentions=True))
    assert "no attention weights to return" in message
    how = {"output_attentions": True, "return_dict_in_generate": True, "max_new_tokens": 1}
    assert "no attention weights" in refusal(lambda: adapted.generate(tokens(1, 4), **how))
    out = adapted(tokens(1, 4), output_hidden_states=True)
    assert len(out.hidden_states) == 3


def test_no_tokens_or_two_kinds_of_them(adapted):
    embeds = adapted.get_input_embeddings()(tokens(1, 4))
    for given in ({}, {"input_ids": tokens(1, 4), "inputs_embeds": embeds}):
        message = refusal(lambda: adapted(**given))  # noqa: B023
        assert message == "You must specify exactly one of input_ids or inputs_embeds"


def test_taking_tokens_back():
    message = "this cache cannot take back tokens"
    how = {"max_new_tokens": 8, "do_sample": False, "prompt_lookup_num_tokens": 3}
    text = tokens(1, 6).repeat(1, 4)
    gemma = lw.adapt(tiny_model("gemma2"))  # its local layers keep their window and no more
    assert message in refusal(lambda: gemma.generate(text, **how))
    streaming = lw.adapt(tiny_model("llama"), lw.StreamingLLM(sinks=1, window=8))
    assert message in refusal(lambda: streaming.generate(text, **how))

    cache = lw.new_cache(gemma)
    with torch.no_grad():
        gemma(text, past_key_values=cache)
    assert message in refusal(lambda: cache.crop(-1))
    assert cache.get_seq_length() == 24 and cache.layers[1].state.store.croppable
    cache.crop(0)
    assert "minus the number of tokens, at most the 24 seen, got 3" in refusal(
        lambda: cache.crop(3)
    )
    assert "take a new one: lengthwise.new_cache(model)" in refusal(cache.reset)


def test_continuing_a_cache_while_layers_run_again():
    model = lw.adapt(tiny_model("llama").train())
    model.activation_checkpointing_enable()
    cache = lw.new_cache(model)
    message = refusal(lambda: model(tokens(1, 4), past_key_values=cache))
    assert "gradient checkpointing runs layers twice" in message
    assert model(tokens(1, 4), use_cache=True).past_key_values is None


def test_continuous_batching(adapted):
    config = hf.GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0)
    with pytest.raises(ValueError, match="lengthwise is not supported for continuous batching"):
        adapted.generate_batch([[3, 4]], generation_config=config, progress_bar=False)


def test_numbers_that_no_model_can_have_are_refused_by_name(tmp_path: Path) -> None:
    sound = tiny_model("llama").config.to_dict()
    rope = sound["rope_parameters"]
    file = tmp_path / "config.json"
    for name, values in {
        "max_position_embeddings": (10**30, -7, 0, 3.5, "x", True, 2**31 + 1),
        "vocab_size": (10**12, 0, -1),
        "num_hidden_layers": (10**6, 0, -1),
        "hidden_size": (10**9, 0, []),
        "attention_chunk_size": (0, -1),
        "original_max_position_embeddings": (0, -4096, "x"),
        "rope_theta": (float("nan"), float("inf"), -1, 0, "x", 10**400, True, None),
        "rotary_emb_base": (-1,),
        "pad_token_id": (-99, "x", 1.5, [[1]]),
        "eos_token_id": (-1, 10**9),
        "torch_dtype": (5, "", ["float32"], {"text_config": 5}),
        "dtype": (True,),
        "architectures": (5, "LlamaForCausalLM", [None]),
    }.items():
        for value in values:
            changes = [{name: value}, {"text_config": {name: value}}]
            if name == "rope_theta":
                inner = {**rope, name: value}
                changes = [{name: value}, {"rope_parameters": inner}, {"rope_scaling": inner},
                           {"rope_parameters": {"full_attention": inner}}]  # fmt: skip
            elif name not in SIZES:
                changes = [{name: value}]
            for change in changes:
                file.write_text(json.dumps(sound | change))
                with pytest.raises(ValueError, match=rf"config.json says {name} .*; it must be "):
                    find_config(str(file))
    for change in (
        {},
        {"rotary_emb_base": None, "pad_token_id": -1, "architectures": None, "torch_dtype": None},
        {"eos_token_id": [1, 2], "torch_dtype": "bfloat16", "dtype": {"text_config": "float32"}},
        {"intermediate_size": [8, 16]},
        {"max_position_embeddings": 2**31},
    ):
        file.write_text(json.dumps(sound | change))
        assert find_config(str(file)) == file
