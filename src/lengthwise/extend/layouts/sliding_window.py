"""A window that slides: near keys only."""

from dataclasses import dataclass

from torch import Tensor

from lengthwise.core.regions import Region
from lengthwise.extend.method import Layout, whole


@dataclass(frozen=True)
class SlidingWindow(Layout):
    """Every query sees the last `window` keys at true distances, itself included.

    Without sinks most pretrained models fail as soon as the first tokens leave the window:
    this is the control that LM-Infinite and StreamingLLM are measured against.

    Source: Child et al. 2019, arXiv:1904.10509, section 4.2; Beltagy et al. 2020,
        arXiv:2004.05150, section 3.1.
    Reduces to: plain causal attention while the text is no longer than the window.

    Args:
        window: Keys that a query sees, at least 1.

    Raises:
        ValueError: If `window` is below 1.
    """

    window: int

    def __post_init__(self) -> None:
        whole("SlidingWindow", "window", self.window, 1)

    def regions(self) -> tuple[Region, ...]:
        return (Region(far=self.window, paged=True),)

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q - k < self.window, q - k
