"""Replaced-token detection: a small generator changes tokens, the model says which."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from lengthwise.train.memory.head import unwrap
from lengthwise.train.objectives.base import Objective, model_inputs


@dataclass(frozen=True)
class MaskTokens:
    """Choose tokens to be replaced: columns `masked`, and `noise` to draw their replacements from.

    Args:
        share: Of the tokens, above 0 and below 1; at least one of a row.
        spared: Token ids that are never chosen, such as the class token and padding.

    Raises:
        ValueError: If `share` is out of its range; in a call, if every token is spared.
    """

    share: float = 0.15
    spared: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ValueError(f"MaskTokens: share must be above 0 and below 1, got {self.share!r}")

    def __call__(self, row: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
        """The row with its two columns."""
        ids = torch.as_tensor(row["input_ids"])
        free = (~torch.isin(ids, torch.tensor(self.spared, dtype=ids.dtype))).nonzero()[:, 0]
        if not len(free):
            raise ValueError("MaskTokens: a row has no token that may be masked")
        count = max(1, round(self.share * len(free)))
        order = torch.randperm(len(free), generator=generator)[:count]
        masked = torch.zeros(len(ids), dtype=torch.long)
        masked[free[order]] = 1
        noise = int(torch.randint(1 << 31, (), generator=generator))
        return {**row, "masked": masked.tolist(), "noise": noise}


@dataclass(eq=False)
class RTD(Objective):
    """The generator's loss on masked tokens, and the model's on which tokens are not the original.

    The generator reads the text with some tokens masked and draws others in their places; where it
    draws the original, nothing was replaced. No gradient goes through the draw. Every token teaches
    the model, not only the masked ones.

    Source: Clark et al. 2020, ELECTRA (arXiv:2003.10555), section 2; for windowed encoders of long
        texts Niklaus and Giofré 2022, arXiv:2211.17135.

    Args:
        generator: A masked language model, smaller than the model; its vocabulary is the model's.
        mask: Token id of the mask.
        weight: Of the detection loss, above 0; 50 in the paper.

    Raises:
        ValueError: If a number is out of its range; in a call, for a batch without `masked` and
            `noise`.
    """

    generator: nn.Module = field(repr=False)
    mask: int
    weight: float = 50.0
    _head: nn.Linear | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.mask < 0:
            raise ValueError(f"RTD: mask must be a token id of at least 0, got {self.mask}")
        if not self.weight > 0:
            raise ValueError(f"RTD: weight must be above 0, got {self.weight!r}")

    def modules(self, model: nn.Module) -> nn.Module:
        """The generator, and the head that tells replaced tokens; it starts at 0."""
        return nn.ModuleDict({"generator": self.generator, "head": self._detector(model)})

    def _detector(self, model: nn.Module) -> nn.Linear:
        if self._head is None:
            inner: Any = unwrap(model)
            self._head = nn.Linear(
                inner.config.hidden_size, 1, device=inner.device, dtype=inner.dtype
            )
            nn.init.zeros_(self._head.weight)
            nn.init.zeros_(self._head.bias)
        return self._head

    def __call__(self, model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
        """The loss of `input_ids`, `masked` and maybe `attention_mask` `[b, t]`, `noise` `[b]`."""
        replaced, guessing = self.replace(batch)
        inputs = model_inputs(batch)
        base: Any = unwrap(model).base_model  # an encoder as often as not
        hidden = base(input_ids=replaced, **inputs).last_hidden_state
        score = self._detector(model)(hidden)[..., 0]
        changed = (replaced != batch["input_ids"]).to(score)
        detecting = binary_cross_entropy_with_logits(score, changed, reduction="none")
        real = inputs.get("attention_mask", torch.ones_like(replaced)).to(score)
        return guessing + self.weight * (detecting * real).sum() / real.sum()

    def replace(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The tokens `[b, t]` with the generator's draws, and the generator's own loss."""
        for name in ("masked", "noise"):
            if name not in batch:
                raise ValueError(
                    f"RTD needs a column {name} in its batches; make rows with MaskTokens"
                )
        ids, masked = batch["input_ids"], batch["masked"].bool()
        logits = self.generator(
            input_ids=ids.masked_fill(masked, self.mask), **model_inputs(batch)
        ).logits[masked]
        loss = cross_entropy(logits, ids[masked])
        random = torch.Generator().manual_seed(int(torch.as_tensor(batch["noise"]).sum()))
        luck = torch.rand(logits.shape, generator=random, dtype=torch.float64)
        gumbel = -torch.log(-torch.log(luck.clamp(min=1e-300))).to(logits)
        drawn = (logits.detach() + gumbel).argmax(-1)
        replaced = ids.clone()
        replaced[masked] = drawn
        return replaced, loss
