"""A layer without a model: random queries, keys and values, run through an engine or by hand."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lengthwise.core.geometry import Geometry, LayerGeometry, RotaryBase
from lengthwise.extend.adapt import compose
from lengthwise.extend.engine import Axes, Engine, LayerState
from lengthwise.extend.method import Method
from lengthwise.hf.positions import Step

WINDOW = 64  # trained window of the imaginary model


@dataclass(frozen=True)
class Bench:
    """One attention layer of an imaginary model.

    Args:
        heads, kv_heads, head_dim: Shape; heads is a multiple of kv_heads.
        rotary_dim: Dimensions that are rotated, even.
        dtype: float64 for exactness, float32 for the type that people use.
        impl: The attention implementation; see `lengthwise.core.attention`.
    """

    heads: int = 6
    kv_heads: int = 2
    head_dim: int = 16
    rotary_dim: int = 16
    dtype: torch.dtype = torch.float64
    impl: str = "auto"
    base: RotaryBase = field(init=False)

    def __post_init__(self) -> None:
        inv_freq = 100.0 ** -(torch.arange(0, self.rotary_dim, 2).float() / self.rotary_dim)
        base = RotaryBase(self.rotary_dim, 100.0, "default", lambda length: (inv_freq, 1.0), True)
        object.__setattr__(self, "base", base)

    def tensors(self, rows: int, length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Random q `[rows, heads, length, d]`, k and v `[rows, kv_heads, length, d]`."""
        g = torch.Generator().manual_seed(seed)
        shape = (rows, self.heads + 2 * self.kv_heads, length, self.head_dim)
        x = torch.randn(shape, generator=g, dtype=torch.float64).to(self.dtype)
        return x.split([self.heads, self.kv_heads, self.kv_heads], dim=1)

    def engine(self, *methods: Method, window: int | None = None) -> Engine:
        """The engine of one layer; `window` is the model's own sliding window."""
        size = torch.empty((), dtype=self.dtype).element_size()
        layer = LayerGeometry(self.base, window)
        shape = (self.heads, self.kv_heads, self.head_dim)
        return Engine(Geometry("bench", WINDOW, (layer,), *shape, size), compose(methods))

    def run(
        self,
        engine: Engine,
        tensors: tuple[Tensor, Tensor, Tensor],
        chunks: list[int] | None = None,
        padding: list[int] | None = None,
        state: LayerState | None = None,
        start: int = 0,
    ) -> Tensor:
        """Attention outputs `[rows, heads, length, d]`.

        Args:
            chunks: Sizes of successive forwards over one cache; None is one forward without.
            padding: Left padding of each row, in tokens that are part of the tensors.
            state: The cache to use, so that the caller can look at it afterwards.
            start: Position of the first of the tensors, when the state holds what is before.
        """
        rows, length = tensors[0].shape[0], tensors[0].shape[2]
        pads = torch.tensor(padding or [0] * rows)
        if chunks is not None and state is None:
            state = engine.new_state(0)
        outs, at = [], 0
        for size in chunks or [length]:
            q, k, v = (x[:, :, at : at + size] for x in tensors)
            first, stop = start + at, start + at + size
            positions = (torch.arange(first, stop) - pads[:, None]).clamp(min=-1)
            begins = None if padding else first
            step = Step(positions, None, begins, (stop - pads).clamp(min=0))
            scale = 1 / math.sqrt(self.head_dim)
            kw = {"scale": scale, "softcap": None, "learned_sink": None, "impl": self.impl}
            outs.append(engine.attend(0, q, k, v, step, state, **kw))  # type: ignore[arg-type]
            at += size
        return torch.cat(outs, dim=2)

    def by_hand(
        self,
        axes: Axes,
        tensors: tuple[Tensor, Tensor, Tensor],
        pages: Tensor | tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The same in one dense softmax, pair by pair, from the methods' `reference` tables.

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
        return torch.softmax(scores.masked_fill(~seen, float("-inf")), dim=-1) @ v

    def scores_by_hand(
        self,
        axes: Axes,
        tensors: tuple[Tensor, Tensor, Tensor],
        distances: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Scores `[rows, heads, length, length]`, and which pairs layout and store show.

        Args:
            distances: Of every pair of every head, of that shape; None for the layout's.
        """
        q, k, _ = (x.double() for x in tensors)
        rows, _, length, _ = q.shape
        k = k.repeat_interleave(self.heads // self.kv_heads, dim=1)
        i, j = torch.arange(length)[:, None], torch.arange(length)[None]
        seen, distance = axes.layout.reference(i, j)
        seen = seen & axes.store.reference(i, j) & (j <= i)
        rotary = axes.scaling.rotary(self.base, WINDOW, torch.full((rows,), length))
        inv_freq = rotary.inv_freq.double().expand(rows, -1)
        half = self.rotary_dim // 2
        qc = torch.complex(q[..., :half], q[..., half : 2 * half])
        kc = torch.complex(k[..., :half], k[..., half : 2 * half])

        def turned(by: Tensor) -> Tensor:
            by = by[..., None] if by.ndim == 2 else by  # the same for all pairs, or one for each
            return torch.polar(torch.ones(()).double(), by * inv_freq[:, None, None])

        turn = turned(distance)
        if axes.layout.blends:
            turn = torch.lerp(
                turned(distance.floor()), turned(distance.ceil()), distance.frac()[..., None] + 0j
            )
        if distances is not None:
            by = distances[..., None] * inv_freq[:, None, None, None]
            turn = torch.polar(torch.ones(()).double(), by)
        how = "bhip,bhjp,bijp->bhij" if distances is None else "bhip,bhjp,bhijp->bhij"
        scores = torch.einsum(how, qc, kc.conj(), turn).real
        factor = torch.as_tensor(rotary.attention_factor, dtype=torch.float64).expand(rows)
        scores = scores * factor[:, None, None, None] ** 2
        scores = scores + q[..., 2 * half :] @ k[..., 2 * half :].transpose(-1, -2)
        for method in (axes.scaling, axes.layout):
            sharpness = method.sharpness(0, WINDOW, torch.arange(length).expand(rows, -1))
            if sharpness is not None:
                scores = scores * sharpness.double()[..., None]
        return scores / math.sqrt(self.head_dim), seen.expand(rows, 1, length, length)
