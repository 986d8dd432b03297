"""Packed rows to the rectangles that models take."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lengthwise.train.data.weights import IGNORED, sequence_loss_weights


@dataclass(frozen=True)
class PackedCollator:
    """Rows of `lengthwise pack` become one batch, padded on the right to the longest row.

    A batch has `input_ids`, `labels`, `position_ids` and `segment_ids`, each `[b, t]`. The first
    token of a document is never a target: nothing of its document stands before it. Padding is
    segment -1, label -100, and counts its positions from 0 as one document, so that code which
    looks for documents in positions sees one and not hundreds.

    There is no `attention_mask`: beside restarting positions transformers would take one as the
    promise that a row is one document. Use the batch with `document_attention`, or with a model
    that was given to `lengthwise.adapt`.

    Args:
        pad: Token id of padding, at least 0.
        multiple: Widths are rounded up to a multiple of this, at least 1.
        weights: Whether to add `loss_weights` (see `sequence_loss_weights`); a row's own column is
            taken if there is one. Only for training that reads them, as SequenceWeightedTrainer
            does; a model would ignore them without a word.

    Raises:
        ValueError: For a setting out of range; in a call, for an empty batch, rows without
            `input_ids`, and columns whose lengths disagree.
    """

    pad: int = 0
    multiple: int = 1
    weights: bool = False

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be a token id of at least 0, got {self.pad}")
        if self.multiple < 1:
            raise ValueError(f"multiple must be at least 1, got {self.multiple}")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch from rows with `input_ids` and `seq_lengths`, or one document without."""
        if not rows:
            raise ValueError("a batch needs at least one row, got none")
        whole = [self._complete(row) for row in rows]
        longest = max(len(row["input_ids"]) for row in whole)
        width = -(-longest // self.multiple) * self.multiple
        empty = {
            "input_ids": self.pad, "labels": IGNORED, "segment_ids": -1, "loss_weights": 0.0,
        }  # fmt: skip
        batch = {}
        for name in whole[0]:
            lines = []
            for row in whole:
                missing = width - len(row[name])
                fill = list(range(missing)) if name == "position_ids" else [empty[name]] * missing
                lines.append([*row[name], *fill])
            batch[name] = torch.tensor(lines)
        return batch

    def _complete(self, row: Mapping[str, Any]) -> dict[str, list[Any]]:
        if "input_ids" not in row:
            raise ValueError(f"rows must have input_ids, got columns {', '.join(row) or 'none'}")
        ids = _numbers(row["input_ids"])
        lengths = _numbers(row.get("seq_lengths", [len(ids)]))
        if sum(lengths) != len(ids):
            raise ValueError(f"seq_lengths must sum to {len(ids)} tokens, got {sum(lengths)}")
        counted = {
            "input_ids": ids,
            "labels": ids,
            "position_ids": [p for n in lengths for p in range(n)],
            "segment_ids": [s for s, n in enumerate(lengths) for _ in range(n)],
        }
        whole = {name: _numbers(row.get(name, ours)) for name, ours in counted.items()}
        for name, column in whole.items():
            if len(column) != len(ids):
                raise ValueError(f"{name} must hold {len(ids)} numbers, got {len(column)}")
        for start in itertools.accumulate(lengths[:-1], initial=0):
            if start < len(ids):
                whole["labels"][start] = IGNORED
        if self.weights:
            ours = sequence_loss_weights(lengths, whole["labels"])
            whole["loss_weights"] = _numbers(row.get("loss_weights", ours))
        return whole


def _numbers(column: Any) -> list[Any]:
    """A column of lists, arrays or tensors as a list of its own."""
    return column.tolist() if hasattr(column, "tolist") else list(column)
