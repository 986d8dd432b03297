"""One layer's attention, composed of a scaling, a layout, a selector and a store."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from lengthwise.core.attention import attend_blocks
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.geometry import Geometry
from lengthwise.core.keys import KeyBlock, Queries, called
from lengthwise.core.partial import Partial, merge, refuse_gradients, with_sink
from lengthwise.core.regions import OWN, Place, Region
from lengthwise.core.rotary import Rotary
from lengthwise.extend.layouts.causal import Causal
from lengthwise.extend.method import (
    Layout,
    Scaling,
    Selector,
    Store,
)
from lengthwise.extend.read import Tokens
from lengthwise.extend.scaling.own import OwnScaling
from lengthwise.extend.selectors.all_pages import AllPages
from lengthwise.extend.state import LayerState, Reading
from lengthwise.extend.stores.evicting import EvictingState, Piece, cuts
from lengthwise.extend.stores.streaming_llm import StreamingLLM
from lengthwise.hf.documents import document_lengths
from lengthwise.hf.positions import Step


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
                q = (at_least_float32(q) * factor[..., None]).to(q.dtype)
        return q


NO_PAGE_GRADIENT = (
    "has no gradient for the keys of its pages; train without it, or on texts within its window"
)
NO_CHOICE_GRADIENT = (
    "drops keys while a text is read, so gradients would lack what flows through them; train "
    "without it"
)
FORGOT = (
    "the cache holds the keys of an earlier forward without their history, so gradients would lack "
    "what flows through them; read that text under torch.no_grad(), or all of it at once"
)


class Engine:
    """Attention of an adapted model: `attend` for every layer of every forward.

    Attributes:
        for_training: Whether its layout is one to train with, as those of `fit_pattern`.
    """

    for_training: ClassVar[bool] = False

    def __init__(self, geometry: Geometry, axes: Axes) -> None:
        self.geometry, self.axes = geometry, axes
        self._rotaries: dict[Any, Rotary] = {}  # those that stay

    def __getstate__(self) -> dict[str, Any]:
        """A copy, deep or pickled, works out anew what regions and rotations are made of."""
        worked_out = ("layers", "regions", "_alike", "_pages", "told")
        kept = {name: value for name, value in self.__dict__.items() if name not in worked_out}
        return {**kept, "_rotaries": {}}

    @cached_property
    def layers(self) -> list[Axes]:
        """The axes of every layer; local layers of a mixed model keep the model's own."""
        return [self._local_axes(i) or self.axes for i in range(len(self.geometry.layers))]

    def _local_axes(self, layer: int) -> Axes | None:
        window = self.geometry.layers[layer].window
        if not self.geometry.local(layer) or window is None:
            return None
        return Axes(OwnScaling(), Causal(), AllPages(), StreamingLLM(sinks=0, window=window))

    @cached_property
    def regions(self) -> list[list[Region]]:
        """The regions of every layer, cut by the model's window, the store and the selector."""
        all_regions = []
        for layer, axes in zip(self.geometry.layers, self.layers, strict=True):
            regions = [region.within(far=layer.window) for region in axes.layout.regions()]
            regions = axes.selector.restrict(axes.store.restrict(regions))
            all_regions.append([region for region in regions if not region.empty])
        return all_regions

    @cached_property
    def _alike(self) -> list[int]:
        """For every layer, the first one that turns its keys in the same way."""
        first: dict[tuple[int, bool], int] = {}
        kinds = [
            (id(layer.rotary), axes is self.axes)
            for layer, axes in zip(self.geometry.layers, self.layers, strict=True)
        ]
        return [first.setdefault(kind, layer) for layer, kind in enumerate(kinds)]

    @cached_property
    def _pages(self) -> list[bool]:
        """Whether a selector looks up pages, for every layer."""
        return [axes.selector.state() is not None for axes in self.layers]

    def parts(self, layer: int) -> "list[tuple[str, int, Engine]]":
        """What computes a layer: for some of its query heads in words, their number and engine."""
        return [("", self.geometry.heads, self)]

    def without_cache(self, layer: int, *, altered: bool) -> str:
        """What computes a layer where no cache is wanted, in words; empty if it is the same.

        Args:
            altered: Whether scores are capped, or there is a learned sink.
        """
        return ""

    def to_save(self) -> Axes:
        """The axes that a checkpoint can name.

        Raises:
            ValueError: If there is more to it than these.
        """
        return self.axes

    @cached_property
    def ordered(self) -> list[bool]:
        """Whether tokens of a layer can stand elsewhere than their positions say: see `Order`.

        Where keys are stored at their own positions, both are free. Elsewhere positions say it, as
        they do to a store that counts tokens.
        """
        layers = zip(self.geometry.layers, self.layers, self._pages, strict=True)
        return [
            axes.layout == Causal()
            and (layer.rotary is None or axes.scaling.storable(layer.rotary))
            and not pages
            and not axes.store.every
            for layer, axes, pages in layers
        ]

    def new_state(self, layer: int) -> LayerState:
        """An empty memory for one layer."""
        axes = self.layers[layer]
        store = axes.store.state(layer, len(self.geometry.layers))
        return LayerState(store, axes.selector.state())

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        step: Step,
        state: LayerState | None,
        *,
        scale: float,
        softcap: float | None,
        learned_sink: Tensor | None,
        impl: str = "auto",
    ) -> Tensor:
        """Attention output `[b, heads, t, d]` from un-rotated queries, keys and values.

        Args:
            state: The layer's memory; None for a forward without a cache.
        """
        axes = self.layers[layer]
        if axes.store.every:
            state, step = self._to_choose(layer, step, state)
        rotary, stored = self._rotary(layer, step)
        order = step.order if self.ordered[layer] else None
        if order is not None and rotary is not None:
            q, k = (rotary.rotate(x, order.angles[:, None]) for x in (q, k))
            rotary = None
        if rotary is not None and stored is not None:
            name = (stored, called(step.positions, step.start))
            k = rotary.rotate(k, lambda: stored(step.positions)[:, None], name)
        q = axes.sharpened(q, layer, self.geometry.window, step.positions)
        if order is None:
            new = KeyBlock(k, v, step.positions[:, None], step.segments, step.start)
            queries = Queries(q, step.positions, step.segments, step.start)
        else:
            new, queries = KeyBlock(k, v, order.keys[:, None]), Queries(q, order.queries)
        for axis, chooses in ((axes.selector, self._pages[layer]), (axes.store, axes.store.every)):
            if chooses and step.segments is not None:
                raise ValueError(f"{type(axis).__name__} cannot read packed documents yet")
        if state is None and self._pages[layer]:
            state = self.new_state(layer)  # pages are looked up in a store
        kw = {"stored": stored, "scale": scale, "softcap": softcap}
        reading = Reading(layer, step, rotary, state, learned_sink, {**kw, "impl": impl})
        if not axes.store.every:
            return self._read(reading, queries, new).out
        assert state is not None and isinstance(state.store, EvictingState)
        why = f"{type(axes.store).__name__} {NO_CHOICE_GRADIENT}"
        mass, told = ("mass" in axes.store.needs), layer in self.told
        pieces = cuts(step.positions, state.store.seen, axes.store.every)
        outs = []
        for low, high, due in [(0, len(new), None)] if told else pieces:
            piece = queries.times(low, high)
            part = self._read(reading, piece, new.slots(low, high), need_lse=mass)
            read = reading.of(piece, self.regions[layer])
            read = replace(read, due=due, lse=part.lse if mass else None)
            if told:
                state.waits = read
            else:
                state.store.after(read)
            outs.append(refuse_gradients(part, (q, k, v), why).out)
        return torch.cat(outs, dim=2)

    def _to_choose(
        self, layer: int, step: Step, state: LayerState | None
    ) -> tuple[LayerState, Step]:
        """The memory that a layer needs to choose what it keeps, and the positions in it."""
        store = self.layers[layer].store
        state = self.new_state(layer) if state is None else state
        assert isinstance(state.store, EvictingState)
        if layer in self.told and (state.waits or step.positions.shape[1] > store.every):
            raise ValueError(
                f"{type(store).__name__} needs logits, and whoever runs the layers of this model "
                "one by one has none to tell; call the model itself, or leave that store out"
            )
        if not store.in_cache:
            return state, step
        key = (id(self), "in the cache")  # all its layers keep the same tokens
        if key not in step.memo:
            step.memo[key] = state.store.inside(step)
        return state, step.memo[key]

    @cached_property
    def told(self) -> list[int]:
        """Layers whose store needs logits: see `pieces` and `tell`."""
        return [i for i, axes in enumerate(self.layers) if "logits" in axes.store.needs]

    def pieces(self, step: Step, before: Tensor | None) -> list[Piece]:
        """Where a forward is to be cut if there are layers to be told; see `cuts`.

        Args:
            before: Lengths of the rows before it, `[b]`; None for an empty cache.
        """
        return cuts(step.positions, before, self.axes.store.every)

    def tell(
        self, states: Sequence[LayerState], ids: Tensor, surprise: Tensor, due: Tensor
    ) -> None:
        """What a piece was, once all layers have read it: see `Tokens`.

        Args:
            states: The memory of every layer.
            due: Rows `[b]` whose stores are to drop keys now.
        """
        for layer in self.told:
            states[layer].told(Tokens(ids, surprise), due)

    def _read(
        self, reading: "Reading", queries: Queries, new: KeyBlock, *, need_lse: bool = False
    ) -> Partial:
        """Attention of some of the new tokens over what the layer holds and themselves."""
        layer, state, learned_sink = reading.layer, reading.state, reading.learned_sink
        forgot = state is not None and state.forgot
        blocks = [new] if state is None else state.take(new)
        exact = [region for region in self.regions[layer] if not region.paged]
        pages = None if state is None else state.selector
        need_lse = need_lse or pages is not None or learned_sink is not None
        kw = {**reading.kw, "need_lse": need_lse}
        outs = []
        for turned, mine in self._of_one_length(layer, reading.step, reading.rotary, queries):
            parts = [attend_blocks(mine, blocks, exact, rotary=turned, **kw)]
            if pages is not None:
                why = f"{type(self.layers[layer].selector).__name__} {NO_PAGE_GRADIENT}"
                of_one = replace(reading, rotary=turned)
                found = pages.attend(of_one.of(mine, self.regions[layer]))
                parts += [refuse_gradients(part, (new.keys, new.values), why) for part in found]
            whole = with_sink(merge(parts), learned_sink)
            live = (queries.vectors, new.keys, new.values)
            outs.append(refuse_gradients(whole, live, FORGOT) if forgot else whole)
        if len(outs) == 1:
            return outs[0]
        return Partial(torch.stack([part.out for part in outs]).sum(0), outs[0].lse)

    def _of_one_length(
        self, layer: int, step: Step, rotary: Rotary | None, queries: Queries
    ) -> list[tuple[Rotary | None, Queries]]:
        """Rotations, each with the queries that it is for; the others of them see nothing.

        There is one, but where frequencies follow the length and documents of several lengths are
        packed: every document is rotated as it is alone.
        """
        base, scaling = self.geometry.layers[layer].rotary, self.layers[layer].scaling
        if step.segments is None or base is None or scaling.storable(base):
            return [(rotary, queries)]
        key = (id(self), self._alike[layer], "documents")
        if key not in step.memo:
            found: list[tuple[Rotary, Tensor]] = []
            lengths = document_lengths(step)
            for length in lengths[step.positions >= 0].unique()[:, None]:
                one, asked = self._turned(layer, length), lengths == length
                for index, (other, also) in enumerate(found):
                    if one.same(other):
                        found[index] = (other, also | asked)
                        break
                else:
                    found.append((one, asked))
            step.memo[key] = found
        found = step.memo[key]
        if len(found) < 2:
            return [(found[0][0] if found else rotary, queries)]
        shown = queries.positions
        return [
            (one, replace(queries, positions=shown.masked_fill(~asked, -1))) for one, asked in found
        ]

    def moved(self, layer: int, block: KeyBlock, by: int) -> KeyBlock:
        """Stored keys of one layer, at least one, as they would stand `by` tokens later."""
        positions = block.positions + by
        step = Step(positions[:, 0], None, None, positions.amax((1, 2)) + 1)
        rotary, stored = self._rotary(layer, step)
        keys = block.keys
        if by and rotary is not None and stored is not None:
            keys = rotary.shift(keys, stored(positions) - stored(block.positions))
        return KeyBlock(keys, block.values, positions)

    def _rotary(self, layer: int, step: Step) -> tuple[Rotary | None, Place | None]:
        """A layer's rotation, and where it stores keys (None: un-rotated)."""
        base = self.geometry.layers[layer].rotary
        axes = self.layers[layer]
        if base is None:
            return None, OWN
        stays = axes.scaling.storable(base)
        key = (id(self), self._alike[layer], step.positions.device)
        turned = step.memo.get(key)
        if turned is None:
            # Frequencies that move with the text are asked once a step.
            turned = self._rotaries.get(key) if stays else self._turned(layer, step.reach)
            if turned is None:
                turned = self._rotaries[key] = self._turned(layer, step.reach)
            turned = step.memo[key] = turned.remembering()
        return turned, self.stored_at(layer)

    def stored_at(self, layer: int) -> Place | None:
        """Where a layer's keys are rotated to when they are stored; None for nowhere."""
        base, axes = self.geometry.layers[layer].rotary, self.layers[layer]
        if base is None:
            return OWN
        stays = axes.scaling.storable(base) and not axes.store.in_cache
        return axes.layout.key_place if stays else None

    def _turned(self, layer: int, lengths: Tensor) -> Rotary:
        """A layer's rotation for texts of `lengths` tokens `[b]`, or of one length for all rows."""
        base, scaling = self.geometry.layers[layer].rotary, self.layers[layer].scaling
        assert base is not None
        rotary = scaling.rotary(base, self.geometry.window, lengths)
        # Up to the length that the model is for, angles are those that transformers computes.
        return replace(
            rotary,
            inv_freq=rotary.inv_freq.to(lengths.device),
            rounded_below=scaling.reach(self.geometry.window),
        )

    def keys_read(self, layer: int, length: int) -> int:
        """Keys that the last query of a text of `length` tokens reads in one layer."""
        positions = torch.arange(length)[None]
        last = positions[:, -1:]
        exact = 0
        for region in self.regions[layer]:
            if not region.paged:
                zero = torch.zeros((), dtype=torch.long)
                exact += int(region.visible(zero, zero, last[:, :, None], positions[:, None]).sum())
        paged = any(region.paged for region in self.regions[layer])
        axes = self.layers[layer]
        return axes.selector.keys_read(length) if paged else min(exact, axes.store.kept(length))
