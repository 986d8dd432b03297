"""How every layer of an adapted model is computed: what runs, and what accounts are made of."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.geometry import Geometry, RotaryBase
from lengthwise.core.regions import OWN, ChunksBack, Place, Region
from lengthwise.extend.layouts.causal import Causal
from lengthwise.extend.method import Layout, Method, Scaling, Selector, Store
from lengthwise.extend.scaling.own import OwnScaling
from lengthwise.extend.selectors.all_pages import AllPages
from lengthwise.extend.stores.full import FullStore
from lengthwise.extend.stores.streaming_llm import StreamingLLM

# Query heads of a layer that share a layout, and the layout; together they hold every head once.
Groups = Sequence[tuple[Sequence[int], Layout]]


@dataclass(frozen=True)
class Axes:
    """A point in the product of the four axes."""

    scaling: Scaling
    layout: Layout
    selector: Selector
    store: Store

    def sharpened(self, q: Tensor, layer: int, window: int, positions: Tensor) -> Tensor:
        """Queries `[b, h, t, d]` times what the scaling and the layout say of their scores."""
        for method in (self.scaling, self.layout):
            factor = method.sharpness(layer, window, positions)
            if factor is not None:
                q = times(q, factor)
        return q


def times(q: Tensor, factor: Tensor) -> Tensor:
    """Queries `[b, h, t, d]` times factors that broadcast to `[b, h, t]`."""
    return (at_least_float32(q) * factor[..., None]).to(q.dtype)


@dataclass(frozen=True)
class InChunks(Layout):
    """The model's own chunks of `chunk` tokens, each of which sees itself alone (Llama 4)."""

    chunk: int

    def regions(self) -> tuple[Region, ...]:
        return (Region(range_of=ChunksBack(self.chunk, 0, 1)),)

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q // self.chunk == k // self.chunk, q - k


@dataclass(frozen=True, repr=False)
class Several(Layout):
    """Stands where one layout is asked for and layers or heads have their own.

    Args:
        words: What they are, for people.
        layouts: Each of them once.
    """

    by_head = True
    words: str
    layouts: tuple[Layout, ...]

    def __repr__(self) -> str:
        return self.words

    def regions(self) -> tuple[Region, ...]:
        """All that any of them shows."""
        return tuple(region for layout in self.layouts for region in layout.regions())

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        raise ValueError("layers and heads have layouts of their own: ask each for its table")


