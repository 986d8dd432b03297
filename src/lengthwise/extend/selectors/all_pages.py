"""Every page is read: the identity of the selector axis."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from lengthwise.core.regions import Region
from lengthwise.extend.method import Selector


@dataclass(frozen=True)
class AllPages(Selector):
    """Read every key that the layout shows.

    Reduces to: the untouched model.
    """

    offers: ClassVar[frozenset[str]] = frozenset({"mass"})

    def restrict(self, regions: Sequence[Region]) -> list[Region]:
        return [replace(region, paged=False) for region in regions]

    def state(self) -> None:
        return None
