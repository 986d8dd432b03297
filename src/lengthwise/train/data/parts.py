"""The parts of a corpus: a range of a file, some files, or rows that came by."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from lengthwise.train.data.arrow import arrow_batches, arrow_schema
from lengthwise.train.data.reading import (
    BESIDE,
    Bad,
    Documents,
    Reading,
    first_line,
    holds_text,
    of_batch,
    of_rows,
    what_is_wrong,
)

BATCH = 1000  # documents that are read at once


class Part(ABC):
    """A piece of a corpus that gives the same documents whenever and wherever it is read."""

    @abstractmethod
    def read(self, reading: Reading, bad: Bad) -> Iterator[Documents]:
        """The documents, some at a time."""


@dataclass(frozen=True)
class TextFiles(Part):
    """Files of text, each one document."""

    paths: tuple[str, ...]

    def read(self, reading: Reading, bad: Bad) -> Iterator[Documents]:
        for path in self.paths:
            data = Path(path).read_bytes()
            if b"\0" in data:
                bad(f"{path} is binary, not text: byte {data.index(0):,} is NUL")
                continue
            try:
                yield [data.decode("utf-8").removeprefix("\ufeff")]
            except UnicodeDecodeError as error:
                bad(f"{path} is not UTF-8: byte {error.start:,} is 0x{data[error.start]:02x}")


@dataclass(frozen=True)
class _Lines(Part):
    """The lines that begin in a range of bytes."""

    path: str
    start: int
    stop: int

    def lines(self, bad: Bad) -> Iterator[tuple[int, str]]:
        """The byte at which every line begins, and the line without its end."""
        with open(self.path, "rb") as file:
            if self.start:  # a line that began before belongs to the part before
                file.seek(self.start - 1)
                file.readline()
            while (at := file.tell()) < self.stop and (line := file.readline()):
                try:
                    yield at, line.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    bad(f"{self.place(at)} is not UTF-8: 0x{line[error.start]:02x}")

    def place(self, at: int) -> str:
        """The number of the line that begins at a byte, for people."""
        before, count = at, 1
        with open(self.path, "rb") as file:
            while before and (data := file.read(min(before, 1 << 20))):
                count, before = count + data.count(b"\n"), before - len(data)
        return f"{self.path}, line {count:,}"


@dataclass(frozen=True)
class TextLines(_Lines):
    """Plain text with a document in every line."""

    def read(self, reading: Reading, bad: Bad) -> Iterator[Documents]:
        held: list[str] = []
        for _, line in self.lines(bad):
            held.append(line)
            if len(held) == BATCH:
                yield held
                held = []
        yield held


@dataclass(frozen=True)
class JsonLines(_Lines):
    """A JSON object in every line; blank lines are no documents."""

    def read(self, reading: Reading, bad: Bad) -> Iterator[Documents]:
        held: list[dict[str, Any]] = []
        for at, line in self.lines(bad):
            if not line.strip():
                continue
            place = partial(self.place, at)
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                bad(f"{place()} is not JSON: {error.msg} at character {error.pos + 1:,}")
                continue
            except (ValueError, RecursionError) as error:  # a number too long, lists too deep
                bad(f"{place()} is no JSON that can be read: {first_line(error)}")
                continue
            wrong = what_is_wrong(row, reading, place)
            if wrong:
                bad(wrong)
                continue
            held.append(row)
            if len(held) == BATCH:
                yield from of_rows(held, reading, self.path)
                held = []
        yield from of_rows(held, reading, self.path)


@dataclass(frozen=True)
class Rows(Part):
    """Dictionaries that came by in a stream."""

    name: str
    first: int
    rows: list[dict[str, Any]]

    def read(self, reading: Reading, bad: Bad) -> Iterator[Documents]:
        sound = []
        for number, row in enumerate(self.rows, start=self.first):
            wrong = what_is_wrong(row, reading, partial("{}, row {:,}".format, self.name, number))
            if wrong:
                bad(wrong)
            else:
                sound.append(row)
        for first in range(0, len(sound), BATCH):
            yield from of_rows(sound[first : first + BATCH], reading, self.name)


@dataclass(frozen=True)
class Table(Part):
    """Rows of a `datasets.Dataset` that no file holds as they are."""

    name: str
    first: int
    table: pa.Table

    def read(self, reading: Reading, bad: Bad) -> Iterator[Documents]:
        at = self.first
        for batch in self.table.to_batches(max_chunksize=BATCH):
            yield of_batch(batch, reading, self.name, at, bad)
            at += batch.num_rows


@dataclass(frozen=True)
class ParquetGroups(Part):
    """Some row groups of a Parquet file; none stands for a file that cannot be opened."""

    path: str
    groups: tuple[int, ...]

    @classmethod
    def of(cls, path: str, reading: Reading) -> "Iterator[ParquetGroups]":
        """The parts of a file."""
        import pyarrow.parquet as pq

        try:
            metadata = pq.read_metadata(path)
        except (pa.ArrowException, OSError):
            yield cls(path, ())  # its reader says so, or counts it
            return
        groups: list[int] = []
        size = 0
        for group in range(metadata.num_row_groups):
            groups.append(group)
            size += metadata.row_group(group).total_byte_size
            if size >= reading.part_bytes or group == metadata.num_row_groups - 1:
                yield cls(path, tuple(groups))
                groups, size = [], 0

    def read(self, reading: Reading, bad: Bad) -> Iterator[Documents]:
        import pyarrow.parquet as pq

        try:
            file = pq.ParquetFile(self.path)
        except (pa.ArrowException, OSError) as error:
            bad(f"{self.path} is no Parquet file, or damaged: {first_line(error)}")
            return
        with file:
            groups = range(self.groups[0] if self.groups else 0)
            at = sum(file.metadata.row_group(group).num_rows for group in groups)
            for group in self.groups:
                column = reading.column_of(file.schema_arrow.names, self.path)
                columns = list(dict.fromkeys([column, *BESIDE]))
                columns = [name for name in columns if name in file.schema_arrow.names]
                try:
                    table = file.read_row_group(group, columns=columns)
                    table.validate(full=True)
                except (pa.ArrowException, OSError) as error:
                    bad(f"{self.path}, row group {group}, is damaged: {first_line(error)}")
                    at += file.metadata.row_group(group).num_rows
                    continue
                for batch in table.to_batches(max_chunksize=BATCH):
                    yield of_batch(batch, reading, self.path, at, bad)
                    at += batch.num_rows


@dataclass(frozen=True)
class ArrowRows(Part):
    """Rows of an Arrow file, in the stream format of `datasets` or the file format."""

    path: str
    first: int = 0
    stop: int | None = None

    def read(self, reading: Reading, bad: Bad) -> Iterator[Documents]:
        at = self.first
        for batch in arrow_batches(self.path, self.first, self.stop):
            yield of_batch(batch, reading, self.path, at, bad)
            at += batch.num_rows


@dataclass(frozen=True)
class ArrowFile(ArrowRows):
    """A whole Arrow file, which is packed from where it lies if it holds tokens."""

    def holds_tokens(self, reading: Reading) -> bool:
        """Whether the documents are tokens already.

        Raises:
            ValueError: If the file is no Arrow file, or has no such column.
        """
        schema = arrow_schema(self.path)
        name = reading.column_of(schema.names, self.path)
        return not holds_text(schema.field(name).type, name, self.path)
