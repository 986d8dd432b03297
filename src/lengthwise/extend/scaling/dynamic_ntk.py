"""Dynamic NTK scaling: the base grows with the text, and no cached key goes stale."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, arange, float32

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling, at_least


@dataclass(frozen=True)
class DynamicNTK(Scaling):
    """NTK's larger base, chosen from the length of the text so far.

    With L the row's length, at least the window W:
    `theta * (factor * L / W - (factor - 1)) ** (d / (d - 2))`.

    Source: emozilla, "Dynamically scaled RoPE" (2023); Peng et al. 2023, arXiv:2309.00071,
        section 3.3.
    Differs from the source: each row of a batch has its own base (public codes share the longest
        row's), and keys are rotated when they are read, so a cached key never keeps an old base.
        Hidden states still were computed under the base of their time: a text read in two
        forwards differs from the same text read in one.
    Reduces to: the model's own frequencies up to the trained window.

    Args:
        factor: At least 1; 1 lets the base follow the length alone.

    Raises:
        ValueError: If `factor` is below 1 or not a number.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        at_least("DynamicNTK", "factor", self.factor, 1)

    @property
    def static(self) -> bool:
        return False

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        stretch = lengths.to(float32).clamp(min=window) / window
        grown = self.factor * stretch - (self.factor - 1)
        theta = base.theta * grown ** (base.dim / (base.dim - 2))
        exponents = arange(0, base.dim, 2, dtype=float32, device=lengths.device) / base.dim
        return Rotary(theta[:, None] ** -exponents, pairing=base.pairing)

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any]:
        return {"rope_type": "dynamic", "factor": self.factor, "rope_theta": base.theta}
