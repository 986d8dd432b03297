"""What a binding asks of the engine that it ties to a model."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from lengthwise.core.geometry import Geometry
from lengthwise.hf.positions import Step


class Memory(ABC):
    """What one layer remembers between forwards."""

    @abstractmethod
    def select_rows(self, index: Tensor) -> None:
        """Keep the rows `index` of the batch, in that order."""

    @property
    @abstractmethod
    def croppable(self) -> bool:
        """Whether tokens can be taken back."""

    @abstractmethod
    def crop(self, tokens: int) -> None:
        """Forget the newest `tokens` tokens."""

    @property
    @abstractmethod
    def held(self) -> int:
        """Tokens held of every row, padding too; where `croppable`."""

    @abstractmethod
    def hide(self, hidden: Tensor) -> None:
        """Make padding of the tokens held where `hidden [b, held]` says so, in order of arrival."""

    @abstractmethod
    def bytes(self) -> int:
        """Bytes allocated."""

    def tensors(self) -> tuple[Tensor, Tensor] | None:
        """Keys and values `[b, kv, n, d]` of the tokens held, in order, for people to look at.

        Keys are turned to where the cache holds them. None where nothing is held, or not all heads
        or rows hold the same tokens.
        """
        return None


class AttentionEngine(Protocol):
    """Computes attention in the place of the model: `lengthwise.extend.engine.Engine`."""

    @property
    def geometry(self) -> Geometry:
        """Of the model."""

    @property
    def ordered(self) -> list[bool]:
        """For every layer, whether tokens can stand elsewhere than their positions say."""

    @property
    def told(self) -> list[int]:
        """Layers that choose by how likely tokens were, which is known after them: see `tell`."""

    def pieces(self, step: Step, before: Tensor | None) -> list[tuple[int, int, Tensor]]:
        """Where a forward is cut if there are such layers: from, to, and rows due to choose `[b]`.

        Args:
            before: Lengths of the rows before it, `[b]`; None for an empty cache.
        """

    def tell(self, states: Sequence[Memory], ids: Tensor, surprise: Tensor, due: Tensor) -> None:
        """What a piece was, once all layers have read it.

        Args:
            states: The memory of every layer.
            ids: Its tokens `[b, t]`.
            surprise: Minus the log-probability of each, in nats, `[b, t]`.
            due: Rows `[b]` that are to choose now.
        """

    def new_state(self, layer: int) -> Memory:
        """An empty memory for one layer."""

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        step: Step,
        state: Memory | None,
        *,
        scale: float,
        softcap: float | None,
        learned_sink: Tensor | None,
    ) -> Tensor:
        """Attention output `[b, heads, t, d]` from un-rotated queries, keys and values.

        Args:
            state: The layer's memory; None for a forward without a cache.
        """


class ScoringEngine(Protocol):
    """Says what scores are multiplied by: `lengthwise.extend.scores.ScoreEngine`."""

    @property
    def geometry(self) -> Geometry:
        """Of the model."""

    @property
    def name(self) -> str:
        """What it does that to, for people."""

    @property
    def static(self) -> bool:
        """Whether the factor is one number whatever is read."""

    def factor(self, lengths: Tensor | None) -> float | Tensor:
        """The factor for rows of `lengths` tokens `[b]`; the same for all where that is None."""
