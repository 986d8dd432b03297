"""The model's own frequencies: the identity of the scaling axis."""

from dataclasses import dataclass

from torch import Tensor

from lengthwise.core.geometry import Geometry, RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling


@dataclass(frozen=True)
class OwnScaling(Scaling):
    """Rotate exactly as the model does, including a scaling that its configuration carries.

    Models whose own frequencies depend on the length (dynamic NTK, longrope) use those of the
    longest row for the whole batch, as transformers does; cached keys never go stale, because
    `adapt` stores them un-rotated then.

    Reduces to: the untouched model.
    """

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        longest = 0 if base.static else int(lengths.max())
        inv_freq, attention_factor = base.own(longest)
        return Rotary(inv_freq, attention_factor, base.pairing)

    def storable(self, base: RotaryBase) -> bool:
        return base.static

    def check_geometry(self, geometry: Geometry) -> None:
        """Any model will do."""

    def replaces(self, base: RotaryBase) -> bool:
        return False
