"""The second pass: a block of documents becomes rows of at most `capacity` tokens."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lengthwise.train.data.arrow import write_arrow
from lengthwise.train.data.documents import IGNORED, Block, Documents, Pieces, cut, load
from lengthwise.train.data.packers import PACKERS, best_fit_bins
from lengthwise.train.data.state import read_record, write_record
from lengthwise.train.data.tally import Tally, count
from lengthwise.train.data.tokens import LeftOut

BATCH_TOKENS = 1 << 19  # of one record batch: its columns stay in the processor's cache


@dataclass(frozen=True)
class Packing:
    """How documents become rows.

    Args:
        capacity: Tokens of a row at most, at least 2.
        overflow: What happens to a longer document: `split`, `truncate`, `drop` or `raise`.
        packer: A name in `PACKERS`.
        seed: Of the order of the rows.
        slim: Write `input_ids` and `seq_lengths` alone (and `labels` that the source brings);
            collators can make the other columns from these.
        mask: Write an `attention_mask` of ones as well. axolotl takes data for tokenised only
            with that column, unless it is told `skip_prepare_dataset: true`; beside it
            transformers does not separate documents by positions.
    """

    capacity: int
    overflow: str = "split"
    packer: str = "best_fit"
    seed: int = 0
    slim: bool = False
    mask: bool = False


@dataclass(frozen=True)
class Rows:
    """An assignment: pieces sorted by row.

    Attributes:
        starts, lengths: Of the pieces, in the order in which they are written.
        first: `[rows + 1]`, the first piece of every row and the number of all pieces.
    """

    starts: NDArray[np.int64]
    lengths: NDArray[np.int64]
    first: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.first) - 1


@dataclass
class Packed(LeftOut):
    """A finished block: its files and what was counted."""

    files: list[str]
    tally: Tally


@dataclass(frozen=True)
class Pack:
    """Packs blocks, each into files of its own.

    Args:
        folder: Where the data files go.
        records: Where it is noted that a block is finished.
        packing: How documents become rows.
        vocabulary: Tokens must be below it; 0 if it is not known.
        skip_bad: Whether rows without a document are left out and counted.
        file_tokens: About how many tokens a file holds.
        threads: Files of a block that are written at the same time.
    """

    folder: str
    records: str
    packing: Packing
    vocabulary: int
    skip_bad: bool
    file_tokens: int
    threads: int

    def __call__(self, block: Block) -> Packed:
        """Load, assign and write one block; what is finished already is not done again.

        Raises:
            ValueError: For tokens outside the vocabulary, nulls, or documents that are too long
                under the policy `raise`.
            OSError: When the disk is full.
        """
        record = Path(self.records) / f"{block.number:06d}.json"
        saved = read_record(record)
        if saved is not None and (self.skip_bad or not saved["bad"]):
            return Packed(**{**saved, "tally": Tally(**saved["tally"])})
        done = Packed([], Tally())
        documents = load(block, self.vocabulary, done.note)
        if done.bad and not self.skip_bad:
            raise ValueError(f"{done.named[0]}; leave such documents out with --skip-bad")
        pieces = cut(documents, self.packing.capacity, self.packing.overflow, block.first)
        rows = assign(pieces, self.packing, block.number)
        done.tally = count(documents.lengths, pieces, rows, self.packing.capacity)
        columns = schema(self.packing, documents.labels is not None, self.vocabulary)
        size = max(1, self.file_tokens // self.packing.capacity)

        def write(number: int) -> str:
            name = f"data-{block.number:05d}-{number:03d}.arrow"
            first, stop = number * size, min((number + 1) * size, len(rows))
            batches = _batches(documents, rows, self.packing, columns, first, stop)
            write_arrow(Path(self.folder) / name, columns, batches)
            return name

        with ThreadPoolExecutor(self.threads) as pool:  # numpy and the disk let go of the lock
            done.files = list(pool.map(write, range(-(-len(rows) // size))))
        write_record(record, asdict(done))
        return done


def assign(pieces: Pieces, packing: Packing, block: int) -> Rows:
    """Assign pieces to rows; rows come in an order drawn from the seed and the block.

    Packers open the rows of the longest documents first; without a new order, what is trained
    on in one step would be alike. Pieces of a row keep the order that they have in the corpus.
    """
    if packing.packer == "best_fit":
        bins = best_fit_bins(pieces.lengths, packing.capacity)
    else:
        bins = np.empty(len(pieces.lengths), dtype=np.int64)
        for number, members in enumerate(PACKERS[packing.packer](pieces.lengths, packing.capacity)):
            bins[members] = number
    number_of_rows = int(bins.max()) + 1 if len(bins) else 0
    shuffled = np.random.default_rng((packing.seed, block)).permutation(number_of_rows)
    row = shuffled[bins]
    order = np.argsort(row, kind="stable")
    first = np.searchsorted(row[order], np.arange(number_of_rows + 1))
    return Rows(pieces.starts[order], pieces.lengths[order], first)


def schema(packing: Packing, labelled: bool, vocabulary: int) -> pa.Schema:
    """The columns of a data file, in the smallest numbers that hold them."""
    small = pa.int16() if packing.capacity < 1 << 15 else pa.int32()
    token = pa.int16() if 0 < vocabulary <= 1 << 15 else pa.int32()
    kinds = {
        "input_ids": token, "labels": pa.int32(), "position_ids": small,
        "segment_ids": small, "loss_weights": pa.float32(), "seq_lengths": pa.int32(),
    }  # fmt: skip
    if packing.slim:
        kinds = {name: kinds[name] for name in ("input_ids", "labels", "seq_lengths")}
        if not labelled:
            del kinds["labels"]
    if packing.mask:
        kinds["attention_mask"] = pa.int8()
    return pa.schema({name: pa.list_(kind) for name, kind in kinds.items()})


def _batches(
    documents: Documents, rows: Rows, packing: Packing, columns: pa.Schema, first: int, stop: int
) -> Iterator[pa.RecordBatch]:
    size = min(1000, max(1, BATCH_TOKENS // packing.capacity))
    for row in range(first, stop, size):
        yield _batch(documents, rows, columns, row, min(row + size, stop))


def _batch(
    documents: Documents, rows: Rows, columns: pa.Schema, first: int, stop: int
) -> pa.RecordBatch:
    """Rows `first` to `stop`. A document's first token is no target: nothing stands before it."""
    at, end = rows.first[first], rows.first[stop]
    starts, lengths = rows.starts[at:end], rows.lengths[at:end]
    ends = np.cumsum(lengths)
    begins = ends - lengths
    pieces = rows.first[first : stop + 1] - at  # of every row, the first
    row_offsets = np.append(begins, ends[-1:])[pieces].astype(np.int32)

    ids = _gather(documents.tokens, starts, lengths).cast(_kind(columns, "input_ids"))
    flat: dict[str, tuple[NDArray, NDArray | pa.Array]] = {"input_ids": (row_offsets, ids)}
    if "labels" in columns.names:
        source = documents.labels
        labels = _room(len(ids), np.int32)
        labels[:] = ids if source is None else _gather(source, starts, lengths)
        labels[begins] = IGNORED
        flat["labels"] = (row_offsets, labels)
    if "loss_weights" in columns.names:
        small = _kind(columns, "position_ids").to_pandas_dtype()
        positions = _gather(np.arange(lengths.max(), dtype=small), 0 * lengths, lengths)
        number = np.arange(len(lengths)) - np.repeat(pieces[:-1], np.diff(pieces))
        flat["position_ids"] = (row_offsets, positions)
        flat["segment_ids"] = (row_offsets, _runs(ends, number.astype(small)))
        if documents.labels is None:
            flat["loss_weights"] = (row_offsets, _weights(begins, ends))
        else:
            is_target = labels != IGNORED
            targets = np.add.reduceat(is_target, begins, dtype=np.int64)
            weights = np.repeat((1 / np.maximum(targets, 1)).astype(np.float32), lengths)
            flat["loss_weights"] = (row_offsets, weights * is_target)
    if "attention_mask" in columns.names:
        flat["attention_mask"] = (row_offsets, np.ones(len(ids), dtype=np.int8))
    flat["seq_lengths"] = (pieces.astype(np.int32), lengths.astype(np.int32))
    arrays = [
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
        for offsets, values in (flat[name] for name in columns.names)
    ]
    return pa.record_batch(arrays, schema=columns)


