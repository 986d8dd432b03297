"""What scalings share that stand over another one, which says how positions become angles."""

from torch import Tensor

from lengthwise.core.geometry import Geometry, RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling


class Over(Scaling):
    """A scaling of scores over a scaling of angles, which answers for everything else.

    Attributes:
        over: The scaling of angles.
    """

    over: Scaling

    def check_over(self, example: str) -> None:
        """Raise ValueError if `over` is no scaling, or one of the same kind."""
        if not isinstance(self.over, Scaling) or isinstance(self.over, type(self)):
            raise ValueError(
                f"{type(self).__name__}: over must be a scaling such as {example}, got "
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

    def replaces(self, base: RotaryBase) -> bool:
        return self.over.replaces(base)

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

    def reach(self, window: int) -> int:
        return self.over.reach(window)

    def times_under(self, factor: Tensor, layer: int, window: int, positions: Tensor) -> Tensor:
        """`factor` times the sharpness of the scaling below."""
        under = self.over.sharpness(layer, window, positions)
        return factor if under is None else factor * under
