"""What one layer remembers between forwards, and what it reads one with."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import SelectorState, StoreState
from lengthwise.extend.plan import Plan
from lengthwise.extend.read import Read, Tokens
from lengthwise.hf.engine import Memory
from lengthwise.hf.positions import Step


@dataclass
class LayerState(Memory):
    """What one plan remembers between forwards.

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
        self.store.select_rows(index)
        if self.selector is not None:
            self.selector.select_rows(index)

    @property
    def croppable(self) -> bool:
        return self.selector is None and self.store.croppable

    def crop(self, tokens: int) -> None:
        self.store.crop(tokens)

    @property
    def held(self) -> int:
        return self.store.held

    def hide(self, hidden: Tensor) -> None:
        self.store.hide(hidden)

    def tensors(self) -> tuple[Tensor, Tensor] | None:
        blocks = self.store.shown()
        if not blocks:
            return None
        if len(blocks) == 1:
            return blocks[0].keys, blocks[0].values
        return torch.cat([x.keys for x in blocks], 2), torch.cat([x.values for x in blocks], 2)

    def bytes(self) -> int:
        return self.store.bytes() + (0 if self.selector is None else self.selector.bytes())


class SeveralStates(Memory):
    """What the plans of one layer remember."""

    def __init__(self, parts: list[LayerState]) -> None:
        self.parts = parts

    def select_rows(self, index: Tensor) -> None:
        for part in self.parts:
            part.select_rows(index)

    def told(self, tokens: Tokens, due: Tensor) -> None:
        """As that of each."""
        for part in self.parts:
            part.told(tokens, due)

    @property
    def croppable(self) -> bool:
        return all(part.croppable for part in self.parts)

    def crop(self, tokens: int) -> None:
        for part in self.parts:
            part.crop(tokens)

    @property
    def held(self) -> int:
        return self.parts[0].held

    def hide(self, hidden: Tensor) -> None:
        for part in self.parts:
            part.hide(hidden)

    def bytes(self) -> int:
        return sum(part.bytes() for part in self.parts)


@dataclass(frozen=True)
class Reading:
    """What stays the same for all pieces in which one plan reads one forward."""

    plan: Plan
    step: Step
    rotary: Rotary | None
    state: LayerState | None
    learned_sink: Tensor | None
    kw: dict[str, Any]

    def of(self, queries: Queries, rotary: Rotary | None) -> Read:
        """What those choose by who choose: see `Read`."""
        assert self.state is not None
        plan, lengths, store = self.plan, self.step.lengths, self.state.store
        return Read(plan.layer, queries, lengths, store, plan.regions, rotary=rotary, **self.kw)
