"""Everything that is written as `name:option=value,option=value`: methods and parts of recipes.

It is read and checked without torch, by outlines; only to build what was written are the classes
themselves imported. Names ignore case and punctuation: SelfExtend and self-extend are one.
"""

import dataclasses
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from lengthwise.docstrings import arguments
from lengthwise.outline import outline

OPEN = re.compile(r"\{\w+\}")  # in a recipe: a number that is known once the base model is
COMMA = re.compile(r",(?![^([]*[)\]])")  # one that stands in no brackets
PLUS = re.compile(r"\+(?!\d)")  # not that of 1e+3
FAULTS = (TypeError, ValueError, KeyError, OverflowError, OSError, RecursionError)


def _number(value: Any) -> float:
    if not math.isfinite(value := float(value)):
        raise ValueError(value)
    return value


def _whole(value: Any) -> int:
    if isinstance(value, str) and value.isdigit():
        return int(value)
    if (number := float(value)) != int(number):
        raise ValueError(value)
    return int(number)


def _truth(words: str) -> bool:
    return {"true": True, "false": False}[words.lower()]


def _listed(words: str) -> list[str]:
    inside = words[1:-1] if words[:1] + words[-1:] in ("()", "[]") else words
    return [piece.strip() for piece in re.split("[/,]", inside) if piece.strip()]


def _held(path: str) -> list[Any]:
    """The list in a JSON file, alone or under the name `factors`."""
    found = json.loads(Path(path).read_text(encoding="utf-8"))
    found = found["factors"] if isinstance(found, dict) else found
    if not isinstance(found, list):
        raise ValueError(path)
    return found


def _numbers(read: Callable[[Any], Any]) -> Callable[[str], tuple[Any, ...]]:
    def reader(words: str) -> tuple[Any, ...]:
        try:
            return tuple(map(read, _listed(words)))
        except ValueError:
            return tuple(map(read, _held(words)))

    return reader


def _rows(words: str) -> tuple[tuple[float, ...], ...]:
    try:
        return (_numbers(_number)(words),)
    except TypeError:  # a file of lists
        return tuple(tuple(map(_number, row)) for row in _held(words))


# From a type to what reads its values, and what such a value is called.
READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (int, "a whole number"),
    "float": (_number, "a number"),
    "bool": (_truth, "true or false"),
    "str": (str, "a text"),
    "tuple[int, ...]": (_numbers(_whole), "whole numbers as 12/40 or a JSON file of them"),
    "tuple[float, ...]": (_numbers(_number), "numbers as 1/1.5/2 or a JSON file of them"),
    "tuple[str, ...]": (lambda words: tuple(_listed(words)), "names as a,b"),
    "tuple[tuple[float, ...], ...]": (_rows, "a JSON file with lists of numbers"),
}


def read(name: str, kind: str, words: str, bounds: str = "") -> Any:
    """A value of a type that `READERS` has.

    Raises:
        ValueError: If the words are no such value.
    """
    reader, called = READERS[kind]
    try:
        return reader(words)
    except FAULTS:
        said = f"{called}, {bounds}" if bounds else called
        raise ValueError(f"{name} must be {said}, got {words!r}") from None


def pairs(owner: str, words: Iterable[str], example: str, empty: bool = False) -> dict[str, str]:
    """Options and what they are given, from `option=value` each.

    Args:
        example: How it is written, for the message.
        empty: Whether a value may be.

    Raises:
        ValueError: If one is no such pair, or an option is given twice.
    """
    given: dict[str, str] = {}
    for pair in words:
        option, equals, value = (part.strip() for part in pair.partition("="))
        if not option or not equals or not (value or empty):
            raise ValueError(f"{owner}: {pair.strip()!r} is no option; write {example}")
        if option in given:
            raise ValueError(f"{owner}: {option} is given twice")
        given[option] = value
    return given


def plain_letters(name: str) -> str:
    """SelfExtend, self-extend and self_extend are one."""
    return re.sub(r"[\W_]", "", name).lower()


def hint(name: str, known: Iterable[str], rest: str) -> str:
    """What follows the semicolon of an error: `did you mean …?` if a name is near, and the rest."""
    plain = {plain_letters(one): one for one in known}
    near = get_close_matches(plain_letters(name), plain, n=1, cutoff=0.5)
    return f"did you mean {plain[near[0]]}? {rest[0].upper()}{rest[1:]}" if near else rest


