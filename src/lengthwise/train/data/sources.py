"""What a corpus can be: files of text, JSON lines, Parquet, Arrow, folders of them, or rows.

A corpus is a sequence of parts in a fixed order. A part is small, can be read on any machine that
sees the files, and always gives the same documents: that is what makes packing parallel,
resumable and deterministic.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from lengthwise.train.data.arrow import arrow_batches, arrow_schema
from lengthwise.train.data.parts import (
    ArrowFile,
    ArrowRows,
    JsonLines,
    ParquetGroups,
    Part,
    Rows,
    Table,
    TextFiles,
    TextLines,
)
from lengthwise.train.data.reading import Reading, first_line

JSON_LINES = (".jsonl", ".ndjson")
PARQUET = (".parquet", ".pq")
ARROW = (".arrow",)
ROWS = 10_000  # documents of a part that is cut by rows


@dataclass(frozen=True)
class Corpus:
    """Parts in order, and what tells whether it is the same corpus as last time.

    Attributes:
        name: For people.
        identity: Changes when a file does; a resumed run compares it.
        parts: None for a source that can be read only from its beginning: then `rows` is given.
        rows: Such a source: anything that iterates over dictionaries.
    """

    name: str
    identity: str
    parts: Sequence[Part] | None
    rows: Any = None

    def each(self) -> Iterator[Part]:
        """The parts in order; a stream is cut into them as it goes by."""
        if self.parts is not None:
            yield from self.parts
            return
        if hasattr(self.rows, "data"):  # a datasets.Dataset, which has its rows in Arrow
            for number, table in enumerate(self.rows.with_format("arrow").iter(ROWS)):
                yield Table(self.name, number * ROWS, table)
            return
        rows = iter(self.rows)
        for first in count(0, ROWS):
            held = list(islice(rows, ROWS))
            if not held:
                return
            yield Rows(self.name, first, held)


def open_source(source: Any, reading: Reading) -> Corpus:
    """The corpus that a path or an object of `datasets` stands for.

    A path is a file of text (one document, or one a line), JSON lines, Parquet or Arrow, a folder
    of any of these, or a directory that `datasets` wrote. `hub:NAME` or `hub:NAME:CONFIG` streams
    the train split of a data set on the Hugging Face hub. Objects are `datasets.Dataset`
    (memory-mapped or not) and anything that iterates over dictionaries, such as
    `datasets.IterableDataset`.

    Raises:
        ValueError: If there is no such path, or nothing in it to read.
    """
    if not isinstance(source, (str, Path)):
        return _from_object(source, reading)
    name = str(source)
    if name.startswith("hub:"):
        return Corpus(name, name, None, _from_hub(name))
    path = Path(source)
    if not path.exists():
        raise ValueError(f"there is no file or directory {path}; write hub:{path} for the hub")
    files = _files(path)
    described = [f"{file}\0{file.stat().st_size}\0{file.stat().st_mtime_ns}" for file in files]
    identity = hashlib.sha256("\n".join(described).encode()).hexdigest()
    return Corpus(name, identity, list(_parts(files, reading)))


def _from_hub(name: str) -> Any:
    """A stream of `hub:NAME` or `hub:NAME:CONFIG`.

    Raises:
        ValueError: If the name is none, or the data set cannot be opened.
    """
    dataset, _, config = name.removeprefix("hub:").partition(":")
    if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)?", dataset):
        raise ValueError(
            f"{name!r} names no data set: write hub:NAME or hub:NAME:CONFIG, such as "
            "hub:someone/data"
        )
    from datasets import load_dataset

    try:
        return load_dataset(
            dataset, config or None, split="train", streaming=True, trust_remote_code=False
        )
    except MemoryError:
        raise
    except Exception as error:  # of the network, of the data set's files, of `datasets` itself
        raise ValueError(f"{name} cannot be opened: {first_line(error)}") from error


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "dataset_dict.json").is_file():
        splits = _names(path / "dataset_dict.json", lambda whole: whole["splits"])
        raise ValueError(
            f"{path} holds the splits {', '.join(splits)}; name one, such as {path / splits[0]}"
        )
    if (path / "state.json").is_file():  # datasets.Dataset.save_to_disk
        named = _names(
            path / "state.json", lambda whole: [file["filename"] for file in whole["_data_files"]]
        )
        files = [path / name for name in named]
        missing = [file for file in files if not file.is_file()]
        if missing:
            raise ValueError(f"{path / 'state.json'} names {missing[0]}, and there is no such file")
        return files
    inside = (file.relative_to(path) for file in path.rglob("*") if file.is_file())
    visible = [file for file in inside if not any(p.startswith(".") for p in file.parts)]
    if not visible:
        raise ValueError(f"{path} is a directory without files; there is nothing to pack")
    return [path / file for file in sorted(visible, key=lambda file: file.parts)]


def _names(file: Path, listed: Callable[[Any], Any]) -> list[str]:
    """The names that a file of `datasets` lists.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        names = listed(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{file} is damaged: {type(error).__name__}: {first_line(error)}"
        ) from None
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f"{file} is damaged: it lists {names!r} where names belong")
    return names


def _parts(files: Sequence[Path], reading: Reading) -> Iterator[Part]:
    texts: list[str] = []
    held = 0
    for file in files:
        suffix, size = file.suffix.lower(), file.stat().st_size
        if suffix == ".json" and len(files) == 1:  # beside others it is a document
            suffix = ".jsonl"
        whole_text = suffix not in JSON_LINES + PARQUET + ARROW and reading.document == "file"
        if texts and (not whole_text or held + size > reading.part_bytes):
            yield TextFiles(tuple(texts))
            texts, held = [], 0
        if whole_text:
            texts.append(str(file))
            held += size
        elif suffix in PARQUET:
            yield from ParquetGroups.of(str(file), reading)
        elif suffix in ARROW:
            yield from _arrow_parts(str(file), reading)
        else:
            kind = JsonLines if suffix in JSON_LINES else TextLines
            for start in range(0, size, reading.part_bytes):
                yield kind(str(file), start, min(size, start + reading.part_bytes))
    if texts:
        yield TextFiles(tuple(texts))


def _arrow_parts(file: str, reading: Reading) -> Iterator[Part]:
    """Tokens in Arrow are packed from where they lie; text is cut into parts by rows."""
    if ArrowFile(file).holds_tokens(reading):
        yield ArrowFile(file)
        return
    rows = sum(batch.num_rows for batch in arrow_batches(file))
    for first in range(0, rows, ROWS):
        yield ArrowRows(file, first, min(rows, first + ROWS))


def _from_object(source: Any, reading: Reading) -> Corpus:
    fingerprint = getattr(source, "_fingerprint", None)
    if not hasattr(source, "data") or fingerprint is None:
        if not hasattr(source, "__iter__"):
            raise ValueError(
                f"cannot read documents from {type(source).__name__}; give a path, a "
                "datasets.Dataset or something that iterates over dictionaries"
            )
        return Corpus(type(source).__name__, "a stream", None, source)
    name = f"datasets.Dataset {fingerprint}"
    files = [file["filename"] for file in source.cache_files]
    # A column that was renamed or removed has its old name in the files.
    columns = [set(arrow_schema(file).names) for file in files]
    if source._indices is None and files and all(c == set(source.column_names) for c in columns):
        rows = sum(batch.num_rows for file in files for batch in arrow_batches(file))
        if rows == len(source):  # not a slice of what the files hold
            return Corpus(name, fingerprint, [p for f in files for p in _arrow_parts(f, reading)])
    return Corpus(name, fingerprint, None, source)
