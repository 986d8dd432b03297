"""What stores share that keep the best-scored keys: pieces, budgets, protection and compaction.

A store of this kind drops keys whenever a row has read `every` more tokens, at the same tokens
however the text was cut into forwards: chunks, single tokens and one shot keep the same keys, and
memory is bounded while a prompt is read. In between a layer holds up to `every` keys more than
its budget.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lengthwise.core.geometry import Geometry
from lengthwise.core.keys import KeyBlock
from lengthwise.extend.method import Store, StoreState
from lengthwise.extend.read import Read
from lengthwise.hf.positions import Step

Piece = tuple[int, int, Tensor]  # first token, the one after the last, rows that drop keys then


def cuts(positions: Int[Tensor, "b t"], seen: Int[Tensor, " b"] | None, every: int) -> list[Piece]:
    """The pieces in which a forward is read.

    Args:
        positions: Logical positions of the new tokens, -1 for padding.
        seen: One more than the highest position of every row before; None for none.
    """
    before = positions.new_zeros(len(positions)) if seen is None else seen
    reached = torch.maximum(positions.cummax(1).values + 1, before[:, None])
    turns = reached // every
    crossed = turns.diff(dim=1, prepend=(before // every)[:, None]) > 0
    ends = {int(at) + 1 for at in crossed.any(0).nonzero()[:, 0]} | {positions.shape[1]}
    pieces, low = [], 0
    for end in sorted(ends):
        while end - low > every:  # padding, or rows that are out of step
            pieces.append((low, low + every, torch.zeros_like(crossed[:, 0])))
            low += every
        pieces.append((low, end, crossed[:, end - 1]))
        low = end
    return pieces


class Evicting(Store):
    """A store that keeps, for every row, layer and KV head, the keys with the best scores.

    Attributes:
        shared: Whether all KV heads of a layer keep the same tokens.
        sinks: First tokens of a row that are never dropped.
        recent: Newest tokens of a row that are never dropped.
    """

    shared: ClassVar[bool] = False
    needs: ClassVar[frozenset[str]] = frozenset({"mass"})
    sinks: int = 0
    recent: int = 0

    @abstractmethod
    def budget(self, layer: int, layers: int) -> int:
        """Tokens for each KV head of a layer that are left when keys were dropped."""

    def reserved(self, budget: int) -> int:
        """How many of the newest tokens a layer of that budget never drops."""
        return self.recent

    @abstractmethod
    def score(self, read: Read, state: "EvictingState") -> Float[Tensor, " b #kv n"]:
        """How much the keys that `state` holds are worth keeping, asked when a row is due."""

    def note(self, read: Read, state: "EvictingState") -> None:
        """After every piece: what `score` will want to know, such as `state.carried`."""

    def state(self, layer: int = 0, layers: int = 1) -> "EvictingState":
        return EvictingState(self, self.budget(layer, layers))

    def reference(self, q: Tensor, k: Tensor) -> Tensor:
        """Any key may be kept: what is depends on the data, and tests spell it out by hand."""
        return torch.ones_like(q - k, dtype=torch.bool)

    def mean(self) -> int:
        """The budget, on average over the layers of a model."""
        return self.budget(0, 1)

    def kept(self, length: int) -> int:
        rest = length % self.every
        return min(length - rest, self.mean()) + rest

    def slots(self, ends: Sequence[int]) -> int:
        return self.mean() + 2 * self.every

    def allocated(self, ends: Sequence[int], geometry: Geometry, layer: int) -> int:
        slots = self.budget(layer, len(geometry.layers)) + 2 * self.every
        return slots * (geometry.token_bytes + self.beside(geometry)) + 8

    def beside(self, geometry: Geometry) -> int:
        """Bytes of a slot beside its key and value: a position and a number carried."""
        return (1 if self.shared else geometry.kv_heads) * (8 + max(4, geometry.dtype_bytes))


class EvictingState(StoreState):
    """The keys of one layer in slots of their order of arrival.

    Attributes:
        used: Slots that hold something, padding included.
        carried: One number for every slot `[b, #kv, slots]` that moves with its key.
        seen: One more than the highest position of every row, `[b]`; None before any.
    """

    def __init__(self, config: Evicting, budget: int) -> None:
        self.config, self.budget = config, budget
        self.used = 0
        self.seen: Tensor | None = None
        self.keys: Tensor | None = None
        self.values: Tensor | None = None
        self.positions: Tensor | None = None
        self.carried: Tensor | None = None
        self._whole = True  # whether no slot in use is padding or empty
        self._highest = -1

    def extend(self, new: KeyBlock) -> list[KeyBlock]:
        if self.keys is None:
            self._allocate(new)
        assert self.keys is not None and self.values is not None
        assert self.positions is not None and self.carried is not None
        if self.used + len(new) > self.keys.shape[2]:
            self._keep(self.positions[:, :, : self.used] >= 0)
        older = self._fresh()
        into = slice(self.used, self.used + len(new))
        with torch.no_grad():
            self.keys[:, :, into], self.values[:, :, into] = new.keys, new.values
            self.positions[:, :, into] = new.positions
            self.carried[:, :, into] = 0.0
        self.used = into.stop
        reached = new.positions[:, 0].amax(1) + 1
        self.seen = reached if self.seen is None else torch.maximum(self.seen, reached)
        self._whole &= new.start is not None
        self._highest = int(reached.max()) - 1
        return [older, new] if len(older) else [new]

    def inside(self, step: Step) -> Step:
        """The step with the positions that its tokens have in this store."""
        return step

    def whole(self) -> KeyBlock:
        return self._fresh()

    def _fresh(self) -> KeyBlock:
        """What lies in slots."""
        assert self.keys is not None and self.values is not None and self.positions is not None
        span = (0, self._highest) if self._whole and self.used else None
        return KeyBlock(
            self.keys[:, :, : self.used],
            self.values[:, :, : self.used],
            self.positions[:, :, : self.used],
            span=span,
            bias=self.bias(),
        )

    def bias(self) -> Tensor | None:
        """What is added to the scores of keys that stand for several, `[b, kv, n]`."""
        return None

    @torch.no_grad()
    def after(self, read: Read) -> None:
        self.config.note(read, self)
        assert self.seen is not None and read.due is not None
        if not bool(read.due.any()):
            return
        positions = self.whole().positions
        score = self.config.score(read, self).expand(positions.shape)
        newest = self.seen[:, None, None] - self.config.reserved(self.budget)
        safe = (positions >= newest) | (positions < self.config.sinks) | ~read.due[:, None, None]
        score = score.masked_fill(safe, float("inf")).masked_fill(positions < 0, float("-inf"))
        order = score.argsort(dim=-1, descending=True, stable=True)  # of equals, the older
        rank = order.argsort(dim=-1)
        self._drop(read, (positions >= 0) & (rank < self._most(read, score)))

    def _drop(self, read: Read, wanted: Bool[Tensor, " b #kv n"]) -> None:
        """What is not wanted goes, of rows that are due."""
        self._keep(wanted)

    def _most(self, read: Read, score: Tensor) -> Tensor:
        """Keys `[b, #kv, 1]` that heads keep at most."""
        assert read.due is not None
        return torch.where(read.due, self.budget, score.shape[2])[:, None, None]

    def numbers(self) -> Tensor:
        """What is carried by all that is held, `[b, #kv, n]`."""
        assert self.carried is not None
        return self.carried[:, :, : self.used]

    def add(self, mass: Tensor) -> None:
        """Add to what is carried by all that is held."""
        assert self.carried is not None
        self.carried[:, :, : self.used] += mass

    def _keep(self, wanted: Bool[Tensor, " b #kv n"]) -> None:
        """Keep the wanted slots, in their order, in front; what is left over is empty."""
        assert self.keys is not None and self.values is not None
        assert self.positions is not None and self.carried is not None
        count = wanted.sum(-1)
        width = int(count.max())
        front = (~wanted).to(torch.int8).argsort(dim=-1, stable=True)[:, :, :width]
        empty = torch.arange(width, device=wanted.device) >= count[..., None]
        for held in (self.positions, self.carried):
            held[:, :, :width] = held[:, :, : self.used].gather(2, front)
        self.positions[:, :, :width].masked_fill_(empty, -1)
        every = front.expand(-1, self.keys.shape[1], -1)[..., None]
        for held in (self.keys, self.values):
            moved = held[:, :, : self.used].gather(2, every.expand(*every.shape[:3], held.shape[3]))
            held[:, :, :width] = moved
        self.used = width
        self._whole = not bool(empty.any())

    def _slots(self) -> int:
        return self.budget + 2 * self.config.every

    def _allocate(self, new: KeyBlock) -> None:
        b, kv, _, d = new.keys.shape
        slots = self._slots()
        heads = 1 if self.config.shared else kv
        # Zeros, not whatever memory held: masked slots still enter products.
        self.keys = new.keys.new_zeros(b, kv, slots, d)
        self.values = new.values.new_zeros(b, kv, slots, new.values.shape[-1])
        self.positions = new.positions.new_full((b, heads, slots), -1)
        exact = torch.promote_types(new.keys.dtype, torch.float32)
        self.carried = new.keys.new_zeros((b, heads, slots), dtype=exact)

    def _tensors(self) -> Sequence[str]:
        names = ("keys", "values", "positions", "carried", "seen")
        return [name for name in names if getattr(self, name) is not None]

    def select_rows(self, index: Tensor) -> None:
        for name in self._tensors():
            setattr(self, name, getattr(self, name).index_select(0, index))

    def bytes(self) -> int:
        return sum(getattr(self, name).nbytes for name in self._tensors())


class InCacheState(EvictingState):
    """Keys whose positions are their places among those that are held.

    They are counted anew whenever some were dropped, so keys must not be stored rotated.
    """

    def inside(self, step: Step) -> Step:
        real = step.positions >= 0
        before = step.lengths.new_zeros(len(real)) if self.seen is None else self.seen
        ends = before[:, None] + real.cumsum(1)
        agreed = bool(real.all()) and bool((before == before[0]).all())
        start = int(before[0]) if agreed else None
        return Step(torch.where(real, ends - 1, -1), step.segments, start, ends[:, -1])

    def after(self, read: Read) -> None:
        super().after(read)
        assert self.positions is not None and self.seen is not None
        held = self.positions[:, :, : self.used] >= 0
        self.positions[:, :, : self.used] = torch.where(held, held.cumsum(-1) - 1, -1)
        self.seen = held.sum(-1)[:, 0]
        self._highest = self.used - 1

    def _fresh(self) -> KeyBlock:
        block = super()._fresh()
        return replace(block, start=0) if self._whole else block
