"""What counts as a document in rows and columns, and what is wrong with the others."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

TOKENS, TEXT, LABELS = "input_ids", "text", "labels"
MASKS = ("attention_mask", "completion_mask", "assistant_masks")
LENGTHS = "seq_lengths"  # tokens of the documents of a row that is packed already
BESIDE = (LABELS, *MASKS, LENGTHS, "segment_ids", "position_ids")  # looked at beside tokens
SURROGATE = re.compile("[\ud800-\udfff]")
SLICE = 64  # rows that are looked at together

# Texts, or a batch with the columns input_ids (lists of int32) and perhaps labels.
Documents: TypeAlias = list[str] | pa.RecordBatch
# Told what cannot be read: raises, or counts.
Bad = Callable[[str], None]


@dataclass(frozen=True)
class Reading:
    """How a corpus is read.

    Args:
        column: The column of the documents, text or lists of tokens; empty takes `input_ids`
            where there is one, else `text`.
        document: What one document is in a file of plain text: the `file` or a `line`.
        part_bytes: About how many bytes of a file make a part.
    """

    column: str = ""
    document: str = "file"
    part_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        if self.document not in ("file", "line"):
            raise ValueError(f"document must be file or line, got {self.document!r}")

    def column_in(self, names: Iterable[str]) -> str:
        """The column to read out of those that are there, or the empty string."""
        wanted = [self.column] if self.column else [TOKENS, TEXT]
        return next((name for name in wanted if name in names), "")

    def column_of(self, names: list[str], place: str) -> str:
        """The same.

        Raises:
            ValueError: If it is missing.
        """
        name = self.column_in(names)
        if not name:
            wanted = self.column or f"{TOKENS} and no {TEXT}"
            raise ValueError(
                f"{place} has no {wanted}, only {', '.join(names) or 'nothing'}; "
                "name the column of the documents with --column"
            )
        for one in (name, *BESIDE):
            if names.count(one) > 1:
                raise ValueError(f"{place} has {names.count(one)} columns that are called {one}")
        return name


def of_batch(
    batch: pa.RecordBatch, reading: Reading, place: str, first: int, bad: Bad
) -> Documents:
    """The documents of an Arrow batch; rows without one are bad.

    Args:
        first: Number of the batch's first row in the whole.

    Raises:
        ValueError: If the column is missing or of another type.
    """
    name = reading.column_of(batch.schema.names, place)
    text = holds_text(batch.schema.field(name).type, name, place)
    numbers = np.arange(first, first + batch.num_rows)
    left_out: dict[int, str] = {}
    column = batch.column(name)
    for row in pc.indices_nonzero(column.is_null()).to_pylist() if column.null_count else ():
        left_out[row] = f"{name} is null"
    for row in () if text else rows_that_lose(batch, name) - left_out.keys():
        words = what_is_lost(batch.slice(row, 1).to_pylist()[0], name)
        if words:
            left_out[row] = words
    if left_out:
        for row in sorted(left_out):
            bad(f"{place}, row {first + row:,}: {left_out[row]}")
        kept = np.ones(batch.num_rows, dtype=bool)
        kept[list(left_out)] = False
        batch, numbers = batch.filter(pa.array(kept)), numbers[kept]
        column = batch.column(name)
    if text:
        return column.to_pylist()
    columns = {TOKENS: whole_numbers(column, name, place, numbers)}
    # In our own files a batch without labels has nulls for them.
    if LABELS in batch.schema.names and batch.column(LABELS).null_count < batch.num_rows:
        columns[LABELS] = whole_numbers(batch.column(LABELS), LABELS, place, numbers)
        lengths = [pc.list_value_length(c).to_numpy() for c in columns.values()]
        for row in np.flatnonzero(lengths[0] != lengths[1])[:1].tolist():
            raise ValueError(f"{place}, row {numbers[row]:,}: {LABELS} and {name} differ in length")
    if LENGTHS in batch.schema.names and name != LENGTHS:
        kind = batch.schema.field(LENGTHS).type
        if is_lists(kind) and pa.types.is_integer(kind.value_type):
            columns = apart(columns, batch.column(LENGTHS))
    return pa.record_batch(columns)


def apart(columns: dict[str, pa.ListArray], packed: pa.Array) -> dict[str, pa.ListArray]:
    """The documents of rows that are packed already, or that say that they are one document.

    Args:
        packed: For every row, the tokens of its documents, which sum to the row's; none, and the
            row is one.
    """
    if not pc.all(pc.greater(pc.fill_null(pc.list_value_length(packed), 0), 0)).as_py():
        counts = pc.list_value_length(columns[TOKENS]).to_pylist()
        lists = zip(packed.to_pylist(), counts, strict=True)
        packed = pa.array([own or [count] for own, count in lists], pa.list_(pa.int32()))
    lengths = packed.flatten().cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
    return {
        name: pa.ListArray.from_arrays(offsets, column.values) for name, column in columns.items()
    }


def holds_text(kind: pa.DataType, name: str, place: str) -> bool:
    """Whether a column of documents holds texts, and not lists of tokens.

    Raises:
        ValueError: If it holds neither.
    """
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return True
    if not is_lists(kind):
        raise ValueError(f"{place}: {name} holds {kind}; it must be text or lists of tokens")
    return False


def is_lists(kind: pa.DataType) -> bool:
    """Whether a column holds lists that are read here."""
    kinds = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    return any(one(kind) for one in kinds)


def whole_numbers(column: pa.Array, name: str, place: str, rows: NDArray[np.int64]) -> pa.ListArray:
    """The column as lists of int32.

    Args:
        rows: Numbers of the rows in the whole, for errors.

    Raises:
        ValueError: If it holds anything else.
    """
    kind = column.type
    if not is_lists(kind):
        raise ValueError(f"{place}: {name} holds {kind}; it must be text or lists of tokens")
    if column.null_count:
        row = rows[pc.index(column.is_null(), True).as_py()]
        raise ValueError(f"{place}, row {row:,}: {name} is null where the document is not")
    values = column.flatten()
    lengths = pc.list_value_length(column).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])

    def of(wrong: pa.Array) -> str:
        """Where the first value is of which something is true."""
        at = pc.index(wrong, True).as_py()
        row = int(np.searchsorted(offsets.to_numpy(), at, side="right")) - 1
        return f"{place}, row {rows[row]:,}: {name}"

    if not pa.types.is_integer(values.type):
        if len(values):
            raise ValueError(
                f"{place}: {name} holds lists of {values.type}; tokens are whole numbers"
            )
        values = pa.array([], pa.int32())  # lists of nothing are of any type
    if values.null_count:
        raise ValueError(f"{of(values.is_null())} has a null; tokens are whole numbers")
    try:
        values = values.cast(pa.int32())
    except pa.ArrowInvalid:
        limit = pa.scalar((1 << 31) - 1, values.type)
        wrong = pc.greater(values, limit)
        if pa.types.is_signed_integer(values.type):
            wrong = pc.or_(wrong, pc.less(values, pa.scalar(-(1 << 31), values.type)))
        number = values[pc.index(wrong, True).as_py()]
        raise ValueError(f"{of(wrong)} has {number}; tokens are numbers of 32 bits") from None
    return pa.ListArray.from_arrays(offsets, values)


def of_rows(rows: list[dict[str, Any]], reading: Reading, place: str) -> Iterator[Documents]:
    """The documents of rows that nothing is wrong with, in order."""

    def kind(row: dict[str, Any]) -> tuple[bool, bool, bool]:
        name = reading.column_of(list(row), place)
        text = isinstance(row[name], str)
        packed = name != LENGTHS and isinstance(row.get(LENGTHS), list) and row[LENGTHS] != []
        return text, not text and LABELS in row, not text and packed

    for (text, labelled, packed), run in groupby(rows, kind):
        alike = list(run)
        found = [row[reading.column_of(list(row), place)] for row in alike]
        if text:
            yield found
            continue
        lists = pa.list_(pa.int32())
        columns = {TOKENS: pa.array(found, lists)}
        if labelled:
            columns[LABELS] = pa.array([row[LABELS] for row in alike], lists)
        if packed:
            columns = apart(columns, pa.array([row[LENGTHS] for row in alike], lists))
        yield pa.record_batch(columns)


def what_is_wrong(row: Any, reading: Reading, place: Callable[[], str]) -> str:
    """Why a row holds no document, or the empty string.

    Raises:
        ValueError: If the column of documents is missing.
    """
    if not isinstance(row, dict):
        return f"{place()} is no object with columns, but a {type(row).__name__}"
    if not reading.column_in(row):
        reading.column_of(list(row), place())
    name = reading.column_in(row)
    document = row[name]
    if isinstance(document, str):
        whole = document.isascii() or not SURROGATE.search(document)
        return "" if whole else f"{place()}: {name} has half of a surrogate pair, which is no text"
    if not isinstance(document, list):
        return f"{place()}: {name} is {type(document).__name__}; give text or a list of tokens"
    labels = row.get(LABELS, document)
    if not isinstance(labels, list) or len(labels) != len(document):
        return f"{place()}: {LABELS} and {name} differ in length"
    for what, numbers in ((name, document), (LABELS, labels)):
        for number in numbers:
            if type(number) is not int or abs(number) >= 1 << 31:
                got = repr(number)
                got = got if len(got) < 40 else f"{got[:36]} …"
                return f"{place()}: {what} has {got}; tokens are whole numbers of 32 bits"
    lost = what_is_lost(row, name)
    return f"{place()}: {lost}" if lost else ""


def what_is_lost(row: Mapping[str, Any], name: str) -> str:
    """What columns beside the tokens say that packing the row would lose, or nothing."""

    def numbers(column: str) -> list[Any]:
        value = None if column == name else row.get(column)
        return value if isinstance(value, list) else []

    for mask in MASKS if LABELS not in row else MASKS[:1]:
        hidden = sum(not one for one in numbers(mask))
        if hidden:
            way_out = (
                "take padding out of the documents"
                if mask == MASKS[0]
                else f"give {LABELS}, with -100 for tokens that are no targets"
            )
            return f"{mask} hides {hidden:,} tokens, and packing would show them; {way_out}"
    lengths, count = numbers(LENGTHS), len(row[name])
    if lengths and (any(type(n) is not int or n < 0 for n in lengths) or sum(lengths) != count):
        return f"{LENGTHS} do not sum to its {count:,} tokens"
    documents = [n for n in lengths or [count] if n]
    runs = [len(list(run)) for _, run in groupby(numbers("segment_ids"))]
    if runs and runs != documents:
        return (
            f"segment_ids say that it is packed, of {len(runs):,} documents, and {LENGTHS} do not; "
            f"give {LENGTHS}"
        )
    positions = numbers("position_ids")
    if positions and positions != [p for n in documents for p in range(n)]:
        return (
            "position_ids do not count the tokens of each document, and packing counts them anew; "
            "leave them out"
        )
    return ""


def rows_that_lose(batch: pa.RecordBatch, document: str) -> set[int]:
    """Rows of a batch of which `what_is_lost` may have something to say."""
    beside = [one for one in BESIDE[1:] if one in batch.schema.names and one != document]
    if LABELS in batch.schema.names:
        beside = [name for name in beside if name not in MASKS[1:]]
    found: set[int] = set()
    for first in range(0, batch.num_rows, SLICE) if beside else ():
        some = batch.slice(first, SLICE)
        odd = _odd_rows({name: some.column(name) for name in (document, *beside)})
        found.update(first + row for row in (range(some.num_rows) if odd is None else odd))
    return found


def _odd_rows(columns: dict[str, pa.Array]) -> list[int] | None:
    """Rows in which columns beside the first say something odd; None if any row may be one."""
    counts, flat = {}, {}
    for name, column in columns.items():
        if not is_lists(column.type):
            continue
        counts[name] = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        values = column.flatten()
        kind = values.type
        if values.null_count or not (pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
            return None
        flat[name] = values.to_numpy(zero_copy_only=False)
    document, *beside = counts
    tokens = counts[document].astype(np.int64)
    total, row = len(flat[document]), np.repeat(np.arange(len(tokens)), tokens)
    lengths = tokens
    if LENGTHS in beside:
        beside.remove(LENGTHS)
        lengths = flat[LENGTHS].astype(np.int64)
        sums = np.bincount(
            np.repeat(np.arange(len(tokens)), counts[LENGTHS]), lengths, minlength=len(tokens)
        )
        if (lengths < 0).any() or (sums != tokens).any():
            return None
    if any((counts[name] != tokens).any() for name in beside):
        return None
    begins = np.cumsum(lengths) - lengths
    odd = np.zeros(total, dtype=bool)
    for name in beside:
        if name == "segment_ids":
            begun = np.zeros(total, dtype=bool)
            begun[begins[lengths > 0]] = True
            changed = np.diff(flat[name], prepend=0) != 0
            odd[1:] |= (changed != begun)[1:] & (row[1:] == row[:-1])
        elif name == "position_ids":
            odd |= flat[name] != np.arange(total) - np.repeat(begins, lengths)
        else:
            odd |= flat[name] == 0
    return np.unique(row[odd]).tolist()


def first_line(error: Exception) -> str:
    """What an Arrow error says, without the stack that it adds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
