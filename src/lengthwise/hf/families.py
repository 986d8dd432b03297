"""The model families that are supported, and what is read off each of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from lengthwise.core.geometry import Geometry, LayerGeometry, RotaryBase
from lengthwise.core.rotary import Pairing

Windows = Literal["none", "everywhere", "by type"]


def _every(config: Any, layer: int) -> bool:
    """every layer"""
    return True


def _listed(config: Any, layer: int) -> bool:
    """layers that `no_rope_layers` gives a 1"""
    return config.no_rope_layers is None or bool(config.no_rope_layers[layer])


def _sliding(config: Any, layer: int) -> bool:
    """layers with a window"""
    slides: bool = config.layer_types[layer] == "sliding_attention"
    return slides and config.sliding_window is not None


def _sliding_if_any(config: Any, layer: int) -> bool:
    """layers with a window; every layer where there is none"""
    return config.sliding_window is None or _sliding(config, layer)


@dataclass(frozen=True)
class Family:
    """What is known of the models of one `model_type`.

    All of them call an attention function once a layer and have one rotary module.

    Attributes:
        models: Their names, for people.
        windows: Which layers read `sliding_window` at all: a configuration may carry one that its
            model ignores. `by type` is where `layer_types` says so.
        pairing: Which numbers of a head are rotated against each other.
        rotates: From a configuration and the index of a layer to whether it has positions; its
            docstring says which do, for people.
        by_mask: Whether its layers hand down no keyword that they do not know, but the mask.
    """

    models: str
    windows: Windows = "none"
    pairing: Pairing = "half"
    rotates: Callable[[Any, int], bool] = _every
    by_mask: bool = False


FAMILIES = {
    "llama": Family("Llama 1 to 3, SmolLM, Yi"),
    "mistral": Family("Mistral", "everywhere"),
    "mixtral": Family("Mixtral", "everywhere"),
    "ministral": Family("Ministral", "by type"),
    "qwen2": Family("Qwen 2 and 2.5", "by type"),
    "qwen3": Family("Qwen 3", "by type"),
    "qwen3_moe": Family("Qwen 3, mixture of experts", "everywhere"),
    "gemma2": Family("Gemma 2", "by type"),
    "gemma3_text": Family("Gemma 3, text", "by type"),
    "gpt_oss": Family("gpt-oss", "by type"),
    "phi": Family("Phi 1, 1.5 and 2"),
    "phi3": Family("Phi 3 and 4", "everywhere"),
    "gpt_neox": Family("GPT-NeoX, Pythia"),
    "olmo2": Family("OLMo 2"),
    "olmoe": Family("OLMoE"),
    "smollm3": Family("SmolLM3", "by type", rotates=_listed),
    "granite": Family("Granite 3"),
    "glm": Family("GLM-4 of 2024", pairing="interleaved"),
    "glm4": Family("GLM-4 of 2025", pairing="interleaved"),
    "cohere": Family("Command R", pairing="interleaved"),
    "cohere2": Family("Command R7B, Command A", "by type", "interleaved", _sliding),
    "exaone4": Family("EXAONE 4", "by type", rotates=_sliding_if_any),
    "starcoder2": Family("StarCoder2", "everywhere"),
    "stablelm": Family("StableLM", by_mask=True),
    "falcon": Family("Falcon with rotary positions", by_mask=True),
    "llama4_text": Family("Llama 4, text", pairing="interleaved", rotates=_listed),
}

# Settings of layers that keep a state: Mamba's, gated linear attention's, short convolutions'.
STATES = (
    "mamba_d_conv", "ssm_state_size", "state_size", "linear_conv_kernel_dim", "linear_attn_config",
    "conv_L_cache", "lru_width",
)  # fmt: skip

STATEFUL = {"mamba", "linear_attention", "conv", "recurrent"}  # among `layer_types`

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
    if kind in FAMILIES and not getattr(config, "alibi", False):
        if not model.can_generate():
            raise UnsupportedModelError(
                f"{type(model).__name__} is not supported: it is no causal language model"
            )
        if getattr(config, "use_bidirectional_attention", None):
            raise UnsupportedModelError(f"{kind} with bidirectional attention is not supported")
        return
    raise UnsupportedModelError(
        f"{kind} is not supported: {why_not(config)}; supported are {', '.join(FAMILIES)}"
    )


def why_not(config: Any) -> str:
    """The reason why a family is not supported, from a configuration of it."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    if getattr(config, "alibi", False):
        return "it has linear biases (ALiBi) in the place of rotary positions"
    if getattr(config, "is_encoder_decoder", False):
        return "it is an encoder-decoder"
    if kinds & STATEFUL or any(getattr(text, name, None) for name in STATES):
        return (
            "some of its layers keep a state instead of keys, with nothing to place and nothing to "
            "choose from"
        )
    if getattr(text, "kv_lora_rank", None):
        return (
            "its attention is latent: keys and values are unpacked from one small vector, which "
            "lies in the cache in their place"
        )
    if hasattr(config, "text_config"):
        return (
            "it is multimodal; lengthwise.text_model takes the language model out of a gemma3 or "
            "qwen2_5_vl, and lengthwise.load does so by itself"
        )
    if not any(getattr(config, name, None) for name in ("rope_parameters", "rotary_dim")):
        return "it has no rotary positions"
    return "its attention has not been checked"