@dataclass(frozen=True, eq=False)
class Plan:
    """How some query heads of one layer are computed.

    `Engine.attend` follows it; `explain`, the probes and the accounts of work and memory read it.

    Attributes:
        layer: Index of the layer.
        heads: The query heads, in this order; None for all.
        geometry: Of the model.
        axes: What they are computed by: a local layer of a mixed model keeps the model's own.
    """

    layer: int
    heads: tuple[int, ...] | None
    geometry: Geometry
    axes: Axes

    @cached_property
    def base(self) -> RotaryBase | None:
        """The layer's own rotary embedding; None for a layer without positions."""
        return self.geometry.layers[self.layer].rotary

    @cached_property
    def regions(self) -> tuple[Region, ...]:
        """Those of the layout, cut by the model's window, the store and the selector."""
        window = self.geometry.layers[self.layer].window
        regions = [region.within(far=window) for region in self.axes.layout.regions()]
        regions = self.axes.selector.restrict(self.axes.store.restrict(regions))
        return tuple(region for region in regions if not region.empty)

    @cached_property
    def exact(self) -> tuple[Region, ...]:
        """Those whose keys are read without a choice."""
        return tuple(region for region in self.regions if not region.paged)

    @cached_property
    def pages(self) -> bool:
        """Whether a selector looks up pages."""
        return self.axes.selector.state() is not None

    @cached_property
    def stays(self) -> bool:
        """Whether a key can be rotated once for all time."""
        return self.base is None or self.axes.scaling.storable(self.base)

    @cached_property
    def stored(self) -> Place | None:
        """Where keys are rotated to when they are stored; None where they are not rotated."""
        if self.base is None:
            return OWN
        lasting = self.stays and not self.axes.store.in_cache
        return self.axes.layout.key_place if lasting else None

    @cached_property
    def ordered(self) -> bool:
        """Whether tokens can stand elsewhere than their positions say: see `Order`.

        Where keys are stored at their own positions, both are free. Elsewhere positions say it, as
        they do to a store that counts tokens.
        """
        plain = self.axes.layout == Causal() and self.stays
        return plain and not self.pages and not self.axes.store.every

    @cached_property
    def at_once(self) -> bool:
        """Whether queries and keys are turned by the same angles and never again."""
        places = {(region.q_place, region.k_place, region.blend) for region in self.regions}
        chosen = self.pages or self.axes.store.every
        return self.stays and not chosen and places == {(self.stored, self.stored, False)}

    @cached_property
    def sharp(self) -> bool:
        """Whether queries are multiplied before they are read with."""
        return self.geometry.layers[self.layer].sharpness is not None or any(
            type(method).sharpness is not Method.sharpness
            for method in (self.axes.scaling, self.axes.layout)
        )

    @cached_property
    def plain(self) -> bool:
        """Whether regions are bands of keys that are read where they are stored, with scores as
        they are.
        """
        chosen = self.pages or self.axes.store.every
        bands = all(
            region.also is None is region.score
            and region.range_of is None
            and not region.blend
            and region.k_place == self.stored
            for region in self.regions
        )
        return self.stays and bands and not chosen and not self.sharp

    @cached_property
    def kind(self) -> tuple[int, int, int | None]:
        """Layers of one kind do the same with their keys and queries."""
        return id(self.base), id(self.axes), self.geometry.layers[self.layer].window

    @cached_property
    def kv_heads(self) -> Tensor:
        """Whose keys are held: where another plan reads a KV head too, each has a copy."""
        group = self.geometry.heads // self.geometry.kv_heads
        heads = torch.tensor(self.heads or range(self.geometry.heads))
        shared = (heads // group).unique()
        whole = len(shared) * group == len(heads) and bool((heads.diff() == 1).all())
        return shared if whole else heads // group

    @cached_property
    def shape(self) -> Geometry:
        """Of a model that has these heads alone."""
        if self.heads is None:
            return self.geometry
        return replace(self.geometry, heads=len(self.heads), kv_heads=len(self.kv_heads))

    def of_queries(self, x: Tensor) -> Tensor:
        """Its heads of queries, or of sinks `[h]`."""
        if self.heads is None:
            return x
        return x.index_select(1 if x.ndim > 1 else 0, torch.tensor(self.heads, device=x.device))

    def of_keys(self, x: Tensor) -> Tensor:
        """The heads of keys or values that it reads."""
        return x if self.heads is None else x.index_select(1, self.kv_heads.to(x.device))

    @property
    def words(self) -> str:
        """Which heads, for people; nothing where it is all."""
        if self.heads is None:
            return ""
        low, high = min(self.heads), max(self.heads)
        run = len(self.heads) > 1 and high - low == len(self.heads) - 1
        return f"heads {f'{low}-{high}' if run else ', '.join(map(str, self.heads))}: "

    def keys_read(self, length: int) -> int:
        """Keys that the last query of a text of `length` tokens reads."""
        if any(region.paged for region in self.regions):
            return self.axes.selector.keys_read(length)
        heads = self.shape.heads if self.axes.layout.by_head else 1
        return min(_seen_by_the_last(self.exact, length, heads), self.axes.store.kept(length))

    def keys_turned(self, length: int) -> int:
        """Keys that the last of `length` tokens reads elsewhere than where the cache holds them."""
        if self.base is None:
            return 0
        moved = [region for region in self.regions if region.k_place != self.stored]
        exact = _seen_by_the_last([region for region in moved if not region.paged], length)
        exact = min(exact, self.axes.store.kept(length))
        if not any(region.paged for region in moved):
            return exact
        return min(length, exact + self.axes.selector.keys_read(length))

    def allocated(self, ends: Sequence[int], item: int | None = None) -> int:
        """Bytes that the cache allocates for one row of these heads: keys, values, positions, and
        what stores and selectors note of them.

        Args:
            ends: Tokens read after each forward, rising.
            item: Bytes of a number; None for those of the model.
        """
        shape = self.shape if item is None else replace(self.shape, dtype_bytes=item)
        noted = self.axes.selector.noted_bytes(ends, shape)
        return self.axes.store.allocated(ends, shape, self.layer) + noted


def _seen_by_the_last(regions: Sequence[Region], length: int, heads: int = 1) -> int:
    """The most keys that one of the heads sees."""
    positions, zero = torch.arange(length), torch.zeros((), dtype=torch.long)
    each = torch.arange(heads)[:, None]
    seen = [r.visible(zero, each, positions[-1], positions).sum(-1) for r in regions]
    return int(torch.stack([one.expand(heads) for one in seen]).sum(0).max()) if seen else 0


def plans(geometry: Geometry, axes: Axes, groups: Sequence[Groups] | None) -> list[list[Plan]]:
    """One for each layer and group of heads.

    Args:
        groups: For every layer, heads and their layout; None for one layout everywhere.
    """
    found: list[list[Plan]] = []
    local: dict[int, Axes] = {}  # by their window
    for layer, own in enumerate(geometry.layers):
        if geometry.local(layer) and own.window is not None:
            layout = Causal() if own.chunk is None else InChunks(own.chunk)
            here = Axes(OwnScaling(), layout, AllPages(), StreamingLLM(0, own.window))
            found.append([Plan(layer, None, geometry, local.setdefault(own.window, here))])
        elif groups is None:
            found.append([Plan(layer, None, geometry, axes)])
        else:
            mine = groups[layer]
            assert sorted(h for heads, _ in mine for h in heads) == list(range(geometry.heads))
            named = [(None if len(mine) == 1 else tuple(heads), layout) for heads, layout in mine]
            found.append([Plan(layer, h, geometry, _keeping(axes, x)) for h, x in named])
    return found


def _keeping(axes: Axes, layout: Layout) -> Axes:
    """The axes with a layout; where it never reads far keys and all would be kept, in a ring."""
    mine = replace(axes, layout=layout)
    regions = layout.regions()
    near = [region.reach for region in regions if region.reach is not None]
    first = [region.last for region in regions if region.reach is None]
    if axes.store != FullStore() or axes.selector != AllPages() or not near or None in first:
        return mine
    sinks = max((last for last in first if last is not None), default=0)
    return replace(mine, store=StreamingLLM(sinks, max(near)))
