"""Effective context: up to which length more context lowers the loss of the same tokens."""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.measure.engines.reading import CHUNK
from lengthwise.measure.statistics.intervals import Interval
from lengthwise.measure.tasks.loss import losses_by_position

AT_ONCE = 8192  # tokens of the rows that are read as one batch


def losses_by_context(
    model: PreTrainedModel,
    ids: Tensor,
    contexts: Sequence[int],
    *,
    block: int = 16,
    places: int | None = None,
    head: int | None = None,
    chunk: int = CHUNK,
) -> Tensor:
    """Mean loss of the same blocks of tokens under every context length, `[places, contexts]`.

    A block is read behind the `context` tokens before it and nothing else, so its first token has
    exactly that context, and its last one `block - 1` tokens more. Every block has the longest
    context before it.

    Source: Khandelwal et al. 2018 (arXiv:1805.04623), section 3: the loss of the same tokens with
    the context cut to a length.

    Args:
        ids: The text `[t]`.
        contexts: Lengths in tokens, ascending, at least 1.
        block: Tokens that share a place, at least 1.
        places: Blocks, spread evenly over the text; None takes all that follow each other.
        head: The token that the tokenizer puts before every text, or None. It comes before every
            context and is not counted.
        chunk: Tokens per forward pass.

    Returns:
        On the CPU, in nats per token.

    Raises:
        ValueError: Contexts that do not ascend from 1, a block below 1, or too short a text.
    """
    contexts = list(contexts)
    if not contexts or contexts[0] < 1 or sorted(set(contexts)) != contexts:
        raise ValueError(f"contexts must be ascending lengths of at least 1, got {contexts}")
    if block < 1:
        raise ValueError(f"block must be at least 1 token, got {block}")
    room = (len(ids) - contexts[-1]) // block
    count = room if places is None else places
    if count < 1 or count > room:
        raise ValueError(
            f"a text of {len(ids):,} tokens holds {max(room, 0)} blocks of {block} behind "
            f"{contexts[-1]:,} tokens of context, {count} are wanted: give a longer text, a "
            "shorter context or fewer places"
        )
    # Spread evenly; equal where the text has exactly that many.
    starts = [contexts[-1] + block * (i * room // count) for i in range(count)]
    lead = ids[:0] if head is None else ids.new_tensor([head])
    out = torch.empty(count, len(contexts), dtype=torch.float64)
    for column, context in enumerate(contexts):
        rows = [torch.cat([lead, ids[s - context : s + block]]) for s in starts]
        at_once = max(1, AT_ONCE // (context + block))
        for first in range(0, count, at_once):
            batch = torch.stack(rows[first : first + at_once])
            losses = losses_by_position(model, batch, chunk)[:, -block:]
            out[first : first + at_once, column] = losses.double().mean(1)
    return out


def effective_context(
    losses: Tensor,
    contexts: Sequence[int],
    generator: torch.Generator,
    *,
    tolerance: float = 0.02,
    confidence: float = 0.95,
    resamples: int = 2000,
) -> Interval:
    """The shortest context from which on no longer one lowers the mean loss by the tolerance.

    Where a longer context does harm, as beyond a trained window, it counts as no help. The bounds
    are ladder lengths: percentiles over resampled places, each place with all its contexts. An
    upper bound at the longest context says that the measurement does not resolve the end.

    Source: Khandelwal et al. 2018 (arXiv:1805.04623), section 4.1: the context from which on
    the loss changes by less than a threshold.
    Differs from the source: the threshold is in nats, and there is an interval.

    Args:
        losses: Of `losses_by_context`, `[places, contexts]`.
        contexts: Their lengths.
        generator: Draws the resamples.
        tolerance: Nats per token that do not count as help, at least 0.
        confidence: Coverage, between 0 and 1.

    Raises:
        ValueError: Shapes that do not fit, or an argument out of range.
    """
    if losses.ndim != 2 or losses.shape[1] != len(contexts) or not len(losses):
        raise ValueError(
            f"losses must be [places, {len(contexts)}] with a place at least, got "
            f"{list(losses.shape)}"
        )
    if tolerance < 0 or not 0 < confidence < 1:
        raise ValueError(
            "tolerance must be at least 0 and confidence between 0 and 1, got "
            f"{tolerance} and {confidence}"
        )
    losses = losses.double()
    draws = torch.randint(len(losses), (resamples, len(losses)), generator=generator)
    # Resample by resample: all of them at once would need resamples x places x contexts.
    curves = torch.stack([losses[draw].mean(0) for draw in draws])
    lengths = torch.tensor(list(contexts), dtype=torch.float64)
    found = lengths[_first_enough(curves, tolerance)]
    value = float(lengths[_first_enough(losses.mean(0, keepdim=True), tolerance)])
    tail = (1 - confidence) / 2
    low, high = (float(found.quantile(q, interpolation="nearest")) for q in (tail, 1 - tail))
    return Interval(value, low, high)


def _first_enough(curves: Tensor, tolerance: float) -> Tensor:
    """For every curve `[n, contexts]` the first place that nothing behind it beats."""
    best = curves.flip(1).cummin(1).values.flip(1)
    return (curves - best <= tolerance).int().argmax(1)
