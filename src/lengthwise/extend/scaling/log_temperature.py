"""Log-length temperature: a query that sees more keys has sharper scores."""

import math
from dataclasses import dataclass

from torch import Tensor, float32

from lengthwise.core.geometry import Geometry, RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling
from lengthwise.extend.scaling.own import OwnScaling

OWN = OwnScaling()


@dataclass(frozen=True)
class LogTemperature(Scaling):
    """Multiply a query's scores by the logarithm of its place, to the base of the window.

    The query at position p gets `max(1, ln(p + 1) / ln(window))`, so that the entropy of its
    softmax does not grow with the number of keys. The rule asks for the query's own position
    alone: prefill, decoding and rows of a batch agree, and the cache is untouched. It goes with
    any scaling that moves angles: `LogTemperature(over=YaRN(factor=8))`.

    Source: Su 2021, "Attention's scale from the invariance of entropy" (kexue.fm/archives/8823);
        Liu et al. 2023, arXiv:2310.05209, section 4 (with a smaller base).
    Reduces to: the scaling that it stands over, up to the trained window.

    Args:
        over: The scaling of angles; by default the model's own.

    Raises:
        ValueError: If `over` is no scaling, or a LogTemperature itself.
    """

    over: Scaling = OWN

    def __post_init__(self) -> None:
        if not isinstance(self.over, Scaling) or isinstance(self.over, LogTemperature):
            raise ValueError(
                "LogTemperature: over must be a scaling of angles such as lw.YaRN(factor=8), got "
                f"{self.over!r}"
            )

    @property
    def static(self) -> bool:
        return self.over.static

    @property
    def absolute(self) -> bool:
        return self.over.absolute

    def storable(self, base: RotaryBase) -> bool:
        return self.over.storable(base)

    def counts_from(self, base: RotaryBase, window: int) -> int:
        return self.over.counts_from(base, window)

    def check(self, window: int) -> None:
        self.over.check(window)

    def check_geometry(self, geometry: Geometry) -> None:
        self.over.check_geometry(geometry)

    def check_base(self, base: RotaryBase) -> None:
        self.over.check_base(base)

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        return self.over.rotary(base, window, lengths)

    def sharpness(self, layer: int, window: int, positions: Tensor) -> Tensor:
        keys = (positions + 1).clamp(min=window).to(float32)
        factor = (keys.log() / math.log(window))[:, None]
        under = self.over.sharpness(layer, window, positions)
        return factor if under is None else factor * under

    def reach(self, window: int) -> int:
        return self.over.reach(window)
