"""ThinK: kept keys without the channels that queries hardly read."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.geometry import Geometry
from lengthwise.core.keys import KeyBlock, concatenate
from lengthwise.extend.method import at_least
from lengthwise.extend.read import Read
from lengthwise.extend.stores.evicting import EvictingState
from lengthwise.extend.stores.snapkv import SnapKV


@dataclass(frozen=True)
class ThinK(SnapKV):
    """SnapKV whose kept keys lose the share `ratio` of their channels, those that count least.

    A channel of a KV head scores the sum of its squares over the queries of the observation window
    times that over the keys that are kept: how much it adds to their scores. Values, the `recent`
    newest keys and those that come stay whole. What is dropped is not allocated.

    Source: Xu et al. 2024, arXiv:2407.21018, section 3.2 (the criterion) and 4.1 (after SnapKV).
    Differs from the source: as SnapKV does; a row's channels are chosen when it first drops keys,
        and later keys lose the same; heads are KV heads, where the authors' code repeats keys for
        every query head first; all kept keys but the recent are thinned, in short texts too.
    Reduces to: SnapKV at ratio 0.

    Args:
        tokens, recent, kernel, every: As of SnapKV.
        ratio: Share of the channels that is dropped, at least 0 and below 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    packable = False
    ratio: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("ThinK", "ratio", self.ratio, 0)
        if self.ratio >= 1:
            raise ValueError(f"ThinK: ratio must be below 1, got {self.ratio}")

    def channels(self, d: int) -> int:
        """How many of `d` channels are kept."""
        return d - int(self.ratio * d)

    def state(self, layer: int = 0, layers: int = 1) -> "ThinState":
        return ThinState(self, self.budget(layer, layers))

    def note(self, read: Read, state: EvictingState) -> None:
        super().note(read, state)
        assert isinstance(state, ThinState)
        positions = read.queries.positions
        last = (positions >= 0) & (positions % self.every >= self.every - self.recent)
        if bool(last.any()):
            state.ask(read, last)

    def allocated(self, ends: Sequence[int], geometry: Geometry, layer: int) -> int:
        d, kv, size = geometry.head_dim, geometry.kv_heads, geometry.dtype_bytes
        saved = (self.tokens - self.recent) * kv * (d - self.channels(d)) * size
        chosen = kv * (d * max(4, size) + 8 * self.channels(d))
        return super().allocated(ends, geometry, layer) - saved + chosen


