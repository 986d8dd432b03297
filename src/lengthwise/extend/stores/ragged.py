"""Heads with budgets of their own: what each keeps lies behind what the one before it keeps."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from lengthwise.core.geometry import Geometry
from lengthwise.core.keys import KeyBlock, concatenate
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import Evicting, EvictingState


class Ragged(Evicting):
    """An evicting store that says how many keys each head keeps."""

    @abstractmethod
    def shares(self, score: Tensor) -> Tensor:
        """Keys that each head keeps `[b, kv]`, the recent ones included, from `[b, kv, n]`."""

    def state(self, layer: int = 0, layers: int = 1) -> "RaggedState":
        return RaggedState(self, self.budget(layer, layers))

    def slots(self, ends: Sequence[int]) -> int:
        return self.kept(ends[-1] // self.every * self.every) + 2 * self.every

    def allocated(self, ends: Sequence[int], geometry: Geometry, layer: int) -> int:
        """As without rounding by head, which gives or takes a token for each."""
        counts = 8 * geometry.kv_heads if ends[-1] >= self.every else 0
        return self.slots(ends) * (geometry.token_bytes + self.beside(geometry)) + 8 + counts


class RaggedState(EvictingState):
    """Keys of heads with budgets of their own: those that were kept, behind each other, and new ones.

    Attributes:
        counts: Kept keys of every row and head, `[b, kv]`.
        flat: Keys, values, positions and numbers carried of all of them, `[sum, …]`.
    """  # noqa: E501

    def __init__(self, config: Ragged, budget: int) -> None:
        super().__init__(config, budget)
        self.ragged = config
        self.counts: Tensor | None = None
        self.flat: tuple[Tensor, ...] = ()

    def _slots(self) -> int:
        return 2 * self.config.every

    def extend(self, new: KeyBlock) -> list[KeyBlock]:
        fresh = super().extend(new)  # which may move what lay in slots to what is kept
        kept = self._kept()
        return [kept, *fresh] if kept is not None and len(kept) else fresh

    def whole(self) -> KeyBlock:
        fresh, kept = self._fresh(), self._kept()
        return fresh if kept is None else concatenate([kept, fresh])

    def _kept(self) -> KeyBlock | None:
        """What was kept, padded to the longest head for as long as it is read."""
        if self.counts is None:
            return None
        keys, values, positions, _ = (self._padded(x) for x in self.flat)
        return KeyBlock(keys, values, positions.masked_fill(~self._mask(), -1))

    def _mask(self) -> Tensor:
        assert self.counts is not None
        width = int(self.counts.max())
        return torch.arange(width, device=self.counts.device) < self.counts[..., None]

    def _padded(self, flat: Tensor) -> Tensor:
        mask = self._mask()
        padded = flat.new_zeros(*mask.shape, *flat.shape[1:])
        padded[mask] = flat
        return padded

    def numbers(self) -> Tensor:
        assert self.carried is not None
        fresh = self.carried[:, :, : self.used]
        return fresh if self.counts is None else torch.cat([self._padded(self.flat[3]), fresh], 2)

    def add(self, mass: Tensor) -> None:
        at = 0
        if self.counts is not None:
            mask = self._mask()
            at = mask.shape[2]
            self.flat = (*self.flat[:3], self.flat[3] + mass[:, :, :at][mask])
        assert self.carried is not None
        self.carried[:, :, : self.used] += mass[:, :, at:]

    def _most(self, read: Read, score: Tensor) -> Tensor:
        assert read.due is not None
        return torch.where(read.due[:, None], self.ragged.shares(score), score.shape[2])[..., None]

    def _keep(self, wanted: Tensor) -> None:
        block, numbers = self.whole(), self.numbers()
        if wanted.shape[2] < len(block):  # only new tokens are looked at: all others stay
            old = block.positions[:, :, : len(block) - wanted.shape[2]] >= 0
            wanted = torch.cat([old, wanted.expand(-1, old.shape[1], -1)], dim=2)
        self.flat = tuple(x[wanted] for x in (block.keys, block.values, block.positions, numbers))
        self.counts = wanted.sum(-1)
        self.used = 0

    def select_rows(self, index: Tensor) -> None:
        super().select_rows(index)
        if self.counts is not None:
            padded = [self._padded(x).index_select(0, index) for x in self.flat]
            self.counts = self.counts.index_select(0, index)
            mask = self._mask()
            width = mask.shape[2]
            self.flat = tuple(x[:, :, :width][mask] for x in padded)

    def bytes(self) -> int:
        counts = 0 if self.counts is None else self.counts.nbytes
        return super().bytes() + counts + sum(x.nbytes for x in self.flat)
