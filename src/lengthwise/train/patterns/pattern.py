"""A pattern: a layout for every layer, and within a layer for every head."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from lengthwise.extend.method import Layout
from lengthwise.extend.plan import Groups


class Pattern(ABC):
    """Which layout every layer and head of a decoder is trained with."""

    @abstractmethod
    def parts(self, layers: int, heads: int) -> list[Groups]:
        """For every layer, the layouts and their heads.

        Raises:
            ValueError: If the pattern does not fit so many layers or heads.
        """


def whole_layers(layouts: Sequence[Layout], heads: int) -> list[Groups]:
    """One layout for all heads of each layer."""
    everyone = tuple(range(heads))
    return [[(everyone, layout)] for layout in layouts]
