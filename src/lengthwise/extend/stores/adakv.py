"""Ada-KV: SnapKV whose budget goes to the heads that need it, kept without padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.geometry import Geometry
from lengthwise.core.keys import KeyBlock, concatenate
from lengthwise.extend.method import at_least
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import EvictingState
from lengthwise.extend.stores.snapkv import SnapKV


@dataclass(frozen=True)
class AdaKV(SnapKV):
    """SnapKV in which the KV heads of a layer share one budget, `tokens` for each on average.

    The best keys of a layer are found over all its heads together. A head keeps as many as it has
    among them, mixed with an equal share: `safe` of its budget is certain. Keys of all heads lie
    behind each other, so what is allocated is what is kept.

    Source: Feng et al. 2024, arXiv:2407.11550, section 3.3, algorithms 1 and 2.
    Differs from the source: as SnapKV does; heads are KV heads, where the authors' code repeats
        keys for every query head first.
    Reduces to: SnapKV at `safe` 1.

    Args:
        tokens, recent, kernel, every: As of SnapKV.
        safe: Share of the mean budget that every head keeps, from 0 to 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    kernel: int = 7
    safe: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("AdaKV", "safe", self.safe, 0)
        if self.safe > 1:
            raise ValueError(f"AdaKV: safe must be at most 1, got {self.safe}")

    def state(self, layer: int = 0, layers: int = 1) -> "RaggedState":
        return RaggedState(self, self.budget(layer, layers))

    def slots(self, ends: Sequence[int]) -> int:
        return self.kept(ends[-1] // self.every * self.every) + 2 * self.every

    def allocated(self, ends: Sequence[int], geometry: Geometry, layer: int) -> int:
        """As without rounding by head, which gives or takes a token for each."""
        counts = 8 * geometry.kv_heads if ends[-1] >= self.every else 0
        return self.slots(ends) * (geometry.token_bytes + self.beside(geometry)) + 8 + counts

    def shares(self, score: Tensor) -> Tensor:
        """Keys that each head keeps `[b, kv]`, the recent ones included, from `[b, kv, n]`."""
        kv = score.shape[1]
        mean = self.tokens - self.recent
        # What is safe anyway has an infinite score and is counted apart.
        finite = score.masked_fill(score.isposinf(), float("-inf"))
        best = finite.flatten(1).topk(min(kv * mean, finite[0].numel()), dim=1)
        real = best.values > float("-inf")
        mine = torch.zeros_like(score[:, :, 0]).scatter_add_(
            1, best.indices // score.shape[2], real.to(score.dtype)
        )
        kept = ((1 - self.safe) * mine + int(self.safe * mean)).round()
        return kept.long() + score.isposinf().sum(-1)


class RaggedState(EvictingState):
    """Keys of heads with budgets of their own: those that were kept, behind each other, and new ones.

    Attributes:
        counts: Kept keys of every row and head, `[b, kv]`.
        flat: Keys, values, positions and numbers carried of all of them, `[sum, …]`.
    """  # noqa: E501

    def __init__(self, config: AdaKV, budget: int) -> None:
        super().__init__(config, budget)
        self.ada = config
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
        return torch.where(read.due[:, None], self.ada.shares(score), score.shape[2])[..., None]

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
