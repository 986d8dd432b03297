"""Patterns that give some layers full attention and the others a part of it."""

from dataclasses import dataclass

from lengthwise.extend.layouts import Causal
from lengthwise.extend.method import Layout, whole
from lengthwise.extend.plan import Groups as HeadGroups
from lengthwise.train.patterns.blocks import BlockLocal, SinkWindow, StridedBlocks
from lengthwise.train.patterns.pattern import Pattern, whole_layers


@dataclass(frozen=True)
class MASFormer(Pattern):
    """Full attention in the first layers, block-local attention in the others.

    Source: Zhang et al. 2023, arXiv:2310.12442, section 3.
    Reduces to: plain causal attention with all layers full.

    Args:
        full: First layers that see everything, at least 0.
        block: Tokens of a block of the others, at least 1.

    Raises:
        ValueError: If a number is out of its range, or the model has fewer layers than `full`.
    """

    full: int = 4
    block: int = 1024

    def __post_init__(self) -> None:
        whole("MASFormer", "full", self.full, 0)
        whole("MASFormer", "block", self.block, 1)

    def parts(self, layers: int, heads: int) -> list[HeadGroups]:
        if self.full > layers:
            raise ValueError(f"MASFormer: full is at most the {layers} layers, got {self.full}")
        local: Layout = BlockLocal(self.block)
        return whole_layers([Causal()] * self.full + [local] * (layers - self.full), heads)


@dataclass(frozen=True)
class LongGen(Pattern):
    """Full attention in the middle third of the layers; sinks and a window before and after it.

    Source: Ge et al. 2024, arXiv:2410.01485, section 3.
    Differs from the source: sizes are ours.
    Reduces to: plain causal attention while the text is no longer than the window.

    Args:
        sinks: First tokens that the sparse layers keep, at least 0.
        window: Nearest keys of the sparse layers, at least 1.
        stride: With more than 1, sparse layers see one block in `stride` besides; 0 for none.
        block: Tokens of such a block, at least 1.

    Raises:
        ValueError: If a number is out of its range, or the model has fewer than three layers.
    """

    sinks: int = 64
    window: int = 1984
    stride: int = 0
    block: int = 64

    def __post_init__(self) -> None:
        for name, least in (("sinks", 0), ("window", 1), ("stride", 0), ("block", 1)):
            whole("LongGen", name, getattr(self, name), least)

    def parts(self, layers: int, heads: int) -> list[HeadGroups]:
        if layers < 3:
            raise ValueError(f"LongGen splits layers into thirds, got {layers}")
        sparse: Layout = SinkWindow(self.sinks, self.window)
        if self.stride:
            sparse = StridedBlocks(self.block, self.stride, self.sinks, self.window)
        full = layers - 2 * round(layers / 3)
        before = (layers - full) // 2
        order = [sparse] * before + [Causal()] * full + [sparse] * (layers - full - before)
        return whole_layers(order, heads)
