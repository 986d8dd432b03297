"""Files of results: JSON lines that are appended, so that a kill loses one line at most."""

import errno
import json
import os
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from lengthwise.files import write_text
from lengthwise.measure.run.json_lines import mended, parse


def line(entry: Mapping[str, Any]) -> str:
    """An entry with the end of its line."""
    return mended(json.dumps(entry, allow_nan=False, ensure_ascii=False)) + "\n"


def begin(path: Path, entry: Mapping[str, Any]) -> None:
    """Write a file of one line; it appears as a whole, or not at all.

    Raises:
        OSError: The disk is full, for one.
    """
    write_text(path, line(entry))


def append(path: Path, entry: Mapping[str, Any], kept: str) -> None:
    """Append a line; it is on the disk when this returns.

    Args:
        kept: What was there before, in words.

    Raises:
        OSError: The disk is full, for one. What was there before is still there, whole.
    """
    size = path.stat().st_size
    try:
        with open(path, "ab") as file:
            file.write(line(entry).encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        os.truncate(path, size)
        raise OSError(
            error.errno or errno.EIO,
            f"{error.strerror}; {kept} before it are kept: make room and run the same command "
            "again",
            str(path),
        ) from None


def parsed(words: bytes) -> dict[str, Any] | None:
    """The object of a line; None if it holds none."""
    try:
        entry = parse(words)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def is_row(entry: Any, kind: type) -> bool:
    """Whether an entry has the fields of a dataclass, and values of their types; fields with a
    default may be missing, for they came later.
    """
    hints = _hints(kind)
    return (
        isinstance(entry, dict)
        and _needed(kind) <= entry.keys() <= hints.keys()
        and all(is_a(value, hints[key]) for key, value in entry.items())
    )


def is_a(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON is of an annotated type."""
    origin, inner = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(is_a(value, one) for one in inner)
    if origin in (tuple, list):
        return isinstance(value, list) and all(is_a(one, inner[0]) for one in value)
    if origin is not None:  # a mapping from texts
        return isinstance(value, dict) and all(is_a(one, inner[1]) for one in value.values())
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


@cache
def _needed(kind: Any) -> frozenset[str]:
    return frozenset(
        one.name for one in fields(kind) if one.default is one.default_factory is MISSING
    )
