"""Log-length temperature: a query that sees more keys has sharper scores."""

import math
from dataclasses import dataclass

from torch import Tensor, float32

from lengthwise.extend.method import Scaling
from lengthwise.extend.scaling.over import Over
from lengthwise.extend.scaling.own import OwnScaling

OWN = OwnScaling()


@dataclass(frozen=True)
class LogTemperature(Over):
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
        self.check_over("lw.YaRN(factor=8)")

    def sharpness(self, layer: int, window: int, positions: Tensor) -> Tensor:
        keys = (positions + 1).clamp(min=window).to(float32)
        factor = (keys.log() / math.log(window))[:, None]
        return self.times_under(factor, layer, window, positions)
