"""Dual chunk attention: positions start again in every chunk, so none is ever large."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.regions import ChunksBack, Fixed, InChunk, Place, Region
from lengthwise.extend.method import Layout, whole


@dataclass(frozen=True)
class DualChunk(Layout):
    """No distance exceeds `chunk`, and the nearest `window` keys are always at true ones.

    Keys stand at `j mod C` with C = chunk - window. A query with a = i mod C reads its own chunk
    at a (true distances), the chunk before at min(a + C, chunk), and everything older at `chunk`.

    Source: An et al. 2024, arXiv:2402.17463, section 3, equations 4 to 7; Qwen2.5-1M, Yang et
        al. 2025, arXiv:2501.15383, section 5.1, and its serving code (chunk 8192, window 1024,
        and the temperature).
    Differs from the source: the paper caps at C + window - 1, its code and this class at
        C + window = chunk; that code reads older chunks at min(2C - 1, chunk), one less where
        chunk = 2C. The temperature is that of a query's own position instead of
        the whole text, and rests on the query alone, so decoding equals prefill and no cached
        key goes stale. Qwen2.5-1M's sparse prefill is no part of it.
    Reduces to: plain causal attention while the text is no longer than C.

    Args:
        chunk: Largest distance, at least twice `window`; at most the trained window, of which
            the authors took three quarters.
        window: Nearest keys at true distances across the border of two chunks, at least 1. The
            authors took an eighth to a sixteenth of the trained window.
        trained: Tokens from which scores sharpen: those of the query at position i are
            multiplied by (0.1 ln((i + 1) / trained) + 1) ** 2 where that is above 1; at least 0,
            and 0 leaves them alone.

    Raises:
        ValueError: If a number is out of its range.
    """

    chunk: int = 8192
    window: int = 1024
    trained: int = 0

    def __post_init__(self) -> None:
        whole("DualChunk", "chunk", self.chunk, 2)
        whole("DualChunk", "window", self.window, 1)
        whole("DualChunk", "trained", self.trained, 0)
        if 2 * self.window > self.chunk:
            raise ValueError(
                f"DualChunk: window must be at most half of chunk {self.chunk}, got {self.window}; "
                f"try {max(1, self.chunk // 8)}"
            )

    @property
    def _length(self) -> int:
        return self.chunk - self.window

    @property
    def key_place(self) -> Place:  # type: ignore[override]
        """All three kinds of chunk read keys at the same places."""
        return InChunk(self._length)

    def regions(self) -> tuple[Region, ...]:
        c, keys = self._length, InChunk(self._length)
        intra = Region(range_of=ChunksBack(c, 0, 1), q_place=keys, k_place=keys, paged=True)
        successive = Region(
            range_of=ChunksBack(c, 1, 2),
            q_place=InChunk(c, shift=c, limit=self.chunk),
            k_place=keys,
            paged=True,
        )
        inter = Region(
            range_of=ChunksBack(c, 2), q_place=Fixed(self.chunk), k_place=keys, paged=True
        )
        return intra, successive, inter

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        c = self._length
        a, b, back = q % c, k % c, q // c - k // c
        previous = (a + c).clamp(max=self.chunk) - b
        distance = torch.where(back == 0, q - k, torch.where(back == 1, previous, self.chunk - b))
        return torch.ones_like(q - k, dtype=torch.bool), distance

    def sharpness(self, layer: int, window: int, positions: Tensor) -> Tensor | None:
        if not self.trained:
            return None
        ratio = (positions.double() + 1) / self.trained
        return ((0.1 * ratio.clamp(min=1).log() + 1) ** 2)[:, None]

    def check(self, window: int) -> None:
        if self.chunk > window:
            raise ValueError(
                f"DualChunk: chunk must be at most the trained window of {window} tokens, got "
                f"{self.chunk}; try {max(2, window * 3 // 4)} with window "
                f"{max(1, math.ceil(window / 16))}"
            )
