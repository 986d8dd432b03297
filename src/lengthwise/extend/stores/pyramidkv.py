"""PyramidKV: SnapKV with more room in the first layers and less in the last."""

from dataclasses import dataclass

from lengthwise.extend.method import at_least
from lengthwise.extend.stores.snapkv import SnapKV


@dataclass(frozen=True)
class PyramidKV(SnapKV):
    """SnapKV whose budgets fall from layer to layer, along a line with `tokens` as its mean.

    Beside the `recent` newest tokens, with B = tokens - recent, the last layer keeps B / `slope`
    keys, the first 2 B - B / `slope`, and layers between them what lies on the line.

    Source: Cai et al. 2024, arXiv:2406.02069, section 3.2 (budgets) and 3.3 (SnapKV's choice).
    Differs from the source: as SnapKV does.
    Reduces to: SnapKV at slope 1.

    Args:
        tokens, recent, kernel, every: As of SnapKV.
        slope: How much less than the mean the last layer keeps, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    slope: float = 20.0

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("PyramidKV", "slope", self.slope, 1)

    def budget(self, layer: int, layers: int) -> int:
        mean = self.tokens - self.recent
        last = mean / self.slope
        first = 2 * mean - last
        share = layer / (layers - 1) if layers > 1 else 0.5
        return self.recent + max(1, round(first - share * (first - last)))
