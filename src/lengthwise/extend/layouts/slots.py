"""Positions inside the cache, as StreamingLLM gives them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.regions import Capped, Region
from lengthwise.extend.method import Layout, whole


@dataclass(frozen=True)
class CacheSlots(Layout):
    """Distances between slots of a cache that holds `sinks` first and `window` newest tokens.

    The newest `window` keys seem as far as they are. A query never stands beyond slot
    `sinks + window - 1`, so a sink j seems `min(i, sinks + window - 1) - j` away.

    Source: Xiao et al. 2023, arXiv:2309.17453, section 3.2 ("positions within the cache").
    Reduces to: plain causal attention while the text fits the cache.

    Args:
        sinks: First tokens that stay visible, at least 0.
        window: Newest tokens that stay visible, the query itself included, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    sinks: int = 4
    window: int = 508

    def __post_init__(self) -> None:
        whole("CacheSlots", "sinks", self.sinks, 0)
        whole("CacheSlots", "window", self.window, 1)

    def regions(self) -> tuple[Region, ...]:
        near = Region(far=self.window, paged=True)
        sinks = Region(
            near=self.window, last=self.sinks, q_place=Capped(self.sinks + self.window - 1)
        )
        return near, sinks

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        slot = q.clamp(max=self.sinks + self.window - 1)
        near = q - k < self.window
        return near | (k < self.sinks), torch.where(near, q - k, slot - k)
