"""LongPO: prefer the answer that the short context gave, held to what the short context says."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import kl_div, log_softmax

from lengthwise.train.memory.preference import dpo_loss, token_logps

Inputs = Mapping[str, Tensor]


def longpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """DPO's loss, read at two lengths: `-log sigmoid(beta (chosen - reference_chosen - …))`.

    Policy and reference read different contexts: the policy's
    log-probabilities are under the long one, the reference's under the short one. So a reward is
    the policy's distance from what the model said when the context was short, which is the
    short-to-long constraint.

    Source: Chen et al. 2025, arXiv:2502.13922, section 3.2.

    Args:
        chosen, rejected: Log-probabilities of every token of both answers under the policy with
            the long context `[pairs, t]`, 0 outside the answer.
        reference_chosen, reference_rejected: The same under the reference with the short context.
        beta: How far the policy may leave the reference, above 0.

    Raises:
        ValueError: A beta that is not above 0.
    """
    return dpo_loss(chosen, rejected, reference_chosen, reference_rejected, beta)


@dataclass(eq=False)
class LongPO:
    """LongPO as an objective: the preference loss, and the loss on the chosen answer.

    The chosen answer is the one that the model itself gave to the short context, the rejected one
    what it gave to the long one; both follow the same instruction.

    Source: Chen et al. 2025, arXiv:2502.13922, section 3.2 (the loss, and its sum with `nll` times
        the negative log-likelihood of the chosen answer in the long context).
    Differs from the source: the likelihood is a mean over tokens.

    Args:
        reference: The model before tuning, frozen; or None, if batches bring its
            log-probabilities as `reference_chosen` and `reference_rejected`.
        beta: See `longpo_loss`.
        nll: Weight of the likelihood, at least 0.

    Raises:
        ValueError: If a number is out of its range, or, in a call, without a reference.
    """

    reference: nn.Module | None = field(default=None, repr=False)
    beta: float = 0.1
    nll: float = 0.01

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise ValueError(f"LongPO: beta must be above 0, got {self.beta!r}")
        if not self.nll >= 0:
            raise ValueError(f"LongPO: nll must be at least 0, got {self.nll!r}")

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """The loss of a batch with `chosen_long`, `rejected_long`, `chosen_short`, `rejected_short`.

        Each of the four has `input_ids` and `labels` `[pairs, t]`; labels are -100 but for the
        answer.
        """  # noqa: E501
        chosen = token_logps(model, **batch["chosen_long"])
        rejected = token_logps(model, **batch["rejected_long"])
        before = [self._reference(batch, side) for side in ("chosen", "rejected")]
        loss = longpo_loss(chosen, rejected, before[0], before[1], self.beta)
        answer = (batch["chosen_long"]["labels"][:, 1:] != -100).sum()
        return loss - self.nll * chosen.sum() / answer

    def _reference(self, batch: Mapping[str, Any], side: str) -> Tensor:
        known = batch.get(f"reference_{side}")
        if known is not None:
            assert isinstance(known, Tensor)
            return known
        if self.reference is None:
            raise ValueError(
                f"LongPO needs a reference model, or batches with reference_{side}: the "
                "log-probabilities of the answer in the short context before tuning"
            )
        with torch.no_grad():
            return token_logps(self.reference, **batch[f"{side}_short"])


@torch.no_grad()
def short_kl(model: nn.Module, reference: nn.Module, input_ids: Tensor) -> float:
    """KL divergence from the reference to the model on short inputs, nats per token.

    The claim's second half: it must stay small while long answers improve.

    Args:
        input_ids: `[b, t]`, no longer than the reference's window.
    """
    ours = log_softmax(model(input_ids=input_ids).logits.float(), dim=-1).flatten(0, 1)
    theirs = log_softmax(reference(input_ids=input_ids).logits.float(), dim=-1).flatten(0, 1)
    return float(kl_div(ours, theirs, log_target=True, reduction="batchmean"))
