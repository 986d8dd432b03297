"""One distance for everything far: InfLLM's positions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.regions import Fixed, Place, Region
from lengthwise.extend.method import Layout, whole


@dataclass(frozen=True)
class FarAsOne(Layout):
    """Distances below `window` are true; every farther key seems `window - 1` away.

    Far keys lose their order and are found by content alone.

    Source: Xiao et al. 2024, arXiv:2402.04617, section 2.3 (positions of the memory); with all
        keys visible it is ReRoPE (Su 2023) with the cap one lower.
    Reduces to: plain causal attention while the text is no longer than the window.

    Args:
        window: Nearest keys at true distances, the query itself included, at least 1; at most
            the trained window.

    Raises:
        ValueError: If `window` is below 1.
    """

    window: int = 512

    def __post_init__(self) -> None:
        whole("FarAsOne", "window", self.window, 1)

    @property
    def key_place(self) -> Place:  # type: ignore[override]
        """Far keys are the many: they are stored un-rotated."""
        return Fixed(0)

    def regions(self) -> tuple[Region, ...]:
        near = Region(far=self.window, paged=True)
        far = Region(near=self.window, q_place=Fixed(self.window - 1), k_place=Fixed(0), paged=True)
        return near, far

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(q - k, dtype=torch.bool), (q - k).clamp(max=self.window - 1)
