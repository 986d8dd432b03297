"""SirLLM: keep what was surprising when it was read, turn after turn."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from lengthwise.extend.method import at_least, whole
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import Evicting, EvictingState, InCacheState


@dataclass(frozen=True)
class SirLLM(Evicting):
    """Keep the sinks, the `recent` newest tokens and those that surprised the model most.

    A token's score is minus the logarithm of the probability that the model gave it when it was
    read, and shrinks with every turn that ends. All layers and heads keep the same tokens, at
    positions inside the cache: no distance is longer than the cache, however long the dialogue.
    Keys lie un-rotated and are rotated whenever they are read.

    Source: Yao et al. 2024, ACL 2024, section 3 (token entropy, cache and decay).
    Differs from the source: keys are dropped every `every` tokens, where the source drops them
        before each turn; the first token of a turn is judged by the text before it, where the
        source gives it the turn's maximum; a turn ends with a token, so that chunks change nothing;
        `recent` tokens are reserved, where the source fills up with them what is left.
    Reduces to: keeping everything while the text is no longer than `tokens`.

    Args:
        tokens: Tokens that each KV head keeps, above `sinks + recent`.
        sinks: First tokens that are never dropped, at least 1.
        recent: Newest tokens that are never dropped, at least 1.
        decay: What scores of all that was read are multiplied with when a turn ends, from 0 to 1;
            the source takes 0.7 to 1.
        turn: Id of the token that ends a turn; -1 for none.
        every: Tokens between two droppings, at least 1.

    Raises:
        ValueError: If a number is out of its range, or there is a decay and no turn.
    """

    tokens: int = 512
    sinks: int = 4
    recent: int = 64
    decay: float = 1.0
    turn: int = -1
    every: int = 128
    shared: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    in_cache: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("sinks", "recent", "every"):
            whole("SirLLM", name, getattr(self, name), 1)
        whole("SirLLM", "tokens", self.tokens, self.sinks + self.recent + 1)
        whole("SirLLM", "turn", self.turn, -1)
        at_least("SirLLM", "decay", self.decay, 0)
        if self.decay > 1:
            raise ValueError(f"SirLLM: decay must be at most 1, got {self.decay}")
        if self.decay != 1 and self.turn < 0:
            raise ValueError("SirLLM: decay needs turn, the id of the token that ends a turn")

    def budget(self, layer: int, layers: int) -> int:
        return self.tokens

    def state(self, layer: int = 0, layers: int = 1) -> InCacheState:
        return InCacheState(self, self.tokens)

    def note(self, read: Read, state: EvictingState) -> None:
        assert read.tokens is not None
        ended = (read.tokens.ids == self.turn) & (read.queries.positions >= 0)
        later = ended.flip(1).cumsum(1).flip(1)  # turns that end with a token or after it
        scores = state.numbers()
        shrunk = scores.new_tensor(self.decay) ** later
        scores *= shrunk[:, None, :1]
        scores[:, 0, -len(read.queries) :] = read.tokens.surprise * shrunk

    def score(self, read: Read, state: EvictingState) -> Tensor:
        return state.numbers()
