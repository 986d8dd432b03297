"""Plain causal attention: the identity of the layout axis."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.regions import Region
from lengthwise.extend.method import Layout


@dataclass(frozen=True)
class Causal(Layout):
    """Every query sees itself and everything before it at true distances.

    Reduces to: the untouched model.
    """

    def regions(self) -> tuple[Region, ...]:
        return (Region(paged=True),)

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(q - k, dtype=torch.bool), q - k
