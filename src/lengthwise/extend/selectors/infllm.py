"""InfLLM: far keys in pages, each known by a few representative keys."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from lengthwise.core.attention import place_keys, place_queries
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.pages import Paging, SlotMap, attend_pages
from lengthwise.core.partial import Partial
from lengthwise.core.regions import Place, Region, visible_pairs
from lengthwise.core.rotary import Rotary
from lengthwise.extend.layouts.far_as_one import FarAsOne
from lengthwise.extend.method import Method, Selector, SelectorState, StoreState, whole

REPRESENTATIVES = 4
MASS_TILE = 256
LONG = 8  # bytes of a position


@dataclass(frozen=True)
class InfLLM(Selector):
    """Read the sinks, the local window, and the `pages` pages most like the query.

    A page of `page_size` keys enters the memory once it is wholly out of the local window; until
    then its far keys are read exactly. It is represented by the 4 keys of each KV head that drew
    most attention while they were in the window. A page's score for a query is the sum of
    query-key products with its representatives over all heads, at the apparent positions at
    which the page will be read; one choice serves all heads of a layer.

    Brings the layout `FarAsOne(window)` where no layout is named.

    Source: Xiao et al. 2024, arXiv:2402.04617, section 2.2 and 2.3.
    Differs from the source: a representative's score is the attention probability that it drew,
        as in the authors' code (the paper writes mean products); the probability is that of the
        softmax over the window alone, and every query chooses for itself, where the code lets
        512 queries choose together. So what is read never depends on chunks: decoding equals
        prefill.
    Reduces to: its layout with every key read, when `pages` covers all pages.

    Args:
        pages: Pages that a query reads, at least 1.
        page_size: Tokens in a page, at least 4 (the representatives).
        sinks: First tokens always read, at least 0.
        window: Nearest keys always read, the query itself included, at least 1; at most the
            trained window.

    Raises:
        ValueError: If a number is out of its range.
    """

    pages: int = 16
    page_size: int = 32
    sinks: int = 4
    window: int = 256
    needs: ClassVar[frozenset[str]] = frozenset({"all keys"})

    def __post_init__(self) -> None:
        whole("InfLLM", "pages", self.pages, 1)
        whole("InfLLM", "page_size", self.page_size, REPRESENTATIVES)
        whole("InfLLM", "sinks", self.sinks, 0)
        whole("InfLLM", "window", self.window, 1)

    def brings(self) -> tuple[Method, ...]:
        return (FarAsOne(self.window),)

    def check(self, window: int) -> None:
        if self.window > window:
            raise ValueError(
                f"InfLLM: window must be at most the trained window of {window} tokens, "
                f"got {self.window}"
            )

    def restrict(self, regions: Sequence[Region]) -> list[Region]:
        paging = Paging(self.page_size, self.sinks)

        def not_in_a_page(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            return paging.last(paging.page(k)) > q - self.window

        cut: list[Region] = []
        for region in regions:
            if not region.paged:
                cut.append(region)
                continue
            assert region.also is None, "a region with a predicate of its own cannot be paged yet"
            border = region.within(
                near=self.window, far=self.window + self.page_size, first=self.sinks
            )
            cut += [
                region.within(far=self.window),
                region.within(near=self.window, last=self.sinks),
                replace(border, also=not_in_a_page),
                region.within(near=self.window, first=self.sinks, paged=True),
            ]
        return [region for region in cut if not region.empty]

    def state(self) -> "InfLLMState":
        return InfLLMState(self)

    def keys_read(self, length: int) -> int:
        read = self.sinks + self.window + self.page_size * self.pages + self.page_size // 2
        return min(length, read)

    def keys_compared(self, length: int) -> int:
        return max(0, length - self.sinks - self.window) // self.page_size * REPRESENTATIVES

    def noted_bytes(self, ends: Sequence[int], kv_heads: int, head_dim: int, item: int) -> int:
        places = mass = pages = begin = 0
        for end in ends:
            places = max(end, 2 * places) if end > places else places
            for top in (*range(begin + MASS_TILE, end, MASS_TILE), end):
                drawn = top - self.sinks - pages * self.page_size
                mass = drawn + MASS_TILE if drawn > mass else mass
            done = max((end - self.window - self.sinks) // self.page_size, pages)
            if mass:
                mass, pages = max(0, mass - (done - pages) * self.page_size), done
            begin = end
        kept = pages * REPRESENTATIVES * (head_dim * item + LONG)
        return (places + 2) * LONG + kv_heads * (mass * max(item, 4) + kept)


class InfLLMState(SelectorState):
    """Pages of one layer. Everything is indexed by logical position, so padding is no case."""

    def __init__(self, config: InfLLM) -> None:
        self.config = config
        self.paging = Paging(config.page_size, config.sinks)
        self.slots = SlotMap()
        self.seen: Tensor | None = None  # tokens of each row, [b]
        self.made: Tensor | None = None  # pages of each row that have representatives, [b]
        self.base = 0  # the smallest of them
        self.mass: Tensor | None = None  # drawn by the keys from page `base` on, [b, kv, m]
        self.keys: Tensor | None = None  # representatives, [b, kv, pages * 4, d]
        self.places: Tensor | None = None  # their positions, -1 for none, [b, kv, pages * 4]

    def attend(
        self, queries: Queries, store: StoreState, regions: Sequence[Region], **kw: Any
    ) -> list[Partial]:
        self.slots.note(queries.positions)
        longest = queries.positions.amax(1) + 1
        if self.seen is None:
            self.seen, self.made = longest, torch.zeros_like(longest)
        self.seen = torch.maximum(self.seen, longest)
        self._draw_mass(queries, store, regions, **kw)
        self._represent(store)
        paged = [region for region in regions if region.paged]
        chosen = self._choose(queries, paged, kw["rotary"], kw["stored"])
        if chosen is None:
            return []
        return [
            attend_pages(queries, chosen, self.paging, self.slots, store.gather, region, **kw)
            for region in paged
        ]

    @torch.no_grad()
    def _draw_mass(
        self, queries: Queries, store: StoreState, regions: Sequence[Region], **kw: Any
    ) -> None:
        """Add the probability that every key in the local window drew from the new queries."""
        window = self.config.window
        first = self.paging.first + self.base * self.paging.size
        local = [r for r in regions if not r.paged and r.also is None and r.near < window]
        for low in range(0, len(queries), MASS_TILE):
            tile = queries.times(low, min(low + MASS_TILE, len(queries)))
            p = tile.positions
            top = int(p.max())
            if top < first:
                continue
            bottom = int(torch.where(p >= 0, p, top).min())
            start = max(0, bottom - window + 1)
            reach = torch.arange(start, top + 1, device=p.device)
            block = store.gather(self.slots.of(reach.expand(len(p), -1)))
            weights = _probabilities(tile, block, local, **kw)
            drawn = weights.unflatten(1, (block.keys.shape[1], -1)).sum((2, 3))
            held = 0 if self.mass is None else self.mass.shape[2]
            if held < top + 1 - first:
                grown = drawn.new_zeros(*drawn.shape[:2], top + 1 - first + MASS_TILE)
                if self.mass is not None:
                    grown[:, :, :held] = self.mass
                self.mass = grown
            assert self.mass is not None
            skip = max(0, first - start)
            at = start + skip - first
            self.mass[:, :, at : at + len(reach) - skip] += drawn[:, :, skip:]

    @torch.no_grad()
    def _represent(self, store: StoreState) -> None:
        """Give representatives to the pages that have just left their row's window."""
        paging = self.paging
        assert self.seen is not None and self.made is not None
        # The newest query stands at seen - 1 and its window begins at seen - window.
        done = torch.maximum(paging.page(self.seen - self.config.window), self.made)
        stop = int(done.max())
        if self.mass is None or not (done > self.made).any():
            return
        b, kv, _ = self.mass.shape
        fresh = stop - self.base
        span = fresh * paging.size
        mass = torch.nn.functional.pad(self.mass, (0, max(0, span - self.mass.shape[2])))
        top = mass[:, :, :span].unflatten(2, (fresh, paging.size)).topk(REPRESENTATIVES, dim=-1)
        pages = torch.arange(self.base, stop, device=mass.device)
        starts = paging.first + pages * paging.size
        places = (starts[:, None] + top.indices.sort(dim=-1).values).flatten(2)
        slots = self.slots.of(places.flatten(1)).unflatten(1, (kv, -1))
        keys = torch.stack([store.gather(slots[:, h]).keys[:, h] for h in range(kv)], dim=1)
        places = torch.where(slots >= 0, places, -1)  # where positions jump, a page may be empty
        due = (pages >= self.made[:, None]) & (pages < done[:, None])
        due = due.repeat_interleave(REPRESENTATIVES, dim=1)[:, None]
        old = self.base * REPRESENTATIVES
        if self.keys is not None and self.places is not None:
            more = fresh * REPRESENTATIVES - (self.keys.shape[2] - old)
            grown_keys = torch.nn.functional.pad(self.keys[:, :, old:], (0, 0, 0, more))
            grown_places = torch.nn.functional.pad(self.places[:, :, old:], (0, more))
            keys = torch.where(due[..., None], keys, grown_keys)
            places = torch.where(due, places, grown_places)
            keys = torch.cat([self.keys[:, :, :old], keys], dim=2)
            places = torch.cat([self.places[:, :, :old], places], dim=2)
        self.keys, self.places, self.made = keys, places, done
        moved = int(done.min()) - self.base
        self.base += moved
        self.mass = self.mass[:, :, moved * paging.size :].clone()

    @torch.no_grad()
    def _choose(
        self,
        queries: Queries,
        paged: Sequence[Region],
        rotary: Rotary | None,
        stored: Place | None,
    ) -> Tensor | None:
        """The pages that each query reads, `[b, t, pages]`; None when there are none."""
        if self.keys is None or self.places is None or not paged:
            return None
        pages = self.keys.shape[2] // REPRESENTATIVES
        last = self.paging.last(torch.arange(pages, device=queries.positions.device))
        distance = queries.positions[:, :, None] - last
        filled = (self.places[:, 0].unflatten(1, (pages, REPRESENTATIVES)) >= 0).any(-1)
        far = (distance >= self.config.window) & filled[:, None]
        if not far.any():
            return None
        if self.config.pages >= pages:
            return far
        score = at_least_float32(torch.zeros_like(distance, dtype=queries.vectors.dtype))
        for region in paged:
            q = at_least_float32(place_queries(queries, region, rotary).vectors)
            summaries = KeyBlock(self.keys, self.keys, self.places)
            k = at_least_float32(place_keys(summaries, region, rotary, stored).keys)
            pooled = q.unflatten(1, (k.shape[1], -1)).sum(2)
            means = k.unflatten(2, (pages, REPRESENTATIVES)).mean(3)
            product = torch.einsum("bhtd,bhpd->btp", pooled, means)
            here = region.visible(last, last, queries.positions[:, :, None], last)
            score = torch.where(here, product, score)
        top = score.masked_fill(~far, float("-inf")).topk(self.config.pages, dim=-1).indices
        return torch.zeros_like(far).scatter_(2, top, True) & far

    def select_rows(self, index: Tensor) -> None:
        self.slots.select_rows(index)
        for name in ("seen", "made", "mass", "keys", "places"):
            held = getattr(self, name)
            if held is not None:
                setattr(self, name, held.index_select(0, index))

    def bytes(self) -> int:
        held = (self.seen, self.made, self.mass, self.keys, self.places)
        return self.slots.bytes() + sum(tensor.nbytes for tensor in held if tensor is not None)


def _probabilities(
    queries: Queries,
    block: KeyBlock,
    local: Sequence[Region],
    *,
    rotary: Rotary | None,
    stored: Place | None,
    scale: float,
    softcap: float | None,
    **_: Any,
) -> Tensor:
    """Softmax weights `[b, h, t, n]` over the local window alone; 0 for padding."""
    heads = queries.vectors.shape[1]
    shape = (*queries.vectors.shape[:3], len(block))
    scores = at_least_float32(queries.vectors.new_full(shape, float("-inf")))
    for region in local:
        q = at_least_float32(place_queries(queries, region, rotary).vectors) * scale
        k = at_least_float32(place_keys(block, region, rotary, stored).keys)
        score = q @ k.repeat_interleave(heads // k.shape[1], dim=1).transpose(-1, -2)
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        seen = visible_pairs(region, queries.positions, block.positions, heads)
        scores = torch.where(seen, score, scores)
    return torch.softmax(scores, dim=-1).nan_to_num(0.0)
