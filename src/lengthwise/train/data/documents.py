"""Blocks of documents that fit into memory, cut to the capacity by an explicit policy."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lengthwise.train.data.arrow import arrow_batches
from lengthwise.train.data.reading import LABELS, TOKENS, Bad, Reading, of_batch
from lengthwise.train.data.tokens import Shard

OVERFLOW = ("split", "truncate", "drop", "raise")
IGNORED = -100  # the label of a token that is no target, in torch and transformers

# An Arrow file, its column of tokens, and the rows from the first to before the last number.
Range = tuple[str, str, int, int]


@dataclass(frozen=True)
class Block:
    """Documents that are packed together, consecutive in the corpus.

    Attributes:
        number: From 0.
        first: Number of the block's first document in the corpus.
        tokens: Of all its documents.
        ranges: Where the documents lie.
    """

    number: int
    first: int
    tokens: int
    ranges: tuple[Range, ...]


@dataclass(frozen=True)
class Documents:
    """A block in memory.

    Attributes:
        tokens: All documents end to end, int32.
        labels: As many; None where they are the tokens.
        lengths: Tokens of each document, int64, 0 for an empty one.
    """

    tokens: NDArray[np.int32]
    labels: NDArray[np.int32] | None
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Pieces:
    """What goes into rows: documents, or pieces of those that are too long.

    Attributes:
        starts: Where each begins in the block's tokens.
        lengths: Tokens of each, from 1 to the capacity.
        cut: Documents that are not whole any more.
        dropped: Documents that are not there any more.
        dropped_tokens: Tokens that are not there any more.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    cut: int
    dropped: int
    dropped_tokens: int


def blocks(shards: Iterable[Shard], tokens: int, documents: int) -> Iterator[Block]:
    """Consecutive documents, until a block has so many tokens or documents.

    Only lengths are read; at any time no more than one block is known.
    """
    ranges: list[Range] = []
    number = first = held = held_tokens = 0
    for shard in shards:
        at = 0
        for batch in arrow_batches(shard.path):
            column = batch.column(shard.column)
            ends = np.cumsum(pc.fill_null(pc.list_value_length(column), 0).to_numpy())
            row = 0
            while row < batch.num_rows:
                before = ends[row - 1] if row else 0
                full = int(np.searchsorted(ends, before + tokens - held_tokens)) + 1
                stop = min(full, row + documents - held, batch.num_rows)
                if ranges and ranges[-1][0] == shard.path:  # ... and it ends where this begins
                    ranges[-1] = (*ranges[-1][:3], at + stop)
                else:
                    ranges.append((shard.path, shard.column, at + row, at + stop))
                held, held_tokens = held + stop - row, held_tokens + int(ends[stop - 1] - before)
                if held_tokens >= tokens or held >= documents:
                    yield Block(number, first, held_tokens, tuple(ranges))
                    ranges, number, first = [], number + 1, first + held
                    held = held_tokens = 0
                row = stop
            at += batch.num_rows
    if ranges:
        yield Block(number, first, held_tokens, tuple(ranges))


def load(block: Block, vocabulary: int, bad: Bad) -> Documents:
    """Read a block into memory.

    Args:
        vocabulary: Tokens must be below it; 0 if it is not known.

    Raises:
        ValueError: For tokens outside the vocabulary or below 0, or a column of another type.
    """
    tokens = np.empty(block.tokens, dtype=np.int32)
    labels: NDArray[np.int32] | None = None
    lengths = [np.empty(0, dtype=np.int64)]
    at = 0
    for path, name, first, stop in block.ranges:
        for batch in arrow_batches(path, first, stop):
            found = of_batch(batch, Reading(name), path, first, bad)
            first += batch.num_rows
            assert isinstance(found, pa.RecordBatch), "text that was not tokenised"
            column = found.column(TOKENS)
            lengths.append(pc.list_value_length(column).to_numpy().astype(np.int64))
            end = at + int(lengths[-1].sum())
            tokens[at:end] = column.flatten().to_numpy()
            if LABELS in found.schema.names:
                if labels is None:
                    labels = np.empty_like(tokens)
                    labels[:at] = tokens[:at]
                labels[at:end] = found.column(LABELS).flatten().to_numpy()
            elif labels is not None:
                labels[at:end] = tokens[at:end]
            at = end
    documents = Documents(tokens[:at], labels, np.concatenate(lengths))
    _check_vocabulary(documents, block, vocabulary)
    return documents


def cut(documents: Documents, capacity: int, overflow: str, first: int = 0) -> Pieces:
    """Apply the policy to documents longer than the capacity; empty documents give no piece.

    `split` cuts them into pieces of the capacity and a rest, `truncate` keeps their beginning,
    `drop` leaves them out, `raise` refuses them.

    Source: Ding et al. 2024, Fewer Truncations Improve Language Modeling (2404.10830), section 3:
    only documents longer than the context are split, all others stay whole.

    Args:
        first: Number of the first document in the corpus, for the error.

    Raises:
        ValueError: Under `raise`, for the first document that is too long.
    """
    lengths = documents.lengths
    starts = np.cumsum(lengths) - lengths
    long = lengths > capacity
    number = int(long.sum())
    if number and overflow == "raise":
        worst = int(np.argmax(long))
        raise ValueError(
            f"document {first + worst:,} has {lengths[worst]:,} tokens, more than the capacity "
            f"{capacity:,}; say what to do with such documents: --overflow split, truncate or drop"
        )
    if overflow == "split":
        count = -(-lengths // capacity)
        within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        left = np.repeat(lengths, count) - within * capacity
        return Pieces(
            np.repeat(starts, count) + within * capacity, np.minimum(left, capacity), number, 0, 0
        )
    kept = (lengths > 0) & (~long if overflow == "drop" else True)
    pieces = np.minimum(lengths[kept], capacity)
    lost = int(lengths.sum() - pieces.sum())
    dropped = overflow == "drop"
    return Pieces(starts[kept], pieces, 0 if dropped else number, number if dropped else 0, lost)


def _check_vocabulary(documents: Documents, block: Block, vocabulary: int) -> None:
    tokens = documents.tokens
    if not len(tokens) or (tokens.min() >= 0 and (not vocabulary or tokens.max() < vocabulary)):
        return
    where = int(np.argmax((tokens < 0) | (tokens >= (vocabulary or 1 << 31))))
    document = int(np.searchsorted(np.cumsum(documents.lengths), where, side="right"))
    allowed = f"from 0 to {vocabulary - 1:,}" if vocabulary else "at least 0"
    raise ValueError(
        f"document {block.first + document:,} has the token {tokens[where]}, and tokens must be "
        f"{allowed}; is this the tokenizer that made them?"
    )
