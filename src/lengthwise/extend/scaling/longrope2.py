"""LongRoPE2: factors found by needles for long texts, the model's own frequencies for short."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling
from lengthwise.extend.scaling.frequencies import longrope_parameters, unscaled
from lengthwise.extend.scaling.longrope import LongRoPE


@dataclass(frozen=True)
class LongRoPE2(Scaling):
    """Divide frequencies by searched factors where a text is longer than the trained window.

    A text up to the window is read as the model reads it, to the bit: own frequencies, no
    temperature. Keys are rotated when they are read, so a text that outgrows the window leaves
    no stale key, though hidden states were computed under the frequencies of their time. The
    factors come from `lengthwise.search.LongRoPE2Search`.

    Source: Shang et al. 2025, arXiv:2502.20082, sections 3 and 4.
    Differs from the source: each row of a batch switches for itself, and the cache is not
        computed anew when it does.
    Reduces to: the model's own frequencies up to the trained window.

    Args:
        factors: One for each rotated pair, above 0.
        factor: Target length divided by the trained window, at least 1.
        attention_factor: On cos and sin of long texts, above 0; 0 means
            `sqrt(1 + ln(factor) / ln(window))`. At 1 a checkpoint needs no lengthwise.

    Raises:
        ValueError: If a number is out of its range, or the factors do not fit the model.
    """

    factors: tuple[float, ...]
    factor: float
    attention_factor: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", self._long.factors)

    @property
    def _long(self) -> LongRoPE:
        return LongRoPE(self.factors, self.factor, attention_factor=self.attention_factor)

    @property
    def static(self) -> bool:
        return False

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        long = self._long.rotary(base, window, lengths)
        beyond = lengths > window
        own = unscaled(base).to(lengths.device)
        inv_freq = torch.where(beyond[:, None], long.inv_freq, own)
        factors = torch.where(beyond, float(long.attention_factor), 1.0)
        return Rotary(inv_freq, factors, base.pairing)

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any] | None:
        if self._long.temperature(window) != 1.0:
            return None  # transformers would put the temperature on short texts too
        long = unscaled(base) / torch.tensor(self.factors)
        return longrope_parameters(base, window, self.factor, 1.0, long, unscaled(base))

    def reach(self, window: int) -> int:
        return self._long.reach(window)

    def check_base(self, base: RotaryBase) -> None:
        self._long.check_base(base)
