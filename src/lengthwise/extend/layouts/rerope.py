"""ReRoPE: far distances stop growing, or grow more slowly."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.regions import Divided, Fixed, Place, Region
from lengthwise.extend.method import Layout, at_least, whole


@dataclass(frozen=True)
class ReRoPE(Layout):
    """Distances below `window` are true; every farther key seems exactly `window` away.

    Source: Su 2023, kexue.fm/archives/9708, equation of ReRoPE; code at bojone/rerope.
    Differs from the source: the code always multiplies queries by max(1, ln(p + 1) / ln 4096),
        and its published losses contain that; here it is a scaling of its own, which composes.
    Reduces to: plain causal attention while the text is no longer than the window.

    Args:
        window: Nearest keys at true distances, the query itself included, at least 1; below the
            trained window.

    Raises:
        ValueError: If `window` is below 1.
    """

    window: int = 512

    def __post_init__(self) -> None:
        whole("ReRoPE", "window", self.window, 1)

    @property
    def key_place(self) -> Place:  # type: ignore[override]
        """Far keys are the many: they are stored un-rotated."""
        return Fixed(0)

    def regions(self) -> tuple[Region, ...]:
        near = Region(far=self.window, paged=True)
        far = Region(near=self.window, q_place=Fixed(self.window), k_place=Fixed(0), paged=True)
        return near, far

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(q - k, dtype=torch.bool), (q - k).clamp(max=self.window)

    def check(self, window: int) -> None:
        _below_trained("ReRoPE", self.window, window)


@dataclass(frozen=True)
class LeakyReRoPE(Layout):
    """Distances below `window` are true; beyond it they grow by `1 / factor` of a token.

    A far pair at distance d seems `window + (d - window) / factor` apart, a fraction of a token
    where that is one.

    Source: Su 2023, kexue.fm/archives/9708, equation of Leaky ReRoPE; code at bojone/rerope
        (window 512, factor 16).
    Differs from the source: as ReRoPE.
    Reduces to: plain causal attention at factor 1, and while the text is no longer than the
        window; ReRoPE as the factor grows.

    Args:
        factor: Far distances that become one, at least 1.
        window: Nearest keys at true distances, the query itself included, at least 1; below the
            trained window.

    Raises:
        ValueError: If a number is out of its range.
    """

    factor: float = 16.0
    window: int = 512

    def __post_init__(self) -> None:
        at_least("LeakyReRoPE", "factor", self.factor, 1)
        whole("LeakyReRoPE", "window", self.window, 1)

    @property
    def key_place(self) -> Place:  # type: ignore[override]
        """Far keys are the many: they are stored where they are read."""
        return Divided(self.factor)

    def regions(self) -> tuple[Region, ...]:
        near = Region(far=self.window, paged=True)
        far = Region(
            near=self.window,
            q_place=Divided(self.factor, self.window * (self.factor - 1)),
            k_place=Divided(self.factor),
            paged=True,
        )
        return near, far

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        d = (q - k).double()
        far = self.window + (d - self.window) / self.factor
        return torch.ones_like(q - k, dtype=torch.bool), torch.where(d < self.window, d, far)

    def check(self, window: int) -> None:
        _below_trained("LeakyReRoPE", self.window, window)


def _below_trained(owner: str, chosen: int, trained: int) -> None:
    if chosen >= trained:
        raise ValueError(
            f"{owner}: window must be below the trained window of {trained} tokens, got {chosen}; "
            f"try {max(1, trained // 4)}"
        )
