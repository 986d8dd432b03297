"""What scalings share: unscaled frequencies, tables of numbers, and transformers' `longrope`."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, arange, float32

from lengthwise.core.geometry import RotaryBase

# transformers divides frequencies by factors and cannot write 0: a pair this slow stands still.
STANDS_STILL = 1e30


def unscaled(base: RotaryBase) -> Tensor:
    """The frequencies `[pairs]` before any scaling, in radians a token."""
    return base.theta ** -(arange(0, base.dim, 2, dtype=float32) / base.dim)


def factor_table(owner: str, name: str, values: Sequence[float]) -> tuple[float, ...]:
    """Numbers above 0 as a tuple.

    Raises:
        ValueError: If one is 0 or less, or no finite number.
    """
    try:
        table = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise ValueError(
            f"{owner}: {name} must be numbers, one for each pair, got {values!r}"
        ) from None
    for index, value in enumerate(table):
        if not math.isfinite(value) or value <= 0:
            raise ValueError(f"{owner}: {name} must be above 0, got {value!r} for pair {index}")
    return table


def longrope_parameters(
    base: RotaryBase,
    window: int,
    factor: float,
    attention_factor: float,
    long: Tensor,
    short: Tensor | None = None,
) -> dict[str, Any]:
    """Frequencies `[pairs]` in transformers' words, for texts beyond the window and within it."""

    def factors(inv_freq: Tensor) -> Any:
        still = torch.full_like(inv_freq, STANDS_STILL)
        return torch.where(inv_freq > 0, unscaled(base) / inv_freq, still).tolist()

    return {
        "rope_type": "longrope",
        "short_factor": factors(long if short is None else short),
        "long_factor": factors(long),
        "factor": factor,
        "attention_factor": attention_factor,
        "original_max_position_embeddings": window,
        "rope_theta": base.theta,
    }
