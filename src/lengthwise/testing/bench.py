"""A layer without a model: random queries, keys and values, run through an engine or by hand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from lengthwise.core.geometry import Geometry, LayerGeometry, RotaryBase
from lengthwise.core.rotary import Pairing
from lengthwise.extend.adapt import compose
from lengthwise.extend.engine import Engine
from lengthwise.extend.method import Method, Scaling
from lengthwise.extend.plan import Axes
from lengthwise.extend.read import Tokens
from lengthwise.extend.scaling.own import OwnScaling
from lengthwise.extend.state import LayerState, SeveralStates
from lengthwise.hf.positions import Step

WINDOW = 64  # trained window of the imaginary model
THETA = 100.0  # its base
LOCAL = 16  # keys that its local layers show
# Methods compute frequencies in float32, a formula in float64: so far apart they may be.
ROUNDING = 2e-6


class Angles(NamedTuple):
    """What a scaling makes of one text, written down from its paper.

    Attributes:
        inv_freq: Radians a token, for every rotated pair.
        factor: On cos and sin.
        sharpness: From a query head and a position to the factor on the scores; None for 1.
    """

    inv_freq: Sequence[float]
    factor: float = 1.0
    sharpness: Callable[[int, int], float] | None = None


# From a scaling, the rotated dimensions of a head, the base, the window and the tokens of a text.
Formula = Callable[[Scaling, int, float, int, int], Angles]


def own_angles(scaling: Scaling, dim: int, theta: float, window: int, length: int) -> Angles:
    """Those of a model without a scaling.

    Raises:
        ValueError: For a scaling, which is checked against a formula of its own.
    """
    if not isinstance(scaling, OwnScaling):
        raise ValueError(f"{type(scaling).__name__} needs a formula: see Case")
    return Angles([theta ** (-2 * n / dim) for n in range(dim // 2)])


@dataclass(frozen=True)
class Bench:
    """One attention layer of an imaginary model.

    Args:
        heads, kv_heads, head_dim: Shape; heads is a multiple of kv_heads.
        rotary_dim: Dimensions that are rotated, even.
        dtype: float64 for exactness, float32 and bfloat16 for the types that people use.
        impl: The attention implementation; see `lengthwise.core.attention`.
        softcap: Scores become softcap * tanh(score / softcap), as in Gemma 2; None leaves them.
        sinks: Whether every query head has a learned sink, as in gpt-oss.
        window: The model's own sliding window, as in Mistral; None for none.
        mixed: Whether a local layer of `LOCAL` keys stands before the layer that is run.
        formula: What scalings are checked against.
        pairing: Which numbers of a head turn together: halves, or neighbours as in GLM.
    """

    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 16
    rotary_dim: int = 16
    dtype: torch.dtype = torch.float64
    impl: str = "auto"
    softcap: float | None = None
    sinks: bool = False
    window: int | None = None
    mixed: bool = False
    formula: Formula = own_angles
    pairing: Pairing = "half"
    base: RotaryBase = field(init=False)

    def __post_init__(self) -> None:
        inv_freq = THETA ** -(torch.arange(0, self.rotary_dim, 2).float() / self.rotary_dim)
        base = RotaryBase(
            self.rotary_dim, THETA, "default", lambda length: (inv_freq, 1.0), True, self.pairing
        )
        object.__setattr__(self, "base", base)

    @property
    def learned_sink(self) -> Tensor | None:
        """A logit for each query head, below and above what most scores are; None for none."""
        return torch.linspace(-1, 3, self.heads).to(self.dtype) if self.sinks else None

    def tensors(self, rows: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Random q `[rows, heads, length, d]`, k and v `[rows, kv_heads, length, d]`."""
        g = torch.Generator().manual_seed(seed)
        shape = (rows, self.heads + 2 * self.kv_heads, length, self.head_dim)
        x = torch.randn(shape, generator=g, dtype=torch.float64).to(self.dtype)
        return x.split([self.heads, self.kv_heads, self.kv_heads], dim=1)

    def engine(self, *methods: Method) -> Engine:
        """The engine of one layer, or of two where layers are mixed."""
        size = torch.empty((), dtype=self.dtype).element_size()
        layers = [LayerGeometry(self.base, self.window)]
        layers = [*([LayerGeometry(self.base, LOCAL)] if self.mixed else []), *layers]
        shape = (self.heads, self.kv_heads, self.head_dim)
        return Engine(Geometry("bench", WINDOW, tuple(layers), *shape, size), compose(methods))

    def run(
        self,
        engine: Engine,
        tensors: tuple[Tensor, Tensor, Tensor],
        chunks: list[int] | None = None,
        padding: list[int] | None = None,
        state: LayerState | SeveralStates | None = None,
        start: int = 0,
        documents: list[int] | None = None,
        layer: int = -1,
    ) -> Tensor:
        """Attention outputs `[rows, heads, length, d]`.

        Args:
            chunks: Sizes of successive forwards over one cache; None is one forward without.
            padding: Left padding of each row, in tokens that are part of the tensors.
            state: The cache to use, so that the caller can look at it afterwards.
            start: Position of the first of the tensors, when the state holds what is before.
            documents: Tokens of each document that is packed in every row; None for no packing.
            layer: Which layer.
        """
        rows, length = tensors[0].shape[0], tensors[0].shape[2]
        layer %= len(engine.geometry.layers)
        told = layer in engine.told
        if state is None and (told or chunks is not None):
            state = engine.new_state(layer)
        outs, at = [], 0
        for size in chunks or [length]:
            step = _step(rows, start + at, start + at + size, padding, documents)
            kw = {"softcap": self.softcap, "learned_sink": self.learned_sink, "impl": self.impl}
            scale = 1 / math.sqrt(self.head_dim)
            pieces: list[tuple[int, int, Tensor | None]] = [(0, size, None)]
            if told:
                pads = torch.tensor(padding or [0] * rows)
                pieces = [*engine.pieces(step, (start + at - pads).clamp(min=0))]
            for low, high, due in pieces:
                q, k, v = (x[:, :, at + low : at + high] for x in tensors)
                piece = step.times(low, high) if told else step
                outs.append(engine.attend(layer, q, k, v, piece, state, scale=scale, **kw))  # type: ignore[arg-type]
                if due is not None and state is not None:
                    state.told(Tokens(*self.tokens(v)), due)
            at += size
        return torch.cat(outs, dim=2)

    def tokens(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """Ids `[rows, length]` of 0 and 1, and how surprising tokens are, made of their values."""
        values = v.double()[:, 0]
        return (values[..., 1] > 1).long(), values[..., 0] ** 2

    def by_hand(
        self,
        axes: Axes,
        tensors: tuple[Tensor, Tensor, Tensor],
        pages: Tensor | tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The same in one dense softmax, pair by pair, from tables and formulas.

        A second spelling on purpose: complex numbers and distances, no regions, no rotation of
        queries or keys by themselves.

        Args:
            pages: Pairs that are read, by what selectors and stores choose from the data,
                `[rows, length, length]` or `[rows, heads, length, length]`; None reads all. With a
                second tensor of that kind, which says how far away keys seem instead of the layout.
        """
        pages, distance = pages if isinstance(pages, tuple) else (pages, None)
        scores, seen = self.scores_by_hand(axes, tensors, distance)
        if pages is not None:
            seen = seen & (pages[:, None] if pages.ndim == 3 else pages)
        v = tensors[2].double().repeat_interleave(self.heads // self.kv_heads, dim=1)
        return self.softmax(scores.masked_fill(~seen, float("-inf"))) @ v

    def softmax(self, scores: Tensor, heads: Sequence[int] | None = None) -> Tensor:
        """Weights of keys from scores `[..., heads, queries, keys]`, what sinks draw left out.

        Args:
            heads: Which query heads these are; None for all.
        """
        logits = self.learned_sink
        if logits is None:
            return torch.softmax(scores, dim=-1)
        logits = (logits if heads is None else logits[list(heads)]).double()
        sink = logits[:, None, None].expand(*scores.shape[:-1], 1)
        return torch.softmax(torch.cat([sink, scores], -1), dim=-1)[..., 1:]

    def angles(self, axes: Axes, length: int) -> tuple[Tensor, float, Tensor]:
        """Frequencies `[pairs]`, the factor on cos and sin, factors on scores `[heads, length]`.

        They are the formula's. Where the method has the same numbers but for the rounding of
        float32, its last bits are taken over, so that all else can be held to float64.
        """
        wanted = self.formula(axes.scaling, self.rotary_dim, THETA, WINDOW, length)
        found = axes.scaling.rotary(self.base, WINDOW, torch.tensor([length]))
        inv_freq = _rounded_alike(
            found.inv_freq.flatten(), torch.tensor(wanted.inv_freq, dtype=torch.float64)
        )
        factor = torch.as_tensor(found.attention_factor, dtype=torch.float64).flatten()
        factor = _rounded_alike(factor, wanted.factor)
        positions = torch.arange(length)
        rule = wanted.sharpness or (lambda head, position: 1.0)
        sharp = [[rule(h, p) for p in range(length)] for h in range(self.heads)]
        mine = axes.scaling.sharpness(0, WINDOW, positions[None])
        mine = torch.ones(1, 1, length) if mine is None else mine
        return (
            inv_freq,
            float(factor[0]),
            _rounded_alike(mine[0], sharp),
        )

    def pairs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers `[..., pairs]` of heads `[..., d]` that turn together."""
        if self.pairing == "interleaved":
            return x[..., 0 : self.rotary_dim : 2], x[..., 1 : self.rotary_dim : 2]
        half = self.rotary_dim // 2
        return x[..., :half], x[..., half : 2 * half]

    def scores_by_hand(
        self,
        axes: Axes,
        tensors: tuple[Tensor, Tensor, Tensor],
        distances: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores `[rows, heads, length, length]`, and which pairs model, layout and store show.

        Args:
            distances: Of every pair of every head, of that shape; None for the layout's.
        """
        rows, _, length, _ = tensors[0].shape
        i, j = torch.arange(length)[:, None], torch.arange(length)[None]
        seen = axes.layout.reference(i, j)[0] & axes.store.reference(i, j) & (j <= i)
        if self.window is not None and not axes.store.in_cache:  # there the window counts places
            seen = seen & (i - j < self.window)
        scores = self.capped(self.products_by_hand(axes, tensors, distances))
        return scores, seen.expand(rows, 1, length, length)

    def capped(self, scores: Tensor) -> Tensor:
        """Scores under the soft cap, if there is one."""
        cap = self.softcap
        return scores if cap is None else cap * torch.tanh(scores / cap)

    def products_by_hand(
        self,
        axes: Axes,
        tensors: tuple[Tensor, Tensor, Tensor],
        distances: Tensor | None = None,
    ) -> Tensor:
        """Scores of all pairs before the soft cap, `[rows, heads, length, length]`."""
        q, k, _ = (x.double() for x in tensors)
        rows, _, length, _ = q.shape
        k = k.repeat_interleave(self.heads // self.kv_heads, dim=1)
        place = torch.arange(length)
        distance = axes.layout.reference(place[:, None], place[None])[1]
        inv_freq, factor, sharpness = self.angles(axes, length)
        by = distance if distances is None else distances
        turn = turns(by, inv_freq, axes.layout.blends and distances is None)
        qc, kc = (torch.complex(*self.pairs(x)) for x in (q, k))
        how = "bhip,bhjp,ijp->bhij" if distances is None else "bhip,bhjp,bhijp->bhij"
        scores = torch.einsum(how, qc, kc.conj(), turn).real * factor**2
        rest = (x[..., self.rotary_dim :] for x in (q, k))
        scores = scores + next(rest) @ next(rest).transpose(-1, -2)
        scores = scores * sharpness[:, :, None]
        of_layout = axes.layout.sharpness(0, WINDOW, torch.arange(length).expand(rows, -1))
        if of_layout is not None:
            scores = scores * of_layout.double()[..., None]
        return scores / math.sqrt(self.head_dim)


def turns(distance: Tensor, inv_freq: Tensor, blend: bool) -> Tensor:
    """What keys so far away are multiplied by, as complex numbers `[..., queries, keys, pairs]`.

    Args:
        distance: `[..., queries, keys]`, or three dimensions with one for each pair.
        blend: Whether a fraction mixes the two whole distances around it.
    """
    by = distance if distance.ndim == 3 else distance[..., None]

    def turned(by: Tensor) -> Tensor:
        return torch.polar(torch.ones(()).double(), by * inv_freq)

    if not blend:
        return turned(by)
    return torch.lerp(turned(by.floor()), turned(by.ceil()), by.frac() + 0j)


def _step(
    rows: int, first: int, stop: int, padding: list[int] | None, documents: list[int] | None
) -> Step:
    """Tokens number `first` to `stop` of every row."""
    if documents is not None:
        of = [number for number, size in enumerate(documents) for _ in range(size)]
        places = [place for size in documents for place in range(size)]
        segments, positions = (torch.tensor(x)[first:stop].expand(rows, -1) for x in (of, places))
        return Step(positions, segments, None, positions.amax(1) + 1)
    pads = torch.tensor(padding or [0] * rows)
    positions = (torch.arange(first, stop) - pads[:, None]).clamp(min=-1)
    return Step(positions, None, None if padding else first, (stop - pads).clamp(min=0))


def _rounded_alike(found: Tensor, numbers: object) -> Tensor:
    """`found` in float64; it must be the formula's numbers but for rounding."""
    wanted = torch.as_tensor(numbers, dtype=torch.float64)
    off = (found.double() - wanted).abs()
    worst = (off / wanted.abs().clamp(min=1e-30)).max().item()
    assert (off <= ROUNDING * wanted.abs()).all(), f"the formula has other numbers: {worst:.1e} off"
    return found.double().expand(torch.broadcast_shapes(found.shape, wanted.shape))
