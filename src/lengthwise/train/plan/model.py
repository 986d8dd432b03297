"""What a plan must know of a model, read off its configuration; no weights are loaded."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from lengthwise.hf.families import UnsupportedModelError, layer_windows, refuse_unsupported

# Families whose step is worked out operation by operation, in `families`.
PLANNED = (
    "llama", "mistral", "qwen2", "qwen3", "smollm3", "olmo2", "phi3", "gpt_neox", "gemma2",
    "gemma3_text", "gpt_oss",
)  # fmt: skip


@dataclass(frozen=True)
class LayerShape:
    """One decoder layer.

    Attributes:
        inner: Width of the MLP.
        rotary: Numbers of a head that are rotated.
        window: Keys that a query sees at most, itself included; 0 for all.
        softcap: Whether scores are capped.
        sinks: Whether heads have a learned sink.
        experts: Of the MLP; 0 if it is one.
        chosen: Experts that a token goes through.
        parallel: Whether attention and MLP read the same input.
    """

    heads: int
    kv_heads: int
    head_dim: int
    inner: int
    rotary: int
    qk_norm: bool
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    window: int = 0
    softcap: bool = False
    sinks: bool = False
    experts: int = 0
    chosen: int = 0
    parallel: bool = False

    @property
    def eager(self) -> bool:
        """Whether transformers writes the attention out: torch's kernels know neither."""
        return self.softcap or self.sinks


@dataclass(frozen=True)
class ModelShape:
    """One model.

    Attributes:
        sizes: Parameters of every tensor, in the optimizer's order, shared ones once.
        linear: (in, out) of every linear layer below the head, which LoRA adapts.
        tied: Whether head and embedding are one tensor.
        softcap: Whether logits are capped.
    """

    family: str
    hidden: int
    vocabulary: int
    layers: tuple[LayerShape, ...]
    sizes: tuple[int, ...]
    linear: tuple[tuple[int, int], ...]
    tied: bool
    softcap: bool = False

    @property
    def parameters(self) -> int:
        return sum(self.sizes)


def read_shape(model: PreTrainedModel) -> ModelShape:
    """The shape of a model, which may lie on torch's meta device.

    Raises:
        UnsupportedModelError: If its family is not supported, or its training step not worked out.
    """
    refuse_unsupported(model)
    config: Any = model.config
    if config.model_type not in PLANNED:
        raise UnsupportedModelError(
            f"the memory of a training step is not worked out for {config.model_type}; it is for "
            f"{', '.join(PLANNED)}"
        )
    windows = layer_windows(config)
    heads = config.num_attention_heads
    part = config.rope_parameters.get("partial_rotary_factor", 1.0)
    turns = getattr(config, "no_rope_layers", None)
    layers = []
    for index, layer in enumerate(model.base_model.layers):
        modules = dict(layer.named_modules())
        # GPT-NeoX reads neither a `head_dim` nor KV heads off its configuration.
        attention: Any = getattr(layer, "self_attn", None) or layer.attention
        head_dim = getattr(attention, "head_dim", None) or attention.head_size
        groups = getattr(attention, "num_key_value_groups", 1)
        layers.append(
            LayerShape(
                heads=heads,
                kv_heads=heads // groups,
                head_dim=head_dim,
                inner=config.intermediate_size,
                rotary=int(head_dim * part) if turns is None or turns[index] else 0,
                qk_norm=any(name.endswith("q_norm") for name in modules),
                attention_bias=_biased(modules, "q_proj", "query_key_value"),
                output_bias=_biased(modules, "o_proj", "dense"),
                mlp_bias=_biased(modules, "down_proj", "dense_4h_to_h"),
                window=windows[index] or 0,
                softcap=getattr(config, "attn_logit_softcapping", None) is not None,
                sinks="self_attn.sinks" in dict(layer.named_parameters()),
                experts=getattr(config, "num_local_experts", 0),
                chosen=getattr(config, "num_experts_per_tok", 0),
                parallel=getattr(config, "use_parallel_residual", False),
            )
        )
    head = model.get_output_embeddings()
    return ModelShape(
        family=config.model_type,
        hidden=config.hidden_size,
        vocabulary=head.out_features,
        layers=tuple(layers),
        sizes=tuple(parameter.numel() for parameter in model.parameters()),
        linear=tuple(
            (module.in_features, module.out_features)
            for module in model.modules()
            if isinstance(module, nn.Linear) and module is not head
        ),
        tied=head.weight is model.get_input_embeddings().weight,
        softcap=getattr(config, "final_logit_softcapping", None) is not None,
    )


def _biased(modules: dict[str, nn.Module], *names: str) -> bool:
    """Whether the linear layer of one of these names has a bias."""
    found = (part for name, part in modules.items() if name.rpartition(".")[2] in names)
    return any(getattr(part, "bias", None) is not None for part in found)
