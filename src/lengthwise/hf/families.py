"""The model families that are supported, and what is read off each of them."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lengthwise.core.geometry import Geometry, LayerGeometry, RotaryBase

# By model_type. All of them rotate the two halves of a head against each other, call the attention
# interface once a layer, hand keywords down to it, and have one rotary module.
FAMILIES = (
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "phi3",
    "gpt_neox",
    "olmo2",
    "smollm3",
)

# Who reads `sliding_window` at all: a configuration may carry one that its model ignores.
WINDOW_BY_LAYER_TYPE = ("qwen2", "qwen3", "gemma2", "gemma3_text", "gpt_oss", "smollm3")
WINDOW_EVERYWHERE = ("mistral", "phi3")

# Rope types whose frequencies follow the length of the text.
MOVING = ("dynamic", "longrope")


class UnsupportedModelError(ValueError):
    """The model cannot be adapted; the message says why."""


def refuse_unsupported(model: PreTrainedModel) -> None:
    """Raise `UnsupportedModelError` with the reason unless the model can be adapted."""
    if not isinstance(model, PreTrainedModel):
        raise UnsupportedModelError(
            f"adapt takes a transformers model, got {type(model).__name__}; adapt the model "
            "inside a wrapper"
        )
    config = model.config
    kind = config.model_type
    if kind in FAMILIES:
        if not model.can_generate():
            raise UnsupportedModelError(
                f"{type(model).__name__} is not supported: it is no causal language model"
            )
        if getattr(config, "use_bidirectional_attention", None):
            raise UnsupportedModelError(f"{kind} with bidirectional attention is not supported")
        return
    supported = ", ".join(FAMILIES)
    if getattr(config, "is_encoder_decoder", False):
        why = "it is an encoder-decoder"
    elif hasattr(config, "text_config"):
        why = "it is multimodal; load its text model alone"
    elif not any(getattr(config, name, None) for name in ("rope_parameters", "rotary_dim")):
        why = "it has no rotary positions"
    else:
        why = "its attention has not been checked"
    raise UnsupportedModelError(f"{kind} is not supported: {why}; supported are {supported}")


def decoder(model: PreTrainedModel) -> nn.Module:
    """The stack of layers, below the language-model head."""
    return model.base_model


def read_softcap(model: PreTrainedModel) -> float | None:
    """What scores of attention are capped at (Gemma 2)."""
    cap = getattr(model.config, "attn_logit_softcapping", None)
    return None if cap is None else float(cap)


def has_sinks(model: PreTrainedModel) -> bool:
    """Whether heads have a learned sink (gpt-oss)."""
    return any(name.endswith(".sinks") for name, _ in model.named_parameters())


def layer_windows(config: Any) -> list[int | None]:
    """Keys that a query of each layer sees at most, itself included; None for all."""
    kinds = config.layer_types if config.model_type in WINDOW_BY_LAYER_TYPE else []
    slides = [kind == "sliding_attention" for kind in kinds]
    if not kinds:
        slides = [config.model_type in WINDOW_EVERYWHERE] * config.num_hidden_layers
    return [config.sliding_window if one else None for one in slides]


def frequencies_follow_length(model: PreTrainedModel) -> bool:
    """Whether the model's own frequencies change as the text grows, adapted or not."""
    config = getattr(model, "config", None)  # a module of a person's own may have none
    text = None if config is None else config.get_text_config()
    parameters = getattr(text, "rope_parameters", None) or {}
    tables = [parameters, *(one for one in parameters.values() if isinstance(one, dict))]
    return any(name in str(table.get("rope_type")) for table in tables for name in MOVING)


def read_geometry(model: PreTrainedModel) -> Geometry:
    """Layers, heads, windows and rotary embeddings of a supported, un-adapted model."""
    config = model.config
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    bases: dict[str | None, RotaryBase] = {}
    layers = []
    for index, window in enumerate(layer_windows(config)):
        key = config.layer_types[index] if config.model_type == "gemma3_text" else None
        if key not in bases:
            bases[key] = _rotary_base(model, key)
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


@dataclass(frozen=True, eq=False)
class OwnFrequencies:
    """What transformers computes for a configuration: from a length to (`[pairs]`, factor).

    Attributes:
        rotary: The class of the rotary module, which knows the unscaled frequencies.
        layer_type: The entry of `rope_parameters`, where each type of layer has its own.
    """

    config: Any
    rotary: type[nn.Module]
    layer_type: str | None

    @property
    def parameters(self) -> dict[str, Any]:
        """The rotary parameters, with `rope_type` and `rope_theta`."""
        given = self.config.rope_parameters
        return dict(given[self.layer_type] if self.layer_type else given)

    @property
    def moving(self) -> bool:
        """Whether frequencies follow the length."""
        return any(name in self.parameters["rope_type"] for name in MOVING)

    def __call__(self, length: int) -> tuple[Tensor, float]:
        kind = self.parameters["rope_type"]
        default: Any = self.rotary.compute_default_rope_parameters  # type: ignore[attr-defined]
        function: Any = default if kind == "default" else ROPE_INIT_FUNCTIONS[kind]
        layer = {"layer_type": self.layer_type} if self.layer_type else {}
        so_far = {"seq_len": length} if self.moving else {}
        inv_freq, factor = function(self.config, **layer, **so_far)
        return inv_freq.float(), float(factor)


def _rotary_base(model: PreTrainedModel, layer_type: str | None) -> RotaryBase:
    own = OwnFrequencies(model.config, type(decoder(model).rotary_emb), layer_type)  # type: ignore[arg-type]
    parameters = own.parameters
    if parameters.get("rope_theta") is None:
        raise UnsupportedModelError(
            "the configuration has no rope_theta: without the base of its frequencies a model "
            "cannot be scaled; write rope_theta into rope_parameters of config.json"
        )
    return RotaryBase(
        dim=2 * own(1)[0].shape[-1],
        theta=float(parameters["rope_theta"]),
        kind=parameters["rope_type"],
        own=own,
        static=not own.moving,
        trained=parameters.get("original_max_position_embeddings"),
    )
