"""Losses on log-probabilities, DPO and GRPO, over a forward that streams."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, pad

from lengthwise.hf.families import decoder
from lengthwise.train.memory.head import head_of, unwrap
from lengthwise.train.memory.loss import IGNORE, linear_logps


def token_logps(
    model: nn.Module, input_ids: Tensor, labels: Tensor, *, tokens: int = 1024, **inputs: Any
) -> Tensor:
    """The log-probability of every label given what is before it, `[b, t - 1]`.

    Logits exist for `tokens` tokens at once. Inside `fit(model, StreamBP())` the layers stream
    too.

    Args:
        model: A causal language model; peft and accelerate wrappers are seen through.
        input_ids: `[b, t]`.
        labels: `[b, t]`, not shifted; -100 leaves a token out, and its log-probability is 0.
        inputs: What else the decoder takes, such as `attention_mask` or `position_ids`.

    Raises:
        ValueError: Labels of another shape than input_ids, or a head that is no linear layer.
    """
    if labels.shape != input_ids.shape:
        raise ValueError(
            f"the loss is per token: labels must have the shape {list(input_ids.shape)} of "
            f"input_ids, got {list(labels.shape)}"
        )
    inner = unwrap(model)
    head = head_of(inner)
    out = decoder(inner)(input_ids=input_ids, use_cache=False, **inputs)
    hidden = head.scaled(out.last_hidden_state)
    shifted = pad(labels, (0, 1), value=IGNORE)[:, 1:]
    logps = linear_logps(
        hidden, head.weight, shifted, bias=head.bias, softcap=head.softcap, tokens=tokens
    )
    return logps[:, :-1]


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    beta: float = 0.1,
) -> Tensor:
    """Mean over pairs of `-log sigmoid(beta * (chosen - rejected))`, each against the reference.

    Source: Rafailov et al. 2023, DPO (arXiv:2305.18290), equation 7.

    Args:
        chosen, rejected: `token_logps` of the policy for the two answers, `[pairs, t]`; the prompt's
            labels are -100. The two lengths may differ.
        reference_chosen, reference_rejected: The same under the reference model.
        beta: How far the policy may leave the reference, above 0.

    Raises:
        ValueError: A beta that is not above 0.
    """  # noqa: E501
    if not beta > 0:
        raise ValueError(f"beta must be above 0, got {beta!r}")
    gained = chosen.sum(-1) - reference_chosen.sum(-1)
    lost = rejected.sum(-1) - reference_rejected.sum(-1)
    return -logsigmoid(beta * (gained - lost)).mean()


def grpo_loss(
    logps: Tensor,
    old: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip: float = 0.2,
    beta: float = 0.0,
    reference: Tensor | None = None,
) -> Tensor:
    """The clipped policy loss with group-relative advantages; mean over tokens, then answers.

    Source: Shao et al. 2024, DeepSeekMath (arXiv:2402.03300), equations 3 and 4.

    Args:
        logps, old: `token_logps` of the policy now and when it wrote the answers, `[answers, t]`.
        advantages: `[answers]`, one for all tokens of an answer.
        mask: `[answers, t]`, 1 for the answer's tokens; every row has some.
        clip: Ratios are clipped to `1 - clip .. 1 + clip`, between 0 and 1.
        beta: Weight of the divergence from `reference`, which is needed if it is not 0.
        reference: `token_logps` of the reference model.

    Raises:
        ValueError: A clip outside 0 .. 1, a beta without a reference, or an answer without tokens.
    """
    if not 0 < clip < 1:
        raise ValueError(f"clip must be between 0 and 1, got {clip!r}")
    if beta and reference is None:
        raise ValueError(f"beta={beta!r} needs the reference's log-probabilities; pass reference")
    if bool((mask.sum(-1) == 0).any()):
        raise ValueError("every answer needs at least one token in mask; leave empty answers out")
    ratio = torch.exp(logps - old)
    gain = advantages[:, None]
    per_token = -torch.minimum(ratio * gain, ratio.clamp(1 - clip, 1 + clip) * gain)
    if reference is not None:
        apart = reference - logps
        per_token = per_token + beta * (apart.exp() - apart - 1)
    return ((per_token * mask).sum(-1) / mask.sum(-1)).mean()
