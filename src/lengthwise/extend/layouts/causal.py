"""Plain causal attention: the identity of the layout axis."""

from dataclasses import dataclass

from lengthwise.core.regions import Region
from lengthwise.extend.method import Layout


@dataclass(frozen=True)
class Causal(Layout):
    """Every query sees itself and everything before it at true distances.

    Reduces to: the untouched model.
    """

    def regions(self) -> tuple[Region, ...]:
        return (Region(paged=True),)
