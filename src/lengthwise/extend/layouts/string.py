"""STRING: far distances are read at near ones, inside the trained window too."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.regions import Region, Shifted
from lengthwise.extend.method import Layout, whole


@dataclass(frozen=True)
class STRING(Layout):
    """Distances from `shift` on seem `shift - window` shorter, those below it are true.

    Large distances are rare in training and hence badly learned, even inside the trained
    window: the well-learned small ones are used a second time. A text of N tokens needs no
    distance above `N - 1 - shift + window`. The authors suggest a `shift` of 0.25 to 0.4 of the
    trained window (0.33 in their runs) and a `window` of 128, 256 or 512.

    Source: An et al. 2024, arXiv:2410.18745, section 4, equation 4; code at HKUNLP/STRING.
    Differs from the source: the released code also multiplies cos and sin by 0.1 ln 2 + 1, which
        is not in the paper; name a temperature on the scaling axis for it. Its prefill reads
        the keys at distance `shift` in both branches, while its decoding does not; here as in
        the paper every key counts once.
    Reduces to: plain causal attention while the text is no longer than `shift`.

    Args:
        shift: Distances that stay true, and first one that moves, at least 1; at most the
            trained window.
        window: What the distance `shift` seems to be, at least 1 and at most `shift`.

    Raises:
        ValueError: If a number is out of its range.
    """

    shift: int
    window: int = 128

    def __post_init__(self) -> None:
        whole("STRING", "shift", self.shift, 1)
        whole("STRING", "window", self.window, 1)

    def regions(self) -> tuple[Region, ...]:
        near = Region(far=self.shift, paged=True)
        far = Region(near=self.shift, q_place=Shifted(self.window - self.shift), paged=True)
        return near, far

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        d = q - k
        moved = torch.where(d < self.shift, d, d - self.shift + self.window)
        return torch.ones_like(d, dtype=torch.bool), moved

    def check(self, window: int) -> None:
        if self.shift > window:
            raise ValueError(
                f"STRING: shift must be at most the trained window of {window} tokens, got "
                f"{self.shift}; try {max(1, window // 3)}"
            )
        if self.window > self.shift:
            raise ValueError(
                f"STRING: window must be at most shift {self.shift}, got {self.window}; try "
                f"{max(1, self.shift // 4)}"
            )
