"""What counts as a document in rows and columns, and what is wrong with the others."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

TOKENS, TEXT, LABELS = "input_ids", "text", "labels"

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
    column = batch.column(name)
    if column.null_count:
        for row in pc.indices_nonzero(column.is_null()).to_pylist():
            bad(f"{place}, row {first + row:,}: {name} is null")
        batch = batch.filter(column.is_valid())
        column = batch.column(name)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.to_pylist()
    columns = {TOKENS: whole_numbers(column, name, place)}
    # In our own files a batch without labels has nulls for them.
    if LABELS in batch.schema.names and batch.column(LABELS).null_count < batch.num_rows:
        columns[LABELS] = whole_numbers(batch.column(LABELS), LABELS, place)
        same = pc.equal(*(pc.list_value_length(c) for c in columns.values()))
        if not pc.all(same).as_py():
            raise ValueError(f"{place}: {LABELS} and {name} differ in length")
    return pa.record_batch(columns)


def whole_numbers(column: pa.Array, name: str, place: str) -> pa.ListArray:
    """The column as lists of int32.

    Raises:
        ValueError: If it holds anything else.
    """
    kind = column.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists and not pa.types.is_fixed_size_list(kind):
        raise ValueError(f"{place}: {name} holds {kind}; it must be text or lists of tokens")
    if column.null_count:
        raise ValueError(f"{place}: {name} is null where the document is not")
    values = column.flatten()
    if not pa.types.is_integer(values.type) and len(values):
        raise ValueError(f"{place}: {name} holds lists of {values.type}; tokens are whole numbers")
    if values.null_count:
        raise ValueError(f"{place}: {name} has a null among its tokens; tokens are whole numbers")
    try:
        values = values.cast(pa.int32())
    except pa.ArrowInvalid as error:
        raise ValueError(f"{place}: {name}: {first_line(error)}; tokens fit 32 bits") from None
    lengths = pc.list_value_length(column).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
    return pa.ListArray.from_arrays(offsets, values)


def of_rows(rows: list[dict[str, Any]], reading: Reading, place: str) -> Iterator[Documents]:
    """The documents of rows that nothing is wrong with, in order."""

    def kind(row: dict[str, Any]) -> tuple[bool, bool]:
        text = isinstance(row[reading.column_of(list(row), place)], str)
        return text, not text and LABELS in row

    for (text, labelled), run in groupby(rows, kind):
        alike = list(run)
        found = [row[reading.column_of(list(row), place)] for row in alike]
        if text:
            yield found
            continue
        lists = pa.list_(pa.int32())
        columns = {TOKENS: pa.array(found, lists)}
        if labelled:
            columns[LABELS] = pa.array([row[LABELS] for row in alike], lists)
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
        return ""
    if not isinstance(document, list):
        return f"{place()}: {name} is {type(document).__name__}; give text or a list of tokens"
    labels = row.get(LABELS, document)
    if not isinstance(labels, list) or len(labels) != len(document):
        return f"{place()}: {LABELS} and {name} differ in length"
    for what, numbers in ((name, document), (LABELS, labels)):
        for number in numbers:
            if type(number) is not int or abs(number) >= 1 << 31:
                return f"{place()}: {what} has {number!r}; tokens are whole numbers of 32 bits"
    return ""


def first_line(error: Exception) -> str:
    """What an Arrow error says, without the stack that it adds."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
