"""KeyDiff: keep the keys that are least like all others."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from lengthwise.core.attention.reference import at_least_float32
from lengthwise.extend.method import whole
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import Evicting, EvictingState


@dataclass(frozen=True)
class KeyDiff(Evicting):
    """Keep the `tokens` keys of each KV head that are least like the mean of all that it holds.

    A key's score is minus its cosine with the mean of the keys' directions, as they lie in the
    cache. No query is asked, so that what is kept costs one pass over the keys, and nothing is
    computed beside attention.

    Source: Park et al. 2025, arXiv:2504.15364, section 3 (keys are scored by their cosine with the
        mean direction, and the cache is cut back to its budget block by block).
    Differs from the source: keys are dropped every `every` tokens, also while the model writes;
        `recent` tokens can be reserved, where the source reserves none.
    Reduces to: keeping everything while the text is no longer than `tokens`.

    Args:
        tokens: Tokens that each KV head keeps, above `recent`.
        recent: Newest tokens that are never dropped, at least 0.
        every: Tokens between two droppings, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    packable = True
    tokens: int = 512
    recent: int = 0
    every: int = 128
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        whole("KeyDiff", "recent", self.recent, 0)
        whole("KeyDiff", "tokens", self.tokens, self.recent + 1)
        whole("KeyDiff", "every", self.every, 1)

    def budget(self, layer: int, layers: int) -> int:
        return self.tokens

    def score(self, read: Read, state: EvictingState) -> Tensor:
        block = state.whole()
        held = block.positions >= 0
        keys = at_least_float32(block.keys)
        # Only the direction of their sum matters, so padding may count as 0.
        mean = (normalize(keys, dim=-1) * held[..., None]).sum(2, keepdim=True)
        return -cosine_similarity(keys, mean, dim=-1)
