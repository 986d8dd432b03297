"""The model families that are supported, and what is read off each of them."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lengthwise.core.geometry import Geometry, LayerGeometry, RotaryBase

# model_type -> where a decoder layer keeps its attention. All of them rotate the two halves of a
# head against each other, call the attention interface once a layer, and have one rotary module.
FAMILIES = {
    "llama": "self_attn",
    "mistral": "self_attn",
    "qwen2": "self_attn",
    "qwen3": "self_attn",
    "gemma2": "self_attn",
    "gemma3_text": "self_attn",
    "gpt_oss": "self_attn",
    "phi3": "self_attn",
    "gpt_neox": "attention",
    "olmo2": "self_attn",
    "smollm3": "self_attn",
}

# Rope types whose frequencies follow the length of the text.
MOVING = ("dynamic", "longrope")


class UnsupportedModelError(ValueError):
    """The model cannot be adapted; the message says why."""


def refuse_unsupported(model: PreTrainedModel) -> None:
    """Raise `UnsupportedModelError` with the reason unless the model can be adapted."""
    config = model.config
    kind = getattr(config, "model_type", type(model).__name__)
    if kind in FAMILIES:
        if getattr(config, "use_bidirectional_attention", None):
            raise UnsupportedModelError(f"{kind} with bidirectional attention is not supported")
        return
    supported = ", ".join(FAMILIES)
    if getattr(config, "is_encoder_decoder", False):
        why = "it is an encoder-decoder"
    elif not getattr(config, "rope_parameters", None):
        why = "it has no rotary positions"
    elif hasattr(config, "text_config"):
        why = "it is multimodal; load its text model alone"
    else:
        why = "its attention has not been checked"
    raise UnsupportedModelError(f"{kind} is not supported: {why}; supported are {supported}")


def decoder(model: PreTrainedModel) -> nn.Module:
    """The stack of layers, below the language-model head."""
    return model.base_model


def attention_modules(model: PreTrainedModel) -> list[nn.Module]:
    """The attention module of every layer, in order."""
    name = FAMILIES[model.config.model_type]
    return [getattr(layer, name) for layer in decoder(model).layers]  # type: ignore[union-attr]


def read_geometry(model: PreTrainedModel) -> Geometry:
    """Layers, heads, windows and rotary embeddings of a supported, un-adapted model."""
    config = model.config
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    count = config.num_hidden_layers
    types = getattr(config, "layer_types", None) or [None] * count
    bases: dict[str | None, RotaryBase] = {}
    layers = []
    for index, kind in enumerate(types):
        key = kind if config.model_type == "gemma3_text" else None
        if key not in bases:
            bases[key] = _rotary_base(model, key)
        # transformers windows a layer either by its type or, without types, all of them.
        slides = kind in (None, "sliding_attention")
        window = getattr(config, "sliding_window", None) if slides else None
        positions = getattr(config, "no_rope_layers", None)
        rotated = positions is None or bool(positions[index])
        layers.append(LayerGeometry(bases[key] if rotated else None, window))
    return Geometry(
        family=config.model_type,
        window=config.max_position_embeddings,
        layers=tuple(layers),
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=head_dim,
        dtype_bytes=torch.empty((), dtype=model.dtype).element_size(),
    )


def _rotary_base(model: PreTrainedModel, layer_type: str | None) -> RotaryBase:
    module = decoder(model).rotary_emb
    config = model.config
    parameters = config.rope_parameters[layer_type] if layer_type else config.rope_parameters
    kind = parameters["rope_type"]
    moving = any(name in kind for name in MOVING)
    default: Any = module.compute_default_rope_parameters  # type: ignore[union-attr]
    function: Any = default if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
    extra = {"layer_type": layer_type} if layer_type else {}

    def own(length: int) -> tuple[Tensor, float]:
        if moving and length:
            extra["seq_len"] = length
        inv_freq, factor = function(config, **extra)
        return inv_freq.float(), float(factor)

    inv_freq, _ = own(0)
    theta = float(parameters["rope_theta"])
    return RotaryBase(2 * inv_freq.shape[-1], theta, kind, own, static=not moving)
