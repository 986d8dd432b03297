"""Budgets for PrefixKV: how many keys each layer needs for one share of its attention."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.extend.adapt import adapted, new_cache
from lengthwise.extend.stores.prefixkv import PrefixKV
from lengthwise.hf.release import CACHE

PRECISION = 60  # halvings of the share that is searched for


def prefix_budgets(
    model: PreTrainedModel, input_ids: Tensor, *, tokens: int, recent: int = 16
) -> tuple[int, ...]:
    """Budgets for `PrefixKV` with which each layer keeps the same share of its attention.

    Every layer's keys are sorted by the attention that they drew from all queries of a sample. For
    a share p, a layer needs as many of them as hold p of the whole; p is halved in on until the
    layers need `tokens - recent` on average, and each gets the `recent` newest besides. Budgets
    grow with the text that they were searched on.

    Args:
        model: A model that is not adapted.
        input_ids: A sample `[1, t]`, read whole.
        tokens: Tokens that a layer keeps on average, from 2 to t.
        recent: That of the store, at least 1; at most half of `tokens` count.

    Raises:
        ValueError: If a number is out of its range.
    """
    length = input_ids.shape[1]
    if not 2 <= tokens <= length:
        raise ValueError(f"tokens must be from 2 to the {length} of the sample, got {tokens}")
    if recent < 1:
        raise ValueError(f"recent must be at least 1, got {recent}")
    recent = min(recent, tokens // 2)
    curves = attention_curves(model, input_ids)
    return tuple(recent + budget for budget in budgets_of(curves, tokens - recent))


def attention_curves(model: PreTrainedModel, input_ids: Tensor) -> list[Tensor]:
    """For every layer the share of its attention that its best keys draw, by their number.

    Args:
        model: A model that is not adapted.
        input_ids: `[1, t]`, read whole.

    Returns:
        Rising shares `[t]`, the last of which is 1.
    """
    length, layers = input_ids.shape[1], model.config.num_hidden_layers
    everything = PrefixKV((max(2, length),) * layers, every=length)
    with adapted(model, everything), torch.no_grad():
        cache = new_cache(model)
        model(input_ids, use_cache=True, logits_to_keep=1, **{CACHE: cache})
        drawn = [layer.state.store.numbers()[0, 0] for layer in cache.layers]
    curves = [mass.sort(descending=True).values.cumsum(0) for mass in drawn]
    return [curve / curve[-1] for curve in curves]


def budgets_of(curves: Sequence[Tensor], tokens: int) -> tuple[int, ...]:
    """From rising shares of attention `[t]`, one a layer, to budgets of `tokens` on average."""
    low, high = 0.0, 1.0
    for _ in range(PRECISION):
        middle = (low + high) / 2
        if sum(_needed(curve, middle) for curve in curves) <= tokens * len(curves):
            low = middle
        else:
            high = middle
    return tuple(_needed(curve, low) for curve in curves)


def _needed(curve: Tensor, share: float) -> int:
    return min(len(curve), int(torch.searchsorted(curve, share)) + 1)
