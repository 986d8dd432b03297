"""AnchorAttention: packed documents that share nothing but the first token."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from lengthwise.extend.method import whole
from lengthwise.train.data.collate import document_lengths
from lengthwise.train.data.weights import IGNORED


@dataclass(frozen=True)
class AnchorAttention:
    """Give every document of a packed row a copy of one shared first token, at position 0.

    Attention then stays within documents, as with any packed row, and equals attention in which
    all documents see one anchor at the row's beginning: the copies have its token, its position
    and nothing before them, so they are the same in every layer. Positions are not counted anew
    in each document, so rows of a long window train long positions.

    Source: Wang et al. 2024, arXiv:2411.13476, section 3.2.
    Differs from the source: the public code counts the copies as tokens, which moves the documents
        away from the anchor; here positions are those of the row with one anchor. Copies are no
        targets, nor is the first token of a document.
    Reduces to: one document after an anchor.

    Args:
        anchor: Token id of the anchor, at least 0; the paper's is the model's first token (BOS).

    Raises:
        ValueError: If `anchor` is below 0; in a call, for rows without documents.
    """

    anchor: int

    def __post_init__(self) -> None:
        whole("AnchorAttention", "anchor", self.anchor, 0)

    def __call__(
        self, row: Mapping[str, Any], generator: torch.Generator | None = None
    ) -> dict[str, Any]:
        """The row with an anchor before each document; nothing is drawn.

        Args:
            row: Has `input_ids` and `seq_lengths`, may have `labels`. A document that begins with
                the anchor token already keeps its own as the copy.
        """
        ids, lengths = list(row["input_ids"]), document_lengths(row)
        if lengths is None:
            raise ValueError(
                f"AnchorAttention takes rows with seq_lengths that sum to {len(ids)} tokens, got "
                "none; a row that never was packed has one"
            )
        labels = list(row.get("labels", ids))
        bounds = [0]
        for length in lengths:
            bounds.append(bounds[-1] + length)
        out: dict[str, Any] = {
            name: [] for name in ("input_ids", "labels", "position_ids", "segment_ids")
        }
        new_lengths, position = [], 1
        for number, (start, stop) in enumerate(pairwise(bounds)):
            if start < stop and ids[start] == self.anchor:
                start += 1
            count = stop - start
            out["input_ids"] += [self.anchor, *ids[start:stop]]
            out["labels"] += [IGNORED, IGNORED, *labels[start + 1 : stop]][: count + 1]
            out["position_ids"] += [0, *range(position, position + count)]
            out["segment_ids"] += [number] * (count + 1)
            new_lengths.append(count + 1)
            position += count
        return {**out, "seq_lengths": new_lengths}
