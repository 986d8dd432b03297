"""Regions: which keys a query sees, and how far away they seem.

A layout is a list of disjoint regions. A region is a band of distances, a band of key
positions, optionally one more predicate, and two rules that give queries and keys their
apparent positions. Bands are numbers rather than code, so that whole tiles can be proved
visible or invisible without looking at a single key.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch
from torch import Tensor

# FlexAttention's signatures, over logical positions instead of indices:
# visible(batch, head, query_position, key_position) -> bool
# score(score, batch, head, query_position, key_position) -> score
MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


class Place(Protocol):
    """A rule from logical to apparent position, elementwise. Equal rules must compare equal."""

    def __call__(self, positions: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Own:
    """A token seems to stand where it stands."""

    def __call__(self, positions: Tensor) -> Tensor:
        return positions


@dataclass(frozen=True)
class Fixed:
    """Every token seems to stand at one position."""

    position: int

    def __call__(self, positions: Tensor) -> Tensor:
        return torch.full_like(positions, self.position)


@dataclass(frozen=True)
class Capped:
    """A token seems to stand where it stands, but never beyond `limit`."""

    limit: int

    def __call__(self, positions: Tensor) -> Tensor:
        return positions.clamp(max=self.limit)


@dataclass(frozen=True)
class Grouped:
    """`group` neighbours share one position: `position // group + shift`."""

    group: int
    shift: int = 0

    def __call__(self, positions: Tensor) -> Tensor:
        return positions.div(self.group, rounding_mode="floor") + self.shift


@dataclass(frozen=True)
class Shifted:
    """Everybody moves by `by` tokens."""

    by: int

    def __call__(self, positions: Tensor) -> Tensor:
        return positions + self.by


@dataclass(frozen=True)
class Divided:
    """Steps of a token shrink to `1 / factor` of one: `(position + shift) / factor`."""

    factor: float
    shift: float = 0.0

    def __call__(self, positions: Tensor) -> Tensor:
        return (positions.double() + self.shift) / self.factor


@dataclass(frozen=True)
class InChunk:
    """Counted anew in every `chunk` tokens: `position % chunk + shift`, at most `limit`."""

    chunk: int
    shift: int = 0
    limit: int | None = None

    def __call__(self, positions: Tensor) -> Tensor:
        moved = positions % self.chunk + self.shift
        return moved if self.limit is None else moved.clamp(max=self.limit)


@dataclass(frozen=True)
class Squeezed:
    """Chunks count up to number `last`, and from then on every one seems to be that one."""

    chunk: int
    last: int

    def __call__(self, positions: Tensor) -> Tensor:
        number = positions.div(self.chunk, rounding_mode="floor").clamp(max=self.last)
        return number * self.chunk + positions % self.chunk


@dataclass(frozen=True)
class ByRank:
    """Where a key seems to stand depends on what is read with it: see `KeyBlock.places`."""

    def __call__(self, positions: Tensor) -> Tensor:
        raise ValueError(
            "the selector gives keys places by their rank among those that a query reads, so a "
            "key by itself has none; look at this model without the selector"
        )


class KeyRange(Protocol):
    """Which run of keys a query sees, elementwise: positions to (first, one past the last).

    Attributes:
        reach: Every run lies within so many tokens, the query's own included; None for no limit.
    """

    @property
    def reach(self) -> int | None: ...

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class ChunksBack:
    """The keys of the chunks of `chunk` tokens that lie `near` to `far - 1` chunks back.

    Chunk 0 is the query's own; `far` None is no limit.
    """

    chunk: int
    near: int
    far: int | None = None

    @property
    def reach(self) -> int | None:
        return None if self.far is None else self.far * self.chunk

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]:
        own = q.div(self.chunk, rounding_mode="floor")
        last = (own - self.near + 1) * self.chunk
        if self.far is None:
            return torch.zeros_like(last), last
        return (own - self.far + 1) * self.chunk, last


@dataclass(frozen=True)
class AllWhileFew:
    """The keys before the last two chunks, for queries in the first `chunks` chunks alone."""

    chunk: int
    chunks: int
    reach: ClassVar[int | None] = None

    def __call__(self, q: Tensor) -> tuple[Tensor, Tensor]:
        own = q.div(self.chunk, rounding_mode="floor")
        last = torch.where(own < self.chunks, (own - 1) * self.chunk, 0)
        return torch.zeros_like(last), last


OWN = Own()


@dataclass(frozen=True)
class Region:
    """The pairs with `near <= distance < far` and `first <= key position < last`.

    Args:
        near: Smallest distance (query position minus key position) that is seen, at least 0.
        far: Distances below it are seen; None for no limit.
        first: Keys from this logical position on.
        last: Keys before this logical position; None for no limit.
        q_place: Apparent positions of queries.
        k_place: Apparent positions of keys.
        also: A further predicate on (batch, head, query position, key position).
        score: Changes a score (after scale and soft cap) from the same four and the score.
        paged: Whether a selector may choose among the keys of this region.
        range_of: Narrows the keys further, to a run of positions that depends on the query's.
        blend: What a fractional place of a key means. False: the angle there. True: the mix of
            the keys at the two whole places around it, hence a mix of two scores. Queries of
            such a region have whole places.
    """

    near: int = 0
    far: int | None = None
    first: int = 0
    last: int | None = None
    q_place: Place = OWN
    k_place: Place = OWN
    also: MaskMod | None = None
    score: ScoreMod | None = None
    paged: bool = False
    range_of: KeyRange | None = None
    blend: bool = False

    def visible(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        """Whether the query at logical position `q` sees the key at `k`; any broadcast shapes.

        Empty slots and padding have position -1 and are never seen, nor do they see.
        """
        seen = (k >= self.first) & (q - k >= self.near)
        if self.far is not None:
            seen = seen & (q - k < self.far)
        if self.last is not None:
            seen = seen & (k < self.last)
        if self.range_of is not None:
            first, last = self.range_of(q)
            seen = seen & (k >= first) & (k < last)
        if self.also is not None:
            seen = seen & self.also(b, h, q, k)
        return seen

    def within(
        self,
        *,
        near: int = 0,
        far: int | None = None,
        first: int = 0,
        last: int | None = None,
        paged: bool | None = None,
    ) -> "Region":
        """This region cut down to narrower bands; None leaves `paged` as it is."""
        return replace(
            self,
            near=max(self.near, near),
            far=_smaller(self.far, far),
            first=max(self.first, first),
            last=_smaller(self.last, last),
            paged=self.paged if paged is None else paged,
        )

    @property
    def reach(self) -> int | None:
        """Every key that is seen lies within so many tokens, the query's own included; None for no
        limit.
        """
        return _smaller(self.far, None if self.range_of is None else self.range_of.reach)

    @property
    def empty(self) -> bool:
        """Whether no pair can be in it."""
        return (self.far is not None and self.far <= self.near) or (
            self.last is not None and self.last <= self.first
        )


def _smaller(a: int | None, b: int | None) -> int | None:
    return b if a is None else a if b is None else min(a, b)


def visible_pairs(region: Region, q_positions: Tensor, k_positions: Tensor, heads: int) -> Tensor:
    """Which of the pairs a region shows, `[b, heads or 1, q, k]`, before segments.

    Args:
        q_positions: Logical positions `[b, q]`.
        k_positions: Logical positions `[b, kv_heads or 1, k]`.
        heads: Query heads, a multiple of the KV heads.
    """
    device = q_positions.device
    b = torch.arange(q_positions.shape[0], device=device)[:, None, None, None]
    h = torch.arange(heads, device=device)[None, :, None, None]
    k = k_positions
    if k.shape[1] > 1:
        k = k.repeat_interleave(heads // k.shape[1], dim=1)
    return region.visible(b, h, q_positions[:, None, :, None], k[:, :, None, :])


def same_segment(q_segments: Tensor | None, k_segments: Tensor | None) -> Tensor | None:
    """`[b, 1, q, k]` truth of belonging to one document, or None where there are no documents."""
    if q_segments is None or k_segments is None:
        return None
    return (q_segments[:, :, None] == k_segments[:, None, :])[:, None]


def disjoint(regions: Sequence[Region], length: int) -> bool:
    """Whether no pair below `length` is in two regions (tests call it for every layout)."""
    p = torch.arange(length)[None]
    counted = sum(visible_pairs(r, p, p[:, None], 1).long() for r in regions)
    return bool((torch.as_tensor(counted) <= 1).all())
