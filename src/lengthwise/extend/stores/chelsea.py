"""Chelsea: like keys become one key that stands for all of them."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lengthwise.extend.method import whole
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import Evicting, EvictingState


@dataclass(frozen=True)
class Chelsea(Evicting):
    """Merge the most alike of neighbouring keys until `tokens` are left for each KV head.

    Keys older than the `recent` newest, and after the `sinks` first, are counted off in their
    order; every even one points at the most alike odd one of its chunk (the cosine of the keys
    without their rotation), and the pairs most alike are merged, at most half of the keys in one
    round. Keys, values and positions become means, weighted by the number of tokens that they stand
    for, and a key that stands for n tokens has log n added to its scores: merging equal keys
    changes nothing.

    Source: Hu et al. 2025, arXiv:2506.11418 (abstract: chunked soft matching of alternate tokens,
        clusters merged into their centroid).
    Differs from the source: its text and code were not to be had, so that chunks, weights, the
        added logarithm and what is left alone are ours; merging takes place every `every` tokens.
    Reduces to: keeping everything while the text is no longer than `tokens`.

    Args:
        tokens: Keys that each KV head is left with, above `sinks + recent + 1`.
        sinks: First tokens that are never merged, at least 0.
        recent: Newest tokens that are never merged, at least 1.
        chunk: Keys among which a like one is looked for, at least 2.
        every: Tokens between two mergings, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    tokens: int = 512
    sinks: int = 4
    recent: int = 64
    chunk: int = 64
    every: int = 128
    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        whole("Chelsea", "sinks", self.sinks, 0)
        whole("Chelsea", "recent", self.recent, 1)
        whole("Chelsea", "chunk", self.chunk, 2)
        whole("Chelsea", "every", self.every, 1)
        whole("Chelsea", "tokens", self.tokens, self.sinks + self.recent + 2)

    def budget(self, layer: int, layers: int) -> int:
        return self.tokens

    def score(self, read: Read, state: EvictingState) -> Tensor:
        raise AssertionError("keys are merged, and none is dropped")

    def state(self, layer: int = 0, layers: int = 1) -> "MergingState":
        return MergingState(self, self.tokens)


class MergingState(EvictingState):
    """Keys that stand for one token or more; what is carried is how many more."""

    def __init__(self, config: Chelsea, budget: int) -> None:
        super().__init__(config, budget)
        self.chelsea = config

    def bias(self) -> Tensor | None:
        numbers = self.numbers()
        return numbers.log1p() if bool(numbers.any()) else None

    @torch.no_grad()
    def after(self, read: Read) -> None:
        assert read.due is not None
        while True:
            positions = self.whole().positions
            held = (positions >= 0).sum(-1)
            excess = torch.where(read.due[:, None], held - self.budget, 0)
            if not bool((excess > 0).any()):
                return
            self._merge(read, positions, excess.clamp(min=0))

    def _merge(self, read: Read, positions: Tensor, excess: Tensor) -> None:
        """One round: at most half of the keys that may be merged."""
        assert self.seen is not None and self.keys is not None and self.values is not None
        assert self.positions is not None and self.carried is not None
        newest = self.seen[:, None, None] - self.config.recent
        free = (positions >= self.config.sinks) & (positions < newest)
        order = free.cumsum(-1) - 1
        even, odd = free & (order % 2 == 0), free & (order % 2 == 1)
        chunk = order // self.chelsea.chunk
        block = self.whole()
        keys = self._turned(read, block.keys, positions, -1)
        unit = torch.nn.functional.normalize(keys.float(), dim=-1)
        pairs = even[..., None] & odd[:, :, None] & (chunk[..., None] == chunk[:, :, None])
        alike = (unit @ unit.transpose(-1, -2)).masked_fill(~pairs, float("-inf"))
        best, target = alike.max(-1)
        rank = best.argsort(dim=-1, descending=True, stable=True).argsort(dim=-1)
        gone = (rank < excess[..., None]) & best.isfinite()
        assert bool(gone.any()), "nothing can be merged, yet there is too much"

        count = 1 + self.numbers()
        moved = torch.where(gone, count, 0)
        total = count.scatter_add(2, target, moved)
        grown = total > count

        def mean(x: Tensor) -> Tensor:
            """Means of the clusters that `x` `[b, kv, n, d]` falls into."""
            wide = target[..., None].expand_as(x)
            exact = x.to(count.dtype)
            summed = (exact * count[..., None]).scatter_add(2, wide, exact * moved[..., None])
            return summed / total[..., None]

        where = mean(positions[..., None])[..., 0].round().long()
        merged = self._turned(read, mean(keys).to(keys.dtype), where, 1)
        used = slice(0, self.used)
        self.keys[:, :, used] = torch.where(grown[..., None], merged, block.keys)
        means = mean(block.values).to(block.values.dtype)
        self.values[:, :, used] = torch.where(grown[..., None], means, block.values)
        self.positions[:, :, used] = torch.where(grown, where, positions)
        self.carried[:, :, used] = total - 1
        self._keep((positions >= 0) & ~gone)

    @staticmethod
    def _turned(read: Read, keys: Tensor, positions: Tensor, way: int) -> Tensor:
        """Keys with their rotation taken out (-1) or put in (1)."""
        if read.rotary is None or read.stored is None:
            return keys
        turned = read.rotary.shift(keys, way * read.stored(positions))
        assert isinstance(turned, Tensor)
        return turned
