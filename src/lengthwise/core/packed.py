"""Keys and values in a byte a number, or half of one: how they are packed, and blocks of them.

A number is `code * scale + zero`. Keys have scales for each channel of a group of slots, because
some channels are much larger than others in all keys; values have one for each slot.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lengthwise.core.keys import KeyBlock

FLOAT8 = torch.float8_e4m3fn
MOST = {"int8": 127.0, "float8": 448.0, "int4": 15.0}  # the largest code
KINDS = ("int8", "int4", "float8")  # as native.c counts them, from 1


class Grid(NamedTuple):
    """Scales and zeros of some numbers, in bfloat16; no zeros where codes have signs."""

    scale: Tensor
    zero: Tensor | None

    def each(self, what: Callable[[Tensor], Tensor]) -> "Grid":
        """Both, changed."""
        return Grid(what(self.scale), None if self.zero is None else what(self.zero))

    def pairs(self, other: "Grid") -> list[tuple[Tensor, Tensor]]:
        """Scales beside those of another grid, and zeros beside its zeros."""
        both = [(self.scale, other.scale)]
        if self.zero is not None and other.zero is not None:
            both.append((self.zero, other.zero))
        return both


class Codes(NamedTuple):
    """Packed vectors: codes `[…, d]`, or `[…, d / 2]` of two each, and their grid."""

    codes: Tensor
    grid: Grid


def grid(x: Tensor, kind: str, dim: int, shown: Tensor | None, nested: bool) -> Grid:
    """A grid for the numbers along a dimension, which is kept with size 1.

    Args:
        shown: Which of them count, broadcast; None for all.
        nested: Take a power of 2 for the scale and a multiple of it for the zero. A number that is
            packed again on such a grid changes only where the new one is coarser.
    """
    x = x.float()
    if shown is not None:
        x = torch.where(shown, x, x.new_tensor(float("nan")))
        gone = ~shown.any(dim, keepdim=True)
        low = torch.where(gone, 0.0, x.nan_to_num(nan=float("inf")).amin(dim, keepdim=True))
        high = torch.where(gone, 0.0, x.nan_to_num(nan=float("-inf")).amax(dim, keepdim=True))
    else:
        low, high = x.amin(dim, keepdim=True), x.amax(dim, keepdim=True)
    most = MOST[kind]
    if kind != "int4":
        wanted = torch.maximum(high, -low) / most
        return Grid(_power(wanted) if nested else _above(wanted), None)
    if nested:
        scale = _power(torch.maximum((high - low) / (most - 1), low.abs() / 255))
        steps = torch.where(scale > 0, low / scale.float(), 0.0).floor()
        return Grid(scale, (steps * scale.float()).bfloat16())
    zero = (low - low.abs() * 2**-8).bfloat16()
    return Grid(_above((high - zero.float()) / most), zero)


def _above(x: Tensor) -> Tensor:
    """In bfloat16, not below `x`, so that nothing is cut off."""
    return (x * (1 + 2**-7)).bfloat16()


def _power(x: Tensor) -> Tensor:
    """The next power of 2; 0 for 0."""
    up = torch.exp2(torch.log2(x).ceil())
    return torch.where(x > 0, up, 0.0).bfloat16()


def encode(x: Tensor, kind: str, to: Grid) -> Tensor:
    """Codes of numbers `[…, d]` on a grid that broadcasts."""
    scale = to.scale.float()
    x = x.float() if to.zero is None else x.float() - to.zero.float()
    x = torch.where(scale > 0, x / scale, 0.0)
    if kind == "float8":
        return x.clamp(-MOST[kind], MOST[kind]).to(FLOAT8).view(torch.uint8)
    if kind == "int8":
        return x.round().clamp(-127, 127).to(torch.int8).view(torch.uint8)
    codes = x.round().clamp(0, 15).to(torch.uint8)
    low, high = codes.chunk(2, dim=-1)
    return low | high << 4


def decode(codes: Tensor, kind: str, on: Grid) -> Tensor:
    """Numbers `[…, d]` in float32."""
    if kind == "int4":
        x = torch.cat([codes & 15, codes >> 4], dim=-1).float()
    else:
        x = codes.view(FLOAT8 if kind == "float8" else torch.int8).float()
    x = x * on.scale.float()
    return x if on.zero is None else x + on.zero.float()


@dataclass(frozen=True)
class Packed:
    """Slots of packed keys and values, from the first slot of a group on.

    Attributes:
        kind: One of `KINDS`.
        keys, values: Codes `[b, kv, n, …]`.
        of_keys: Their grid, `[b, kv, groups, d]`.
        of_values: Theirs, `[b, kv, n]`.
        group: Slots of a group.
        dtype: Of the numbers that they stand for.
    """

    kind: str
    keys: Tensor
    values: Tensor
    of_keys: Grid
    of_values: Grid
    group: int
    dtype: torch.dtype

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers of a key and of a value."""
        two = 2 if self.kind == "int4" else 1
        return self.keys.shape[-1] * two, self.values.shape[-1] * two

    def opened(self, low: int, high: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of the slots low .. high - 1."""
        first, last = low // self.group, -(-high // self.group)
        whole = slice(first * self.group, last * self.group)
        grouped = self.keys[:, :, whole].unflatten(2, (-1, self.group))
        near = self.of_keys.each(lambda x: x[:, :, first:last, None])
        keys = decode(grouped, self.kind, near).flatten(2, 3)
        keys = keys[:, :, low - whole.start : high - whole.start]
        own = self.of_values.each(lambda x: x[:, :, low:high, None])
        values = decode(self.values[:, :, low:high], self.kind, own)
        return keys.to(dtype), values.to(dtype)

    def put(
        self,
        rows: Tensor,
        low: int,
        keys: Float[Tensor, "r kv m d"],
        values: Float[Tensor, "r kv m e"],
        shown: Bool[Tensor, " r #kv m"],
        nested: bool,
    ) -> None:
        """Pack keys and values, groups of them, into the slots of some rows from `low` on."""
        first, groups = low // self.group, keys.shape[2] // self.group
        grouped = keys.unflatten(2, (groups, self.group))
        seen = shown.unflatten(2, (groups, self.group))[..., None].expand(grouped.shape)
        near = grid(grouped, self.kind, 3, seen, nested)
        own = grid(values, self.kind, 3, None, nested)
        self.keys[rows, :, low : low + keys.shape[2]] = encode(grouped, self.kind, near).flatten(
            2, 3
        )
        self.values[rows, :, low : low + keys.shape[2]] = encode(values, self.kind, own)
        for to, made in self.of_keys.pairs(near):
            to[rows, :, first : first + groups] = made[:, :, :, 0]
        for to, made in self.of_values.pairs(own):
            to[rows, :, low : low + keys.shape[2]] = made[..., 0]

    def tensors(self) -> list[Tensor]:
        """All that is allocated."""
        held = (self.keys, self.values, *self.of_keys, *self.of_values)
        return [x for x in held if x is not None]

    def rows(self, index: Tensor) -> "Packed":
        """Those rows."""
        return Packed(
            self.kind,
            self.keys.index_select(0, index),
            self.values.index_select(0, index),
            self.of_keys.each(lambda x: x.index_select(0, index)),
            self.of_values.each(lambda x: x.index_select(0, index)),
            self.group,
            self.dtype,
        )


def room(like: KeyBlock, kind: str, slots: int, group: int) -> Packed:
    """Empty slots, a multiple of `group`, for keys and values like those of a block."""
    b, kv, _, d = like.keys.shape
    e, per = like.values.shape[-1], 2 if kind == "int4" else 1
    if kind == "int4" and (d % 2 or e % 2):
        raise ValueError(
            f"int4 packs two numbers in a byte, so heads must be even, got {d} and {e}"
        )

    def of(*shape: int) -> Grid:
        def empty() -> Tensor:
            return like.keys.new_zeros((b, kv, *shape), dtype=torch.bfloat16)

        return Grid(empty(), empty() if kind == "int4" else None)

    def codes(width: int) -> Tensor:
        return like.keys.new_zeros((b, kv, slots, width // per), dtype=torch.uint8)

    made = codes(d), codes(e), of(slots // group, d), of(slots)
    return Packed(kind, *made, group, like.keys.dtype)


def packed_bytes(kind: str, d: int, e: int, group: int) -> tuple[int, int]:
    """Bytes of a slot of one KV head, and of a group of slots, besides positions."""
    zeros = 2 if kind == "int4" else 1
    return (d + e) // zeros + 2 * zeros, 2 * zeros * d


class PackedBlock(KeyBlock):
    """A block of packed keys: `keys` and `values` are unpacked anew whenever they are asked for."""

    held: Packed
    low: int

    def __init__(
        self,
        held: Packed,
        low: int,
        positions: Int[Tensor, " b #kv n"],
        start: int | None = None,
        span: tuple[int, int] | None = None,
    ) -> None:
        self.__dict__.update(
            held=held, low=low, positions=positions, segments=None, start=start, span=span,
            bias=None, places=None,
        )  # fmt: skip

    @property
    def keys(self) -> Tensor:
        return self.opened().keys

    @property
    def values(self) -> Tensor:
        return self.opened().values

    @property
    def live(self) -> bool:
        return False

    def __len__(self) -> int:
        return self.positions.shape[2]

    def opened(self, dtype: torch.dtype | None = None) -> KeyBlock:
        pair = self.held.opened(self.low, self.low + len(self), dtype or self.held.dtype)
        return KeyBlock(*pair, self.positions, None, self.start, self.span)

    def slots(self, low: int, high: int) -> "PackedBlock":
        start = None if self.start is None else self.start + low
        positions = self.positions[:, :, low:high]
        return PackedBlock(self.held, self.low + low, positions, start, self.span)
