"""CREAM: a head, a tail, and a block between them that is drawn mostly from the middle."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import torch

from lengthwise.train.tuning.rows import PositionSynthesis, Row, Text, check_window, draw


@dataclass(frozen=True)
class CREAM(PositionSynthesis):
    """The first and last positions of the target window, and one block between them.

    Head and tail are short in one half of the rows (4 tokens for each window of the target:
    neighbours stay together) and a third of the window in the other half (every distance comes up).
    The block ends between `head + a (block - 1)` and `a window - tail - 1`, where a is drawn in
    steps of one half from a Gaussian cut off at 1 and at factor = target / window, whose mean is in
    the middle. Meant to go with a scaling of that factor.

    Source: Wu et al. 2024, arXiv:2406.07138, section 3; numbers as in the public code.
    Differs from the source: the code clips the Gaussian and keeps its mean at 4.5, the middle for
        a factor of 8; here it is truncated and its mean is (1 + factor) / 2. Where the text is too
        short for the block's own place, the block is the text before the tail; the code lets it
        overlap the tail by up to one tail. First tokens after a jump in the text are no targets.
    Reduces to: the text's first `window` tokens at their own places where target is the window.

    Args:
        window: Tokens of a row, above 8 * factor: the trained window.
        target: Tokens of the wanted window, a multiple of `window`.
        deviation: Of the Gaussian in half windows, above 0 and at most 1,000, which is a uniform
            draw, the paper's control.

    Raises:
        ValueError: If a number is out of its range, or, in a call, for a text below the window.
    """

    window: int
    target: int
    deviation: float = 3.0

    def __post_init__(self) -> None:
        check_window("CREAM", self.window, self.target)
        if not 0 < self.deviation <= 1000:
            raise ValueError(
                f"CREAM: deviation must be above 0 and at most 1000, got {self.deviation!r}"
            )
        if self.target % self.window:
            raise ValueError(
                f"CREAM: target must be a multiple of the window {self.window}, got {self.target}"
            )
        if 8 * self.factor >= self.window:
            raise ValueError(
                f"CREAM: window must be above 8 tokens for each of the {self.factor} windows of "
                f"the target, got {self.window}"
            )

    @property
    def factor(self) -> int:
        """Windows in the target."""
        return self.target // self.window

    def __call__(self, row: Mapping[str, Any], generator: torch.Generator) -> Row:
        text = Text.of(row)
        if len(text) < self.window:
            raise ValueError(
                f"CREAM takes texts of at least its window of {self.window} tokens, got "
                f"{len(text)}; leave shorter ones out or use PoSE"
            )
        edge = (self.window // 3, 4 * self.factor)[draw(generator, 0, 1)]
        block = self.window - 2 * edge
        reach = self.middle(float(torch.rand((), generator=generator, dtype=torch.float64)))
        last = draw(
            generator,
            math.floor(edge + (block - 1) * reach),
            math.floor(reach * self.window) - edge - 1,
        )
        start, tail = last - block + 1, len(text) - edge
        taken = start if last < tail else tail - block
        return text.row(
            [
                (0, edge, 0),
                (taken, taken + block, start),
                (tail, len(text), self.target - edge),
            ]
        )

    def middle(self, share: float) -> float:
        """Windows that the block may reach into: the Gaussian's quantile, down to a half.

        Args:
            share: From 0 to 1.
        """
        low, high = 2.0, 2.0 * self.factor
        bell = NormalDist((low + high) / 2, self.deviation)
        below, above = bell.cdf(low), bell.cdf(high)
        mass = below + share * (above - below)
        halves = bell.inv_cdf(mass) if above > below else low
        return min(max(math.floor(halves), 2), 2 * self.factor) / 2
