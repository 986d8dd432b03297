"""One token more of every row that chooses pages, in one call of C for each layer.

As `quick.py`, for selectors with pages: `PagedState.attend` says the same in parts. Where the keys
lie that are read in any case, and the angles by which they are turned, is worked out for `AHEAD`
positions at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lengthwise.core import native
from lengthwise.core.attention.choice import record
from lengthwise.core.keys import Queries
from lengthwise.core.regions import ByRank, Fixed, Place, Region
from lengthwise.core.rotary import Rotary
from lengthwise.extend.plan import Plan
from lengthwise.extend.read import Read
from lengthwise.extend.selectors.paged import EQUAL, NotInAPage, Paged, PagedState
from lengthwise.extend.state import LayerState

MOST = 1 << 16  # angles that are worked out for keys


@dataclass(frozen=True)
class QuickPages:
    """How the layers of one kind read a token at some positions.

    Attributes:
        first: Of these positions.
        circles: Of all angles, as `native.paged` has them.
        rows: What is told of a row at each of the positions, as there.
        how: What is told of pages there: before what is noted, and behind.
    """

    plan: Plan
    rotary: Rotary | None
    first: int
    circles: Tensor
    rows: list[list[int]]
    how: tuple[tuple[int, ...], tuple[int, ...]]
    factor: float

    def attend(
        self, position: int, q: Tensor, k: Tensor, v: Tensor, state: LayerState, scale: float
    ) -> Tensor | None:
        """As `Quick.attend`."""
        selector, store = state.selector, state.store
        live = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        if live or record() is not None or not isinstance(selector, PagedState):
            return None
        room = store.room(position) if selector.whole and selector.made else None
        if room is None or not native.takes_paged(q, k, v, room):
            return None
        at = torch.full((len(q),), position)

        def read() -> Read:
            queries = Queries(q, at[:, None], None, position)
            return Read(
                self.plan.layer, queries, at + 1, store, self.plan.regions, self.rotary,
                self.plan.stored, scale, None,
            )  # fmt: skip

        selector.arrives(position, read)
        slots, made, noted = selector.slots.slots, selector.made[0], selector.noted
        assert slots is not None
        if noted is None or not selector.config.rule.mass:
            noted = made.new_empty(0, 0, 0)
        pages, rest = self.how
        out = native.paged(
            q, k, v, room, at, slots, made, noted,
            self.circles, self.rows[position - self.first] * len(q),
            (*pages, selector.choices, *rest[:2], selector.first, *rest[2:]),
            factor=self.factor,
            interleaved=self.rotary is not None and self.rotary.pairing == "interleaved",
            scale=scale, wanted=scale * EQUAL,
        )  # fmt: skip
        store.took()
        if not selector.config.open_for:
            selector.arrived(position, read)
        return out


class _Angles:
    """Angles of places, one behind the other."""

    def __init__(self) -> None:
        self.places: list[Tensor] = []
        self.known: dict[Place, int] = {}
        self.count = 0

    def add(self, places: Tensor) -> int:
        """Where the angles of these begin."""
        begin, self.count = self.count, self.count + len(places)
        self.places.append(places)
        return begin

    def of(self, place: Place, ahead: Tensor) -> int:
        """As `add`, once for each rule."""
        if place not in self.known:
            self.known[place] = self.add(place(ahead))
        return self.known[place]


def in_one_call(plan: Plan) -> bool:
    """Whether keys of pages are read where they are stored, or by rank, with scores of bands."""
    paged = [region for region in plan.regions if region.paged]
    if not isinstance(plan.axes.selector, Paged) or plan.stored is None or len(paged) != 1:
        return False
    pages = paged[0]
    placed = pages.k_place == plan.stored
    placed = placed or (isinstance(pages.k_place, ByRank) and plan.stored == Fixed(0))
    bands = all(region.score is None and not region.blend for region in plan.regions)
    moved = pages.range_of is not None or pages.also is not None
    return placed and bands and not moved and not plan.sharp


def quick_pages(plan: Plan, rotary: Rotary | None, ahead: Tensor) -> QuickPages | None:
    """How layers like that of a plan read tokens at some positions that follow each other; None
    where that takes more than one call.
    """
    config, stored = plan.axes.selector, plan.stored
    if not in_one_call(plan):
        return None
    assert isinstance(config, Paged) and stored is not None
    pages = next(region for region in plan.regions if region.paged)
    ranked = isinstance(pages.k_place, ByRank)
    angles, count = _Angles(), len(ahead)
    key = angles.of(stored, ahead)
    places = list(dict.fromkeys(region.q_place for region in (pages, *plan.exact)))
    circles = [angles.of(place, ahead) for place in places]
    told = [
        torch.arange(key, key + count), *_choosable(config, pages, ahead),
        *(torch.arange(begin, begin + count) for begin in circles),
    ]  # fmt: skip
    for region in plan.exact:
        span = _span(region, ahead, stored, angles)
        if span is None:
            return None
        local = config.rule.mass and region.also is None and region.near < config.window
        flags = (places.index(region.q_place), int(local))
        low, many, turned = span
        told += [low, many, *(torch.full_like(low, x) for x in flags[:1]), turned]
        told.append(torch.full_like(low, flags[1]))
    row = -1
    if ranked:
        assert config.end is not None
        row = angles.add(torch.arange(config.end))
    found = torch.cat([place.to(torch.float64) for place in angles.places])[None, None]
    if rotary is None:
        table = torch.empty(2, angles.count, 0)
    else:
        table = torch.stack([x[0, 0] for x in rotary.circle(found)])
    rule = config.rule
    asks = places.index(pages.q_place) if rule.turned else -1
    how = (
        (config.page_size, config.paging.first, config.choose),
        (int(rule.signed), asks, row, config.end or 0, 0, len(places), len(plan.exact)),
    )
    rows = torch.stack(told, dim=1).tolist()
    factor = 1.0 if rotary is None else rotary.attention_factor
    assert isinstance(factor, float)
    turns = None if rotary is None else replace(rotary, known=None)
    return QuickPages(plan, turns, int(ahead[0]), table, rows, how, factor)


def _choosable(config: Paged, region: Region, ahead: Tensor) -> Sequence[Tensor]:
    """The first page that may be chosen at each position, one past the last, and the first key."""
    paging = config.paging
    past = paging.page(ahead - max(config.window, region.near) + 1).clamp(min=0)
    if region.last is not None:
        past = past.clamp(max=(region.last - 1 - paging.first) // paging.size)
    lowest = torch.full_like(ahead, region.first)
    if region.far is not None:
        lowest = torch.maximum(lowest, ahead - region.far + 1)
    begin = paging.page(lowest).clamp(min=0)  # its last key is seen
    past = torch.where(ahead >= config.chooses_from, past, 0)
    return begin, torch.maximum(begin, past), lowest


def _span(
    region: Region, ahead: Tensor, stored: Place, angles: _Angles
) -> tuple[Tensor, Tensor, Tensor] | None:
    """First keys of a region at each position, how many, and by which angles they are turned."""
    low, high = torch.full_like(ahead, region.first), ahead - region.near + 1
    if region.far is not None:
        low = torch.maximum(low, ahead - region.far + 1)
    if region.last is not None:
        high = high.clamp(max=region.last)
    if region.range_of is not None:
        first, last = region.range_of(ahead)
        low, high = torch.maximum(low, first), torch.minimum(high, last)
    if isinstance(region.also, NotInAPage):
        low = torch.maximum(low, region.also.first(ahead))
    elif region.also is not None:
        return None
    many, none = (high - low).clamp(min=0), torch.full_like(low, -1)
    if region.k_place == stored or not many.any():
        return low, many, none
    bottom, top = int(low[many > 0].min()), int(high.max())
    if top - bottom > MOST:
        return None
    keys = torch.arange(bottom, top)
    begin = angles.add(region.k_place(keys) - stored(keys))
    return low, many, torch.where(many > 0, begin + low - bottom, none)