class ThinState(EvictingState):
    """Thin keys that were kept, and behind them whole ones in slots of their order of arrival.

    Attributes:
        thin: Slots of thin keys that hold something.
        channels: Those of every row and head that thin keys have, `[b, kv, channels]`; -1 before
            they are chosen.
        asked: Squares of the queries of the observation window, added up, `[b, kv, d]`.
    """

    def __init__(self, config: ThinK, budget: int) -> None:
        super().__init__(config, budget)
        self.think = config
        self.thin = 0
        self.channels: Tensor | None = None
        self.asked: Tensor | None = None
        self.thin_keys: Tensor | None = None
        self.thin_values: Tensor | None = None
        self.thin_positions: Tensor | None = None
        self.thin_carried: Tensor | None = None

    def _slots(self) -> int:
        return self.think.recent + 2 * self.think.every

    def _allocate(self, new: KeyBlock) -> None:
        super()._allocate(new)
        assert self.carried is not None
        b, kv, _, d = new.keys.shape
        slots, width = self.budget - self.think.recent, self.think.channels(d)
        self.channels = new.positions.new_full((b, kv, width), -1)
        self.asked = self.carried.new_zeros(b, kv, d)
        self.thin_keys = new.keys.new_zeros(b, kv, slots, width)
        self.thin_values = new.values.new_zeros(b, kv, slots, new.values.shape[-1])
        self.thin_positions = new.positions.new_full((b, kv, slots), -1)
        self.thin_carried = self.carried.new_zeros(b, kv, slots)

    def ask(self, read: Read, last: Tensor) -> None:
        """Take note of what queries `last [b, t]` look at, where the keys are stored."""
        assert self.asked is not None
        q = read.queries.vectors
        if read.rotary is not None and read.stored is not None:
            q = read.rotary.rotate(q, read.stored(read.queries.positions)[:, None])
        squares = (at_least_float32(q) ** 2 * last[:, None, :, None]).sum(2)
        self.asked += squares.unflatten(1, (self.asked.shape[1], -1)).sum(2)

    def extend(self, new: KeyBlock) -> list[KeyBlock]:
        fresh = super().extend(new)
        return [self._thinned(), *fresh] if self.thin else fresh

    def whole(self) -> KeyBlock:
        return concatenate([self._thinned(), self._fresh()]) if self.thin else self._fresh()

    def _thinned(self) -> KeyBlock:
        """Thin keys as wide as others, with zeros, for as long as they are read."""
        assert self.thin_keys is not None and self.thin_values is not None
        assert self.asked is not None and self.thin_positions is not None
        used = slice(0, self.thin)
        thin = self.thin_keys[:, :, used]
        keys = thin.new_zeros(*thin.shape[:3], self.asked.shape[-1])
        keys.scatter_(3, self._kept_channels().expand(thin.shape), thin)
        return KeyBlock(keys, self.thin_values[:, :, used], self.thin_positions[:, :, used])

    def _kept_channels(self) -> Tensor:
        assert self.channels is not None
        first = torch.arange(self.channels.shape[2], device=self.channels.device)
        return torch.where(self.channels < 0, first, self.channels)[:, :, None]

    def numbers(self) -> Tensor:
        assert self.thin_carried is not None
        return torch.cat([self.thin_carried[:, :, : self.thin], super().numbers()], 2)

    def add(self, mass: Tensor) -> None:
        assert self.thin_carried is not None
        self.thin_carried[:, :, : self.thin] += mass[:, :, : self.thin]
        super().add(mass[:, :, self.thin :])

    def _drop(self, read: Read, wanted: Tensor) -> None:
        """Rows that are due thin all that they keep but the recent; others change nothing."""
        assert self.seen is not None and read.due is not None
        assert self.thin_keys is not None and self.thin_values is not None
        assert self.thin_positions is not None and self.thin_carried is not None
        assert self.asked is not None
        block, numbers, before = self.whole(), self.numbers(), self.thin
        newest = self.seen[:, None, None] - self.think.recent
        is_thin = torch.arange(len(block), device=wanted.device) < before
        old = wanted & torch.where(read.due[:, None, None], block.positions < newest, is_thin)
        self._choose(block.keys, old, read.due)
        self.asked *= ~read.due[:, None, None]
        count = old.sum(-1)
        self.thin = int(count.max())
        front = (~old).to(torch.int8).argsort(dim=-1, stable=True)[:, :, : self.thin]
        empty = torch.arange(self.thin, device=wanted.device) >= count[..., None]
        into = slice(0, self.thin)

        def moved(x: Tensor) -> Tensor:
            return x.gather(2, front[..., None].expand(*front.shape, x.shape[3]))

        keys = moved(block.keys)
        self.thin_keys[:, :, into] = keys.gather(
            3, self._kept_channels().expand(*keys.shape[:3], self.thin_keys.shape[3])
        )
        self.thin_values[:, :, into] = moved(block.values)
        self.thin_positions[:, :, into] = block.positions.gather(2, front).masked_fill(empty, -1)
        self.thin_carried[:, :, into] = numbers.gather(2, front)
        self._keep((wanted & ~old)[:, :, before:])

    def _choose(self, keys: Tensor, old: Tensor, due: Tensor) -> None:
        """The channels of rows that drop keys for the first time."""
        assert self.channels is not None and self.asked is not None
        squares = (at_least_float32(keys) ** 2 * old[..., None]).sum(2)
        best = (self.asked * squares).argsort(dim=-1, descending=True, stable=True)
        best = best[..., : self.channels.shape[2]].sort(-1).values
        anew = due & (self.channels[:, 0, 0] < 0) & old.any(-1).all(-1)
        self.channels = torch.where(anew[:, None, None], best, self.channels)

    def _tensors(self) -> Sequence[str]:
        thin = ("thin_keys", "thin_values", "thin_positions", "thin_carried", "channels", "asked")
        held = [name for name in thin if getattr(self, name) is not None]
        return [*super()._tensors(), *held]
