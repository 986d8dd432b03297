"""Tiny random models of every supported family, and a tokenizer that fits them."""

from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import BpeTrainer
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from lengthwise.hf.families import FAMILIES

VOCABULARY = 320
WINDOW = 64  # trained context of every tiny model
LOCAL = 16  # keys that a sliding layer shows
PAD, BOS, EOS = 0, 1, 2

COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": WINDOW,
    "pad_token_id": PAD,
    "bos_token_id": BOS,
    "eos_token_id": EOS,
}

MIXED = ["sliding_attention", "full_attention"]

# What sets a family apart, in numbers that a text of 50 tokens already meets.
SPECIAL: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": LOCAL},
    "qwen2": {"use_sliding_window": True, "sliding_window": LOCAL, "max_window_layers": 1},
    "qwen3": {},
    "gemma2": {
        "sliding_window": LOCAL,
        "query_pre_attn_scalar": 8,
        "attn_logit_softcapping": 2.0,
        "layer_types": MIXED,
    },
    "gemma3_text": {
        "sliding_window": LOCAL,
        "query_pre_attn_scalar": 8,
        "layer_types": MIXED,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    },
    "gpt_oss": {
        "sliding_window": LOCAL,
        "num_local_experts": 2,
        "num_experts_per_tok": 1,
        "layer_types": MIXED,
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 10_000.0,
            "factor": 4.0,
            "truncate": False,
            "original_max_position_embeddings": LOCAL,
        },
    },
    "phi3": {
        "original_max_position_embeddings": 32,
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0, 1.0, 1.0, 1.0],
            "long_factor": [1.5, 2.0, 3.0, 4.0],
            "original_max_position_embeddings": 32,
        },
    },
    "gpt_neox": {"rotary_pct": 0.5},
    "olmo2": {},
    "smollm3": {"no_rope_layers": [1, 0]},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "ministral": {"sliding_window": LOCAL, "layer_types": MIXED},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "decoder_sparse_step": 2,
    },
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "clip_qkv": 1.0},
    "phi": {"partial_rotary_factor": 0.5},
    "granite": {
        "attention_multiplier": 0.2,
        "embedding_multiplier": 3.0,
        "residual_multiplier": 0.5,
        "logits_scaling": 2.0,
    },
    "glm": {},
    "glm4": {},
    "cohere": {"use_qk_norm": True, "logit_scale": 0.5},
    "cohere2": {"sliding_window": LOCAL, "layer_types": MIXED, "logit_scale": 0.5},
    "exaone4": {"sliding_window": LOCAL, "layer_types": MIXED},
    "starcoder2": {"sliding_window": LOCAL},
    "stablelm": {
        "partial_rotary_factor": 0.5,
        "use_qkv_bias": True,
        "qk_layernorm": True,
        "use_parallel_residual": True,
    },
    "falcon": {"new_decoder_architecture": True, "num_kv_heads": 2, "ffn_hidden_size": 64},
    "llama4_text": {
        "attention_chunk_size": LOCAL,
        "no_rope_layers": [1, 0],
        "num_local_experts": 2,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 64,
        "floor_scale": 8,
        "attn_scale": 0.5,
    },
}

assert set(SPECIAL) == set(FAMILIES)

# One family for every way to place and hide keys, for tests that are not about families: the others
# differ from one of these in what stands around attention.
KINDS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "gpt_oss", "phi3", "gpt_neox",
    "olmo2", "smollm3", "glm", "cohere2",
)  # fmt: skip

TEXT = """
The reader keeps a window open on the text. What leaves the window is forgotten, unless a sink,
a group or a page remembers it. The pass key is 71432. Remember it: 71432 is the pass key.
0 1 2 3 4 5 6 7 8 9; what is the pass key? The pass key is
"""


def tiny_model(family: str, *, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random causal language model with two layers and what makes its family special.

    Sliding layers show 16 keys, Gemma mixes local and global layers with a base for each, Gemma 2
    caps its scores at 2, gpt-oss has sinks that are not 0 and carries YaRN, Phi-3 changes its
    frequencies after 32 tokens, GPT-NeoX, Phi and GLM rotate half of a head, the second layers of
    SmolLM3, Cohere2 and EXAONE 4 have no positions, two of four experts are chosen. Weights are
    wide enough for attention to prefer some keys.

    Args:
        family: A `model_type` of `lengthwise.hf.families.FAMILIES`.
        seed: The same seed gives the same weights.
        changes: Settings of the configuration, instead of those above.

    Raises:
        ValueError: For an unknown family.
    """
    if family not in SPECIAL:
        raise ValueError(f"family must be one of {', '.join(SPECIAL)}, got {family!r}")
    settings = {**COMMON, **SPECIAL[family], **changes}
    if family == "falcon":
        del settings["head_dim"]  # it knows none but hidden_size / num_attention_heads
    config = AutoConfig.for_model(family, **settings)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 or name.endswith(("bias", "sinks")):
                parameter.normal_(std=0.15 if parameter.ndim > 1 else 0.5, generator=generator)
    assert isinstance(model, PreTrainedModel)
    if hasattr(model.config.get_text_config(), "num_experts_per_tok"):
        model.set_experts_implementation("eager")  # torch's grouped products have no float64
    return model.eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 320 tokens, trained on a fixed text; `<s>` is put first.

    Any text can be encoded and comes back as it was. `<pad>` is 0, `<s>` 1 and `</s>` 2.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT.splitlines(), trainer)
    tokenizer.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", BOS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
