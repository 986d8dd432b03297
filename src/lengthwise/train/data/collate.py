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
        unpacked: Whether a row that does not say where its documents end is one document. Only for
            rows that never were packed.

    Raises:
        ValueError: For a setting out of range; in a call, for an empty batch, rows without
            `input_ids` or (unless `unpacked`) without `seq_lengths`, columns that disagree, and
            masks that would be ignored.
    """

    pad: int = 0
    multiple: int = 1
    weights: bool = False
    unpacked: bool = False

    def __post_init__(self) -> None:
        if self.pad < 0:
            raise ValueError(f"pad must be a token id of at least 0, got {self.pad}")
        if self.multiple < 1:
            raise ValueError(f"multiple must be at least 1, got {self.multiple}")

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """One batch from rows with `input_ids` and `seq_lengths`."""
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
        ids = numbers(row["input_ids"])
        refuse_masks(row)
        lengths = document_lengths(row)
        if lengths is None:
            if not self.unpacked:
                raise ValueError(
                    f"a row of {len(ids)} tokens has no seq_lengths to say where its documents end "
                    f"(its columns: {', '.join(row)}); with transformers' Trainer set "
                    "remove_unused_columns=False, or PackedCollator(unpacked=True) for rows that "
                    "never were packed"
                )
            lengths = [len(ids)]
        counted = {
            "input_ids": ids,
            "labels": ids,
            "position_ids": [p for n in lengths for p in range(n)],
            "segment_ids": [s for s, n in enumerate(lengths) for _ in range(n)],
        }
        if self.weights and "loss_weights" in row:
            counted["loss_weights"] = ids
        whole = {name: numbers(row.get(name, ours)) for name, ours in counted.items()}
        for name, column in whole.items():
            if len(column) != len(ids):
                raise ValueError(f"{name} must hold {len(ids)} numbers, got {len(column)}")
        for start in itertools.accumulate(lengths[:-1], initial=0):
            if start < len(ids):
                whole["labels"][start] = IGNORED
        if self.weights and "loss_weights" not in row:
            whole["loss_weights"] = sequence_loss_weights(lengths, whole["labels"])
        return whole


def document_lengths(row: Mapping[str, Any]) -> list[int] | None:
    """Tokens of every document of a row, from `seq_lengths` or else the runs of `segment_ids`.

    None if the row has neither: then nothing says whether it was packed.

    Raises:
        ValueError: If they do not sum to the row's tokens, or disagree.
    """
    count = len(row["input_ids"])
    runs: list[int] | None = None
    if "segment_ids" in row:
        segments = numbers(row["segment_ids"])
        if len(segments) != count:
            raise ValueError(f"segment_ids must hold {count} numbers, got {len(segments)}")
        runs = [len(list(run)) for _, run in itertools.groupby(segments)]
    if "seq_lengths" not in row:
        return runs
    lengths = numbers(row["seq_lengths"])
    if sum(lengths) != count:
        raise ValueError(f"seq_lengths must sum to {count} tokens, got {sum(lengths)}")
    if min(lengths, default=1) < 1:
        raise ValueError(f"seq_lengths must be at least 1, got {min(lengths)}")
    if runs is not None and runs != lengths:
        raise ValueError(
            f"seq_lengths and segment_ids disagree: documents of {shown(lengths)} tokens and of "
            f"{shown(runs)}; leave one of the two out"
        )
    return lengths


def refuse_masks(row: Mapping[str, Any]) -> None:
    """Raise ValueError for a mask that hides tokens of a row: nothing here would read it."""
    for name in ("attention_mask", "completion_mask", "assistant_masks"):
        hidden = sum(not one for one in numbers(row.get(name, ())))
        if hidden:
            way_out = (
                "leave padding out of the rows"
                if name == "attention_mask"
                else "write labels with -100 for tokens that are no targets"
            )
            raise ValueError(f"{name} hides {hidden} tokens of a row and is not read; {way_out}")


def numbers(column: Any) -> list[Any]:
    """A column of lists, arrays or tensors as a list of its own."""
    return column.tolist() if hasattr(column, "tolist") else list(column)


def shown(lengths: Sequence[int]) -> str:
    """The first lengths of a row, for people."""
    return ", ".join(map(str, lengths[:6])) + (" …" if len(lengths) > 6 else "")
