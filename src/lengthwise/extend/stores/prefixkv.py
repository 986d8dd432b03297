"""PrefixKV: every layer keeps the same share of its own attention, whatever keys that takes."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lengthwise.extend.method import whole
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import Evicting, EvictingState


@dataclass(frozen=True)
class PrefixKV(Evicting):
    """Keep, in each layer, the keys that drew most attention so far, as many as the layer needs.

    A key's score is the attention that it drew from every query since it was read, added up over
    all heads of the layer, which keep the same tokens. `lengthwise.prefix_budgets` finds budgets.

    Source: Wang et al. 2024, arXiv:2412.03409, section 3.
    Differs from the source: keys are dropped every `every` tokens by their scores, also while a
        prompt is read, and `recent` tokens are reserved, which few queries have seen so far; the
        authors' code drops one key at a fixed place for every token that it writes, whatever it
        is, and so keeps what was written last.
    Reduces to: keeping everything while the text is no longer than every budget.

    Args:
        budgets: Tokens that each layer keeps, one number for each layer, each at least 2.
        every: Tokens between two droppings, at least 1.
        recent: Newest tokens that are never dropped, at least 1, at most half of a layer's budget.

    Raises:
        ValueError: If a number is out of its range, or, on a model, their count is not its layers'.
    """

    budgets: tuple[int, ...]
    every: int = 128
    recent: int = 16
    shared: ClassVar[bool] = True
    sinks = 1

    def __post_init__(self) -> None:
        whole("PrefixKV", "every", self.every, 1)
        whole("PrefixKV", "recent", self.recent, 1)
        if not self.budgets:
            raise ValueError("PrefixKV: budgets must hold a number for each layer, got none")
        for budget in self.budgets:
            whole("PrefixKV", "budgets", budget, 2)

    def budget(self, layer: int, layers: int) -> int:
        if len(self.budgets) != layers:
            raise ValueError(
                f"PrefixKV: budgets must hold a number for each of the model's {layers} layers, "
                f"got {len(self.budgets)}"
            )
        return self.budgets[layer]

    def reserved(self, budget: int) -> int:
        return min(self.recent, budget // 2)

    def mean(self) -> int:
        return round(sum(self.budgets) / len(self.budgets))

    def note(self, read: Read, state: EvictingState) -> None:
        state.add(read.mass().sum(1, keepdim=True))

    def score(self, read: Read, state: EvictingState) -> Tensor:
        return state.numbers()
