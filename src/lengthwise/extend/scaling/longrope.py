"""LongRoPE: a factor for every pair, and first tokens that stay where they are."""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Places, Rotary
from lengthwise.extend.method import Scaling, at_least, whole
from lengthwise.extend.scaling.frequencies import factor_table, longrope_parameters, unscaled


@dataclass(frozen=True)
class LongRoPE(Scaling):
    """Divide the frequency of every pair by a factor of its own, found by a search.

    The first `start_tokens` tokens are rotated by the model's own frequencies. With
    `short_factors`, texts up to the trained window are read with those (the readjustment for
    short lengths); keys are then rotated when they are read, so that a text that outgrows the
    window leaves no stale key. The factors come from `lengthwise.search`. They count from
    unscaled frequencies.

    Source: Ding et al. 2024, arXiv:2402.13753, equation 2 and section 3; the temperature is the
        default of the authors' code.
    Differs from the source: each row of a batch chooses between short and long for itself.
    Reduces to: the model's own frequencies where every factor is 1, `factor` too.

    Args:
        factors: One for each rotated pair, above 0.
        factor: Target length divided by the trained window, at least 1.
        short_factors: The same for texts up to the trained window; empty means `factors`.
        start_tokens: Tokens at the start that keep their angles, at least 0.
        attention_factor: On cos and sin, above 0; 0 means
            `sqrt(1 + ln(factor) / ln(window))`.

    Raises:
        ValueError: If a number is out of its range, or the factors do not fit the model.
    """

    factors: tuple[float, ...]
    factor: float
    short_factors: tuple[float, ...] = ()
    start_tokens: int = 0
    attention_factor: float = 0.0

    def __post_init__(self) -> None:
        at_least("LongRoPE", "factor", self.factor, 1)
        whole("LongRoPE", "start_tokens", self.start_tokens, 0)
        at_least("LongRoPE", "attention_factor", self.attention_factor, 0)
        for name in ("factors", "short_factors"):
            object.__setattr__(self, name, factor_table("LongRoPE", name, getattr(self, name)))
        if not self.factors or (self.short_factors and not self._same_size()):
            raise ValueError(
                "LongRoPE: factors and short_factors need one number for each pair, got "
                f"{len(self.factors)} and {len(self.short_factors)}"
            )

    def _same_size(self) -> bool:
        return len(self.factors) == len(self.short_factors)

    @property
    def static(self) -> bool:
        return self.short_factors in ((), self.factors)

    @property
    def absolute(self) -> bool:
        return self.start_tokens > 0

    def temperature(self, window: int) -> float:
        """The number on cos and sin."""
        usual = math.sqrt(1 + math.log(self.factor) / math.log(window))
        return self.attention_factor or usual

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        device = lengths.device
        own = unscaled(base).to(device)
        inv_freq = own / torch.tensor(self.factors, device=device)
        if not self.static:
            short = own / torch.tensor(self.short_factors, device=device)
            inv_freq = torch.where((lengths > window)[:, None], inv_freq, short)
        temperature = self.temperature(window)
        if self.start_tokens:
            return StartTokensRotary(
                inv_freq, temperature, base.pairing, own=own, start_tokens=self.start_tokens
            )
        return Rotary(inv_freq, temperature, base.pairing)

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any] | None:
        if self.start_tokens:
            return None
        tables = (self.factors, self.short_factors or self.factors)
        long, short = (unscaled(base) / torch.tensor(table) for table in tables)
        temperature = self.temperature(window)
        return longrope_parameters(base, window, self.factor, temperature, long, short)

    def reach(self, window: int) -> int:
        return int(window * self.factor)

    def check_base(self, base: RotaryBase) -> None:
        if len(self.factors) != base.dim // 2:
            raise ValueError(
                f"LongRoPE: this model rotates {base.dim // 2} pairs, got {len(self.factors)} "
                "factors; search for factors on this model"
            )


@dataclass(frozen=True)
class StartTokensRotary(Rotary):
    """Frequencies `own` `[pairs]` before position `start_tokens`, `inv_freq` from there on."""

    own: Tensor = field(default_factory=lambda: torch.ones(0), kw_only=True)
    start_tokens: int = field(default=0, kw_only=True)

    def shift(self, x: Tensor, offsets: Places, name: Hashable = None) -> Tensor:
        raise AssertionError("angles are not proportional to positions: keys are not moved")

    def _angles(self, at: Tensor) -> Tensor:
        return torch.where(at < self.start_tokens, at * self.own.to(at), super()._angles(at))
