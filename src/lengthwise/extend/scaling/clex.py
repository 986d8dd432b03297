"""CLEX: frequencies that follow a tuned differential equation over the factor of length."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling
from lengthwise.extend.scaling.frequencies import factor_table, unscaled
from lengthwise.extend.scaling.longrope import LongRoPE


@dataclass(frozen=True)
class CLEX(Scaling):
    """Divide frequencies by the row of a table that the length of the text asks for.

    A text of one window is read as the model reads it, one of up to two windows with the first
    row, and so on; what is longer than the table goes, with the last row. The table is
    what a tuned `lengthwise.extend.scaling.clex_network.CLEXNetwork` gives at every whole factor,
    so one checkpoint serves all of them. Keys are rotated when they are read: none goes stale
    when a text outgrows a row.

    Source: Chen et al. 2023, arXiv:2310.16450, section 3; inference at whole factors is that of
        the authors' code.
    Differs from the source: each row of a batch has its own factor.
    Reduces to: the model's own frequencies in the first window.

    Args:
        factors: A row of divisors for each factor 2, 3 …; a row has one for each rotated
            pair, above 0.

    Raises:
        ValueError: If rows differ in length, or there is no row.
    """

    factors: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        rows: Sequence[Sequence[float]] = self.factors
        if not rows or not all(isinstance(row, Sequence) for row in rows):
            raise ValueError(f"CLEX: factors must be rows of numbers, got {rows!r}")
        table = tuple(factor_table("CLEX", "factors", row) for row in rows)
        if len({len(row) for row in table}) > 1:
            raise ValueError(
                "CLEX: every row of factors needs as many numbers as the first, got "
                f"{[len(row) for row in table]}"
            )
        object.__setattr__(self, "factors", table)

    @property
    def static(self) -> bool:
        return False

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        own = unscaled(base).to(lengths.device)
        table = torch.cat([own[None], own / torch.tensor(self.factors, device=lengths.device)])
        row = (lengths + window - 1).div(window, rounding_mode="floor") - 1
        return Rotary(table[row.long().clamp(0, len(table) - 1)], pairing=base.pairing)

    def at(self, factor: int) -> LongRoPE:
        """One row for texts of any length: static, and a plain checkpoint for other engines.

        Raises:
            ValueError: For a factor that has no row.
        """
        most = 1 + len(self.factors)
        if not 2 <= factor <= most:
            raise ValueError(
                f"CLEX: factor must be from 2 to {most}, as its table goes, got {factor!r}"
            )
        return LongRoPE(self.factors[factor - 2], factor, attention_factor=1.0)

    def reach(self, window: int) -> int:
        return window * (1 + len(self.factors))

    def check_base(self, base: RotaryBase) -> None:
        if len(self.factors[0]) != base.dim // 2:
            raise ValueError(
                f"CLEX: this model rotates {base.dim // 2} pairs, got rows of "
                f"{len(self.factors[0])} factors; tune a network on this model"
            )