def _kind(columns: pa.Schema, name: str) -> pa.DataType:
    return columns.field(name).type.value_type


def _gather(values: NDArray, starts: NDArray, lengths: NDArray) -> pa.Array:
    """Pieces of an array end to end; Arrow copies them without holding Python's lock."""
    return pa.LargeListViewArray.from_arrays(starts, lengths, pa.array(values)).flatten()


def _room(count: int, kind: type) -> NDArray:
    """An array in Arrow's pool: it hands out again what was freed, and new pages cost more than
    what is written into them.
    """
    return np.frombuffer(pa.allocate_buffer(count * np.dtype(kind).itemsize), dtype=kind)


def _runs(ends: NDArray, values: NDArray) -> pa.Array:
    """Each value repeated up to its end; Arrow fills runs without holding Python's lock."""
    runs = pa.RunEndEncodedArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(values))
    return pc.run_end_decode(runs)


def _weights(begins: NDArray, ends: NDArray) -> pa.Array:
    """1 / targets for every token of a document but its first, which gets 0."""
    targets = ends - begins - 1
    edges = np.stack([begins + 1, ends], axis=1).ravel()
    values = np.zeros(2 * len(ends), dtype=np.float32)
    values[1::2] = 1 / np.maximum(targets, 1)
    kept = np.ones(len(edges), dtype=bool)
    kept[1::2] = targets > 0  # a document of one token has no second run
    return _runs(edges[kept], values[kept])
