"""A loss in which every document counts the same, however long it is and wherever it was packed."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # the label of a token that is no target, in torch and transformers


def sequence_loss_weights(
    seq_lengths: Sequence[int], labels: Sequence[int] | None = None
) -> list[float]:
    """A weight for every token of a packed row: 1 / (targets of its sequence), 0 for no target.

    The weights of a sequence sum to 1, so `weighted_loss` over the sum of all weights is the mean
    of the sequences' mean losses. A plain token mean would count a sequence by its length, and a
    mean over packed rows by its neighbours.

    Source: Bai et al. 2024, LongAlign (arXiv:2401.18058), section 3.2, equation 3: with K rows and
    M sequences in a batch, the loss of sequence i is scaled by K / (N_i M).
    Differs from the source: K / M is left to `weighted_loss`, because gradient accumulation and
    data parallel training know M only once all micro-batches and ranks are counted.

    Args:
        seq_lengths: Tokens of the row's sequences, in order.
        labels: `[sum of seq_lengths]`; -100 is no target. By default every token is a target but
            the first of a sequence, which nothing predicts; that one never is.

    Raises:
        ValueError: For a sequence shorter than 1, or labels of another length.
    """
    if min(seq_lengths, default=1) < 1:
        raise ValueError(f"seq_lengths must be at least 1, got {min(seq_lengths)}")
    if labels is not None and len(labels) != sum(seq_lengths):
        raise ValueError(
            f"labels must hold a number for each of {sum(seq_lengths)} tokens, got {len(labels)}"
        )
    weights: list[float] = []
    for length in seq_lengths:
        at = len(weights)
        if labels is None:
            targets = [False] + [True] * (length - 1)
        else:
            targets = [False] + [label != IGNORED for label in labels[at + 1 : at + length]]
        each = 1 / max(1, sum(targets))
        weights += [each if target else 0.0 for target in targets]
    return weights


def total_weight(batches: Iterable[Any], group: Any = None) -> Tensor:
    """The normaliser of one optimizer step: weights of all targets, float64.

    Under gradient accumulation it must be summed over the micro-batches of the step, and under
    data parallel training over the ranks; both happen here.

    Args:
        batches: The micro-batches of this rank, with `labels` and `loss_weights` `[b, t]`.
        group: A process group to sum over; with torch.distributed running, None means everybody.
            Every rank of it must call.
    """
    total: Tensor | None = None
    for batch in batches:
        labels, weights = batch["labels"], batch["loss_weights"]
        part = torch.where(labels != IGNORED, weights, 0.0)[:, 1:].double().sum()
        total = part if total is None else total + part
    if total is None:
        total = torch.zeros((), dtype=torch.float64)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(total, group=group)
    return total


def weighted_loss(logits: Tensor, labels: Tensor, weights: Tensor, total: Tensor) -> Tensor:
    """One micro-batch's share of an optimizer step's loss: the sum of weight times loss / total.

    Shares of micro-batches add up: call `backward` on each. Ranks whose gradients are averaged
    (DDP, FSDP) multiply by their number first; the ranks' shares then add up as well. With weights
    of 1 everywhere it is the mean over all targets of the step.

    Args:
        logits: `[b, t, vocabulary]`; those at t predict the label at t + 1.
        labels: `[b, t]`, aligned with the input; -100 is no target.
        weights: `[b, t]`.
        total: Of `total_weight`, above 0.

    Raises:
        ValueError: If shapes disagree or the total is not above 0.
    """
    if not labels.shape == weights.shape == logits.shape[:2]:
        raise ValueError(
            f"labels and weights must be {tuple(logits.shape[:2])} as the logits are, got "
            f"{tuple(labels.shape)} and {tuple(weights.shape)}"
        )
    if not float(total) > 0:
        raise ValueError(f"total must be above 0, got {float(total)}: the step has no targets")
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32)),
        labels[:, 1:].flatten(),
        ignore_index=IGNORED,
        reduction="none",
    )
    total = total.to(device=losses.device, dtype=losses.dtype)
    return (losses * weights[:, 1:].flatten().to(losses.dtype)).sum() / total
