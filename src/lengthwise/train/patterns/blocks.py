"""Layouts whose near and far keys come in blocks: what the patterns of a model are built from."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.regions import ChunksBack, Region
from lengthwise.extend.method import Layout, whole


@dataclass(frozen=True)
class InGroup:
    """The keys of a query's own group of `size` tokens; groups begin at `shift` (a KeyRange)."""

    size: int
    shift: int = 0

    @property
    def reach(self) -> int:
        return self.size

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]:
        first = (q - self.shift).div(self.size, rounding_mode="floor") * self.size + self.shift
        return first, first + self.size


@dataclass(frozen=True)
class Groups(Layout):
    """Every query sees the keys of its own group of tokens, up to itself.

    Groups of `group` tokens begin at `shift`; what is before the first of them is a group too, and
    nothing wraps around.

    Source: Chen et al. 2023, LongLoRA (arXiv:2309.12307), section 3.2: one half of the heads.
    Reduces to: plain causal attention while the text is no longer than the first group.

    Args:
        group: Tokens of a group, at least 1.
        shift: Where a group begins, from 0 to `group` - 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    group: int
    shift: int = 0

    def __post_init__(self) -> None:
        whole("Groups", "group", self.group, 1)
        whole("Groups", "shift", self.shift, 0)
        if self.shift >= self.group:
            raise ValueError(f"Groups: shift must be below group {self.group}, got {self.shift}")

    def regions(self) -> tuple[Region, ...]:
        return (Region(range_of=InGroup(self.group, self.shift)),)

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        mine, its = ((x - self.shift) // self.group for x in (q, k))
        return mine == its, q - k


@dataclass(frozen=True)
class BlockLocal(Layout):
    """Every query sees its own block of tokens, up to itself, and the whole block before it.

    Source: Zhang et al. 2023, MASFormer (arXiv:2310.12442), section 3: its layers of short spans.
    Differs from the source: that the block before is seen is our choice, the usual form of
        block-local attention.
    Reduces to: plain causal attention while the text is no longer than two blocks.

    Args:
        block: Tokens of a block, at least 1.

    Raises:
        ValueError: If `block` is below 1.
    """

    block: int

    def __post_init__(self) -> None:
        whole("BlockLocal", "block", self.block, 1)

    def regions(self) -> tuple[Region, ...]:
        return (Region(range_of=ChunksBack(self.block, near=0, far=2)),)

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return q // self.block - k // self.block < 2, q - k


@dataclass(frozen=True)
class SinkWindow(Layout):
    """Every query sees the last `window` keys and the first `sinks`, at true distances.

    Source: Ge et al. 2024, LongGen (arXiv:2410.01485), section 3: its sparse layers, window form.
    Reduces to: plain causal attention while the text is no longer than the window.

    Args:
        sinks: First tokens that stay visible, at least 0.
        window: Nearest keys that a query sees, itself included, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    sinks: int = 64
    window: int = 1984

    def __post_init__(self) -> None:
        whole("SinkWindow", "sinks", self.sinks, 0)
        whole("SinkWindow", "window", self.window, 1)

    def regions(self) -> tuple[Region, ...]:
        return Region(far=self.window), Region(near=self.window, last=self.sinks)

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return (q - k < self.window) | (k < self.sinks), q - k


@dataclass(frozen=True)
class EveryBlock:
    """Keys of every `stride`-th block of `block` tokens (a MaskMod)."""

    block: int
    stride: int

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return torch.as_tensor(k // self.block % self.stride == 0)


@dataclass(frozen=True)
class StridedBlocks(Layout):
    """Every query sees a window, the first tokens, and every `stride`-th block, at true distances.

    Source: Ge et al. 2024, LongGen (arXiv:2410.01485), section 3: its sparse layers, strided form.
    Differs from the source: sizes are ours.
    Reduces to: plain causal attention with a stride of 1.

    Args:
        block: Tokens of a block, at least 1.
        stride: One block in so many is seen, at least 1; block 0 is the first.
        sinks: First tokens that stay visible, at least 0.
        window: Nearest keys that a query sees, itself included, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    block: int = 64
    stride: int = 16
    sinks: int = 64
    window: int = 1024

    def __post_init__(self) -> None:
        for name, least in (("block", 1), ("stride", 1), ("sinks", 0), ("window", 1)):
            whole("StridedBlocks", name, getattr(self, name), least)

    def regions(self) -> tuple[Region, ...]:
        far = Region(near=self.window, first=self.sinks, also=EveryBlock(self.block, self.stride))
        return Region(far=self.window), Region(near=self.window, last=self.sinks), far

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        strided = k // self.block % self.stride == 0
        return (q - k < self.window) | (k < self.sinks) | strided, q - k
