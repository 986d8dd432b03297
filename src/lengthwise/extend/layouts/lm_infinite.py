"""LM-Infinite: a lambda-shaped mask and a cap on distances."""

from dataclasses import dataclass

from torch import Tensor

from lengthwise.core.regions import Fixed, Region
from lengthwise.extend.method import Layout, whole


@dataclass(frozen=True)
class LMInfinite(Layout):
    """Every query sees the last `window` keys, and the first `sinks` keys at distance `window`.

    Source: Han et al. 2023, arXiv:2308.16137, section 3.2 (mask and distance ceiling).
    Differs from the source: without the optional re-introduction of a few middle tokens in the
        last layers (section 3.3).
    Reduces to: plain causal attention while the text is no longer than the window.

    Args:
        sinks: First tokens that stay visible, at least 0.
        window: Nearest keys that a query sees, itself included, at least 1; at most the trained
            window, because the sinks seem to stand at that distance.

    Raises:
        ValueError: If a number is out of its range.
    """

    sinks: int = 4
    window: int = 2048

    def __post_init__(self) -> None:
        whole("LMInfinite", "sinks", self.sinks, 0)
        whole("LMInfinite", "window", self.window, 1)

    def regions(self) -> tuple[Region, ...]:
        near = Region(far=self.window, paged=True)
        sinks = Region(
            near=self.window, last=self.sinks, q_place=Fixed(self.window), k_place=Fixed(0)
        )
        return near, sinks

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return (q - k < self.window) | (k < self.sinks), (q - k).clamp(max=self.window)
