"""Llama 3's by-parts scaling: slow pairs interpolated, fast pairs kept, a ramp over wavelengths."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling, at_least, whole
from lengthwise.extend.scaling.frequencies import unscaled


@dataclass(frozen=True)
class Llama3(Scaling):
    """Divide by `factor` what turns less than `low_freq_factor` times in the original window.

    What turns more than `high_freq_factor` times stays. Between, the two are mixed in proportion
    to the number of turns. YaRN's ramp runs over the index of the pair and brings a temperature;
    this one does neither.

    Source: Llama Team 2024, arXiv:2407.21783, and the released code of Llama 3.1
        (`apply_scaling`), which transformers calls rope_type `llama3`.
    Reduces to: the model's own frequencies at factor 1.

    Args:
        factor: Target length divided by the original window, at least 1.
        low_freq_factor: Turns within the original window below which a pair is divided, above 0.
        high_freq_factor: Turns above which a pair is kept, above `low_freq_factor`.
        original: Tokens of the window of pretraining, at least 1; 0 takes the model's window.

    Raises:
        ValueError: If a number is out of its range.
    """

    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original: int = 0

    def __post_init__(self) -> None:
        at_least("Llama3", "factor", self.factor, 1)
        whole("Llama3", "original", self.original, 0)
        if not 0 < self.low_freq_factor < self.high_freq_factor:
            raise ValueError(
                "Llama3: low_freq_factor must be above 0 and below high_freq_factor, got "
                f"low_freq_factor={self.low_freq_factor!r}, "
                f"high_freq_factor={self.high_freq_factor!r}"
            )

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        own = unscaled(base)
        turns = (self.original or window) * own / (2 * math.pi)
        low, high = self.low_freq_factor, self.high_freq_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        inv_freq = torch.lerp(own / self.factor, own, kept)
        return Rotary(inv_freq, pairing=base.pairing)

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any]:
        return {
            "rope_type": "llama3",
            "factor": self.factor,
            "low_freq_factor": self.low_freq_factor,
            "high_freq_factor": self.high_freq_factor,
            "original_max_position_embeddings": self.original or window,
            "rope_theta": base.theta,
        }

    def reach(self, window: int) -> int:
        return max(window, int((self.original or window) * self.factor))
