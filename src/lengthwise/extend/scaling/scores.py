"""Scalings for models without rotary positions: one multiplier for every row of a batch."""

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling


class ScoreScaling(Scaling):
    """A scaling of linear biases, or of all scores, in a model that rotates nothing.

    Attributes:
        what: What is multiplied, in words.
    """

    what: ClassVar[str]

    @abstractmethod
    def multiplier_at(self, window: int, length: int) -> float:
        """The multiplier for a row of `length` tokens in a model trained with `window`."""

    def multipliers(self, window: int, lengths: Tensor | None) -> float | Tensor:
        """Those for rows of `lengths` tokens `[b]`; one number for None, if it is static."""
        if lengths is None:
            assert self.static, "a multiplier that follows the length was asked without one"
            return self.multiplier_at(window, window)
        each = [self.multiplier_at(window, length) for length in lengths.tolist()]
        return torch.tensor(each, dtype=torch.float64)

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        raise AssertionError("adapt binds this scaling to models without rotary positions only")
