"""TOVA: keep what the newest token attends to."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lengthwise.extend.method import whole
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import Evicting, EvictingState


@dataclass(frozen=True)
class TOVA(Evicting):
    """Keep the `tokens` keys that the newest query of a row gives most attention, in all heads.

    A key's score is its attention weight under the last query, on average over the heads of the
    layer, which all keep the same tokens.

    Source: Oren et al. 2024, arXiv:2401.06104, section 3.2.
    Differs from the source: keys are dropped every `every` tokens, not at each one, also while a
        prompt is read, so memory is bounded there too and chunks change nothing; `recent`
        newest tokens are safe, where the source may drop the newest token itself.
    Reduces to: keeping everything while the text is no longer than `tokens`.

    Args:
        tokens: Tokens that each KV head keeps, above `recent`.
        every: Tokens between two droppings, at least 1.
        recent: Newest tokens that are never dropped, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    packable = True
    tokens: int = 512
    every: int = 128
    recent: int = 1
    shared: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole("TOVA", "every", self.every, 1)
        whole("TOVA", "recent", self.recent, 1)
        whole("TOVA", "tokens", self.tokens, self.recent + 1)

    def budget(self, layer: int, layers: int) -> int:
        return self.tokens

    def score(self, read: Read, state: EvictingState) -> Tensor:
        newest = read.queries.positions == read.queries.positions.amax(1, keepdim=True)
        return read.mass(newest).sum(1, keepdim=True)
