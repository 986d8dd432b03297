"""Blocks of documents that fit into memory, cut to the capacity by an explicit policy."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

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
        tokens: Of all documents, int32; between two documents there may be something else.
        labels: As many; None where they are the tokens.
        starts: Where each document begins in `tokens`, int64.
        lengths: Tokens of each document, int64, 0 for an empty one.
    """

    tokens: NDArray[np.int32]
    labels: NDArray[np.int32] | None
    starts: NDArray[np.int64]
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
    """Read a block into memory, or leave it where it is mapped when it lies in one file.

    Args:
        vocabulary: Tokens must be below it; 0 if it is not known.

    Raises:
        ValueError: For tokens outside the vocabulary or below 0, or a column of another type.
    """
    parts = _parts(block, vocabulary, bad)
    if len(block.ranges) != 1:
        return _copied(parts, block.tokens)
    mapped: list[pa.RecordBatch] = []
    where: set[tuple[int, int]] = set()
    for part in parts:
        mapped.append(part)
        place = _place(_values(part, TOKENS))
        where.add((place.address, place.size))
        if len(where) > 1 or place.address % 4 or LABELS in part.schema.names:
            return _copied(chain(mapped, parts), block.tokens)
    lengths = [pc.list_value_length(part.column(TOKENS)).to_numpy() for part in mapped]
    if not mapped:
        return _copied(mapped, 0)
    tokens = np.frombuffer(place, dtype=np.int32, count=place.size // 4)
    starts = [
        (_address(_values(part, TOKENS)) - place.address) // 4 + np.cumsum(own) - own
        for part, own in zip(mapped, lengths, strict=True)
    ]
    return Documents(tokens, None, np.concatenate(starts), np.concatenate(lengths).astype(np.int64))


def _parts(block: Block, vocabulary: int, bad: Bad) -> Iterator[pa.RecordBatch]:
    """The documents of a block, batch by batch, with tokens that are in the vocabulary."""
    before = block.first
    for path, name, first, stop in block.ranges:
        for batch in arrow_batches(path, first, stop):
            found = of_batch(batch, Reading(name), path, first, bad)
            first += batch.num_rows
            assert isinstance(found, pa.RecordBatch), "text that was not tokenised"
            _check_vocabulary(found, before, vocabulary)
            before += found.num_rows
            yield found


def _copied(parts: Iterable[pa.RecordBatch], most: int) -> Documents:
    """All documents end to end."""
    tokens = np.empty(most, dtype=np.int32)
    labels: NDArray[np.int32] | None = None
    lengths = [np.empty(0, dtype=np.int64)]
    at = 0
    for part in parts:
        lengths.append(pc.list_value_length(part.column(TOKENS)).to_numpy().astype(np.int64))
        end = at + int(lengths[-1].sum())
        tokens[at:end] = _values(part, TOKENS).to_numpy()
        if LABELS in part.schema.names:
            if labels is None:
                labels = np.empty_like(tokens)
                labels[:at] = tokens[:at]
            labels[at:end] = _values(part, LABELS).to_numpy()
        elif labels is not None:
            labels[at:end] = tokens[at:end]
        at = end
    whole = np.concatenate(lengths)
    return Documents(tokens[:at], labels, np.cumsum(whole) - whole, whole)


def _values(part: pa.RecordBatch, name: str) -> pa.Array:
    return part.column(name).flatten()


def _place(values: pa.Array) -> pa.Buffer:
    """The memory that numbers are a part of: of numbers in a mapped file, the file."""
    place = values.buffers()[1] or pa.py_buffer(b"")  # none at all has no memory
    while place.parent is not None:
        place = place.parent
    return place


def _address(values: pa.Array) -> int:
    numbers = values.buffers()[1]
    return 4 * values.offset + (int(numbers.address) if numbers else 0)


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
    lengths, starts = documents.lengths, documents.starts
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


def _check_vocabulary(part: pa.RecordBatch, before: int, vocabulary: int) -> None:
    for name in part.schema.names:
        numbers = _values(part, name)
        if name == LABELS:  # -100 is no token and none is expected
            numbers = numbers.filter(pc.not_equal(numbers, IGNORED))
        least, most = pc.min_max(numbers).as_py().values()
        if least is None or (least >= 0 and (not vocabulary or most < vocabulary)):
            continue
        given = _values(part, name).to_numpy()
        outside = (given < 0) | (given >= (vocabulary or 1 << 31))
        where = int(np.argmax(outside & ((given != IGNORED) | (name != LABELS))))
        ends = np.cumsum(pc.list_value_length(part.column(name)).to_numpy())
        document = before + int(np.searchsorted(ends, where, side="right"))
        allowed = f"from 0 to {vocabulary - 1:,}" if vocabulary else "at least 0"
        what, rest = ("label", f", or {IGNORED}") if name == LABELS else ("token", "")
        raise ValueError(
            f"document {document:,} has the {what} {given[where]}, and {what}s must be {allowed}"
            f"{rest}; is this the tokenizer that made them?"
        )
