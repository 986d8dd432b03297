"""Giraffe: a truncated basis, and linear scaling with a longer scale at evaluation."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling, at_least
from lengthwise.extend.scaling.frequencies import longrope_parameters, unscaled


@dataclass(frozen=True)
class Giraffe(Scaling):
    """Keep the fast pairs, give the middle ones a single slow frequency, and stop the slowest.

    With T the trained window and t = 2 pi / T, after a division by `factor`: a frequency of at
    least t stays, one from t / 8 up to t becomes 2 pi / (16 T), one below t / 8 becomes 0. So
    every pair either turned whole circles in training or never turns far.

    Source: Pal et al. 2023, arXiv:2308.10882, section 3.3 (truncated basis); the cut-offs and the
        order (first linear, then truncated) are those of the authors' code, which made the
        paper's numbers. Meant to be followed by tuning.

    Args:
        factor: Linear scaling before the truncation, at least 1.

    Raises:
        ValueError: If `factor` is below 1 or not a number.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        at_least("Giraffe", "factor", self.factor, 1)

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        turn = 2 * math.pi / window  # one turn in the trained window
        linear = unscaled(base) / self.factor
        still = torch.zeros_like(linear)
        slow = torch.where(linear >= turn / 8, torch.full_like(linear, turn / 16), still)
        return Rotary(torch.where(linear >= turn, linear, slow), pairing=base.pairing)

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any]:
        inv_freq = self.rotary(base, window, torch.ones(1)).inv_freq
        return longrope_parameters(base, window, self.factor, 1.0, inv_freq)

    def reach(self, window: int) -> int:
        return int(window * self.factor)


@dataclass(frozen=True)
class GiraffeLinear(Scaling):
    """Read a checkpoint that was tuned with linear scaling at another scale than it was tuned at.

    Positions are divided by `scale` instead of by the checkpoint's own factor, which a longer
    text asks for: Giraffe was tuned at scale 4 and read 16K tokens at scale 8. The two are never
    multiplied.

    Source: Pal et al. 2023, arXiv:2308.10882, section 4.
    Reduces to: the model's own frequencies at the scale of its tuning.

    Args:
        scale: What positions are divided by, at least 1.

    Raises:
        ValueError: If `scale` is below 1 or not a number, or the model carries another scaling
            than `linear`.
    """

    scale: float

    def __post_init__(self) -> None:
        at_least("GiraffeLinear", "scale", self.scale, 1)

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        return Rotary(unscaled(base) / self.scale, pairing=base.pairing)

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any]:
        return {"rope_type": "linear", "factor": self.scale, "rope_theta": base.theta}

    def counts_from(self, base: RotaryBase, window: int) -> int:
        return window

    def check_base(self, base: RotaryBase) -> None:
        if base.kind not in ("linear", "default"):
            raise ValueError(
                "GiraffeLinear sets the scale of a model that carries rope_type 'linear' or none, "
                f"but this one carries {base.kind!r}; use a layout such as SelfExtend instead"
            )
