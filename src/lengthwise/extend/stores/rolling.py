"""The first tokens and the newest ones, in a ring that grows to its size and no further."""

from dataclasses import replace

import torch
from torch import Tensor

from lengthwise.core.keys import KeyBlock, Room, Run
from lengthwise.extend.method import StoreState
from lengthwise.extend.stores.full import growth


def grown(slots: int, end: int, most: int) -> int:
    """Slots of a ring of `most` once it has read `end` tokens, and had `slots` before."""
    wanted = min(end, most)
    return slots if wanted <= slots else min(most, slots + growth(slots, wanted - slots))


class RollingState(StoreState):
    """Sinks in slots 0 .. sinks - 1; position p in slot sinks + (p - sinks) % window.

    A slot follows from the position alone, so rows with left padding need no care of their own.
    Of packed documents a row holds the newest one: no later token sees another, and the numbers of
    documents hide what they have left in the slots.
    """

    def __init__(self, sinks: int, window: int) -> None:
        self.sinks, self.window = sinks, window
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.positions: Tensor | None = None
        self.segments: Tensor | None = None
        self.next: int | None = 0  # the next position, while all rows agree on it
        self.newest: list[int | None] = []  # the document that every row holds
        self.over: list[set[int]] = []  # and those that it held before

    def extend(self, new: KeyBlock) -> list[KeyBlock]:
        # One new token only pushes out what it cannot see itself: write first, read one buffer.
        live = new.keys.requires_grad or new.values.requires_grad
        if len(new) == 1 and not live:
            self._write(new)
            return self._ring()
        # A longer chunk still needs what its last token pushes out.
        older = [] if self.keys is None else [self._copy(block) for block in self._held()]
        self._write(new)
        return [*older, new]

    def room(self, position: int) -> Room | None:
        keys, values, positions = self.keys, self.values, self.positions
        if self.next != position or self.segments is not None:
            return None
        if keys is None or values is None or positions is None:
            return None
        if self._slot(position) >= self.slots:
            return None
        runs = [Run(keys, values, *run) for run in self._runs(position + 1)]
        return Room(keys, values, positions, self._slot(position), runs)

    def took(self) -> None:
        assert self.next is not None
        self.next += 1

    def _runs(self, seen: int) -> list[tuple[int, int, int]]:
        """Slots of consecutive positions after `seen` tokens: the first, how many, its position."""
        runs = [(0, min(seen, self.sinks), 0)]
        newest = seen - self.sinks  # tokens that went through the ring
        if newest > 0:
            turn, at = divmod(newest, self.window)
            if turn:
                runs.append((self.sinks + at, self.window - at, seen - self.window))
            runs.append((self.sinks, at, seen - at))
        return [run for run in runs if run[1]]

    def _ring(self) -> list[KeyBlock]:
        """What is kept, as sinks and one ring, for a token that sees all or most of it."""
        if self.next is None or self.segments is not None or self.next <= self.sinks + self.window:
            return self._held()
        assert self.keys is not None and self.values is not None and self.positions is not None
        buffer = KeyBlock(self.keys, self.values, self.positions, start=0)
        ring = replace(
            buffer.slots(self.sinks, self.sinks + self.window),
            start=None,
            span=(self.next - self.window, self.next - 1),
        )
        return [buffer.slots(0, self.sinks), ring] if self.sinks else [ring]

    def _held(self) -> list[KeyBlock]:
        """What is kept, as runs of consecutive positions where all rows agree."""
        assert self.keys is not None and self.values is not None and self.positions is not None
        whole_buffer = KeyBlock(self.keys, self.values, self.positions, self.segments)
        if self.next is None or self.segments is not None:
            return [whole_buffer]
        blocks = []
        for low, count, start in self._runs(self.next):
            block = whole_buffer.slots(low, low + count)
            blocks.append(KeyBlock(block.keys, block.values, block.positions, None, start))
        return blocks

    def shown(self) -> list[KeyBlock]:
        apart = self.keys is None or self.next is None or self.segments is not None
        return [] if apart else self._held()

    @staticmethod
    def _copy(block: KeyBlock) -> KeyBlock:
        return KeyBlock(
            block.keys.clone(),
            block.values.clone(),
            block.positions.clone(),
            None if block.segments is None else block.segments.clone(),
            block.start,
        )

    @torch.no_grad()
    def _write(self, new: KeyBlock) -> None:
        agreed = self.next is not None and new.start == self.next
        count = len(new)
        end = self.next + count if agreed and self.next is not None else self._end(new)
        if end > self.slots and self.slots < self.sinks + self.window:
            self._grow(new, end)
        assert self.keys is not None and self.values is not None and self.positions is not None
        self.next = self.next + count if agreed and self.next is not None else None
        if agreed and new.start is not None and new.segments is None:
            for low, high in self._pieces(new.start, count):
                at = self._slot(new.start + low)
                into = slice(at, at + high - low)
                self.keys[:, :, into] = new.keys[:, :, low:high]
                self.values[:, :, into] = new.values[:, :, low:high]
                self.positions[:, :, into] = new.positions[:, :1, low:high]
            return
        p = new.positions[:, 0]
        if new.segments is not None:
            p = p.masked_fill(~self._of_the_newest(new.segments, p >= 0), -1)
        newest = p.amax(dim=1, keepdim=True)
        keep = (p >= 0) & ((p < self.sinks) | (p > newest - self.window))
        slot = torch.where(p < self.sinks, p, self.sinks + (p - self.sinks) % self.window)
        rows, times = keep.nonzero(as_tuple=True)
        slots = slot[rows, times]
        self.keys[rows, :, slots] = new.keys[rows, :, times]
        self.values[rows, :, slots] = new.values[rows, :, times]
        self.positions[rows, 0, slots] = p[rows, times]
        if self.segments is not None and new.segments is not None:
            self.segments[rows, slots] = new.segments[rows, times]

    def _of_the_newest(self, segments: Tensor, real: Tensor) -> Tensor:
        """Which of the new tokens `[b, t]` belong to the document that their row ends with."""
        rows = len(segments)
        newest, over = self.newest or [None] * rows, self.over or [set() for _ in range(rows)]
        found = []
        for row, (numbers, shown) in enumerate(zip(segments, real, strict=True)):
            here: list[int] = numbers[shown].tolist()
            back = over[row].intersection(here)
            if back:
                raise ValueError(
                    f"document {min(back)} of row {row} comes back after another one, and this "
                    "cache has dropped its keys; read every document to its end, or pass the whole "
                    "row at once"
                )
            held = newest[row]
            last = here[-1] if here else held
            past = {*over[row], *here, *([] if held is None else [held])}
            found.append((last, past - {last}))
        self.newest, self.over = [last for last, _ in found], [past for _, past in found]
        ends = [-1 if last is None else last for last in self.newest]
        return segments == torch.tensor(ends, device=segments.device)[:, None]

    def _slot(self, position: int) -> int:
        if position < self.sinks:
            return position
        return self.sinks + (position - self.sinks) % self.window

    def _pieces(self, start: int, count: int) -> list[tuple[int, int]]:
        """Runs of the new tokens that are kept and lie side by side in the buffer."""
        stop = start + count
        pieces = []
        if start < self.sinks:
            pieces.append((start, min(stop, self.sinks)))
        low = max(start, self.sinks, stop - self.window)
        while low < stop:
            high = min(stop, low + self.window - (low - self.sinks) % self.window)
            pieces.append((low, high))
            low = high
        return [(low - start, high - start) for low, high in pieces]

    @property
    def slots(self) -> int:
        """Slots that are allocated."""
        return 0 if self.keys is None else self.keys.shape[2]

    @staticmethod
    def _end(new: KeyBlock) -> int:
        """One past the last position of any row, and at least as many tokens as come."""
        return max(len(new), int(new.positions.amax()) + 1)

    def _grow(self, new: KeyBlock, end: int) -> None:
        b, kv, _, d = new.keys.shape
        size, before = grown(self.slots, end, self.sinks + self.window), self.slots
        # Zeros, not whatever memory held: masked slots still enter products.
        keys = new.keys.new_zeros(b, kv, size, d)
        values = new.values.new_zeros(b, kv, size, new.values.shape[-1])
        positions = new.positions.new_full((b, 1, size), -1)
        segments = None if new.segments is None else new.segments.new_full((b, size), -1)
        if self.keys is not None and self.values is not None and self.positions is not None:
            keys[:, :, :before], values[:, :, :before] = self.keys, self.values
            positions[:, :, :before] = self.positions
        if segments is not None and self.segments is not None:
            segments[:, :before] = self.segments
        self.keys, self.values, self.positions = keys, values, positions
        self.segments = segments if segments is not None else self.segments

    def select_rows(self, index: Tensor) -> None:
        for name in ("keys", "values", "positions", "segments"):
            held = getattr(self, name)
            if held is not None:
                setattr(self, name, held.index_select(0, index))
        if self.over:
            self.newest = [self.newest[row] for row in index.tolist()]
            self.over = [self.over[row] for row in index.tolist()]

    def bytes(self) -> int:
        named = (self.keys, self.values, self.positions, self.segments)
        return sum(tensor.nbytes for tensor in named if tensor is not None)
