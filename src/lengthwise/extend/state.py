"""What one layer remembers between forwards, and what it reads one with."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.regions import Region
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import SelectorState, StoreState
from lengthwise.extend.read import Read, Tokens
from lengthwise.hf.positions import Step


@dataclass
class LayerState:
    """What one layer remembers between forwards.

    Attributes:
        forgot: Whether the store holds keys that somebody could have differentiated through: it
            keeps all without their history.
    """

    store: StoreState
    selector: SelectorState | None
    forgot: bool = False
    waits: Read | None = None  # until its tokens are told

    def told(self, tokens: Tokens, due: Tensor) -> None:
        """What the last piece read was, for a store that needs logits; see `Read`."""
        assert self.waits is not None
        read, self.waits = replace(self.waits, tokens=tokens, due=due), None
        self.store.after(read)

    def take(self, new: KeyBlock) -> list[KeyBlock]:
        """Hand new keys to the store; see `StoreState.extend`."""
        live = new.keys.requires_grad or new.values.requires_grad
        self.forgot = self.forgot or live
        return self.store.extend(new)

    def select_rows(self, index: Tensor) -> None:
        """Keep the rows `index` of the batch, in that order."""
        self.store.select_rows(index)
        if self.selector is not None:
            self.selector.select_rows(index)

    @property
    def croppable(self) -> bool:
        """Whether tokens can be taken back."""
        return self.selector is None and self.store.croppable

    def crop(self, tokens: int) -> None:
        """Forget the newest `tokens` tokens."""
        self.store.crop(tokens)

    @property
    def held(self) -> int:
        """Tokens held of every row, padding too; where `croppable`."""
        return self.store.held

    def hide(self, hidden: Tensor) -> None:
        """Make padding of tokens held; see `StoreState.hide`."""
        self.store.hide(hidden)

    def bytes(self) -> int:
        """Bytes allocated."""
        return self.store.bytes() + (0 if self.selector is None else self.selector.bytes())


@dataclass(frozen=True)
class Reading:
    """What stays the same for all pieces in which one layer reads one forward."""

    layer: int
    step: Step
    rotary: Rotary | None
    state: LayerState | None
    learned_sink: Tensor | None
    kw: dict[str, Any]

    def of(self, queries: Queries, regions: Sequence[Region]) -> Read:
        """What those choose by who choose: see `Read`."""
        assert self.state is not None
        lengths, store = self.step.lengths, self.state.store
        return Read(self.layer, queries, lengths, store, regions, rotary=self.rotary, **self.kw)
