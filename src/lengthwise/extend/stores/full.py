"""Everything is kept: the identity of the store axis."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lengthwise.core.keys import KeyBlock, Room, Run
from lengthwise.extend.method import Store, StoreState

SHARE = 16  # of what is held, one waits to be filled
FEWEST, MOST = 128, 8192  # tokens that wait to be filled, and of a block that is still copied


@dataclass(frozen=True)
class FullStore(Store):
    """Keep all keys and values, in blocks that grow.

    When the last block is full it grows by a sixteenth of what is held, at least 128 and at most
    8,192 tokens, or by the tokens that come. Up to 8,192 tokens of it are copied for that; beyond
    them a new block begins. So a token is copied few times, and little memory waits to be filled.

    Reduces to: the untouched model.
    """

    packable = True
    offers: ClassVar[frozenset[str]] = frozenset({"all keys"})

    def state(self, layer: int = 0, layers: int = 1) -> "FullState":
        return FullState()

    def reference(self, q: Tensor, k: Tensor) -> Tensor:
        return torch.ones_like(q - k, dtype=torch.bool)

    def kept(self, length: int) -> int:
        return length

    def slots(self, ends: Sequence[int]) -> int:
        slots = 0
        for end in ends:
            if end > slots:  # the blocks so far are filled first
                slots += growth(slots, end - slots)
        return slots


def growth(held: int, coming: int) -> int:
    """Slots that are added to full blocks that hold `held` tokens."""
    return max(coming, min(max(held // SHARE, FEWEST), MOST))


@dataclass
class _Buffer:
    """One allocation; slots from `used` on are free, but where copies of the cache share it."""

    keys: Tensor
    values: Tensor
    positions: Tensor
    segments: Tensor | None
    start: int | None
    used: int = 0
    shared: bool = False

    @property
    def full(self) -> bool:
        return self.shared or self.used == self.keys.shape[2]

    def __getstate__(self) -> dict[str, Any]:
        """What a file holds of it: no free slots, in which anything may lie."""
        held = {
            name: x.narrow(1 if name == "segments" else 2, 0, self.used)
            for name, x in vars(self).items()
            if isinstance(x, Tensor)
        }
        return {**vars(self), **held, "shared": False}

    def block(self) -> KeyBlock:
        whole = KeyBlock(self.keys, self.values, self.positions, self.segments, self.start)
        return whole if self.used == self.keys.shape[2] else whole.slots(0, self.used)

    def tensors(self) -> list[Tensor]:
        named = [self.keys, self.values, self.positions, self.segments]
        return [tensor for tensor in named if tensor is not None]


class FullState(StoreState):
    """Blocks of one layer."""

    croppable: ClassVar[bool] = True

    def __init__(self) -> None:
        self.buffers: list[_Buffer] = []

    def extend(self, new: KeyBlock) -> list[KeyBlock]:
        if new.keys.requires_grad or new.values.requires_grad:
            older = self.blocks()
            self._append(new)
            return [*older, new]
        self._append(new)
        return self.blocks()

    def room(self, position: int) -> Room | None:
        runs = []
        for buffer in self.buffers:
            if buffer.start is None or buffer.segments is not None:
                return None
            runs.append(Run(buffer.keys, buffer.values, 0, buffer.used, buffer.start))
        if not runs:
            return None
        keys, values, first, used, start = runs[-1]
        if start + used != position or self.buffers[-1].full:
            return None
        runs[-1] = Run(keys, values, first, used + 1, start)
        return Room(keys, values, self.buffers[-1].positions, used, runs)

    def took(self) -> None:
        self.buffers[-1].used += 1

    @torch.no_grad()
    def _append(self, new: KeyBlock) -> None:
        done, total = 0, len(new)
        while done < total:
            last = self.buffers[-1] if self.buffers else None
            if last is None or last.full:
                last = self._grow(new if done == 0 else new.slots(done, total))
            count = min(total - done, last.keys.shape[2] - last.used)
            piece = new if count == total else new.slots(done, done + count)
            into = slice(last.used, last.used + count)
            last.keys[:, :, into] = piece.keys
            last.values[:, :, into] = piece.values
            last.positions[:, :, into] = piece.positions
            if last.segments is not None and piece.segments is not None:
                last.segments[:, into] = piece.segments
            if last.used == 0:
                last.start = piece.start
            elif last.start is None or piece.start != last.start + last.used:
                last.start = None
            last.used += count
            done += count

    def _grow(self, coming: KeyBlock) -> _Buffer:
        last = self.buffers[-1] if self.buffers else None
        if last is not None and last.used > (FEWEST if last.shared else MOST):
            last = None
        size = growth(self.held, len(coming)) + (0 if last is None else last.used)
        b, kv, _, d = coming.keys.shape
        heads = coming.positions.shape[1]
        segments = None if coming.segments is None else coming.segments.new_zeros(b, size)
        buffer = _Buffer(
            coming.keys.new_empty(b, kv, size, d),
            coming.values.new_empty(b, kv, size, coming.values.shape[-1]),
            coming.positions.new_empty(b, heads, size),
            segments,
            None,
        )
        if last is not None:
            for new, old in zip(buffer.tensors(), last.tensors(), strict=True):
                at = 1 if new is segments else 2
                new.narrow(at, 0, last.used).copy_(old.narrow(at, 0, last.used))
            buffer.start, buffer.used = last.start, last.used
            self.buffers.pop()
        self.buffers.append(buffer)
        return buffer

    def blocks(self) -> list[KeyBlock]:
        return [buffer.block() for buffer in self.buffers]

    def shown(self) -> list[KeyBlock]:
        return self.blocks()

    def gather(self, slots: Tensor) -> KeyBlock:
        first = self.buffers[0]
        b, kv, _, d = first.keys.shape
        m = slots.shape[2]
        keys = first.keys.new_zeros(b, kv, m, d)
        values = first.values.new_zeros(b, kv, m, first.values.shape[-1])
        positions = first.positions.new_full(slots.shape, -1)
        offset = 0
        for buffer in self.buffers:
            here = (slots >= offset) & (slots < offset + buffer.used)
            rows, heads, at = here.nonzero(as_tuple=True)
            local = slots[rows, heads, at] - offset
            offset += buffer.used
            if not len(at):
                continue
            positions[rows, heads, at] = buffer.positions[rows, 0, local]
            if b == 1 and slots.shape[1] == 1:
                keys[:, :, at] = buffer.keys.index_select(2, local)
                values[:, :, at] = buffer.values.index_select(2, local)
            elif slots.shape[1] == 1:
                keys[rows, :, at] = buffer.keys[rows, :, local]
                values[rows, :, at] = buffer.values[rows, :, local]
            else:
                keys[rows, heads, at] = buffer.keys[rows, heads, local]
                values[rows, heads, at] = buffer.values[rows, heads, local]
        return KeyBlock(keys, values, positions)

    def select_rows(self, index: Tensor) -> None:
        for buffer in self.buffers:
            buffer.keys = buffer.keys.index_select(0, index)
            buffer.values = buffer.values.index_select(0, index)
            buffer.positions = buffer.positions.index_select(0, index)
            if buffer.segments is not None:
                buffer.segments = buffer.segments.index_select(0, index)
            buffer.shared = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "FullState":
        """Shares what is held, however long; what comes is written elsewhere from now on."""
        for buffer in self.buffers:
            buffer.shared = True
        memo[id(self)] = fork = copy.copy(self)
        fork.buffers = [replace(buffer) for buffer in self.buffers]
        return fork

    def crop(self, tokens: int) -> None:
        while tokens and self.buffers:
            last = self.buffers[-1]
            count = min(tokens, last.used)
            last.used -= count
            tokens -= count
            if last.used == 0:
                self.buffers.pop()

    @property
    def held(self) -> int:
        return sum(buffer.used for buffer in self.buffers)

    def hide(self, hidden: Tensor) -> None:
        at = 0
        for buffer in self.buffers:
            mine = hidden[:, None, at : at + buffer.used]
            if bool(mine.any()):
                if buffer.shared:
                    buffer.positions = buffer.positions.clone()
                buffer.positions[:, :, : buffer.used].masked_fill_(mine, -1)
                buffer.start = None
            at += buffer.used

    def bytes(self) -> int:
        return sum(t.nbytes for buffer in self.buffers for t in buffer.tensors())
