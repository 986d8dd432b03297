"""Horizon-length prediction: at every token of a gap to be filled, how much of it is left."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from lengthwise.hf.families import decoder
from lengthwise.train.data.weights import IGNORED
from lengthwise.train.memory.head import head_of, unwrap
from lengthwise.train.memory.loss import linear_cross_entropy
from lengthwise.train.objectives.base import Objective, model_inputs


@dataclass(frozen=True)
class FillInTheMiddle:
    """Turn a text into prefix, suffix and middle, and say at every token how much of it is left.

    The row is `<prefix> left <suffix> right <middle> middle <end>`. Its column `horizon` is
    `(M - t) / M` at the t-th of M middle tokens, hence 1 at the mark before them and 0 at the last;
    -1 elsewhere.

    Source: Ding et al. 2024, arXiv:2410.03103, section 3; the order is that of Bavarian et al.
        2022, arXiv:2207.14255 (PSM).

    Args:
        prefix, suffix, middle, end: Token ids of the marks.

    Raises:
        ValueError: If two marks are the same; in a call, for a text without tokens.
    """

    prefix: int
    suffix: int
    middle: int
    end: int

    def __post_init__(self) -> None:
        marks = (self.prefix, self.suffix, self.middle, self.end)
        if len(set(marks)) < len(marks) or min(marks) < 0:
            raise ValueError(
                f"FillInTheMiddle needs four different token ids of at least 0, got {marks}"
            )

    def __call__(self, row: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """The row; where the middle begins and ends is uniform, and it has at least one token."""
        ids = list(row["input_ids"])
        if not ids:
            raise ValueError("FillInTheMiddle takes texts of at least one token, got none")
        start, stop = torch.randperm(len(ids) + 1, generator=generator)[:2].sort().values.tolist()
        head = [self.prefix, *ids[:start], self.suffix, *ids[stop:], self.middle]
        count = stop - start
        tokens = [*head, *ids[start:stop], self.end]
        horizon = [-1.0] * (len(head) - 1) + [(count - t) / count for t in range(count + 1)]
        return {
            "input_ids": tokens,
            "labels": [IGNORED, *tokens[1:]],
            "horizon": [*horizon, -1.0],
            "seq_lengths": [len(tokens)],
        }


@dataclass(eq=False)
class HLP(Objective):
    """The loss of the next token, and how far a small head is from the share that is left.

    The head reads the last hidden state: `sigmoid(w h + b)`. Generation does not need it; with it,
    a model says how long it will go on.

    Source: Ding et al. 2024, arXiv:2410.03103, section 3.2: absolute error, weight 0.1.
    Reduces to: the loss of the next token at weight 0.

    Args:
        weight: Of the second part, at least 0.

    Raises:
        ValueError: For a weight below 0; in a call, for a batch without `horizon`.
    """

    weight: float = 0.1
    _head: nn.Linear | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.weight >= 0:
            raise ValueError(f"HLP: weight must be at least 0, got {self.weight!r}")

    def modules(self, model: nn.Module) -> nn.Module:
        """The head, which starts at 0: it predicts one half everywhere."""
        if self._head is None:
            weight = head_of(unwrap(model)).weight
            self._head = nn.Linear(weight.shape[1], 1, device=weight.device, dtype=weight.dtype)
            nn.init.zeros_(self._head.weight)
            nn.init.zeros_(self._head.bias)
        return self._head

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """The loss of `input_ids`, `labels` (not shifted) and `horizon`, each `[b, t]`."""
        if "horizon" not in batch:
            raise ValueError(
                "HLP needs a column horizon in its batches; make rows with FillInTheMiddle"
            )
        hidden = self._hidden(model, batch)
        head = head_of(unwrap(model))
        shifted = pad(batch["labels"], (0, 1), value=IGNORED)[:, 1:]
        loss = linear_cross_entropy(
            head.scaled(hidden), head.weight, shifted, bias=head.bias, softcap=head.softcap
        )
        wanted = batch["horizon"].to(hidden)
        inside = wanted >= 0
        apart = (self._left(model, hidden) - wanted).abs()
        return loss + self.weight * (apart * inside).sum() / inside.sum().clamp(min=1)

    @torch.no_grad()
    def predict(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """The share that the head takes to be left after every token, `[b, t]`."""
        return self._left(model, self._hidden(model, batch))

    def _left(self, model: nn.Module, hidden: Tensor) -> Tensor:
        return torch.sigmoid(self.modules(model)(hidden))[..., 0]

    def _hidden(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        inputs = model_inputs(batch)
        base: Any = decoder(unwrap(model))
        hidden: Tensor = base(
            input_ids=batch["input_ids"], use_cache=False, **inputs
        ).last_hidden_state
        return hidden
