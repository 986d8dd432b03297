"""BigBird for decoders: a window of blocks, global blocks, and a few random ones."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from lengthwise.core.regions import ChunksBack, Region
from lengthwise.extend.method import Layout, whole


@dataclass(frozen=True)
class RandomBlock:
    """The `number`-th random block of a query's block (a KeyRange; empty if there is none).

    The blocks between the global ones and the window are split into `count` equal spans, and
    random block `number` is one of span `number`: no block is drawn twice.
    """

    block: int
    window: int
    globals: int
    count: int
    number: int
    seed: int
    reach: ClassVar[int | None] = None

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]:
        own = q.div(self.block, rounding_mode="floor")
        between = (own - self.window + 1 - self.globals).clamp(min=0)
        start = between * self.number // self.count
        span = between * (self.number + 1) // self.count - start
        luck = scrambled(own, self.number, self.seed) % span.clamp(min=1)
        first = (self.globals + start + luck) * self.block
        return first, torch.where(span > 0, first + self.block, first)


def scrambled(a: Tensor, b: int, seed: int) -> Tensor:
    """A number from 0 to 2^31 - 1 that looks random, the same for the same arguments."""
    low = (1 << 31) - 1
    x = (a.long() * 73856093 + b * 19349663 + (seed + 1) * 83492791) & low
    for factor in (0x2C1B3C6D, 0x297A2D39):
        x = ((x ^ (x >> 15)) * factor) & low
    return x ^ (x >> 15)


@dataclass(frozen=True)
class BigBird(Layout):
    """Every block of queries sees itself and near blocks, the first blocks, and random blocks between.

    The random blocks of a query block are drawn once and for all from the seed: training and
    evaluation, and texts of any length, see the same.

    Source: Zaheer et al. 2020, arXiv:2007.14062, section 2 (ITC).
    Differs from the source: causal, so the window is the blocks before; a random block is drawn
        from each of `random` equal spans, so that none is counted twice. For both directions, as
        in the paper: `EncoderBigBird`.
    Reduces to: plain causal attention while the text is no longer than the window's blocks.

    Args:
        block: Tokens of a block, at least 1.
        window: Blocks of the window, the query's own included, at least 1.
        globals: First blocks that everybody sees, at least 0.
        random: Random blocks, at least 0.
        seed: Of the random blocks.

    Raises:
        ValueError: If a number is out of its range.
    """  # noqa: E501

    block: int = 64
    window: int = 3
    globals: int = 1
    random: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("block", 1), ("window", 1), ("globals", 0), ("random", 0)):
            whole("BigBird", name, getattr(self, name), least)
        whole("BigBird", "seed", self.seed, 0)

    def _random(self) -> list[RandomBlock]:
        return [
            RandomBlock(self.block, self.window, self.globals, self.random, number, self.seed)
            for number in range(self.random)
        ]

    def regions(self) -> tuple[Region, ...]:
        near = Region(range_of=ChunksBack(self.block, 0, self.window))
        first = Region(last=self.globals * self.block, range_of=ChunksBack(self.block, self.window))
        return near, first, *(Region(range_of=one) for one in self._random())

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        back = q // self.block - k // self.block
        seen = (back < self.window) | (k < self.globals * self.block)
        for one in self._random():
            first, last = one(q)
            seen = seen | ((k >= first) & (k < last))
        return seen, q - k
