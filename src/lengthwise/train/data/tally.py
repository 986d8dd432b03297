"""What was counted while packing: sums that add up over blocks, and never need the corpus."""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from lengthwise.train.data.documents import Pieces
    from lengthwise.train.data.rows import Rows

OCTAVES = 41  # lengths from 2**(i - 1) + 1 to 2**i


@dataclass
class Tally:
    """Counts of a block or of a corpus.

    Attributes:
        documents, empty: Documents that were read, and those among them without a token.
        tokens: Of all documents.
        cut, dropped: Documents that are not whole any more, and not there any more.
        dropped_tokens: Tokens that are not there any more.
        would_cut: Documents that fit a row and that cutting the concatenated corpus into rows
            would have cut.
        pieces, rows: What was written.
        packed: Tokens that were written.
        pairs: Pairs of a query and a key that it sees, within documents.
        row_pairs: The same if the documents of a row saw each other.
        longest: Tokens of the longest document.
        before, after: Documents and written pieces by octave of length, then their tokens.
    """

    documents: int = 0
    empty: int = 0
    tokens: int = 0
    cut: int = 0
    dropped: int = 0
    dropped_tokens: int = 0
    would_cut: int = 0
    pieces: int = 0
    rows: int = 0
    packed: int = 0
    pairs: int = 0
    row_pairs: int = 0
    longest: int = 0
    before: list[list[int]] = field(default_factory=lambda: [[0] * OCTAVES, [0] * OCTAVES])
    after: list[list[int]] = field(default_factory=lambda: [[0] * OCTAVES, [0] * OCTAVES])


def count(lengths: NDArray[np.int64], pieces: "Pieces", rows: "Rows", capacity: int) -> Tally:
    """The counts of one block."""
    ends = np.cumsum(lengths)
    fits = (lengths > 0) & (lengths <= capacity)
    crosses = (ends - lengths) // capacity != (ends - 1) // capacity
    in_row = np.add.reduceat(rows.lengths, rows.first[:-1]) if len(rows) else rows.lengths
    return Tally(
        documents=len(lengths),
        empty=int((lengths == 0).sum()),
        tokens=int(lengths.sum()),
        cut=pieces.cut,
        dropped=pieces.dropped,
        dropped_tokens=pieces.dropped_tokens,
        would_cut=int((fits & crosses).sum()),
        pieces=len(pieces.lengths),
        rows=len(rows),
        packed=int(pieces.lengths.sum()),
        pairs=_pairs(pieces.lengths),
        row_pairs=_pairs(in_row),
        longest=int(lengths.max(initial=0)),
        before=_octaves(lengths),
        after=_octaves(pieces.lengths),
    )


def add(tallies: Iterable[Tally]) -> Tally:
    """The counts of blocks together."""
    total = Tally()
    for tally in tallies:
        for one in fields(Tally):
            name, more = one.name, getattr(tally, one.name)
            so_far = getattr(total, name)
            if name in ("before", "after"):
                more = [[a + b for a, b in zip(*two, strict=True)]
                        for two in zip(so_far, more, strict=True)]  # fmt: skip
                setattr(total, name, more)
            else:
                setattr(total, name, max(so_far, more) if name == "longest" else so_far + more)
    return total


def _pairs(lengths: NDArray[np.int64]) -> int:
    return int((lengths * (lengths + 1) // 2).sum())


def _octaves(lengths: NDArray[np.int64]) -> list[list[int]]:
    """How many lengths are in each octave, and how many tokens these have."""
    some = lengths[lengths > 0]
    octave = np.frexp(some.astype(np.float64) - 1)[1]
    counts = np.bincount(octave, minlength=OCTAVES)
    tokens = np.bincount(octave, weights=some, minlength=OCTAVES)
    return [counts.tolist(), [int(number) for number in tokens]]
