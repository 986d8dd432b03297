"""LongCache: what a query wants, wherever it stands, and some tokens around it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor

from lengthwise.core.attention import place_keys
from lengthwise.core.attention.chunked import by_kv_head
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.geometry import Geometry
from lengthwise.core.pages import Paging, SlotMap, attend_pages
from lengthwise.core.partial import Partial
from lengthwise.core.regions import ByRank, Fixed, Region
from lengthwise.extend.layouts.far_as_one import FarAsOne
from lengthwise.extend.method import Method, Selector, SelectorState, whole
from lengthwise.extend.read import Read
from lengthwise.extend.selectors.paged import EQUAL, LONG, mapped_slots

SCORES = 1 << 23  # of queries and keys that are held together


@dataclass(frozen=True)
class LongCache(Selector):
    """Read the sinks, the local window, and runs of `span` tokens around the keys most wanted.

    Every head of a query names the `top` far keys with the largest products without positions.
    The `centres` keys named by most heads are read by all heads of the layer, with their
    neighbours up to `span` tokens in all; of equals, the oldest is named and read. What is read,
    sinks, runs and window, seems to stand in a row without gaps, so no distance is longer than
    the row.

    Brings the layout `FarAsOne(window)` where no layout is named, for its un-rotated keys in the
    cache: all of them are compared with every query.

    Source: Liu et al. 2024, arXiv:2407.15176 (LongCache in its first version, then ReAttention),
        section 3, with the votes of the authors' code.
    Differs from the source: every query chooses for itself, where the source lets 512 choose
        together, so decoding equals prefill; and the window is what `window` says, where the
        source moves its edge to a multiple of 128. Products that differ by less than 1/1024, times
        the scale of the softmax, are equal: a repeated token has equal ones in the first layer.
    Reduces to: the untouched model, up to `window` tokens.

    Args:
        top: Keys that every head names, at least 1; the source takes 4.
        centres: Keys that are read with their neighbours, at least 1; the source takes 127.
        span: Tokens around a centre, itself included, at least 1; the source takes 32.
        sinks: First tokens always read, at least 0; the source takes 32.
        window: Nearest keys always read, the query itself included, at least 1; the source takes
            4,096. `sinks + centres * span + window` is at most the trained window.

    Raises:
        ValueError: If a number is out of its range.
    """

    top: int = 4
    centres: int = 28
    span: int = 8
    sinks: int = 32
    window: int = 256
    by_rank = True
    needs: ClassVar[frozenset[str]] = frozenset({"all keys"})

    def __post_init__(self) -> None:
        for name in ("top", "centres", "span", "window"):
            whole("LongCache", name, getattr(self, name), 1)
        whole("LongCache", "sinks", self.sinks, 0)

    def brings(self) -> tuple[Method, ...]:
        return (FarAsOne(self.window),)

    def check(self, window: int) -> None:
        row = self.far + self.window
        if row > window:
            raise ValueError(
                f"LongCache: sinks + centres * span + window must be at most the trained window of "
                f"{window} tokens, got {row}"
            )

    @property
    def far(self) -> int:
        """Most keys that are read outside the window."""
        return self.sinks + self.centres * self.span

    def restrict(self, regions: Sequence[Region]) -> list[Region]:
        cut = [region for region in regions if not region.paged]
        for region in regions:
            if region.paged:
                far = region.within(near=self.window)
                # The window begins where the row of far keys ends.
                place = Fixed(self.far + self.window - 1)
                cut.append(region.within(far=self.window, paged=False))
                cut.append(replace(far, q_place=place, k_place=ByRank(), blend=False))
        return [region for region in cut if not region.empty]

    def state(self) -> "LongCacheState":
        return LongCacheState(self)

    def keys_read(self, length: int) -> int:
        return min(length, self.far + self.window)

    def keys_compared(self, length: int) -> int:
        return max(0, length - self.sinks - self.window)

    def noted_bytes(self, ends: Sequence[int], geometry: Geometry) -> int:
        return mapped_slots(ends) * LONG


class LongCacheState(SelectorState):
    """Where tokens lie; pages are single tokens."""

    def __init__(self, config: LongCache) -> None:
        self.config = config
        self.slots = SlotMap()

    def attend(self, read: Read) -> list[Partial]:
        queries = read.queries
        self.slots.note(queries.positions)
        paged = [region for region in read.regions if region.paged]
        if not paged or int(queries.positions.max()) < self.config.window:
            return []
        heads, n = queries.vectors.shape[1], self.slots.arrived
        tile = max(1, SCORES // (len(queries.positions) * heads * n))
        tiles = [queries.times(low, low + tile) for low in range(0, len(queries), tile)]
        reads = [replace(read, queries=some) for some in tiles]
        chosen = torch.cat([self._choose(some, paged) for some in reads], dim=1)
        how = (chosen[:, None], Paging(1), self.slots, read.store.gather)
        kw = {**read.how, "impl": read.impl}
        return [attend_pages(queries, *how, region, self.config.far, **kw) for region in paged]

    @torch.no_grad()
    def _choose(self, read: Read, paged: Sequence[Region]) -> Bool[Tensor, " b t positions"]:
        """The far keys that each query reads, by position."""
        config, slots = self.config, self.slots.slots
        assert slots is not None
        (b, t), limit = read.queries.positions.shape, slots.shape[1]
        named = self._named(read, paged)  # [b, t, names], -1 for none
        every, zero = torch.arange(limit, device=named.device), named.new_zeros(())
        votes = named.new_zeros(b, t, limit + 1)
        votes.scatter_add_(2, torch.where(named >= 0, named, limit), torch.ones_like(named))
        votes = votes[..., :limit]
        if named.shape[2] > config.centres:
            rank = votes * limit - every  # more votes first, then the older
            best = rank.topk(min(config.centres, limit), dim=-1).indices
            votes = torch.zeros_like(votes).scatter_(2, best, votes.gather(2, best))
        edges = torch.nn.functional.pad((votes > 0).long(), (config.span, config.span))
        before = edges.cumsum(2)  # a run of `span` tokens has a centre where the count grows
        left = config.span // 2
        high = before[..., config.span + left :][..., :limit]
        low = before[..., left:][..., :limit]
        run = high > low
        asked = read.queries.positions[:, :, None]
        far = torch.stack([region.visible(zero, zero, asked, every) for region in paged]).any(0)
        return (run | (every < config.sinks)) & far & (slots >= 0)[:, None]

    def _named(self, read: Read, paged: Sequence[Region]) -> Tensor:
        """Positions of the keys that the heads want most, `[b, t, heads * top]`; -1 for none."""
        assert self.slots.slots is not None
        q = at_least_float32(read.queries.vectors) * read.scale
        asked = read.queries.positions[:, None, :, None]
        zero, free = asked.new_zeros(()), Region(k_place=Fixed(0))
        limit, none = self.slots.slots.shape[1], -(1 << 62)
        found = []
        for block in read.store.blocks():
            keys = at_least_float32(place_keys(block, free, read.rotary, read.stored).keys)
            score = (by_kv_head(q, keys) @ keys.transpose(2, 3)).view(*q.shape[:3], len(block))
            at = block.positions[:, :1, None]
            seen = torch.stack([region.visible(zero, zero, asked, at) for region in paged]).any(0)
            # One number says the score and, of equal ones, the older.
            rank = score.mul_(EQUAL).round_().long().mul_(limit).add_(limit - 1 - at)
            rank.masked_fill_(~(seen & (at >= self.config.sinks)), none)
            found.append(rank.topk(min(self.config.top, len(block)), dim=-1).values)
        best = torch.cat(found, 3)
        best = best.topk(min(self.config.top, best.shape[3]), dim=-1).values
        places = torch.where(best > none, limit - 1 - best % limit, -1)
        return places.transpose(1, 2).flatten(2)

    def select_rows(self, index: Tensor) -> None:
        self.slots.select_rows(index)

    def bytes(self) -> int:
        return self.slots.bytes()
