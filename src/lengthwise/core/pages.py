"""Pages: fixed-size runs of logical positions, and attention over the pages that queries chose."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from lengthwise.core.attention import attend_blocks
from lengthwise.core.attention.choice import choice_for_pages
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial
from lengthwise.core.regions import Region
from lengthwise.core.rotary import Rotary

# Queries whose chosen pages are read together; more share reads, fewer waste less on masks.
QUERY_TILE = 256
# Keys that are gathered together for queries that each have a row of their own.
ROW_KEYS = 8192


@dataclass(frozen=True)
class Paging:
    """Page c holds the positions first + c * size .. first + (c + 1) * size - 1.

    Args:
        size: Tokens in a page, at least 1.
        first: Position of the first token of page 0; earlier tokens belong to no page.
    """

    size: int
    first: int = 0

    def page(self, positions: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """Page of every position; negative before page 0."""
        return (positions - self.first).div(self.size, rounding_mode="floor")

    def last(self, pages: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
        """The last position of every page."""
        return self.first + (pages + 1) * self.size - 1


class SlotMap:
    """Where logical positions lie in storage: `slots[b, position]`, -1 where nothing arrived."""

    def __init__(self) -> None:
        self.slots: Tensor | None = None
        self.arrived = 0

    def note(self, positions: Int[Tensor, "b n"]) -> None:
        """Take note of tokens in their order of arrival; padding takes a slot too."""
        b, n = positions.shape
        self.open(positions, max(1, int(positions.max()) + 1))  # the first may all be padding
        assert self.slots is not None
        rows, times = (positions >= 0).nonzero(as_tuple=True)
        self.slots[rows, positions[rows, times]] = times + self.arrived
        self.arrived += n

    def open(self, like: Tensor, longest: int) -> Tensor:
        """The table, with room for so many positions; `like` has its rows and type."""
        held = 0 if self.slots is None else self.slots.shape[1]
        if longest > held:
            grown = like.new_full((len(like), max(longest, 2 * held)), -1)
            if self.slots is not None:
                grown[:, :held] = self.slots
            self.slots = grown
        assert self.slots is not None
        return self.slots

    def of(self, positions: Int[Tensor, "b *kv m"]) -> Int[Tensor, "b *kv m"]:
        """Slots of positions; -1 where the position is out of range or nothing arrived."""
        assert self.slots is not None
        limit = self.slots.shape[1]
        inside = (positions >= 0) & (positions < limit)
        found = self.slots.gather(1, positions.clamp(0, limit - 1).flatten(1))
        return torch.where(inside, found.view_as(positions), -1)

    def filled(self, paging: Paging, pages: int) -> Bool[Tensor, "b pages"]:
        """Which of the first `pages` pages hold a token; where positions jump, one may not."""
        assert self.slots is not None
        held = self.slots[:, paging.first : paging.first + pages * paging.size] >= 0
        held = torch.nn.functional.pad(held, (0, pages * paging.size - held.shape[1]))
        return held.unflatten(1, (pages, paging.size)).any(-1)

    def select_rows(self, index: Tensor) -> None:
        """Keep the rows `index` of the batch, in that order."""
        if self.slots is not None:
            self.slots = self.slots.index_select(0, index)

    def bytes(self) -> int:
        """Bytes allocated."""
        return 0 if self.slots is None else self.slots.nbytes


def attend_pages(
    queries: Queries,
    chosen: Bool[Tensor, " b #kv t pages"],
    paging: Paging,
    slots: SlotMap,
    gather: Callable[[Tensor], KeyBlock],
    region: Region,
    end: int | None = None,
    **kw: Any,
) -> Partial:
    """Attention of each query over the pages that it chose, within a region.

    Pages chosen by any query of a tile are read once for the whole tile, and masks keep each
    query to its own: what a query sees never depends on its neighbours.

    Args:
        chosen: One choice for all heads, or one for the heads of each KV head.
        gather: From slots `[b, #kv, m]` to keys.
        end: If given, the pages that a query reads seem to stand in a row without gaps, in their
            order, up to the place before this one. None leaves keys where the region puts them.
        kw: Keyword arguments of `attend_blocks`.
    """
    t = chosen.shape[2]
    if kw.get("impl", "auto") == "auto":
        kw["impl"] = choice_for_pages(t).name
    if end is not None:
        return _in_a_row(queries, chosen, paging, slots, gather, region, end, **kw)
    outs, lses = [], []
    for low in range(0, t, QUERY_TILE):
        high = min(low + QUERY_TILE, t)
        mine = chosen[:, :, low:high]
        block = gather(slots.of(_tokens(mine.any(2), paging)))
        tile = replace(queries.times(low, high), start=None)
        own = region
        if high - low > 1:  # a single query reads all that it chose
            mask = _chosen_by(mine, tile.positions, paging)
            own = replace(region, also=mask if region.also is None else _both(region.also, mask))
        part = attend_blocks(tile, [block], [own], **kw)
        outs.append(part.out)
        lses.append(part.lse)
    return Partial(torch.cat(outs, dim=2), torch.cat(lses, dim=2))


def _tokens(chosen: Bool[Tensor, "*n pages"], paging: Paging) -> Int[Tensor, "*n m"]:
    """Positions of all tokens of the chosen pages, in order; -1 fills up where others have more."""
    most = int(chosen.sum(-1).max())
    rank = torch.where(chosen, chosen.cumsum(-1) - 1, most)
    every = torch.arange(chosen.shape[-1], device=chosen.device)
    taken = rank.new_full((*rank.shape[:-1], most + 1), -1)
    taken = taken.scatter_(-1, rank, every.expand_as(rank))[..., :most, None]
    within = torch.arange(paging.size, device=chosen.device)
    return torch.where(taken >= 0, paging.first + taken * paging.size + within, -1).flatten(-2)


def _in_a_row(
    queries: Queries,
    chosen: Bool[Tensor, " b #kv t pages"],
    paging: Paging,
    slots: SlotMap,
    gather: Callable[[Tensor], KeyBlock],
    region: Region,
    end: int,
    *,
    rotary: Rotary | None,
    **kw: Any,
) -> Partial:
    """Each query over keys at places of their own: as a row of a batch, some queries at a time."""
    assert region.also is None and region.score is None, "rows are not those of the batch"
    b, _, t, _ = chosen.shape
    counts = chosen.sum(-1, keepdim=True) * paging.size
    tile = max(1, ROW_KEYS // max(1, b * int(counts.max())))
    outs, lses = [], []
    for low in range(0, t, tile):
        n = min(tile, t - low)
        tokens, count = _tokens(chosen[:, :, low : low + n], paging), counts[:, :, low : low + n]
        m = tokens.shape[-1]
        found = gather(slots.of(tokens.flatten(2)))

        def rows(x: Tensor, shape: tuple[int, int] = (n, m)) -> Tensor:
            return x.unflatten(2, shape).transpose(1, 2).flatten(0, 1)

        if bool((count == count[0, 0, 0]).all()):
            count = count[:1, :1, :1]  # one row of places for all
        places = (end - count + torch.arange(m, device=count.device)).transpose(1, 2).flatten(0, 1)
        block = KeyBlock(rows(found.keys), rows(found.values), rows(found.positions), places=places)
        asked = queries.times(low, low + n)
        one = Queries(rows(asked.vectors, (n, 1)), asked.positions.flatten()[:, None])
        turned = None if rotary is None else rotary.repeated(n)
        part = attend_blocks(one, [block], [region], rotary=turned, **kw)
        outs.append(part.out.unflatten(0, (b, n))[:, :, :, 0].transpose(1, 2))
        lses.append(part.lse.unflatten(0, (b, n))[:, :, :, 0].transpose(1, 2))
    return Partial(torch.cat(outs, dim=2), torch.cat(lses, dim=2))


def _chosen_by(chosen: Tensor, q_positions: Tensor, paging: Paging) -> Any:
    """The predicate "this query chose this key's page", for whole tiles; no position twice."""
    batch, kv, _, pages = chosen.shape
    # Time of every position, because padding may stand between two queries.
    base = torch.where(q_positions >= 0, q_positions, q_positions.amax()).amin().clamp(min=0)
    span = int(q_positions.amax() - base) + 1
    times = q_positions.new_zeros(batch, max(span, 1))
    rows, at = (q_positions >= 0).nonzero(as_tuple=True)
    times[rows, q_positions[rows, at] - base] = at

    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        rows, _, length, _ = torch.broadcast_shapes(b.shape, q.shape, (1, 1, 1, 1))
        time = times[b, (q - base).clamp(0, times.shape[1] - 1)]
        page = paging.page(k)
        heads = torch.arange(kv, device=chosen.device)[:, None]
        mine = chosen[b[..., 0], heads, time[..., 0]] & (q >= 0)  # [b, kv, t, pages]
        group = max(1, h.shape[1] // kv)
        index = page.clamp(0, pages - 1)[:, ::group].expand(rows, kv, length, -1)
        read = mine.gather(3, index)
        if kv > 1:
            read = read.repeat_interleave(group, dim=1)
        return read & (page >= 0) & (page < pages)

    return mask


def _both(one: Any, other: Any) -> Any:
    def mask(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return one(b, h, q, k) & other(b, h, q, k)

    return mask
