"""Keys and values as storage hands them to attention: blocks with their logical positions."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class Same:
    """A tensor as a name for its content: equal to itself alone."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def __hash__(self) -> int:
        return id(self.tensor)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Same) and other.tensor is self.tensor


def called(positions: Tensor, start: int | None) -> Hashable:
    """A name for positions `[b, t]` that begin at `start` and are consecutive, or None."""
    return Same(positions) if start is None else (start, positions.shape[1])


@dataclass(frozen=True)
class KeyBlock:
    """Some keys and values. Logical position is data, the physical slot is storage.

    Attributes:
        positions: Logical position of every slot, the same for all KV heads or one row for
            each; -1 marks an empty slot, whose key and value may be any finite numbers.
        segments: Document number of every slot, or None for one document.
        start: If every row and head holds exactly the positions start, start + 1, ...: that
            start. None otherwise. Then masks follow from arithmetic alone.
        span: Positions lie between these two, both included, in any order, and no slot is empty
            (a ring). None if unknown.
        bias: Added to the scores of every slot after scale and soft cap: log w where a key stands
            for w keys. None for 0 everywhere.
        places: Apparent positions of the slots, instead of a region's `k_place`: where they follow
            from what else is read, as ranks do. None for the region's.
    """

    keys: Float[Tensor, "b kv n d"]
    values: Float[Tensor, "b kv n e"]
    positions: Int[Tensor, " b #kv n"]
    segments: Int[Tensor, "b n"] | None = None
    start: int | None = None
    span: tuple[int, int] | None = None
    bias: Float[Tensor, " b #kv n"] | None = None
    places: Int[Tensor, " #b #kv n"] | None = None

    def __len__(self) -> int:
        return self.keys.shape[2]

    @property
    def bounds(self) -> tuple[int, int] | None:
        """Between which positions the slots lie, if that is known and none is empty."""
        if self.start is not None:
            return self.start, self.start + len(self) - 1
        return self.span

    @property
    def live(self) -> bool:
        """Whether somebody may differentiate by its keys or values."""
        return self.keys.requires_grad or self.values.requires_grad

    def opened(self, dtype: torch.dtype | None = None) -> "KeyBlock":
        """With keys and values as tensors, in a type where they are packed (`core/packed.py`)."""
        return self

    def bias_or_zeros(self) -> Float[Tensor, " b #kv n"]:
        """The bias, 0 where there is none."""
        if self.bias is not None:
            return self.bias
        exact = torch.promote_types(self.keys.dtype, torch.float32)
        return torch.zeros(self.positions.shape, dtype=exact, device=self.keys.device)

    def slots(self, low: int, high: int) -> "KeyBlock":
        """The slots low .. high - 1."""
        return KeyBlock(
            self.keys[:, :, low:high],
            self.values[:, :, low:high],
            self.positions[:, :, low:high],
            None if self.segments is None else self.segments[:, low:high],
            None if self.start is None else self.start + low,
            self.span,
            None if self.bias is None else self.bias[:, :, low:high],
            None if self.places is None else self.places[:, :, low:high],
        )


@dataclass(frozen=True)
class Queries:
    """Query vectors with their logical positions; the other side of a `KeyBlock`."""

    vectors: Float[Tensor, "b h t d"]
    positions: Int[Tensor, "b t"]
    segments: Int[Tensor, "b t"] | None = None
    start: int | None = None

    def __len__(self) -> int:
        return self.vectors.shape[2]

    @property
    def called(self) -> Hashable:
        """What their positions are called, for `Rotary.rotate`."""
        return called(self.positions, self.start)

    def times(self, low: int, high: int) -> "Queries":
        """The queries low .. high - 1."""
        return Queries(
            self.vectors[:, :, low:high],
            self.positions[:, low:high],
            None if self.segments is None else self.segments[:, low:high],
            None if self.start is None else self.start + low,
        )


class Run(NamedTuple):
    """`size` slots of a buffer from `first` on, which hold consecutive positions."""

    keys: Float[Tensor, "b kv n d"]
    values: Float[Tensor, "b kv n e"]
    first: int
    size: int
    start: int  # the first of these positions


class Room(NamedTuple):
    """The slot of a buffer that the next token of every row will have.

    Attributes:
        runs: What is held when that token is there, itself included.
    """

    keys: Float[Tensor, "b kv n d"]
    values: Float[Tensor, "b kv n e"]
    positions: Int[Tensor, "b 1 n"]
    slot: int
    runs: list[Run]


def concatenate(blocks: Sequence[KeyBlock]) -> KeyBlock:
    """One block that holds the slots of all of them, in order."""
    blocks = [block.opened() for block in blocks]
    if len(blocks) == 1:
        return blocks[0]
    heads = max(block.positions.shape[1] for block in blocks)
    segments = [block.segments for block in blocks]
    if any(block.places is not None for block in blocks):
        raise ValueError("keys with places of their own are read alone, not beside other blocks")
    bias = None
    if any(block.bias is not None for block in blocks):
        kv = blocks[0].keys.shape[1]
        bias = torch.cat([block.bias_or_zeros().expand(-1, kv, -1) for block in blocks], dim=2)
    return KeyBlock(
        torch.cat([block.keys for block in blocks], dim=2),
        torch.cat([block.values for block in blocks], dim=2),
        torch.cat([block.positions.expand(-1, heads, -1) for block in blocks], dim=2),
        None if segments[0] is None else torch.cat([s for s in segments if s is not None], dim=1),
        None,
        None,
        bias,
    )
