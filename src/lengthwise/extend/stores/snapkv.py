"""SnapKV: keep what the last queries of an observation window attend to, and its neighbours."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import avg_pool1d

from lengthwise.extend.method import whole
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import Evicting, EvictingState


@dataclass(frozen=True)
class SnapKV(Evicting):
    """Keep the `recent` newest tokens and the keys that these attend to most.

    A key's score is the attention weight that the last `recent` queries give it, added up over the
    heads that share its KV head and averaged with the scores of its neighbours in the cache
    (`kernel` of them), so that what is kept are runs of text.

    Source: Li et al. 2024, arXiv:2404.14469, section 4 (an observation window, pooling by mean).
    Differs from the source: keys are dropped every `every` tokens, where the source compresses a
        prompt once, at its end, and never while it writes; so memory is bounded, and the
        question's view decides only if the prompt ends within the last `every` tokens.
    Reduces to: keeping everything while the text is no longer than `tokens`.

    Args:
        tokens: Tokens that each KV head keeps, above `recent`.
        recent: Queries that are asked, and newest tokens that are never dropped, from 1 to `every`.
        kernel: Neighbours that a score is averaged over, itself included, odd.
        every: Tokens between two droppings, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    packable = True
    tokens: int = 512
    recent: int = 32
    kernel: int = 5
    every: int = 256

    def __post_init__(self) -> None:
        name = type(self).__name__
        whole(name, "every", self.every, 1)
        whole(name, "recent", self.recent, 1)
        whole(name, "tokens", self.tokens, self.recent + 1)
        whole(name, "kernel", self.kernel, 1)
        if self.recent > self.every:
            raise ValueError(
                f"{name}: recent must be at most every={self.every}, got {self.recent}"
            )
        if self.kernel % 2 == 0:
            raise ValueError(f"{name}: kernel must be odd, got {self.kernel}")

    def budget(self, layer: int, layers: int) -> int:
        return self.tokens

    def note(self, read: Read, state: EvictingState) -> None:
        # The observation window: the last queries before keys are dropped.
        last = read.queries.positions % self.every >= self.every - self.recent
        if bool(last.any()):
            state.add(read.mass(last))

    def score(self, read: Read, state: EvictingState) -> Tensor:
        drawn = state.numbers()
        # Neighbours are keys that are held: padding and empty slots stand between nobody.
        assert read.due is not None
        order = (state.whole().positions < 0).to(torch.int8).argsort(dim=-1, stable=True)
        mass = drawn.gather(2, order)
        state.add(-drawn * read.due[:, None, None])  # the next window begins anew
        pooled = avg_pool1d(mass, self.kernel, stride=1, padding=self.kernel // 2)
        return torch.empty_like(pooled).scatter_(2, order, pooled)
