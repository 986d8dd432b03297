"""Keys and values in a byte or half of one: stores that wrap another.

What a store has kept lies packed in groups of slots (`core/packed.py`); the newest tokens lie as
they came, until a row has read so many of them that the store drops keys, or a group is full. This
happens at the same tokens however a text was cut into forwards, as in every store that drops keys.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lengthwise.core.geometry import Geometry
from lengthwise.core.keys import KeyBlock, concatenate
from lengthwise.core.packed import Packed, PackedBlock, packed_bytes, room
from lengthwise.extend.method import Store, whole
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import Evicting, EvictingState
from lengthwise.extend.stores.full import MOST, FullStore

ALL = FullStore()
SHARE = 64  # of what is packed, one waits to be filled: a copy costs less than in full precision
ENDLESS = 1 << 40  # tokens: the budget of a store that keeps everything


@dataclass(frozen=True)
class Quantised(Evicting):
    """A store whose keys and values are packed.

    Attributes:
        kind: How, one of `lengthwise.core.packed.KINDS`.
        store: What is packed.
        group: Tokens that share the scales of the channels of their keys.
    """

    kind: ClassVar[str]
    store: Store = ALL
    group: int = 64

    def __post_init__(self) -> None:
        name, inner = type(self).__name__, self.store
        whole(name, "group", self.group, 1)
        if not inner.packable:
            raise ValueError(
                f"{name} packs what FullStore, H2O, KeyDiff, PyramidKV, SnapKV or TOVA keep; "
                f"{type(inner).__name__} lays out its keys in a way of its own"
            )
        object.__setattr__(self, "every", inner.every or self.group)
        object.__setattr__(self, "needs", getattr(inner, "needs", frozenset()))
        object.__setattr__(self, "shared", getattr(inner, "shared", True))

    def budget(self, layer: int, layers: int) -> int:
        inner = self.store
        return inner.budget(layer, layers) if isinstance(inner, Evicting) else ENDLESS

    def score(self, read: Read, state: EvictingState) -> Tensor:
        raise AssertionError("the store that is packed scores")

    def state(self, layer: int = 0, layers: int = 1) -> "EvictingState":
        if isinstance(self.store, Evicting):
            return PackedState(self, self.store, self.store.budget(layer, layers))
        return PackedState(self, self, ENDLESS)

    def kept(self, length: int) -> int:
        return self.store.kept(length)

    def slots(self, ends: Sequence[int]) -> int:
        """Those of what is packed, and of the newest tokens."""
        return self._packed(ends[-1], self.mean()) + 2 * self.every

    def _packed(self, length: int, budget: int) -> int:
        """Slots for packed keys once `length` tokens were read."""
        if budget < ENDLESS:
            return -(-budget // self.group) * self.group if length >= self.every else 0
        slots = 0
        for end in range(self.group, length + 1, self.group):
            slots = grown(slots, end, self.group)
        return slots

    def allocated(self, ends: Sequence[int], geometry: Geometry, layer: int) -> int:
        budget = self.budget(layer, len(geometry.layers))
        kv, d = geometry.kv_heads, geometry.head_dim
        slot, group = packed_bytes(self.kind, d, d, self.group)
        slots = self._packed(ends[-1], budget)
        beside = 4  # a position
        if budget < ENDLESS:
            beside = self.beside(geometry) - 4 * (1 if self.shared else kv)
        packed = slots * (kv * slot + beside) + slots // self.group * kv * group
        fresh = 2 * self.every * (geometry.token_bytes + self.beside(geometry)) + 8
        counts = 8 if slots and budget == ENDLESS else 0
        return packed + fresh + counts


def grown(slots: int, end: int, group: int) -> int:
    """Slots for packed keys that hold `end` tokens, if there were `slots` before."""
    if end <= slots:
        return slots
    return slots + -(-max(end - slots, min(slots // SHARE, MOST)) // group) * group


class PackedState(EvictingState):
    """The newest tokens in slots, as in any store that drops keys, and packed ones before them.

    Attributes:
        packed: Keys and values, in groups of slots.
        at: Logical positions of these slots `[b, #kv, slots]`, -1 for empty ones.
        noted: What is carried with them, where the store that is packed carries something.
        filled: Slots of them that are read.
        counts: Of a store that keeps everything, slots that each row fills `[b]`.
    """

    def __init__(self, quantised: Quantised, config: Evicting, budget: int) -> None:
        super().__init__(config, budget)
        self.quantised = quantised
        self.packed: Packed | None = None
        self.at: Tensor | None = None
        self.noted: Tensor | None = None
        self.counts: Tensor | None = None
        self.filled = 0
        self._due: Tensor | None = None
        self._level = True  # whether all rows hold positions 0, 1, … in packed slots

    def _slots(self) -> int:
        return 2 * self.quantised.every

    def extend(self, new: KeyBlock) -> list[KeyBlock]:
        fresh = super().extend(new)
        return [self._area(), *fresh] if self.filled else fresh

    def _area(self) -> PackedBlock:
        """What is packed."""
        assert self.packed is not None and self.at is not None
        positions = self.at[:, :, : self.filled].long()
        span = (0, self._highest) if self._level else None
        return PackedBlock(self.packed, 0, positions, 0 if span and self._endless else None, span)

    @property
    def _endless(self) -> bool:
        return self.budget == ENDLESS

    def whole(self) -> KeyBlock:
        fresh = self._fresh()
        return concatenate([self._area(), fresh]) if self.filled else fresh

    def numbers(self) -> Tensor:
        fresh = super().numbers()
        if not self.filled or self.noted is None:
            return fresh
        return torch.cat([self.noted[:, :, : self.filled], fresh], dim=2)

    def add(self, mass: Tensor) -> None:
        if self.filled and self.noted is not None:
            self.noted[:, :, : self.filled] += mass[:, :, : self.filled]
        super().add(mass[:, :, self.filled :])

    @torch.no_grad()
    def after(self, read: Read) -> None:
        assert read.due is not None
        self._due = read.due
        if not self._endless:
            super().after(read)
        elif bool(read.due.any()):
            assert self.positions is not None
            self._keep(self.positions[:, :, : self.used] >= 0)
        self._due = None

    def _keep(self, wanted: Tensor) -> None:
        """Pack what is wanted of rows that are due; what is new in others stays as it is."""
        assert self.positions is not None
        if self._due is None:
            super()._keep(wanted)
            return
        rows, size = self._due.nonzero()[:, 0], self.quantised.group
        block = self._fresh() if self._endless else self.whole()
        numbers = super().numbers() if self._endless else self.numbers()
        width = size if self._endless else -(-self.budget // size) * size
        front = (~wanted[rows]).to(torch.int8).argsort(dim=-1, stable=True)[:, :, :width]
        count = wanted[rows].sum(-1)
        shown = torch.arange(width, device=wanted.device) < count[..., None]

        def taken(x: Tensor, empty: int) -> Tensor:
            """What is wanted of `[b, kv, n, …]`, in front, and `empty` behind it."""
            wide = front.expand(-1, x.shape[1], -1)
            wide = wide.reshape(*wide.shape, *[1] * (x.ndim - 3)).expand(*wide.shape, *x.shape[3:])
            found = x.new_full((len(rows), x.shape[1], width, *x.shape[3:]), empty)
            found[:, :, : front.shape[2]] = x[rows].gather(2, wide)
            return found

        keys, values = taken(block.keys, 0), taken(block.values, 0)
        positions = taken(block.positions, -1).masked_fill_(~shown, -1)
        first = self._rows_filled(rows)
        for low in sorted(set(first.tolist())):
            mine = first == low
            self._make_room(block, low + width)
            assert self.packed is not None and self.at is not None
            into = slice(low, low + width)
            pieces = keys[mine], values[mine], shown[mine]
            self.packed.put(rows[mine], low, *pieces, nested=not self._endless)
            self.at[rows[mine], :, into] = positions[mine].to(self.at.dtype)
            if self.noted is not None:
                self.noted[rows[mine], :, into] = taken(numbers, 0)[mine] * shown[mine]
        self._filled_by(rows, first + width, count)
        self.positions[rows, :, : self.used] = -1
        super()._keep(self.positions[:, :, : self.used] >= 0)

    def _rows_filled(self, rows: Tensor) -> Tensor:
        """The first slot that each of the rows is to fill."""
        if not self._endless:
            return torch.zeros_like(rows)
        if self.counts is None:
            assert self.positions is not None
            self.counts = self.positions.new_zeros(len(self.positions))
        return self.counts[rows]

    def _filled_by(self, rows: Tensor, ends: Tensor, count: Tensor) -> None:
        """So many slots of the rows are filled, `count` `[rows, #kv]` of them new."""
        assert self.at is not None
        if self.counts is not None:
            self.counts[rows] = ends
            self.filled = int(self.counts.max())
        else:
            self.filled = max(self.filled, int(count.max()))
        positions = self.at[:, :, : self.filled]
        if self._endless:
            low = self.filled - self.quantised.group
            wanted = torch.arange(low, self.filled, device=positions.device)
            self._level &= bool((positions[:, :, low:] == wanted).all())
        else:
            self._level = bool((positions >= 0).all())

    def _make_room(self, like: KeyBlock, end: int) -> None:
        slots = 0 if self.at is None else self.at.shape[2]
        if end <= slots:
            return
        size = self.quantised.group
        more = grown(slots, end, size) if self._endless else end
        held = room(like, self.quantised.kind, more, size)
        at = like.positions.new_full((*like.positions.shape[:2], more), -1, dtype=torch.int32)
        if self.packed is not None and self.at is not None:
            for new, old in zip(held.tensors(), self.packed.tensors(), strict=True):
                new[:, :, : old.shape[2]] = old
            at[:, :, :slots] = self.at
        if not self._endless:
            assert self.carried is not None
            self.noted = self.carried.new_zeros(at.shape)
        self.packed, self.at = held, at

    def _tensors(self) -> Sequence[str]:
        more = [name for name in ("at", "noted", "counts") if getattr(self, name) is not None]
        return [*super()._tensors(), *more]

    def select_rows(self, index: Tensor) -> None:
        super().select_rows(index)
        if self.packed is not None:
            self.packed = self.packed.rows(index)

    def bytes(self) -> int:
        packed = [] if self.packed is None else self.packed.tensors()
        return super().bytes() + sum(x.nbytes for x in packed)
