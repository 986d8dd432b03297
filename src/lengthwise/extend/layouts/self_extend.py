"""Self-Extend: far keys share positions in groups, near keys keep their own."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.regions import Grouped, Place, Region
from lengthwise.extend.method import Layout, whole


@dataclass(frozen=True)
class SelfExtend(Layout):
    """Distances below `window` are true; beyond it positions are divided by `group`.

    A far pair (i, j) seems `i // group + window - window // group - j // group` apart. A text of
    N tokens needs no distance above `(N - window) / group + window`, which should stay well
    below the trained window: its last third is rarely trained well.

    Source: Jin et al. 2024, arXiv:2401.01325, section 3, equations 3 and 4.
    Differs from the source: `window` must be a multiple of `group`. The authors' two code paths
        disagree elsewhere, and the distance at the border would depend on the query.
    Reduces to: plain causal attention at group 1, and while the text is no longer than the window.

    Args:
        group: Neighbouring positions that become one, at least 1.
        window: Nearest keys that keep true distances, at least 1 and a multiple of `group`.

    Raises:
        ValueError: If a number is out of its range.
    """

    group: int = 8
    window: int = 1024

    def __post_init__(self) -> None:
        whole("SelfExtend", "group", self.group, 1)
        whole("SelfExtend", "window", self.window, 1)
        if self.window % self.group:
            near = max(self.group, round(self.window / self.group) * self.group)
            raise ValueError(
                f"SelfExtend: window must be a multiple of group {self.group}, got {self.window}; "
                f"try {near}"
            )

    @property
    def key_place(self) -> Place:  # type: ignore[override]
        """Far keys are the many: they are stored where they are read."""
        return Grouped(self.group)

    def regions(self) -> tuple[Region, ...]:
        shift = self.window - self.window // self.group
        near = Region(far=self.window, paged=True)
        far = Region(
            near=self.window,
            q_place=Grouped(self.group, shift),
            k_place=Grouped(self.group),
            paged=True,
        )
        return near, far

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        far = q // self.group - k // self.group + self.window - self.window // self.group
        return torch.ones_like(q - k, dtype=torch.bool), torch.where(
            q - k < self.window, q - k, far
        )

    def check(self, window: int) -> None:
        if self.window >= window:
            raise ValueError(
                f"SelfExtend: window must be below the trained window of {window} tokens, "
                f"got {self.window}; try {max(self.group, window // 4 // self.group * self.group)}"
            )
