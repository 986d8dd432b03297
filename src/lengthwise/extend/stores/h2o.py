"""H2O: keep the heavy hitters, and what is recent."""

from dataclasses import dataclass

from torch import Tensor

from lengthwise.extend.method import whole
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import Evicting, EvictingState


@dataclass(frozen=True)
class H2O(Evicting):
    """Keep the `heavy` keys that drew most attention so far and the `recent` newest ones.

    A key's score is the attention that it drew from every query since it was read, added up over
    the heads that share its KV head. Early keys are seen by more queries, which the score does not
    correct, as in the source.

    Source: Zhang et al. 2023, arXiv:2306.14048, section 4 and algorithm 1.
    Differs from the source: keys are dropped every `every` tokens, not at each one, also while a
        prompt is read, so memory is bounded there too and chunks change nothing; the authors'
        code masks keys and frees nothing, and adds up scores over the batch.
    Reduces to: keeping everything while the text is no longer than `heavy + recent`.

    Args:
        heavy: Keys kept for their score, for each KV head, at least 1.
        recent: Newest tokens that are never dropped, at least 1.
        every: Tokens between two droppings, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    packable = True
    heavy: int = 256
    recent: int = 256
    every: int = 128

    def __post_init__(self) -> None:
        for name in ("heavy", "recent", "every"):
            whole("H2O", name, getattr(self, name), 1)

    def budget(self, layer: int, layers: int) -> int:
        return self.heavy + self.recent

    def note(self, read: Read, state: EvictingState) -> None:
        state.add(read.mass())

    def score(self, read: Read, state: EvictingState) -> Tensor:
        return state.numbers()
