"""Position interpolation: squeeze positions into the trained window."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, arange, float32

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling, at_least


@dataclass(frozen=True)
class PI(Scaling):
    """Divide every position, hence every frequency, by one factor.

    Source: Chen et al. 2023, arXiv:2306.15595, equation 4. Meant to be followed by about 1000
        steps of tuning; without them it usually hurts.
    Reduces to: the model's own frequencies at factor 1.

    Args:
        factor: Target length divided by the trained window, at least 1.

    Raises:
        ValueError: If `factor` is below 1 or not a number.
    """

    factor: float

    def __post_init__(self) -> None:
        at_least("PI", "factor", self.factor, 1)

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        inv_freq = base.theta ** -(arange(0, base.dim, 2, dtype=float32) / base.dim)
        return Rotary(inv_freq / self.factor, pairing=base.pairing)

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any]:
        return {"rope_type": "linear", "factor": self.factor, "rope_theta": base.theta}

    def reach(self, window: int) -> int:
        return int(window * self.factor)
