"""A batch of texts of different lengths without its padding, through a whole model."""

from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.extend.adapt import adapted, is_adapted


def unpadded_logits(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "b t"],
    attention_mask: Int[Tensor, "b t"] | Bool[Tensor, "b t"],
) -> Float[Tensor, "b t v"]:
    """The logits of a padded batch, where only real tokens are computed; 0 where padding stands.

    The real tokens of all rows lie behind each other in one row, and attention reads each text
    alone; so the time follows how many they are and not the longest. Padding may stand anywhere.
    The model is used as it is adapted, or plain. Gradients flow as in any forward.

    Source: Zhai et al. 2023, ByteTransformer (arXiv:2210.03052), section 4.

    Raises:
        ValueError: A mask of another shape, or a batch without a real token.
    """
    if attention_mask.shape != input_ids.shape:
        raise ValueError(
            f"attention_mask must be {tuple(input_ids.shape)} as the tokens are, got "
            f"{tuple(attention_mask.shape)}"
        )
    real = attention_mask.to(device=input_ids.device, dtype=torch.bool)
    if not bool(real.any()):
        raise ValueError("there is no real token in the batch: attention_mask is 0 everywhere")
    rows = torch.arange(len(input_ids), device=input_ids.device)[:, None].expand_as(input_ids)
    places = real.long().cumsum(1) - 1
    packed: dict[str, Any] = {
        "input_ids": input_ids[real][None],
        "position_ids": places[real][None],
        "segment_ids": rows[real][None],
    }
    with nullcontext() if is_adapted(model) else adapted(model):
        logits = model(**packed, use_cache=False).logits[0]
    out = logits.new_zeros(*input_ids.shape, logits.shape[-1])
    out[real] = logits
    return out