@dataclass(frozen=True)
class Option:
    """One argument of a class.

    Attributes:
        kind: Its type, in words.
        default: As Python writes it, or None where a value must be given.
        text: What the docstring says of it.
    """

    name: str
    kind: str
    default: str | None
    text: str

    @property
    def range(self) -> str:
        """What the docstring says of its bounds: `at least 1`, or the empty string."""
        bounds = r"(?:at least|at most|above|below|from|one of)\b"
        found = re.search(rf"(?:^|, )({bounds}[^.,]*)", self.text, re.IGNORECASE)
        return (found[1][0].lower() + found[1][1:]).replace("`", "") if found else ""

    def __str__(self) -> str:
        value = "…" if self.default is None else self.default
        return f"{self.name}={value}" + (f" ({self.range})" if self.range else "")


def options(cls: Any) -> dict[str, Option]:
    """Every argument of an outline; `budget` too where it can be built from one."""
    texts = arguments(cls)
    found = {}
    field: Any
    for field in dataclasses.fields(cls):
        bare = field.default is field.default_factory is MISSING
        default = None if bare else repr(field.default)
        found[field.name] = Option(field.name, field.type, default, texts.get(field.name, ""))
    if hasattr(cls, "within"):
        text = "Tokens kept per KV head, sinks included, above the sinks; instead of window."
        found["budget"] = Option("budget", "int", None, text)
    return found


def example(cls: Any) -> str:
    """How a class is written: with `…` for what must be given, otherwise with its defaults."""
    fields = {field.name for field in dataclasses.fields(cls)}
    all_of_it = [option for option in options(cls).values() if option.name in fields]
    shown = [option for option in all_of_it if option.default is None] or all_of_it
    filled = ",".join(f"{option.name}={option.default or '…'}" for option in shown)
    return cls.__name__.lower() + (f":{filled}" if filled else "")


@dataclass(frozen=True)
class Room:
    """Classes that can be written by name.

    Attributes:
        word: What one of them is called.
        homes: For each name the module that exports it.
        nested: The type of options whose values are of this room themselves.
        internal: Names that are understood and not offered.
    """

    word: str
    homes: Mapping[str, str]
    nested: tuple[str, ...] = ()
    internal: tuple[str, ...] = ()

    def known(self, name: str) -> str:
        """A name as it is exported.

        Raises:
            ValueError: If there is none; the message names the nearest.
        """
        plain = {plain_letters(one): one for one in self.homes}
        if plain_letters(name) in plain:
            return plain[plain_letters(name)]
        offered = [one for one in self.homes if one not in self.internal]
        raise ValueError(
            f"unknown {self.word} {name!r}; "
            + hint(name, offered, f"{self.word}s: {', '.join(offered)}")
        )

    def outline(self, name: str) -> Any:
        """The class of that name without what needs torch."""
        known = self.known(name)
        return outline(self.homes[known], known)

    def find(self, name: str) -> Any:
        """The class of that name."""
        known = self.known(name)
        return getattr(import_module(self.homes[known]), known)

    def check(self, words: str) -> Any:
        """What `words` stand for, as an outline; None where numbers in braces are still open.

        Raises:
            ValueError: For an unknown name or option, a missing or repeated option, or a value
                out of its range.
        """
        return self._read(words, self.outline, self.check)

    def parse(self, words: str) -> Any:
        """What `words` stand for.

        Raises:
            ValueError: As `check`.
        """
        return self._read(words, self.find, self.parse)

    def _read(self, words: str, find: Callable[[str], Any], inner: Callable[[str], Any]) -> Any:
        name, colon, rest = words.strip().partition(":")
        cls = self.outline(name)
        owner, known = cls.__name__, options(cls)
        way = f"options as option=value, separated by commas, as in {example(cls)}"
        given = pairs(owner, COMMA.split(rest) if colon else (), way)
        for key in given:
            if key not in known:
                listed = ", ".join(map(str, known.values())) or "none"
                rest = hint(key, known, f"its options: {listed}")
                raise ValueError(f"{owner} has no option {key!r}; {rest}")
        values = {}
        for key, text in given.items():
            option = known[key]
            if option.kind in self.nested:
                values[key] = inner(text[1:-1] if text[:1] + text[-1:] == "()" else text)
            elif option.kind not in READERS:
                raise ValueError(f"{owner}: {key} is a {option.kind}, which only Python can give")
            elif not OPEN.search(text):
                values[key] = read(f"{owner}: {key}", option.kind, text, option.range)
        if "budget" in given:
            return _within_budget(find(name), values)
        for option in known.values():
            if option.default is None and option.name not in given and option.name != "budget":
                said = f": {option.text.rstrip('.')}" if option.text else ""
                raise ValueError(f"{owner} needs {option.name}{said}; write {example(cls)}")
        return find(name)(**values) if values.keys() == given.keys() else None


def _within_budget(cls: Any, values: dict[str, Any]) -> Any:
    """What keeps to a budget of tokens, by its own `within`."""
    for option in values.keys() - inspect.signature(cls.within).parameters:
        raise ValueError(
            f"{cls.__name__}: budget and {option} both say how much is kept; give one of them"
        )
    return cls.within(**values)
