"""Arrow files: read without a copy, written as a whole or not at all."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from lengthwise.files import whole_file
from lengthwise.train.data.reading import first_line


def arrow_schema(path: str) -> pa.Schema:
    """The columns of an Arrow file, in the stream format of `datasets` or in the file format.

    Raises:
        ValueError: If it is no Arrow file.
    """
    with _map(path) as mapped:
        schema = _open(mapped, path).schema
    try:
        assert all(isinstance(name, str) for name in schema.names)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: the name of a column is no text") from error
    return schema


def arrow_batches(path: str, first: int = 0, stop: int | None = None) -> Iterator[pa.RecordBatch]:
    """Rows `first` to `stop` of an Arrow file, without a copy.

    Raises:
        ValueError: If it is no Arrow file, or damaged.
    """
    with _map(path) as mapped:
        at = 0
        try:
            for batch in _each_batch(_open(mapped, path)):
                batch.validate(full=True)  # damaged offsets would be read as they are
                begin = max(first - at, 0)
                end = batch.num_rows if stop is None else min(batch.num_rows, stop - at)
                if begin < end:
                    yield batch.slice(begin, end - begin)
                at += batch.num_rows
                if stop is not None and at >= stop:
                    return
        except (pa.ArrowException, OSError) as error:
            raise ValueError(f"{path} is damaged: {first_line(error)}") from error


def write_arrow(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> int:
    """Write a file in the stream format, which `datasets` maps into memory; its size in bytes.

    It appears under its name when it is whole.

    Raises:
        OSError: With the path, when the disk is full for instance; nothing is left behind.
    """
    with whole_file(path, shared=True) as fresh:
        with pa.OSFile(str(fresh), "wb") as file, pa.ipc.new_stream(file, schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
        return fresh.stat().st_size


def _map(path: str) -> Any:
    try:
        return pa.memory_map(path)
    except pa.ArrowException as error:  # an empty file cannot be mapped
        raise ValueError(f"{path} is no Arrow file: {first_line(error)}") from error


def _open(mapped: Any, path: str) -> Any:
    try:
        return pa.ipc.open_stream(mapped)
    except (pa.ArrowException, OSError):
        mapped.seek(0)
    try:
        return pa.ipc.open_file(mapped)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} is no Arrow file: {first_line(error)}") from error


def _each_batch(reader: Any) -> Iterator[pa.RecordBatch]:
    if isinstance(reader, pa.RecordBatchFileReader):
        return (reader.get_batch(number) for number in range(reader.num_record_batches))
    return iter(reader)
