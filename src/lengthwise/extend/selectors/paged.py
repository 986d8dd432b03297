"""What selectors with pages share: where pages begin, summaries of them, and the choice.

The sinks, the local window and what is not yet a page are read exactly; of the pages behind them
every query reads those with the best scores, of equal ones the oldest. A new selector says what it
notes of a page's tokens while they arrive, what it makes of them once the page is closed, and by
which rule queries ask for that. A decoding step does all of it in C (`extend/quick_pages.py`).
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lengthwise.core.attention import place_queries
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.pages import Paging, SlotMap, attend_pages
from lengthwise.core.partial import Partial
from lengthwise.core.regions import Region
from lengthwise.extend.method import Selector, SelectorState
from lengthwise.extend.read import Read

NOTE_TILE = 256  # queries that are noted together, and room for tokens of the next
# Scores that differ by less than one part in so many of a nat are equal. A repeated token has equal
# keys in the first layer, and rounding, which chunks change, would choose among them.
EQUAL = 1024
LONG = 8  # bytes of a position


def mapped_slots(ends: Sequence[int]) -> int:
    """Positions for which a `SlotMap` has room after forwards that ended there."""
    places = 0
    for end in ends:
        places = max(end, 2 * places) if end > places else places
    return places


def largest(score: Float[Tensor, "*n m"], count: int) -> Bool[Tensor, "*n m"]:
    """The `count` largest of each row; of equals the first, which `topk` does not promise."""
    last = score.topk(count, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above, equal = score > last, score == last
    return above | (equal & (equal.cumsum(-1) <= count - above.sum(-1, keepdim=True)))


@dataclass(frozen=True)
class Rule:
    """How queries ask for pages: by products with their summaries, summed over heads.

    Attributes:
        turned: Whether queries are rotated to where they read pages, or as they came.
        shared: Whether one choice serves all heads of a layer, or one the heads of each KV head.
        signed: Whether summaries have a half for what is positive in a query, `[..., :d]`, and
            one for what is negative.
        mass: Whether the weights of the keys in the window are noted, of the window's alone.
    """

    turned: bool = True
    shared: bool = False
    signed: bool = False
    mass: bool = False


@dataclass(frozen=True)
class NotInAPage:
    """Keys whose page the query cannot choose yet, because it is not all out of the window."""

    paging: Paging
    window: int

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return self.paging.last(self.paging.page(k)) > q - self.window

    def first(self, q: Tensor) -> Tensor:
        """The first of them behind the sinks."""
        pages = self.paging.page(q - self.window + 1).clamp(min=0)
        return self.paging.first + pages * self.paging.size


def in_order(positions: Tensor, seen: Tensor) -> bool:
    """Whether the tokens at `positions [b, t]` go on from the `seen [b]` ones; -1 is padding."""
    real = positions >= 0
    expected = torch.where(real, seen[:, None] + real.cumsum(1) - 1, -1)
    return torch.equal(positions, expected)


class Paged(Selector):
    """A selector that chooses among pages of equal size.

    Attributes:
        rule: How queries ask for pages.
        page_size: Tokens of a page.
        sinks: First tokens of a row, always read; the first page begins behind them.
        window: A page can be chosen once its last token is at least so far away.
        choose: Pages that a query reads.
        chooses_from: Position of the first query that reads pages; regions show those before all.
        open_for: A page is summed up once it is whole and its last token is so far away.
        end: As for `attend_pages`.
    """

    page_size: int
    sinks: int
    window: int
    rule: ClassVar[Rule] = Rule()
    needs: ClassVar[frozenset[str]] = frozenset({"all keys"})

    @property
    @abstractmethod
    def choose(self) -> int: ...

    @property
    def chooses_from(self) -> int:
        return 0

    @property
    def open_for(self) -> int:
        return self.window

    @property
    def end(self) -> int | None:
        return None

    @property
    def paging(self) -> Paging:
        """Where pages lie."""
        return Paging(self.page_size, self.sinks)

    def of_sinks(self, region: Region) -> Region:
        """How sinks are read that are out of the window."""
        return region

    def restrict(self, regions: Sequence[Region]) -> list[Region]:
        cut: list[Region] = []
        for region in regions:
            if not region.paged:
                cut.append(region)
                continue
            assert region.also is None, "a region with a predicate of its own cannot be paged yet"
            far = region.within(near=self.window)
            exact = replace(far, paged=False)
            border = exact.within(far=self.window + self.page_size, first=self.sinks)
            cut += [
                region.within(far=self.window, paged=False),
                self.of_sinks(exact.within(last=self.sinks)),
                replace(border, also=NotInAPage(self.paging, self.window)),
                far.within(first=self.sinks),
            ]
        return [region for region in cut if not region.empty]

    @abstractmethod
    def state(self) -> "PagedState": ...

    def pages_made(self, ends: Sequence[int]) -> tuple[int, int]:
        """After forwards over one row that ended there: what is noted of tokens, pages made."""
        noted = pages = begin = 0
        for end in ends:
            for top in (*range(begin + NOTE_TILE, end, NOTE_TILE), end):
                reached = top - self.sinks - pages * self.page_size
                noted = reached + NOTE_TILE if reached > noted else noted
            done = max((end - self.open_for - self.sinks) // self.page_size, pages)
            if noted:
                noted, pages = max(0, noted - (done - pages) * self.page_size), done
            begin = end
        return noted, pages


class PagedState(SelectorState):
    """Pages of one layer. Everything is indexed by logical position, so padding is no case.

    Attributes:
        noted: What is known of the tokens from page `base` on, `[b, heads, m, ...]`.
        made: Summaries of pages, each `[b, heads, pages, ...]`; empty before the first. The first
            of them is what queries ask by.
        whole: Whether every row has had its tokens in their order, without gaps.
    """

    notes: ClassVar[bool] = True

    def __init__(self, config: Paged) -> None:
        self.config, self.paging = config, config.paging
        self.slots = SlotMap()
        self.seen: Tensor | None = None  # tokens of each row, [b]
        self.count: Tensor | None = None  # pages of each row that are summed up, [b]
        self.base = 0  # the smallest of them
        self.noted: Tensor | None = None
        self.made: tuple[Tensor, ...] = ()
        self.whole = True

    def note(self, read: Read, first: int) -> tuple[int, Tensor]:
        """What a few new queries say about tokens from position `first` on.

        Returns:
            A position, at least `first`, and what is to be added to what is noted from there on,
            `[b, heads, m, ...]`.
        """
        raise NotImplementedError

    @abstractmethod
    def sum_up(
        self, read: Read, noted: Tensor | None, pages: Tensor, slots: Tensor
    ) -> tuple[Tensor, ...]:
        """Summaries, each `[b, heads, pages, ...]`.

        Args:
            noted: `[b, heads, pages, size, ...]`; None where nothing is.
            pages: Their numbers.
            slots: Where their tokens lie `[b, pages, size]`; -1 for none.
        """

    def asked_for(self, read: Read, region: Region) -> Float[Tensor, "b heads pages w"]:
        """What queries ask by in a region; heads are those of queries or of keys."""
        return self.made[0]

    @property
    def choices(self) -> int:
        """How many choices a query makes: one, or one for each KV head."""
        return 1 if self.config.rule.shared else self.made[0].shape[1]

    def score(
        self, read: Read, paged: Sequence[Region], last: Tensor
    ) -> Float[Tensor, " b #kv t pages"]:
        """How much each query wants each page; `last` are the pages' last positions."""
        rule, queries, score = self.config.rule, read.queries, torch.zeros((), device=last.device)
        for region in paged:
            made = self.asked_for(read, region)
            asked = place_queries(queries, region, read.rotary) if rule.turned else queries
            x = at_least_float32(asked.vectors)
            if rule.signed:
                x = torch.cat([x.clamp(min=0), x.clamp(max=0)], dim=-1)
            product = x.unflatten(1, (made.shape[1], -1)).sum(2) @ made.transpose(2, 3)
            product = product.unflatten(1, (self.choices, -1)).sum(2)
            positions = queries.positions[:, None, :, None]
            score = torch.where(region.visible(last, last, positions, last), product, score)
        return score

    def take_in(self, read: Read) -> None:
        """Take note of the newest tokens, and sum up the pages that they close."""
        queries = read.queries
        self.slots.note(queries.positions)
        longest = queries.positions.amax(1) + 1
        if self.seen is None:
            self.seen, self.count = torch.zeros_like(longest), torch.zeros_like(longest)
        self.whole = self.whole and in_order(queries.positions, self.seen)
        self.seen = torch.maximum(self.seen, longest)
        self._note(read)
        self._sum_up(read)

    def attend(self, read: Read) -> list[Partial]:
        self.take_in(read)
        queries = read.queries
        paged = [region for region in read.regions if region.paged]
        chosen = self._choose(read, paged)
        if chosen is None:
            return []
        how = (self.paging, self.slots, read.store.gather)
        kw = {**read.how, "impl": read.impl}
        return [
            attend_pages(queries, chosen, *how, region, self.config.end, **kw) for region in paged
        ]

    def arrives(self, position: int, read: Callable[[], Read]) -> None:
        """One token more of every row, all at this position, comes to a `whole` state that has
        pages. C code notes its weights, and writes its slot into the table.
        """
        assert self.seen is not None
        self.slots.open(self.seen, position + 1)
        self.slots.arrived += 1
        if self.config.rule.mass:
            assert self.noted is not None
            self._open(self.noted, position)
        elif self.notes:
            self._note(read())
        self.seen.fill_(position + 1)
        if self.config.open_for:  # else the page that it closes holds it
            self.arrived(position, read)

    def arrived(self, position: int, read: Callable[[], Read]) -> None:
        """Its key is stored."""
        if position + 1 >= self.first + self.paging.size + self.config.open_for:
            self._sum_up(read())

    @property
    def first(self) -> int:
        """The first position that is noted."""
        return self.paging.first + self.base * self.paging.size

    def _open(self, like: Tensor, top: int) -> Tensor:
        """What is noted, with room for the token at position `top`."""
        held = 0 if self.noted is None else self.noted.shape[2]
        if held < top + 1 - self.first:
            grown = like.new_zeros(
                *like.shape[:2], top + 1 - self.first + NOTE_TILE, *like.shape[3:]
            )
            if self.noted is not None:
                grown[:, :, :held] = self.noted
            self.noted = grown
        assert self.noted is not None
        return self.noted

    @torch.no_grad()
    def _note(self, read: Read) -> None:
        queries, first = read.queries, self.first
        if not self.notes:
            return
        for low in range(0, len(queries), NOTE_TILE):
            tile = queries.times(low, min(low + NOTE_TILE, len(queries)))
            top = int(tile.positions.max())
            if top < first:
                continue
            start, new = self.note(replace(read, queries=tile), first)
            held = self._open(new, top)
            held[:, :, start - first : start - first + new.shape[2]] += new

    @torch.no_grad()
    def _sum_up(self, read: Read) -> None:
        """Sum up the pages that have just been closed, each row at its own time."""
        size = self.paging.size
        assert self.seen is not None and self.count is not None
        done = torch.maximum(self.paging.page(self.seen - self.config.open_for), self.count)
        stop = int(done.max())
        if (self.noted is None and self.notes) or not (done > self.count).any():
            return
        fresh, noted = stop - self.base, self.noted
        if noted is not None:
            pad = (0, 0) * (noted.ndim - 3) + (0, max(0, fresh * size - noted.shape[2]))
            noted = torch.nn.functional.pad(noted, pad)[:, :, : fresh * size]
            noted = noted.unflatten(2, (fresh, size))
        pages = torch.arange(self.base, stop, device=done.device)
        starts = self.paging.first + pages * size
        places = (starts[:, None] + torch.arange(size, device=done.device)).flatten()
        slots = self.slots.of(places.expand(len(done), -1)).unflatten(1, (fresh, size))
        new = self.sum_up(read, noted, pages, slots)
        due = ((pages >= self.count[:, None]) & (pages < done[:, None]))[:, None]
        if self.made:
            new = tuple(self._joined(*pair, due) for pair in zip(self.made, new, strict=True))
        self.made, self.count = new, done
        moved = int(done.min()) - self.base
        self.base += moved
        if self.noted is not None:
            self.noted = self.noted[:, :, moved * size :].clone()

    def _joined(self, old: Tensor, new: Tensor, due: Tensor) -> Tensor:
        """Summaries with new ones from page `base` on, where they are due."""
        kept = old[:, :, self.base :]
        more = (0, 0) * (kept.ndim - 3) + (0, new.shape[2] - kept.shape[2])
        kept = torch.nn.functional.pad(kept, more)
        due = due.view(*due.shape, *(1,) * (new.ndim - 3))
        return torch.cat([old[:, :, : self.base], torch.where(due, new, kept)], dim=2)

    @torch.no_grad()
    def _choose(self, read: Read, paged: Sequence[Region]) -> Bool[Tensor, " b #kv t pages"] | None:
        """The pages that each query reads; None when there are none."""
        if not self.made or not paged:
            return None
        pages, asked = self.made[0].shape[2], read.queries.positions[:, None, :, None]
        last = self.paging.last(torch.arange(pages, device=asked.device))
        far = (asked - last >= self.config.window) & (asked >= self.config.chooses_from)
        far &= self.slots.filled(self.paging, pages)[:, None, None]
        seen = [region.visible(last, last, asked, last) for region in paged]
        far &= torch.stack(seen).any(0)  # a model's own window may end before
        if not far.any():
            return None
        if self.config.choose >= pages:
            return far
        score = (self.score(read, paged, last) * (read.scale * EQUAL)).round()
        return largest(score.masked_fill(~far, float("-inf")), self.config.choose) & far

    def _held(self) -> list[Tensor]:
        held = (self.seen, self.count, self.noted, *self.made)
        return [tensor for tensor in held if tensor is not None]

    def select_rows(self, index: Tensor) -> None:
        self.slots.select_rows(index)
        for name in ("seen", "count", "noted"):
            held = getattr(self, name)
            if held is not None:
                setattr(self, name, held.index_select(0, index))
        self.made = tuple(held.index_select(0, index) for held in self.made)

    def bytes(self) -> int:
        return self.slots.bytes() + sum(tensor.nbytes for tensor in self._held())
