"""Attention of an adapted model, layer by layer, as its plans say."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lengthwise.core.attention import attend_blocks
from lengthwise.core.geometry import Geometry
from lengthwise.core.keys import KeyBlock, Queries, called
from lengthwise.core.partial import Partial, merge, refuse_gradients, with_sink
from lengthwise.core.regions import Region
from lengthwise.core.rotary import Rotary
from lengthwise.extend.plan import Axes, Groups, Plan, Several, plans, times
from lengthwise.extend.quick import AHEAD, Quick, quick
from lengthwise.extend.quick_pages import QuickPages
from lengthwise.extend.read import Tokens
from lengthwise.extend.state import LayerState, Reading, SeveralStates
from lengthwise.extend.stores.evicting import EvictingState, Piece, cuts
from lengthwise.hf.documents import document_lengths
from lengthwise.hf.engine import Memory
from lengthwise.hf.positions import Step

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


REMEMBERED = 256  # short ways of one token: a kind of layer has one for each run of positions


class Engine:
    """Attention of an adapted model: `attend` for every layer of every forward.

    Args:
        groups: For every layer, heads and their layout; None for that of `axes` everywhere. A layer
            with a window of the model's own beside layers without one keeps it all the same.

    Attributes:
        for_training: Whether its layouts are some to train with, as those of `fit_pattern`.
    """

    def __init__(
        self, geometry: Geometry, axes: Axes, groups: Sequence[Groups] | None = None
    ) -> None:
        self.geometry, self.axes, self._groups = geometry, axes, groups
        self.for_training = groups is not None
        self._rotaries: dict[Any, Rotary] = {}  # those that stay
        self._quicks: dict[Any, Quick | QuickPages | None] = {}

    def __getstate__(self) -> dict[str, Any]:
        """A copy, deep or pickled, works out anew what plans and rotations are made of."""
        worked_out = ("plans", "layers", "regions", "ordered", "told")
        kept = {name: value for name, value in self.__dict__.items() if name not in worked_out}
        return {**kept, "_rotaries": {}, "_quicks": {}}

    @cached_property
    def plans(self) -> list[list[Plan]]:
        """How every layer is computed: all of its heads together, or one plan for some each."""
        return plans(self.geometry, self.axes, self._groups)

    @cached_property
    def layers(self) -> list[Axes]:
        """The axes of every layer; where heads have layouts of their own, those are `Several`."""
        return [_together(mine) for mine in self.plans]

    @cached_property
    def regions(self) -> list[list[Region]]:
        """What any head of a layer sees, for every layer."""
        return [
            list(dict.fromkeys(x for plan in mine for x in plan.regions)) for mine in self.plans
        ]

    @cached_property
    def ordered(self) -> list[bool]:
        """Whether tokens of a layer can stand elsewhere than their positions say: see `Order`."""
        return [all(plan.ordered for plan in mine) for mine in self.plans]

    def keys_read(self, layer: int, length: int) -> int:
        """The most keys that a head of the last query of `length` tokens reads in one layer."""
        return max(plan.keys_read(length) for plan in self.plans[layer])

    def keys_turned(self, layer: int, length: int) -> int:
        """The most keys that one reads elsewhere than where the cache holds them."""
        return max(plan.keys_turned(length) for plan in self.plans[layer])

    def to_save(self) -> Axes:
        """The axes that a checkpoint can name: one layout for all layers and heads.

        Raises:
            ValueError: If there is more to it than these.
        """
        layouts = (layout for groups in self._groups or () for _, layout in groups)
        if any(layout != self.axes.layout for layout in layouts):
            raise ValueError(
                "a pattern gives layers and heads layouts of their own, which no checkpoint can "
                "name; call lengthwise.restore(model), save the plain model, and fit the pattern "
                "again when it is loaded"
            )
        return self.axes

    def new_state(self, layer: int) -> LayerState | SeveralStates:
        """An empty memory for one layer."""
        states = [self._new_state(plan) for plan in self.plans[layer]]
        return states[0] if len(states) == 1 else SeveralStates(states)

    def _new_state(self, plan: Plan) -> LayerState:
        store = plan.axes.store.state(plan.layer, len(self.geometry.layers))
        return LayerState(store, plan.axes.selector.state())

    def attend(
        self,
        layer: int,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        step: Step,
        state: Memory | None,
        *,
        scale: float,
        softcap: float | None,
        learned_sink: Tensor | None,
        impl: str = "auto",
    ) -> Tensor:
        """Attention output `[b, heads, t, d]` from un-rotated queries, keys and values.

        Args:
            state: The layer's memory, from `new_state`; None for a forward without a cache.
        """
        mine = self.plans[layer]
        changed = softcap is not None or learned_sink is not None or impl != "auto"
        if q.shape[2] == 1 and len(mine) == 1 and isinstance(state, LayerState) and not changed:
            short = self._quick(mine[0], step)
            if short is not None and step.start is not None:
                out = short.attend(step.start, q, k, v, state, scale)
                if out is not None:
                    return out
        kw: dict[str, Any] = {"scale": scale, "softcap": softcap, "impl": impl}
        if len(mine) == 1:
            assert state is None or isinstance(state, LayerState)
            return self._attend(mine[0], q, k, v, step, state, learned_sink, kw)
        states = state.parts if isinstance(state, SeveralStates) else [None] * len(mine)
        outs = []
        for plan, own in zip(mine, states, strict=True):
            sink = None if learned_sink is None else plan.of_queries(learned_sink)
            parts = plan.of_queries(q), plan.of_keys(k), plan.of_keys(v)
            outs.append(self._attend(plan, *parts, step, own, sink, kw))
        order = torch.tensor([head for plan in mine for head in plan.heads or ()]).argsort()
        return torch.cat(outs, dim=1)[:, order.to(q.device)]

    def _quick(self, plan: Plan, step: Step) -> Quick | QuickPages | None:
        """The short way of one token through a plan's layer, where there is one."""
        start = step.start
        if start is None or step.order is not None or step.segments is not None:
            return None
        key = (plan.kind, start // AHEAD)
        known = self._quicks  # another thread may put a new one in its place meanwhile
        if key not in known:
            if len(known) >= REMEMBERED:
                known = self._quicks = {}
            first = start // AHEAD * AHEAD
            rotary = self._rotary(plan, step) if plan.stays else None
            known[key] = quick(plan, rotary, first) if plan.stays else None
        return known[key]

    def _attend(
        self,
        plan: Plan,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        step: Step,
        state: LayerState | None,
        learned_sink: Tensor | None,
        kw: dict[str, Any],
    ) -> Tensor:
        axes, stored = plan.axes, plan.stored
        if axes.store.every:
            state, step = self._to_choose(plan, step, state)
        rotary = self._rotary(plan, step)
        order = step.order if plan.ordered else None
        if order is not None and rotary is not None:
            q, k = (rotary.rotate(x, order.angles[:, None]) for x in (q, k))
            rotary = None
        if rotary is not None and stored is not None:
            name = (stored, called(step.positions, step.start))

            def places() -> Tensor:
                return stored(step.positions)[:, None]

            k = rotary.rotate(k, places, name)
            if plan.at_once:
                q, rotary = rotary.rotate(q, places, name), None
        q = axes.sharpened(q, plan.layer, self.geometry.window, step.positions)
        own = self.geometry.layers[plan.layer].sharpness
        if own is not None:
            q = times(q, own(step.positions)[:, None])
        if order is None:
            new = KeyBlock(k, v, step.positions[:, None], step.segments, step.start)
            queries = Queries(q, step.positions, step.segments, step.start)
        else:
            new, queries = KeyBlock(k, v, order.keys[:, None]), Queries(q, order.queries)
        if plan.pages or axes.store.every:
            if step.segments is not None:
                axis = axes.selector if plan.pages else axes.store
                raise ValueError(f"{type(axis).__name__} cannot read packed documents yet")
            state = self._new_state(plan) if state is None else state  # pages are looked up in it
        reading = Reading(plan, step, rotary, state, learned_sink, {**kw, "stored": stored})
        if not axes.store.every:
            return self._read(reading, queries, new).out
        assert state is not None and isinstance(state.store, EvictingState)
        why = f"{type(axes.store).__name__} {NO_CHOICE_GRADIENT}"
        mass, told = ("mass" in axes.store.needs), plan.layer in self.told
        key = (id(self), "pieces")  # all its layers that choose have read the same tokens
        if key not in step.memo:
            every = cuts(step.positions, state.store.seen, axes.store.every)
            step.memo[key] = [(0, len(new), None)] if told else every
        outs = []
        for low, high, due in step.memo[key]:
            piece = queries.times(low, high)
            part = self._read(reading, piece, new.slots(low, high), need_lse=mass)
            read = replace(reading.of(piece, rotary), due=due, lse=part.lse if mass else None)
            if told:
                state.waits = read
            else:
                state.store.after(read)
            outs.append(refuse_gradients(part, (q, k, v), why).out)
        return torch.cat(outs, dim=2)

    def _to_choose(
        self, plan: Plan, step: Step, state: LayerState | None
    ) -> tuple[LayerState, Step]:
        """The memory that a plan needs to choose what it keeps, and the positions in it."""
        store = plan.axes.store
        state = self._new_state(plan) if state is None else state
        assert isinstance(state.store, EvictingState)
        if plan.layer in self.told and (state.waits or step.positions.shape[1] > store.every):
            raise ValueError(
                f"{type(store).__name__} needs logits, and whoever runs the layers of this model "
                "one by one has none to tell; call the model itself, or leave that store out"
            )
        if not store.in_cache:
            return state, step
        if "in the cache" not in step.memo:  # all layers keep the same tokens
            step.memo["in the cache"] = state.store.inside(step)
        return state, step.memo["in the cache"]

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

    def tell(self, states: Sequence[Memory], ids: Tensor, surprise: Tensor, due: Tensor) -> None:
        """What a piece was, once all layers have read it: see `Tokens`.

        Args:
            states: The memory of every layer.
            due: Rows `[b]` whose stores are to drop keys now.
        """
        for layer in self.told:
            state = states[layer]
            assert isinstance(state, LayerState | SeveralStates)
            state.told(Tokens(ids, surprise), due)

    def _read(
        self, reading: Reading, queries: Queries, new: KeyBlock, *, need_lse: bool = False
    ) -> Partial:
        """Attention of some of the new tokens over what the layer holds and themselves."""
        plan, state, learned_sink = reading.plan, reading.state, reading.learned_sink
        forgot = state is not None and state.forgot
        blocks = [new] if state is None else state.take(new)
        pages = None if state is None else state.selector
        need_lse = need_lse or pages is not None or learned_sink is not None
        kw = {**reading.kw, "need_lse": need_lse}
        outs = []
        for turned, mine in self._of_one_length(reading, queries):
            whole = attend_blocks(mine, blocks, plan.exact, rotary=turned, **kw)
            if pages is not None:
                why = f"{type(plan.axes.selector).__name__} {NO_PAGE_GRADIENT}"
                found = pages.attend(reading.of(mine, turned))
                live = (new.keys, new.values)
                whole = merge([whole, *(refuse_gradients(part, live, why) for part in found)])
            if learned_sink is not None:
                whole = with_sink(whole, learned_sink)
            if forgot:
                whole = refuse_gradients(whole, (queries.vectors, new.keys, new.values), FORGOT)
            outs.append(whole)
        if len(outs) == 1:
            return outs[0]
        return Partial(torch.stack([part.out for part in outs]).sum(0), outs[0].lse)

    def _of_one_length(
        self, reading: Reading, queries: Queries
    ) -> list[tuple[Rotary | None, Queries]]:
        """Rotations, each with the queries that it is for; the others of them see nothing.

        There is one, but where frequencies follow the length and documents of several lengths are
        packed: every document is rotated as it is alone.
        """
        plan, step = reading.plan, reading.step
        if step.segments is None or plan.stays:
            return [(reading.rotary, queries)]
        key = (*self._kind(plan), "documents")
        if key not in step.memo:
            found: list[tuple[Rotary, Tensor]] = []
            lengths = document_lengths(step)
            for length in lengths[step.positions >= 0].unique()[:, None]:
                one, asked = self._turned(plan, length), lengths == length
                for index, (other, also) in enumerate(found):
                    if one.same(other):
                        found[index] = (other, also | asked)
                        break
                else:
                    found.append((one, asked))
            step.memo[key] = found
        found = step.memo[key]
        if len(found) < 2:
            return [(found[0][0] if found else reading.rotary, queries)]
        shown = queries.positions
        return [
            (one, replace(queries, positions=shown.masked_fill(~asked, -1))) for one, asked in found
        ]

    def moved(self, layer: int, block: KeyBlock, by: int) -> KeyBlock:
        """Stored keys of one layer, at least one, as they would stand `by` tokens later.

        For a layer with one layout.
        """
        (plan,) = self.plans[layer]
        positions = block.positions + by
        step = Step(positions[:, 0], None, None, positions.amax((1, 2)) + 1)
        rotary, stored, keys = self._rotary(plan, step), plan.stored, block.keys
        if by and rotary is not None and stored is not None:
            keys = rotary.shift(keys, stored(positions) - stored(block.positions))
        return KeyBlock(keys, block.values, positions)

    def _kind(self, plan: Plan) -> tuple[int, bool]:
        """Plans of one kind turn their keys by the same rotation."""
        return id(plan.base), plan.axes.scaling is self.axes.scaling

    def _rotary(self, plan: Plan, step: Step) -> Rotary | None:
        """The rotation of a plan's layer for one step."""
        if plan.base is None:
            return None
        key = (*self._kind(plan), step.positions.device)
        turned = step.memo.get(key)
        if turned is None:
            # Frequencies that move with the text are asked once a step.
            turned = self._rotaries.get(key) if plan.stays else self._turned(plan, step.reach)
            if turned is None:
                turned = self._rotaries[key] = self._turned(plan, step.reach)
            turned = step.memo[key] = turned.remembering()
        return turned

    def _turned(self, plan: Plan, lengths: Tensor) -> Rotary:
        """The rotation for texts of `lengths` tokens `[b]`, or of one length for all rows."""
        scaling = plan.axes.scaling
        assert plan.base is not None
        rotary = scaling.rotary(plan.base, self.geometry.window, lengths)
        # Up to the length that the model is for, angles are those that transformers computes.
        return replace(
            rotary,
            inv_freq=rotary.inv_freq.to(lengths.device),
            rounded_below=scaling.reach(self.geometry.window),
        )


def _together(mine: Sequence[Plan]) -> Axes:
    if len(mine) == 1:
        return mine[0].axes
    words = ", ".join(f"{plan.words}{plan.axes.layout}" for plan in mine)
    layouts = dict.fromkeys(plan.axes.layout for plan in mine)
    return replace(mine[0].axes, layout=Several(words, tuple(layouts)))
