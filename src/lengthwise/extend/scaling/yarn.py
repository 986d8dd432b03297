"""YaRN: interpolate slow pairs, keep fast pairs, and sharpen the softmax a little."""

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor, arange, float32

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling, at_least
from lengthwise.extend.scaling.frequencies import unscaled


@dataclass(frozen=True)
class YaRN(Scaling):
    """NTK-by-parts with a temperature.

    A pair that turns more than `beta_fast` times within the window keeps its frequency, one
    that turns less than `beta_slow` times is divided by `factor`, with a linear ramp over the
    pair's index between. cos and sin are multiplied by `0.1 ln(factor) + 1`.

    Source: Peng et al. 2023, arXiv:2309.00071, section 3.2, definitions 2 and 3; the ramp over
        indices with rounded ends is that of the authors' code, which made the paper's numbers.
    Reduces to: the model's own frequencies at factor 1.

    Args:
        factor: Target length divided by the trained window, at least 1.
        beta_fast: Turns within the window above which a pair is kept, above `beta_slow`.
        beta_slow: Turns within the window below which a pair is interpolated, above 0.

    Raises:
        ValueError: If a number is out of its range.
    """

    factor: float
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def __post_init__(self) -> None:
        at_least("YaRN", "factor", self.factor, 1)
        if not 0 < self.beta_slow < self.beta_fast:
            raise ValueError(
                "YaRN: beta_slow must be above 0 and below beta_fast, got "
                f"beta_slow={self.beta_slow!r}, beta_fast={self.beta_fast!r}"
            )

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        inv_freq = unscaled(base) * (1 - self.interpolated(base, window) * (1 - 1 / self.factor))
        return Rotary(inv_freq, 0.1 * math.log(self.factor) + 1, base.pairing)

    def interpolated(self, base: RotaryBase, window: int) -> Tensor:
        """How far every pair is interpolated `[pairs]`: 0 not at all, 1 by the whole factor."""

        def pair_that_turns(times: float) -> float:
            return base.dim * math.log(window / (2 * math.pi * times)) / (2 * math.log(base.theta))

        low = max(math.floor(pair_that_turns(self.beta_fast)), 0)
        high = min(math.ceil(pair_that_turns(self.beta_slow)), base.dim - 1)
        pairs = arange(base.dim // 2, dtype=float32)
        return ((pairs - low) / max(high - low, 0.001)).clamp(0, 1)

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any]:
        return {
            "rope_type": "yarn",
            "factor": self.factor,
            "original_max_position_embeddings": window,
            "beta_fast": self.beta_fast,
            "beta_slow": self.beta_slow,
            "rope_theta": base.theta,
        }

    def reach(self, window: int) -> int:
        return int(window * self.factor)
