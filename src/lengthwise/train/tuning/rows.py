"""What all position synthesis shares: a text, and the pieces of it that make a row."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from lengthwise.train.data.collate import document_lengths, numbers
from lengthwise.train.data.weights import IGNORED

Row = dict[str, Any]
Piece = tuple[int, int, int]  # first token of the text, the one after the last, first position


class PositionSynthesis(ABC):
    """A transform of rows: positions that reach further than the row is long.

    Rows come out with one document: `segment_ids` are 0 throughout, so a jump of positions is never
    taken for the end of a document by `document_attention` or an adapted model. A plain transformers
    model would take it for one where it is given no mask.
    """  # noqa: E501

    @abstractmethod
    def __call__(self, row: Mapping[str, Any], generator: torch.Generator) -> Row:
        """The row with new positions.

        Args:
            row: Has `input_ids`, may have `labels` (-100 is no target); one text, whatever it was
                packed from.
            generator: The same state gives the same row.

        Raises:
            ValueError: For a row without tokens, or with several documents.
        """

    def numbered(self, seed: int) -> Callable[[Mapping[str, Any], int], Row]:
        """For `datasets.map(…, with_indices=True)`: row n is drawn from `seed` and n alone."""
        return partial(_numbered, self, seed)


def _numbered(transform: PositionSynthesis, seed: int, row: Mapping[str, Any], index: int) -> Row:
    return transform(row, torch.Generator().manual_seed((seed << 32) + index))


@dataclass(frozen=True)
class Text:
    """The tokens of one row and their labels."""

    ids: list[int]
    labels: list[int]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> "Text":
        """The text of a row."""
        ids = numbers(row.get("input_ids", ()))
        if not ids:
            raise ValueError("a row must have input_ids with at least one token, got none")
        labels = numbers(row.get("labels", ids))
        if len(labels) != len(ids):
            raise ValueError(f"labels must hold {len(ids)} numbers, got {len(labels)}")
        lengths = document_lengths(row) or ()
        if len(lengths) > 1:
            raise ValueError(
                f"positions are synthesised for one document a row, got {len(lengths)} in "
                f"{'seq_lengths' if 'seq_lengths' in row else 'segment_ids'}; transform documents "
                "before they are packed"
            )
        return cls(ids, labels)

    def __len__(self) -> int:
        return len(self.ids)

    def row(self, pieces: Sequence[Piece]) -> Row:
        """The pieces one after another, each counted from its own position.

        The first token of a piece that does not go on where the piece before it stopped is no
        target: what stands before it in the row is not what stands before it in the text.
        """
        ids: list[int] = []
        labels: list[int] = []
        positions: list[int] = []
        before = None
        for start, stop, position in pieces:
            if start == stop:
                continue
            ids += self.ids[start:stop]
            labels += self.labels[start:stop]
            positions += range(position, position + stop - start)
            if before is not None and start != before:
                labels[start - stop] = IGNORED
            before = stop
        return {
            "input_ids": ids,
            "labels": labels,
            "position_ids": positions,
            "segment_ids": [0] * len(ids),
            "seq_lengths": [len(ids)],
        }


def draw(generator: torch.Generator, low: int, high: int) -> int:
    """A whole number from `low` to `high`, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator))


def cuts(generator: torch.Generator, total: int, count: int) -> list[int]:
    """`count` numbers from 0 to `total`, both included, in order; uniform."""
    return torch.randint(0, total + 1, (count,), generator=generator).sort().values.tolist()


def check_window(owner: str, window: int, target: int) -> None:
    """Raise ValueError unless the window is a whole number from 2 and the target no shorter."""
    for name, value, least in (("window", window, 2), ("target", target, window)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(
                f"{owner}: {name} must be a whole number of at least {least}, got {value!r}"
            )
