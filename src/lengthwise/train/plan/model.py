"""What a plan must know of a model, read off its configuration; no weights are loaded."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lengthwise.hf.families import UnsupportedModelError

# Families whose layer is written down in `layers`.
PLANNED = ("llama", "mistral", "qwen2", "qwen3", "smollm3")


@dataclass(frozen=True)
class LayerShape:
    """One decoder layer.

    Attributes:
        inner: Width of the MLP.
        rotary: Whether queries and keys are rotated.
    """

    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    rotary: bool
    qk_norm: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool


@dataclass(frozen=True)
class ModelShape:
    """One model.

    Attributes:
        parameters: Of the whole model, shared ones once.
        largest: Parameters of the largest tensor.
        linear: (in, out) of every linear layer below the head, which LoRA adapts.
        tied: Whether head and embedding are one tensor.
    """

    family: str
    hidden: int
    vocabulary: int
    layers: tuple[LayerShape, ...]
    parameters: int
    largest: int
    linear: tuple[tuple[int, int], ...]
    tied: bool


def read_shape(model: PreTrainedModel) -> ModelShape:
    """The shape of a model, which may lie on torch's meta device.

    Raises:
        UnsupportedModelError: If its family's allocations are not written down, with the reason.
    """
    config: Any = model.config
    family = config.model_type
    if family not in PLANNED:
        raise UnsupportedModelError(
            f"training {family} cannot be planned: what its layers allocate is not written down "
            f"yet; planned are {', '.join(PLANNED)}"
        )
    if _window(config) is not None:
        raise UnsupportedModelError(
            f"training {family} with a sliding window of {_window(config):,} cannot be planned: "
            "transformers gives such layers a mask of length times length"
        )
    parts = dict(model.named_modules())
    layers = []
    for index, layer in enumerate(model.base_model.layers):
        attention, mlp = layer.self_attn, layer.mlp
        head_dim = attention.head_dim
        turns = getattr(config, "no_rope_layers", None)
        layers.append(
            LayerShape(
                heads=attention.q_proj.out_features // head_dim,
                kv_heads=attention.k_proj.out_features // head_dim,
                head_dim=head_dim,
                inner=mlp.down_proj.in_features,
                rotary=turns is None or bool(turns[index]),
                qk_norm=hasattr(attention, "q_norm"),
                attention_bias=attention.q_proj.bias is not None,
                output_bias=attention.o_proj.bias is not None,
                mlp_bias=mlp.down_proj.bias is not None,
            )
        )
    head = model.get_output_embeddings()
    sizes = [parameter.numel() for parameter in model.parameters()]
    return ModelShape(
        family=family,
        hidden=config.hidden_size,
        vocabulary=head.out_features,
        layers=tuple(layers),
        parameters=sum(sizes),
        largest=max(sizes),
        linear=tuple(
            (module.in_features, module.out_features)
            for module in parts.values()
            if isinstance(module, nn.Linear) and module is not head
        ),
        tied=head.weight is model.get_input_embeddings().weight,
    )


def _window(config: Any) -> int | None:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None and "sliding_attention" not in kinds:
        return None
    if config.model_type == "qwen2" and not getattr(config, "use_sliding_window", False):
        return None
    return getattr(config, "sliding_window", None)
