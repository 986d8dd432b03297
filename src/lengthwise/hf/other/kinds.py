"""Which models without rotary positions are known, and what is read off them."""

from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from lengthwise.core.geometry import Geometry, LayerGeometry

Kind = Literal["alibi", "t5", "absolute"]

# By model_type. Their layers take the bias of all heads as a keyword.
ALIBI = ("bloom", "mpt", "falcon")
# Their first encoder layer computes the bias of all.
T5 = ("t5", "mt5")
# Their self-attention projects queries with one linear layer and adds no bias to its scores.
ABSOLUTE = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")

T5_WINDOW = 512  # every released T5 and mT5 was trained with it; the configuration does not say


def kind_of(model: object) -> Kind | None:
    """The kind of positions of a model of the families above; None for every other."""
    if not isinstance(model, PreTrainedModel):
        return None
    config = model.config
    if config.model_type in ALIBI:
        return "alibi" if config.model_type != "falcon" or config.alibi else None
    if config.model_type in T5:
        return "t5"
    encoder = config.model_type in ABSOLUTE and not getattr(config, "is_decoder", False)
    return "absolute" if encoder else None


def read_other_geometry(model: PreTrainedModel) -> Geometry:
    """Layers, heads and trained window of such a model; no layer of it is rotated.

    Raises:
        ValueError: If the configuration does not say how long its training texts were.
    """
    config = model.config
    heads, count = config.num_attention_heads, config.num_hidden_layers
    return Geometry(
        family=config.model_type,
        window=_window(config),
        layers=(LayerGeometry(None, None),) * count,
        heads=heads,
        kv_heads=heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        dtype_bytes=torch.empty((), dtype=model.dtype).element_size(),
    )


def _window(config: Any) -> int:
    if config.model_type in T5:
        return int(getattr(config, "n_positions", T5_WINDOW))
    name = {"bloom": "seq_length", "mpt": "max_seq_len"}.get(
        config.model_type, "max_position_embeddings"
    )
    window = getattr(config, name, None)
    if window is None:
        raise ValueError(
            f"the configuration of this {config.model_type} does not say how many tokens it was "
            f"trained with; set model.config.{name}, or write {name} into config.json"
        )
    return int(window)