def decoder(model: PreTrainedModel) -> nn.Module:
    """The stack of layers, below the language-model head."""
    base = model.base_model
    return model.model if base is model else base  # Llama 4 names another prefix than its own


def layers_of(model: PreTrainedModel) -> Any:
    """The layers of the stack, in their order."""
    base: Any = decoder(model)
    return base.h if model.config.model_type == "falcon" else base.layers


def read_softcap(model: PreTrainedModel) -> float | None:
    """What scores of attention are capped at (Gemma 2)."""
    cap = getattr(model.config, "attn_logit_softcapping", None)
    return None if cap is None else float(cap)


def read_logit_scale(config: Any) -> float:
    """What the logits of the output head are multiplied by (Cohere, Granite)."""
    divided = float(getattr(config, "logits_scaling", None) or 1.0)
    return float(getattr(config, "logit_scale", None) or 1.0) / divided


def has_sinks(model: PreTrainedModel) -> bool:
    """Whether heads have a learned sink (gpt-oss)."""
    return any(name.endswith(".sinks") for name, _ in model.named_parameters())


def layer_windows(config: Any) -> list[int | None]:
    """Keys that a query of each layer sees at most, itself included; None for all."""
    if config.model_type == "llama4_text":
        kinds, size = config.layer_types, config.attention_chunk_size
        return [size if kind == "chunked_attention" else None for kind in kinds]
    windows = FAMILIES[config.model_type].windows
    if windows == "by type":
        slides = [kind == "sliding_attention" for kind in config.layer_types]
    else:
        slides = [windows == "everywhere"] * config.num_hidden_layers
    return [config.sliding_window if one else None for one in slides]


def _kv_heads(config: Any) -> int:
    if config.model_type == "falcon":
        shared = config.multi_query and not config.new_decoder_architecture
        return 1 if shared else int(config.num_kv_heads)
    return getattr(config, "num_key_value_heads", None) or config.num_attention_heads


def mlp_width(config: Any) -> int:
    """Numbers between the two halves of an MLP."""
    return int(getattr(config, "intermediate_size", None) or config.ffn_hidden_size)


@dataclass(frozen=True)
class FloorLog:
    """Llama 4's factor on scores where a layer has no positions: `1 + s ln(1 + ⌊(p + 1) / f⌋)`.

    Source: Nakanishi 2025, arXiv:2501.19399, in the steps of the released code.
    """

    floor: float
    scale: float

    def __call__(self, positions: Tensor) -> Tensor:
        return torch.log1p(((positions.float() + 1) / self.floor).floor()) * self.scale + 1


def _own_sharpness(config: Any, layer: int) -> FloorLog | None:
    tuned = getattr(config, "attn_temperature_tuning", False) and not _listed(config, layer)
    return FloorLog(config.floor_scale, config.attn_scale) if tuned else None


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
        rotated = FAMILIES[config.model_type].rotates(config, index)
        chunk = window if config.model_type == "llama4_text" else None
        rotary = bases[key] if rotated else None
        layers.append(LayerGeometry(rotary, window, chunk, _own_sharpness(config, index)))
    return Geometry(
        family=config.model_type,
        window=config.max_position_embeddings,
        layers=tuple(layers),
        heads=heads,
        kv_heads=_kv_heads(config),
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
        # Llama 4 norms queries and keys once they are rotated, and with them what rotation gave.
        lost = self.config.model_type == "llama4_text" and self.config.use_qk_norm
        return inv_freq.float(), 1.0 if lost else float(factor)


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
        pairing=FAMILIES[model.config.model_type].pairing,
        trained=_window_before(model.config, parameters),
    )


def _window_before(config: Any, parameters: dict[str, Any]) -> int | None:
    """Tokens of the window before a scaling, where the configuration says so.

    Dynamic frequencies stay what they were up to `max_position_embeddings`. What a `linear` factor
    counts from stands beside the parameters where anybody wrote it down.
    """
    name = "original_max_position_embeddings"
    said = parameters.get(name) or getattr(config, name, None)
    dynamic = parameters["rope_type"] == "dynamic"
    return said or (config.max_position_embeddings if dynamic else None)
