"""InfLLM: far keys in pages, each known by a few representative keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.attention import place_keys
from lengthwise.core.attention.mass import drawn_mass
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.geometry import Geometry
from lengthwise.core.keys import KeyBlock
from lengthwise.core.regions import Region
from lengthwise.extend.layouts.far_as_one import FarAsOne
from lengthwise.extend.method import Method, whole
from lengthwise.extend.read import Read
from lengthwise.extend.selectors.paged import LONG, Paged, PagedState, Rule, mapped_slots

REPRESENTATIVES = 4


@dataclass(frozen=True)
class InfLLM(Paged):
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
        512 queries choose together, and of pages whose scores differ by less than 1/1024, times
        the scale of the softmax, the oldest counts. So what is read never depends on chunks:
        decoding equals prefill.
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
    rule = Rule(shared=True, mass=True)

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

    @property
    def choose(self) -> int:
        return self.pages

    def state(self) -> "InfLLMState":
        return InfLLMState(self)

    def keys_read(self, length: int) -> int:
        read = self.sinks + self.window + self.page_size * self.pages + self.page_size // 2
        return min(length, read)

    def keys_compared(self, length: int) -> int:
        return max(0, length - self.sinks - self.window) // self.page_size * REPRESENTATIVES

    def noted_bytes(self, ends: Sequence[int], geometry: Geometry) -> int:
        mass, pages = self.pages_made(ends)
        item = geometry.dtype_bytes
        kept = pages * (geometry.head_dim * max(item, 4) + REPRESENTATIVES * LONG)
        return (mapped_slots(ends) + 2) * LONG + geometry.kv_heads * (mass * max(item, 4) + kept)


class InfLLMState(PagedState):
    """Noted of a token is the mass that it drew; of a page, the mean of its best keys where they
    are read, and their positions.
    """

    def note(self, read: Read, first: int) -> tuple[int, Tensor]:
        """The probability that every key in the local window drew, of the window's alone."""
        window, p = self.config.window, read.queries.positions
        local = [r for r in read.regions if not r.paged and r.also is None and r.near < window]
        top = int(p.max())
        bottom = int(torch.where(p >= 0, p, top).min())
        start = max(0, bottom - window + 1)
        reach = torch.arange(start, top + 1, device=p.device)
        block = read.store.gather(self.slots.of(reach.expand(len(p), 1, -1)))
        drawn = drawn_mass(read.queries, block, local, None, p >= 0, **read.how)
        return max(start, first), drawn[:, :, max(0, first - start) :]

    def sum_up(
        self, read: Read, noted: Tensor | None, pages: Tensor, slots: Tensor
    ) -> tuple[Tensor, ...]:
        assert noted is not None
        kv = noted.shape[1]
        order = noted.sort(dim=-1, descending=True, stable=True).indices  # of equals, the first
        top = order[..., :REPRESENTATIVES].sort(dim=-1).values
        best = slots[:, None].expand(-1, kv, -1, -1).gather(3, top)
        starts = self.paging.first + pages * self.paging.size
        places = torch.where(best >= 0, starts[:, None] + top, -1)
        region = next((region for region in read.regions if region.paged), Region())
        return self._means(read, region, places), places

    def _means(self, read: Read, region: Region, places: Tensor) -> Tensor:
        """Of the keys at `places [b, kv, pages, 4]`, as a region puts them."""
        found = read.store.gather(self.slots.of(places.flatten(2)))
        summaries = KeyBlock(found.keys, found.values, places.flatten(2))
        keys = at_least_float32(place_keys(summaries, region, read.rotary, read.stored).keys)
        return keys.unflatten(2, places.shape[2:]).mean(3)

    def asked_for(self, read: Read, region: Region) -> Tensor:
        turning = read.rotary is not None and read.stored is None  # by other angles meanwhile
        several = sum(region.paged for region in read.regions) > 1
        means, places = self.made
        return self._means(read, region, places) if turning or several else means
