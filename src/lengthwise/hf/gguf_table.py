"""What a GGUF file of each architecture holds, as far as transformers reads it right."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


def _weights(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.weight" for name in names)


def _both(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.{kind}" for name in names for kind in ("weight", "bias"))


_QKV = ("attn_q", "attn_k", "attn_v")
_SELF = (*_QKV, "attn_norm", "attn_output", "ffn_norm")
_GATED = ("ffn_gate", "ffn_up", "ffn_down")
_LLAMA = _weights(*_SELF, *_GATED)
_QWEN3 = _weights(*_SELF, "attn_q_norm", "attn_k_norm")
_GEMMA2 = (*_LLAMA, *_weights("post_attention_norm", "post_ffw_norm"))
_BIASES = tuple(f"{name}.bias" for name in _QKV)
_BLOOM = _both("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")
_ENCODER = tuple(f"enc.{one}" for one in _weights(*_SELF, "ffn_up", "ffn_down"))
_DECODER = tuple(f"dec.{one}" for one in _weights(
    *_SELF, "ffn_up", "ffn_down", "cross_attn_norm", "cross_attn_q", "cross_attn_k",
    "cross_attn_v", "cross_attn_o",
))  # fmt: skip

_LAYER_NORM = "attention.layer_norm_epsilon"
# Statements that become an attribute of the configuration, whether transformers reads them or not.
_SIZE = {"attention.key_length": "head_dim"}
_SLIDES = {**_SIZE, "attention.sliding_window": "sliding_window"}
_CAPPED = {
    **_SLIDES,
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
_EXPERTS = {
    **_SIZE,
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}


@dataclass(frozen=True)
class Architecture:
    """What files of one architecture hold.

    Attributes:
        leaves: Tensors of every layer; those of T5 begin with `enc.` and `dec.`.
        optional: Tensors that all layers have, or none.
        elsewhere: Tensors outside of the layers, beside those of most models.
        attributes: Statements, beside those that all have, and what transformers calls them.
        epsilon: The statement of what norms add to a variance.
        needed: Statements without which transformers would take numbers of its own.
        rotates: Whether positions are rotations.
        partial: Whether it may rotate a part of a head only.
        splits: How texts may be split, where transformers has one way for all such models once they
            are saved; empty for any that is known.
    """

    leaves: tuple[str, ...]
    optional: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)
    epsilon: str = "attention.layer_norm_rms_epsilon"
    needed: tuple[str, ...] = ()
    rotates: bool = True
    partial: bool = False
    splits: tuple[str, ...] = ()


ARCHITECTURES = {
    "llama": Architecture(_LLAMA, attributes=_SIZE),
    "qwen2": Architecture(
        (*_LLAMA, *_BIASES), attributes=_SIZE, splits=("qwen2", "deepseek-r1-qwen")
    ),
    "qwen3": Architecture((*_QWEN3, *_weights(*_GATED)), attributes=_SIZE),
    "qwen3moe": Architecture(
        (*_QWEN3, *_weights("ffn_gate_inp", "ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")),
        attributes=_EXPERTS,
        needed=("expert_count", "expert_used_count", "expert_feed_forward_length"),
    ),
    "phi3": Architecture(
        _weights("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down"),
        attributes=_SLIDES,
    ),
    "gemma2": Architecture(_GEMMA2, attributes=_CAPPED),
    "gemma3": Architecture((*_GEMMA2, *_weights("attn_q_norm", "attn_k_norm")), attributes=_CAPPED),
    "starcoder2": Architecture(
        _both(*_SELF, "ffn_up", "ffn_down"),
        elsewhere=("output_norm.bias",),
        attributes={_LAYER_NORM: "norm_epsilon"},
        epsilon=_LAYER_NORM,
    ),
    "stablelm": Architecture(
        (*_weights(*_QKV, "attn_output", *_GATED), *_both("attn_norm", "ffn_norm")),
        optional=_BIASES,
        elsewhere=("output_norm.bias",),
        attributes={
            _LAYER_NORM: "layer_norm_eps",
            "use_parallel_residual": "use_parallel_residual",
        },
        epsilon=_LAYER_NORM,
        partial=True,
    ),
    "bloom": Architecture(
        _BLOOM,
        elsewhere=("token_embd_norm.weight", "token_embd_norm.bias", "output_norm.bias"),
        attributes={"context_length": "seq_length", _LAYER_NORM: "layer_norm_epsilon"},
        epsilon=_LAYER_NORM,
        rotates=False,
    ),
}  # fmt: skip

# How texts are split before merges (`tokenizer.ggml.pre`): as transformers splits them itself …
SPLITS = (
    "default", "gpt-2", "llama3", "llama-v3", "llama-bpe", "falcon3", "dbrx", "smaug-bpe", "tekken",
    "qwen2", "deepseek-r1-qwen", "megrez", "gpt-4o", "llama4",
)  # fmt: skip
# … every digit for itself, then as GPT-2 …
DIGITS = ("smollm", "starcoder", "refact", "command-r")
# … and by expressions of llama.cpp's (src/llama-vocab.cpp) that transformers lacks.
EXPRESSIONS = {
    "bloom": r" ?[^(\s|.,!?…。，、।۔،)]+",
    "stablelm2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}

# Architectures that transformers takes, and reads wrong.
WRONG = {
    "gpt-oss": "transformers leaves its experts unread",
    "falcon": "transformers neither puts its heads back in order nor splits texts as it does",
    "t5": "transformers takes the gated GELU of its layers for a ReLU",
    "t5encoder": "transformers takes the gated GELU of its layers for a ReLU",
}


def known() -> str:
    """The architectures that are read, in words."""
    *first, last = ARCHITECTURES
    return f"{', '.join(first)} and {last}"


def unknown(architecture: str, path: Any) -> str:
    """Why an architecture is not read."""
    why = f", and {WRONG[architecture]}" if architecture in WRONG else f"; {known()} are read"
    return f"{path} holds a model of the architecture {architecture!r}{why}"
