"""GALI: early positions are packed as little as the text needs, and scores are interpolated."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from lengthwise.core.regions import Divided, Region
from lengthwise.extend.method import Layout, at_least, whole

NO_LIMIT = 1 << 40  # beyond every position


@dataclass(frozen=True)
class GALI(Layout):
    """A text longer than the trained window packs its first keys into the window's own positions.

    For a text of T tokens, G = ceil((T - window) / (trained - window)) keys share a whole
    position from 0 on, at j / G, for just so many positions that T tokens fit; the others, at
    least `window` of them, keep steps of one. A key between two whole positions gets the
    mix of the scores that it would have at both, and no angle in between is ever asked.

    Source: Li et al. 2025, arXiv:2502.02659, section 3, algorithm 1; code at AcademyCityL/GALI
        (window 128, noise 1).
    Differs from the source: T is what has been read up to the query, rounded up to `window`
        tokens beyond the trained ones, instead of one T for each chunk of a prompt and each new
        token: so decoding equals prefill. Beyond `factor` trained windows G grows no more, and
        distances leave the window. Noise is off by default, the same for a pair whenever it is
        scored, and the same in all layers.
    Reduces to: plain causal attention while the text is no longer than `trained`.

    Args:
        trained: The trained window in tokens, above `window`.
        window: Nearest keys that always keep true distances, at least 1.
        factor: Longest text that needs no distance beyond the window, in trained windows, at
            least 1. Every unit costs one more region.
        noise: Standard deviation of the noise that is added to the mixed score of a pair as far
            apart as the text is long; nearer ones get proportionally less. At least 0.
        seed: Of the noise, at least 0.

    Raises:
        ValueError: If a number is out of its range.
    """

    trained: int
    window: int = 128
    factor: float = 8.0
    noise: float = 0.0
    seed: int = 0

    blends: ClassVar[bool] = True

    def __post_init__(self) -> None:
        whole("GALI", "trained", self.trained, 2)
        whole("GALI", "window", self.window, 1)
        at_least("GALI", "factor", self.factor, 1)
        at_least("GALI", "noise", self.noise, 0)
        whole("GALI", "seed", self.seed, 0)

    @property
    def _groups(self) -> int:
        """The largest G."""
        free = self.trained - self.window
        return max(1, math.ceil((self.factor * self.trained - self.window) / free))

    def packing(self, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """G, the number of keys that are packed, and that of positions they take, by query."""
        over = torch.div(q - self.trained, self.window, rounding_mode="floor") + 1
        length = self.trained + self.window * over.clamp(min=0)
        free = self.trained - self.window
        group = (-torch.div(self.window - length, free, rounding_mode="floor")).clamp(
            min=1, max=self._groups
        )
        fewest = _ceil(length - self.trained, (group - 1).clamp(min=1))
        fits = fewest <= free
        tail = torch.where(fits, self.trained - fewest, self.window)
        packed = (length - tail).masked_fill(group == 1, 0)
        places = torch.where(fits, fewest, _ceil(packed, group))
        return group, packed, places.masked_fill(group == 1, 0)

    def regions(self) -> tuple[Region, ...]:
        near = Region(range_of=_Unpacked(self), paged=True)
        far = Region(q_place=_QueryPlace(self), blend=True, paged=True)
        return near, *(
            replace(
                far,
                range_of=_Packed(self, group),
                k_place=Divided(group),
                score=_Noise(group, self.noise, self.seed) if self.noise else None,
            )
            for group in range(2, self._groups + 1)
        )

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        distance = torch.zeros_like(q - k, dtype=torch.float64)
        for length in range(
            self.trained, max(self.trained, int(q.max()) + self.window) + 1, self.window
        ):
            until = length if length == self.trained else length - self.window
            ids = torch.tensor(self.ids(length), dtype=torch.float64)
            here = (q < length) & ((q >= until) | (length == self.trained))
            last = length - 1
            distance = torch.where(here, ids[q.clamp(max=last)] - ids[k.clamp(max=last)], distance)
        return torch.ones_like(q - k, dtype=torch.bool), distance

    def ids(self, length: int) -> list[float]:
        """The positions of a text of `length` tokens, as the paper's algorithm lists them."""
        if length <= self.trained:
            return [float(j) for j in range(length)]
        group = math.ceil((length - self.window) / (self.trained - self.window))
        if group > self._groups:
            group = self._groups
            head = [j / group for j in range(length - self.window)]
            first = math.ceil(len(head) / group)
            return head + [float(first + j) for j in range(self.window)]
        head, whole_id = [], 0
        while len(head) + self.trained - whole_id < length:
            head += [whole_id + part / group for part in range(group)]
            whole_id += 1
        tail = [float(j) for j in range(whole_id, self.trained)]
        return head[: length - len(tail)] + tail

    def check(self, window: int) -> None:
        if self.trained > window:
            raise ValueError(
                f"GALI: trained must be at most the model's window of {window} tokens, got "
                f"{self.trained}"
            )
        if self.window >= self.trained:
            raise ValueError(
                f"GALI: window must be below trained {self.trained}, got {self.window}; try "
                f"{max(1, self.trained // 32)}"
            )


def _ceil(a: Tensor, b: Tensor) -> Tensor:
    return -torch.div(-a, b, rounding_mode="floor")


@dataclass(frozen=True)
class _Unpacked:
    """The keys that keep steps of one, for every query."""

    gali: GALI
    reach: ClassVar[int | None] = None

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]:
        _, packed, _ = self.gali.packing(q)
        return packed, torch.full_like(packed, NO_LIMIT)


@dataclass(frozen=True)
class _Packed:
    """The packed keys, for queries whose text is packed in groups of `group`."""

    gali: GALI
    group: int
    reach: ClassVar[int | None] = None

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]:
        group, packed, _ = self.gali.packing(q)
        return torch.zeros_like(packed), packed.masked_fill(group != self.group, 0)


@dataclass(frozen=True)
class _QueryPlace:
    """Where a query stands: as far behind the packed positions as behind the packed keys."""

    gali: GALI

    def __call__(self, positions: Tensor) -> Tensor:
        _, packed, places = self.gali.packing(positions)
        return positions - packed + places


@dataclass(frozen=True)
class _Noise:
    """Gaussian noise on mixed scores, by a hash of head, query and key."""

    group: int
    deviation: float
    seed: int

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        x = _mixed(_mixed(_mixed(h + (self.seed << 20)) + q) + k)
        first, second = (x >> 33) & 0x7FFFFFFF, _mixed(x) >> 33 & 0x7FFFFFFF
        radius = (-2 * ((first + 1).double() / (1 << 31)).log()).sqrt()
        normal = radius * (second.double() * (2 * math.pi / (1 << 31))).cos()
        spread = (q - k).double() / (q + 1).clamp(min=1) * self.deviation
        return score + (normal * spread).masked_fill(k % self.group == 0, 0.0).to(score.dtype)


def _mixed(x: Tensor) -> Tensor:
    """A bijection of 64 bits that looks random (splitmix64)."""
    x = x + -7046029254386353131
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -4658895280553007687
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -7723592293110705685
    return x ^ ((x >> 31) & 0x1FFFFFFFF)
