"""NTK-aware scaling: a larger base, so that fast pairs stay and slow pairs are interpolated."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, arange, float32

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling, at_least


@dataclass(frozen=True)
class NTK(Scaling):
    """Raise the base to `theta * factor ** (d / (d - 2))`.

    The fastest pair keeps its frequency and the slowest is divided by `factor`. The pairs in
    between extrapolate, so the length that works is below `factor` windows.

    Source: bloc97, "NTK-aware scaled RoPE" (2023); written down in Peng et al. 2023,
        arXiv:2309.00071, section 3.1, definition 1.
    Reduces to: the model's own frequencies at factor 1.

    Args:
        factor: At least 1.

    Raises:
        ValueError: If `factor` is below 1 or not a number.
    """

    factor: float

    def __post_init__(self) -> None:
        at_least("NTK", "factor", self.factor, 1)

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        inv_freq = self._theta(base) ** -(arange(0, base.dim, 2, dtype=float32) / base.dim)
        return Rotary(inv_freq, pairing=base.pairing)

    def _theta(self, base: RotaryBase) -> float:
        return base.theta * self.factor ** (base.dim / (base.dim - 2))

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self._theta(base)}

    def reach(self, window: int) -> int:
        return int(window * self.factor)
