"""Quest: far keys in pages, each known by the bounds of its keys."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.attention import place_keys
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.geometry import Geometry
from lengthwise.core.regions import Region
from lengthwise.extend.method import whole
from lengthwise.extend.read import Read
from lengthwise.extend.selectors.paged import LONG, Paged, PagedState, Rule, mapped_slots


@dataclass(frozen=True)
class Quest(Paged):
    """Read the sinks, the local window, and the `pages` pages that might score highest.

    Of a page the largest and the smallest number of its keys in every dimension are kept. Its
    score for a query is the largest product that a key between these bounds could have: no key of
    the page has a larger one. Heads that share a KV head add up their scores and read the same
    pages.

    Source: Tang et al. 2024, arXiv:2406.10774, section 3.2, with the authors' code.
    Differs from the source: sinks and window are read in any case, prompts are read by the same
        rule as generated tokens, so decoding equals prefill, all layers choose, where the source
        leaves out the first two, and grouped KV heads, which it does not know.
    Reduces to: the untouched model, when `pages` covers all pages.

    Args:
        pages: Pages that a query reads, at least 1.
        page_size: Tokens in a page, at least 1; the source takes 16.
        sinks: First tokens always read, at least 0.
        window: Nearest keys always read, the query itself included, at least 1.

    Raises:
        ValueError: If a number is out of its range, a layout gives far keys several kinds of
            places, or frequencies follow the length of the text.
    """

    pages: int = 32
    page_size: int = 16
    sinks: int = 4
    window: int = 256
    rule = Rule(signed=True)

    def __post_init__(self) -> None:
        whole("Quest", "pages", self.pages, 1)
        whole("Quest", "page_size", self.page_size, 1)
        whole("Quest", "sinks", self.sinks, 0)
        whole("Quest", "window", self.window, 1)

    @property
    def choose(self) -> int:
        return self.pages

    def restrict(self, regions: Sequence[Region]) -> list[Region]:
        cut = super().restrict(regions)
        if sum(region.paged for region in cut) > 1:
            raise ValueError(
                f"Quest: window {self.window} leaves keys of a page two kinds of places in this "
                "layout, and bounds hold for one; make it at least the layout's window"
            )
        return cut

    def state(self) -> "QuestState":
        return QuestState(self)

    def keys_read(self, length: int) -> int:
        read = self.sinks + self.window + self.page_size * self.pages + self.page_size // 2
        return min(length, read)

    def keys_compared(self, length: int) -> int:
        return max(0, length - self.sinks - self.window) // self.page_size * 2

    def noted_bytes(self, ends: Sequence[int], geometry: Geometry) -> int:
        pages = max(0, ends[-1] - self.window - self.sinks) // self.page_size if ends else 0
        bounds = pages * 2 * geometry.head_dim * max(geometry.dtype_bytes, 4)
        return (mapped_slots(ends) + 2) * LONG + geometry.kv_heads * bounds


class QuestState(PagedState):
    """Noted of a token is nothing; of a page, the largest and the smallest numbers of its keys."""

    notes = False

    def sum_up(
        self, read: Read, noted: Tensor | None, pages: Tensor, slots: Tensor
    ) -> tuple[Tensor, ...]:
        if read.rotary is not None and read.stored is None:
            raise ValueError(
                "Quest bounds keys where they are rotated to, and frequencies that follow the "
                "length rotate them anew; use a scaling with one length"
            )
        region = next((region for region in read.regions if region.paged), Region())
        block = read.store.gather(slots.flatten(1)[:, None])
        keys = at_least_float32(place_keys(block, region, read.rotary, read.stored).keys)
        keys = keys.unflatten(2, slots.shape[1:])
        real = (slots >= 0)[:, None, :, :, None]
        most = keys.masked_fill(~real, float("-inf")).amax(3)
        least = keys.masked_fill(~real, float("inf")).amin(3)
        return (torch.cat([most, least], dim=-1).nan_to_num(0.0, 0.0, 0.0),)
