"""Batches of rows of different lengths, without padding.

A row is what shares one line of a padded batch. A document is what attends to itself. Most rows
are one document; a packed row holds several. `lengths` says where rows end, `segments` say where
documents are, and `positions` say where a token stands in its document. None is ever guessed from
another: positions that jump or start again make no document.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

Side = Literal["left", "right"]


class Padded(NamedTuple):
    """The view of Hugging Face: one rectangle, `[rows, width]`.

    Attributes:
        input_ids: Tokens; padding holds the pad token.
        attention_mask: 1 for a token, 0 for padding.
        position_ids: Positions; 0 at padding, because models index tables with them.
        segment_ids: Document numbers; -1 at padding.
    """

    input_ids: Int[Tensor, "rows width"]
    attention_mask: Int[Tensor, "rows width"]
    position_ids: Int[Tensor, "rows width"]
    segment_ids: Int[Tensor, "rows width"]


@dataclass(frozen=True, eq=False)
class Ragged:
    """Rows one after the other. `total` is the sum of `lengths`; a row may be empty.

    Args:
        tokens: Token ids.
        positions: Logical position of every token, at least 0.
        segments: Document number of every token, at least 0; compared within a row only.
        lengths: Tokens of every row.

    Raises:
        ValueError: If shapes disagree, `lengths` do not sum to `total`, or a number is negative.
    """

    tokens: Int[Tensor, " total"]
    positions: Int[Tensor, " total"]
    segments: Int[Tensor, " total"]
    lengths: Int[Tensor, " rows"]

    def __post_init__(self) -> None:
        for name in ("tokens", "positions", "segments", "lengths"):
            if getattr(self, name).ndim != 1:
                shape = tuple(getattr(self, name).shape)
                raise ValueError(f"{name} must have one dimension, got shape {shape}")
        total = len(self.tokens)
        for name in ("positions", "segments"):
            if len(getattr(self, name)) != total:
                got = len(getattr(self, name))
                raise ValueError(
                    f"{name} must have one number for each of {total} tokens, got {got}"
                )
        for name in ("positions", "segments", "lengths"):
            if bool((getattr(self, name) < 0).any()):
                least = int(getattr(self, name).min())
                raise ValueError(f"{name} must be at least 0, got {least}")
        if int(self.lengths.sum()) != total:
            got = int(self.lengths.sum())
            raise ValueError(f"lengths must sum to the number of tokens, {total}, got {got}")

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def offsets(self) -> Int[Tensor, "rows+1"]:
        """Index of each row's first token; the last entry is the number of tokens."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0))

    @property
    def rows(self) -> Int[Tensor, " total"]:
        """Row of every token."""
        return torch.arange(len(self), device=self.lengths.device).repeat_interleave(self.lengths)

    @classmethod
    def from_lists(cls, rows: Sequence[Sequence[int]]) -> "Ragged":
        """Every row is one document; positions count from 0."""
        return cls.packed([[row] for row in rows])

    @classmethod
    def packed(cls, rows: Sequence[Sequence[Sequence[int]]]) -> "Ragged":
        """Every row is several documents, one after the other.

        Positions count from 0 in each document, and documents from 0 through the whole batch.
        """
        documents = [document for row in rows for document in row]
        return cls(
            torch.tensor([token for d in documents for token in d], dtype=torch.long),
            torch.tensor([p for d in documents for p in range(len(d))], dtype=torch.long),
            torch.tensor([n for n, d in enumerate(documents) for _ in d], dtype=torch.long),
            torch.tensor([sum(map(len, row)) for row in rows], dtype=torch.long),
        )

    @classmethod
    def from_padded(
        cls,
        input_ids: Int[Tensor, "rows width"],
        attention_mask: Shaped[Tensor, "rows width"] | None = None,
        position_ids: Int[Tensor, "rows width"] | None = None,
        segment_ids: Int[Tensor, "rows width"] | None = None,
    ) -> "Ragged":
        """The tokens under the ones of the mask, which may have zeros anywhere.

        Args:
            position_ids: Taken as they are; by default every document counts its tokens from 0.
            segment_ids: Documents; by default every row is one, whatever its positions are.

        Raises:
            ValueError: If `input_ids` is no rectangle or another argument has another shape.
        """
        if input_ids.ndim != 2:
            raise ValueError(f"input_ids must be [rows, width], got {tuple(input_ids.shape)}")
        others = {
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "segment_ids": segment_ids,
        }
        for name, given in others.items():
            if given is not None and given.shape != input_ids.shape:
                want, got = tuple(input_ids.shape), tuple(given.shape)
                raise ValueError(f"{name} must have the shape {want} of input_ids, got {got}")
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        real = real.bool()
        if segment_ids is None:
            segment_ids = torch.arange(len(real), device=real.device)[:, None].expand_as(real)
        segments, lengths = segment_ids[real], real.sum(1)
        if position_ids is None:
            rows = torch.arange(len(real), device=real.device).repeat_interleave(lengths)
            positions = _count(rows, segments)
        else:
            positions = position_ids[real]
        return cls(input_ids[real], positions, segments, lengths)

    def padded(self, side: Side = "left", pad: int = 0) -> Padded:
        """One rectangle as wide as the longest row; `from_padded(*...)` turns it back.

        Args:
            side: Where padding stands: `left` for generation, `right` for training.
            pad: Token id of padding.

        Raises:
            ValueError: For another side.
        """
        if side not in ("left", "right"):
            raise ValueError(f"side must be 'left' or 'right', got {side!r}")
        width = int(self.lengths.max()) if len(self) else 0
        rows = self.rows
        columns = torch.arange(len(self.tokens), device=rows.device) - self.offsets[rows]
        if side == "left":
            columns = columns + (width - self.lengths)[rows]

        def spread(flat: Tensor, empty: int) -> Tensor:
            rectangle = flat.new_full((len(self), width), empty)
            rectangle[rows, columns] = flat
            return rectangle

        return Padded(
            spread(self.tokens, pad),
            spread(torch.ones_like(self.tokens), 0),
            spread(self.positions, 0),
            spread(self.segments, -1),
        )

    def to_lists(self) -> list[list[int]]:
        """The tokens of every row."""
        return [row.tolist() for row in self.tokens.split(self.lengths.tolist())]


def _count(rows: Tensor, segments: Tensor) -> Tensor:
    """How many tokens of the same row and document stand before each token of a flat batch."""
    index = torch.arange(len(rows), device=rows.device)
    # A stable sort brings a document together even where another one interrupts it, and keeps
    # rows that share its number apart.
    order = segments.argsort(stable=True)
    fresh = torch.ones_like(rows, dtype=torch.bool)
    fresh[1:] = (rows[order].diff() != 0) | (segments[order].diff() != 0)
    first = torch.where(fresh, index, 0).cummax(0).values
    return torch.empty_like(index).scatter_(0, order, index - first)
