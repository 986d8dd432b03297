"""JSON lines of a person's own: one object a line. A line ends at a line feed and nowhere else."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def parse(line: str | bytes) -> Any:
    """A JSON value of plain numbers and whole characters.

    Raises:
        ValueError: No JSON, NaN or infinity, numbers beyond 64 bits, too deep, half a character.
    """
    try:
        found = json.loads(line, parse_constant=_refuse)
        _check(found)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


def read_objects(file: Path) -> list[tuple[int, dict[str, Any]]]:
    """The objects of a file with the numbers of their lines; empty lines are left out.

    Raises:
        ValueError: A file that cannot be read, a line that is no JSON object, or no line at all.
    """
    try:
        # Not `splitlines`, which also cuts at U+2028 and others, and these may stand in a string.
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parse(line)
        except ValueError as error:
            raise ValueError(f"{file}, line {number} is no JSON: {error}") from None
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number} is no JSON object")
        found.append((number, row))
    if not found:
        raise ValueError(f"{file} holds no row")
    return found


def text(row: Mapping[str, Any], key: str) -> str:
    """The text under a key.

    Raises:
        ValueError: It is something else.
    """
    if not isinstance(row[key], str):
        raise ValueError(f"{key} must be a text, got {row[key]!r:.60}")
    return str(row[key])


def texts(row: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """The texts in the list under a key, at least one.

    Raises:
        ValueError: It is something else.
    """
    found = row[key]
    if not isinstance(found, list) or not found or not all(isinstance(x, str) for x in found):
        raise ValueError(f"{key} must be a list of texts, got {found!r:.60}")
    return tuple(found)


def mended(words: str) -> str:
    """A text without halves of characters (lone surrogates), which no file in UTF-8 can hold."""
    return words.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _refuse(word: str) -> Any:
    raise ValueError(f"it holds {word}, which is no number")


def _check(value: Any) -> None:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("it holds half a character (a lone surrogate)") from None
    elif isinstance(value, dict):
        for key, inner in value.items():
            _check(key)
            _check(inner)
    elif isinstance(value, list):
        for inner in value:
            _check(inner)
    elif isinstance(value, int | float) and not abs(value) < 2**63:
        raise ValueError("it holds a number beyond 64 bits")
