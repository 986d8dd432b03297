"""Fit a pattern to a decoder: a layout for each layer and head, and a fused way to train groups."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import PreTrainedModel

from lengthwise.core.geometry import Geometry
from lengthwise.core.keys import KeyBlock
from lengthwise.core.regions import Region
from lengthwise.extend.adapt import adapt, binding_of
from lengthwise.extend.engine import Axes, Engine
from lengthwise.extend.layouts import Causal
from lengthwise.extend.method import Layout, Method
from lengthwise.extend.read import Tokens
from lengthwise.extend.state import LayerState
from lengthwise.extend.stores import FullStore
from lengthwise.hf.positions import Step
from lengthwise.train.patterns.blocks import Groups
from lengthwise.train.patterns.pattern import Parts, Pattern


def fit_pattern(
    model: PreTrainedModel, pattern: Pattern | Layout, *methods: Method
) -> PreTrainedModel:
    """`lengthwise.adapt` with a pattern in the place of the layout, in place; `restore` undoes it.

    Args:
        model: As for `adapt`, with rotary positions.
        pattern: One layout for all layers and heads, or a `Pattern`.
        methods: For the other axes.

    Raises:
        ValueError: As `adapt`; and if a method is a layout too, or the pattern does not fit the
            model's layers or heads.
    """
    if not isinstance(pattern, Pattern | Layout):
        raise ValueError(f"a pattern is a Layout or a Pattern, got {pattern!r}")
    others = [type(method).__name__ for method in methods if isinstance(method, Layout)]
    if others:
        raise ValueError(
            f"{others[0]} and {type(pattern).__name__} both say which keys are seen; choose one"
        )
    adapt(model, *methods, *([pattern] if isinstance(pattern, Layout) else []))
    binding = binding_of(model)
    engine = binding.engine
    geometry: Geometry = engine.geometry
    count = len(geometry.layers)
    try:
        if isinstance(pattern, Pattern):
            layers = pattern.parts(count, geometry.heads)
        else:
            layers = [[(tuple(range(geometry.heads)), pattern)]] * count
    except ValueError:
        binding.undo(model)
        raise
    axes = engine.axes
    if isinstance(pattern, Pattern):
        axes = replace(axes, layout=Several(repr(pattern), tuple(_layouts(layers))))
    binding.engine = PatternEngine(geometry, axes, layers)
    return model


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
        raise NotImplementedError("layers and heads have layouts of their own: ask each")


def _layouts(layers: Sequence[Parts]) -> list[Layout]:
    """The layouts of some layers, each once."""
    return list(dict.fromkeys(layout for parts in layers for _, layout in parts))


class PatternEngine(Engine):
    """Attention of a model whose layers and heads have layouts of their own.

    Args:
        parts: For every layer, heads and their layout; every head once. A layer with a window of
            the model's own beside layers without one keeps it, whatever its part says.
    """

    for_training = True

    def __init__(self, geometry: Geometry, axes: Axes, parts: Sequence[Parts]) -> None:
        super().__init__(geometry, axes)
        engines: dict[Layout, Engine] = {}
        self._parts: list[list[_Part]] = []
        for layer in parts:
            assert sorted(h for heads, _ in layer for h in heads) == list(range(geometry.heads))
            self._parts.append([])
            for heads, layout in layer:
                if layout not in engines:
                    engines[layout] = Engine(geometry, replace(axes, layout=layout))
                self._parts[-1].append(_Part(heads, geometry, engines[layout]))

    def parts(self, layer: int) -> list[tuple[str, int, Engine]]:
        parts = self._parts[layer]
        words = [part.words + " " if len(parts) > 1 else "" for part in parts]
        return [(w, len(part.heads), part.engine) for w, part in zip(words, parts, strict=True)]

    def without_cache(self, layer: int, *, altered: bool) -> str:
        if altered or not all(takes_fused(part.engine, layer) for part in self._parts[layer]):
            return ""
        return "torch's fused kernel, group by group"

    def to_save(self) -> Axes:
        """As `Engine.to_save`: one layout for all layers and heads, or nothing."""
        if any(
            part.engine.axes.layout != self.axes.layout for layer in self._parts for part in layer
        ):
            raise ValueError(
                "a pattern gives layers and heads layouts of their own, which no checkpoint can "
                "name; call lengthwise.restore(model), save the plain model, and fit the pattern "
                "again when it is loaded"
            )
        return self.axes

    @cached_property
    def ordered(self) -> list[bool]:
        numbered = enumerate(self._parts)
        return [all(part.engine.ordered[i] for part in parts) for i, parts in numbered]

    def new_state(self, layer: int) -> LayerState:
        states = [part.engine.new_state(layer) for part in self._parts[layer]]
        return states[0] if len(states) == 1 else _States(states)

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
        parts = self._parts[layer]
        outs = []
        for number, part in enumerate(parts):
            own = state.parts[number] if isinstance(state, _States) else state
            sink = None if learned_sink is None else learned_sink[part.heads]
            mine = (part.of_queries(q), part.of_keys(k), part.of_keys(v))
            if impl == "auto" and own is None and softcap is None and sink is None:
                out = fused(part.engine, layer, *mine, step, scale)
                if out is not None:
                    outs.append(out)
                    continue
            kw = {"scale": scale, "softcap": softcap, "learned_sink": sink, "impl": impl}
            outs.append(part.engine.attend(layer, *mine, step, own, **kw))  # type: ignore[arg-type]
        if len(outs) == 1:
            return outs[0]
        order = torch.cat([part.heads for part in parts]).argsort()
        return torch.cat(outs, dim=1)[:, order.to(q.device)]

    @cached_property
    def layers(self) -> list[Axes]:
        """As `Engine.layers`, with the layout of every layer, or of all its heads."""
        return [self._axes_of(layer) for layer in range(len(self._parts))]

    def _axes_of(self, layer: int) -> Axes:
        parts = self._parts[layer]
        axes = parts[0].engine.layers[layer]
        if len(parts) == 1 or self._local_axes(layer) is not None:
            return axes
        words = ", ".join(f"{part.words} {part.engine.axes.layout}" for part in parts)
        layouts = dict.fromkeys(part.engine.axes.layout for part in parts)
        return replace(axes, layout=Several(words, tuple(layouts)))

    @cached_property
    def regions(self) -> list[list[Region]]:
        """As `Engine.regions`: what any head of a layer sees."""
        return [
            list(dict.fromkeys(r for part in parts for r in part.engine.regions[layer]))
            for layer, parts in enumerate(self._parts)
        ]

    def moved(self, layer: int, block: KeyBlock, by: int) -> KeyBlock:
        """As `Engine.moved`, for a layer with one layout."""
        (part,) = self._parts[layer]
        return part.engine.moved(layer, block, by)

    def keys_read(self, layer: int, length: int) -> int:
        """The most that any head reads."""
        return max(part.engine.keys_read(layer, length) for part in self._parts[layer])


class _Part:
    """Some query heads of a layer, and the engine of their layout."""

    def __init__(self, heads: Sequence[int], geometry: Geometry, engine: Engine) -> None:
        self.engine = engine
        self.heads = torch.tensor(list(heads))
        consecutive = len(heads) > 1 and max(heads) - min(heads) == len(heads) - 1
        listed = f"{min(heads)}-{max(heads)}" if consecutive else ", ".join(map(str, heads))
        self.words = f"heads {listed}:"
        self._all = len(heads) == geometry.heads
        group = geometry.heads // geometry.kv_heads
        kv = self.heads // group
        self._keys = kv.unique()
        # Where KV heads are shared with another part, each of our heads gets a copy of its own.
        whole = len(self._keys) * group == len(heads)
        whole = whole and bool((self.heads.diff() == 1).all())
        self._keys = self._keys if whole else kv

    def of_queries(self, q: Tensor) -> Tensor:
        return q if self._all else q[:, self.heads.to(q.device)]

    def of_keys(self, x: Tensor) -> Tensor:
        return x if self._all else x[:, self._keys.to(x.device)]


class _States(LayerState):
    """What the parts of one layer remember."""

    def __init__(self, parts: list[LayerState]) -> None:
        self.parts = parts

    def select_rows(self, index: Tensor) -> None:
        for part in self.parts:
            part.select_rows(index)

    def told(self, tokens: Tokens, due: Tensor) -> None:
        for part in self.parts:
            part.told(tokens, due)

    @property
    def croppable(self) -> bool:
        return all(part.croppable for part in self.parts)

    def crop(self, tokens: int) -> None:
        for part in self.parts:
            part.crop(tokens)

    @property
    def held(self) -> int:
        return self.parts[0].held

    def hide(self, hidden: Tensor) -> None:
        for part in self.parts:
            part.hide(hidden)

    def bytes(self) -> int:
        return sum(part.bytes() for part in self.parts)


def takes_fused(engine: Engine, layer: int) -> bool:
    """Whether `fused` computes a layer, given consecutive positions."""
    axes = engine.layers[layer]
    own = axes is not engine.axes or bool(engine.geometry.layers[layer].window)
    kept = axes.store == FullStore() and not engine._pages[layer]
    return not own and kept and isinstance(axes.layout, Groups | Causal)


def fused(
    engine: Engine, layer: int, q: Tensor, k: Tensor, v: Tensor, step: Step, scale: float
) -> Tensor | None:
    """Groups of consecutive tokens through torch's fused kernel; None where that is not possible.

    It has a backward, and no mask to read: whole groups are rows of a batch. Plain causal layers
    are one group. Not for documents, padding, windows of the model's own, or selectors.
    """
    axes = engine.layers[layer]
    layout, start = axes.layout, step.start
    if start is None or step.segments is not None or q.shape[-1] != v.shape[-1]:
        return None
    if not takes_fused(engine, layer):
        return None
    assert isinstance(layout, Groups | Causal)
    rotary, _ = engine._rotary(layer, step)
    if rotary is not None:
        places = step.positions[:, None]
        q, k = rotary.rotate(q, places), rotary.rotate(k, places)
    q = axes.sharpened(q, layer, engine.geometry.window, step.positions)
    shared = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(shared, dim=1) for x in (k, v))
    t = q.shape[2]
    if isinstance(layout, Causal):
        return _causal(q, k, v, scale)
    size = layout.group
    # Groups of `size` from `first` to `last`; the tokens before and after are groups of their own.
    first = min((layout.shift - start) % size, t)
    last = first + (t - first) // size * size
    outs = [_causal(q[:, :, :first], k[:, :, :first], v[:, :, :first], scale)] if first else []
    if last > first:
        b, h, _, d = q.shape
        rows = [
            x[:, :, first:last].unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1)
            for x in (q, k, v)
        ]
        out = _causal(rows[0], rows[1], rows[2], scale)
        outs.append(out.unflatten(0, (b, -1)).transpose(1, 2).reshape(b, h, last - first, d))
    if last < t:
        outs.append(_causal(q[:, :, last:], k[:, :, last:], v[:, :, last:], scale))
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2)


def _causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    return scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
