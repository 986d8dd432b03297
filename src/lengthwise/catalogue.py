"""Methods by name, as the command line writes them and the docs describe them.

    parse("yarn:factor=8")                              -> YaRN(factor=8.0)
    parse_many("yarn:factor=8+streamingllm:window=256") -> both, on two axes
    parse_many("plain")                                 -> no method

Names ignore case and punctuation: SelfExtend, self-extend and self_extend are one.
"""

import dataclasses
import inspect
import json
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from lengthwise.core.budget import Budget
from lengthwise.extend import layouts, scaling, selectors, stores
from lengthwise.extend.method import Method, Scaling
from lengthwise.names import PLAIN as PLAIN
from lengthwise.names import known, pieces

FAMILIES = (scaling, layouts, selectors, stores)


def _numbers(words: str) -> tuple[Any, ...]:
    """`1/1.5/2`, or a JSON file that holds a list, alone or under the name `factors`."""
    try:
        return tuple(float(piece) for piece in words.split("/"))
    except ValueError:
        pass
    try:
        found = json.loads(Path(words).read_text(encoding="utf-8"))
        return tuple(found["factors"] if isinstance(found, dict) else found)
    except (OSError, KeyError, TypeError) as error:
        raise ValueError(str(error)) from error


def _rows(words: str) -> tuple[tuple[float, ...], ...]:
    """The same, where a file holds a list of lists."""
    rows = _numbers(words)
    return tuple(map(tuple, rows)) if isinstance(rows[0], list) else (rows,)


def _whole_numbers(words: str) -> tuple[int, ...]:
    """The same, where all are whole."""
    numbers = _numbers(words)
    if any(number != int(number) for number in numbers):
        raise ValueError(words)
    return tuple(map(int, numbers))


# From the words of a command line to a value, and what such a value is called.
READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    int: (int, "a whole number"),
    float: (float, "a number"),
    tuple[int, ...]: (_whole_numbers, "whole numbers as 12/40 or a JSON file of them"),
    tuple[float, ...]: (_numbers, "numbers as 1/1.5/2 or a JSON file of them"),
    tuple[tuple[float, ...], ...]: (_rows, "a JSON file with lists of numbers"),
    Scaling: (lambda words: parse(words), "a scaling such as yarn:factor=8"),
}


@dataclass(frozen=True)
class Option:
    """One argument of a method.

    Attributes:
        default: As Python writes it, or None where a value must be given.
        text: What the docstring says of it.
    """

    name: str
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


@dataclass(frozen=True)
class Description:
    """A method as its docstring has it.

    Attributes:
        axis: `scaling`, `layout`, `selector` or `store`.
        summary: The first sentence.
        details: The paragraphs before the sections, the first sentence included.
        source: Paper and section; empty for an identity.
        differs: How it differs from the source, or empty.
        reduces: The limit in which it changes nothing, or empty.
        example: How the command line writes it: with `…` for what must be given, otherwise with
            the defaults.
    """

    name: str
    axis: str
    summary: str
    details: str
    source: str
    differs: str
    reduces: str
    options: tuple[Option, ...]
    example: str


def methods() -> dict[str, type[Method]]:
    """Every exported method by its name, axis by axis."""
    return {name: getattr(family, name) for family in FAMILIES for name in family.__all__}


def find(name: str) -> type[Method]:
    """The method of that name.

    Raises:
        ValueError: If there is none; the message names the nearest.
    """
    return methods()[known(name)]


def parse(words: str) -> Method:
    """A method from `name` or `name:option=value,option=value`.

    Raises:
        ValueError: For an unknown method or option, a missing or repeated option, or a value out
            of its range.
    """
    name, colon, rest = words.strip().partition(":")
    cls = find(name.strip())
    given: dict[str, str] = {}
    for pair in rest.split(",") if colon else []:
        option, equals, value = (part.strip() for part in pair.partition("="))
        if not option or not equals or not value:
            raise ValueError(
                f"{words.strip()!r}: write options as option=value, separated by commas, "
                f"as in {describe(cls).example}"
            )
        if option in given:
            raise ValueError(f"{cls.__name__}: {option} is given twice")
        given[option] = value
    return _build(cls, given)


def parse_many(words: str) -> tuple[Method, ...]:
    """Methods on several axes, joined by `+`; `plain` is none at all.

    Raises:
        ValueError: As `parse`, and for an empty name.
    """
    return tuple(parse(piece) for piece in pieces(words))


def describe(cls: type[Method]) -> Description:
    """What the docstring of a method says, in its parts."""
    head, parts = sections(inspect.getdoc(cls) or "")
    options = _options(cls)
    fields = [options[field.name] for field in dataclasses.fields(cls)]  # type: ignore[arg-type]
    shown = [option for option in fields if option.default is None] or fields
    filled = ",".join(f"{option.name}={option.default or '…'}" for option in shown)
    return Description(
        name=cls.__name__,
        axis=cls.axis,
        summary=first_sentence(head),
        details=head,
        source=parts.get("Source", ""),
        differs=parts.get("Differs from the source", ""),
        reduces=parts.get("Reduces to", ""),
        options=tuple(options.values()),
        example=cls.__name__.lower() + (f":{filled}" if filled else ""),
    )


def check_defaults(chosen: Sequence[Method], window: int) -> None:
    """Refuse a default window that is wider than the model's own.

    Defaults are meant for models with thousands of tokens. A window that somebody chose is left
    alone, and so is everything where a scaling stretches what the model can tell apart.

    Args:
        chosen: Methods for one model.
        window: Its trained window in tokens.

    Raises:
        ValueError: For such a default; the message says what to pass.
    """
    if any(method.axis == "scaling" for method in chosen):
        return
    for method in chosen:
        fields = {field.name: field.default for field in dataclasses.fields(method)}  # type: ignore[arg-type]
        own = getattr(method, "window", None)
        if own is not None and own == fields.get("window") and own > window:
            name = type(method).__name__
            fitting = max(1, window - getattr(method, "sinks", 0))
            raise ValueError(
                f"{name}: the default window of {own:,} tokens is wider than this model's, "
                f"{window:,}; write {name.lower()}:window={fitting}"
            )


def _build(cls: type[Method], given: Mapping[str, str]) -> Method:
    name = cls.__name__
    options = _options(cls)
    for key in given:
        if key not in options:
            near = get_close_matches(key, options, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}? " if near else ""
            listed = ", ".join(map(str, options.values())) or "none"
            raise ValueError(f"{name} has no option {key!r}; {hint}Its options: {listed}")
    types = typing.get_type_hints(cls)
    values = {key: _read(name, options[key], types, text) for key, text in given.items()}
    if "budget" in values:
        return _within_budget(cls, values)
    for option in options.values():
        if option.name not in values and _must_be_given(cls, option.name):
            raise ValueError(
                f"{name} needs {option.name}: {option.text.rstrip('.')}; "
                f"write {describe(cls).example}"
            )
    return cls(**values)


def _read(name: str, option: Option, types: Mapping[str, Any], text: str) -> Any:
    kind = types.get(option.name, int)
    assert kind in READERS, f"{name}.{option.name}: no reader for {kind}"
    read, called = READERS[kind]
    try:
        return read(text)
    except ValueError:
        bounds = f", {option.range}" if option.range else ""
        raise ValueError(f"{name}: {option.name} must be {called}{bounds}, got {text!r}") from None


def _within_budget(cls: Any, values: dict[str, Any]) -> Method:
    """The method that keeps to a budget of tokens, by its own `within`."""
    try:
        budget = Budget(tokens=values.pop("budget"))
    except ValueError as error:
        raise ValueError(f"{cls.__name__}: budget: {error}") from None
    accepted = inspect.signature(cls.within).parameters
    for option in values:
        if option not in accepted:
            raise ValueError(
                f"{cls.__name__}: budget and {option} both say how much is kept; give one of them"
            )
    method = cls.within(budget, **values)
    assert isinstance(method, Method)
    return method


def _options(cls: type[Method]) -> dict[str, Option]:
    """Every argument of a method; `budget` too where it can be built from one."""
    texts = _arguments(sections(inspect.getdoc(cls) or "")[1].get("Args", ""))
    options = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        default = None if field.default is MISSING else repr(field.default)
        options[field.name] = Option(field.name, default, texts.get(field.name, ""))
    if hasattr(cls, "within"):
        text = "Tokens kept per KV head, sinks included, above the sinks; instead of window."
        options["budget"] = Option("budget", None, text)
    return options


def _must_be_given(cls: type[Method], option: str) -> bool:
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return option in fields and fields[option].default is MISSING


def first_sentence(text: str) -> str:
    """Up to the first full stop or colon that a space follows, in one line."""
    return re.split(r"(?<=[.:])\s", " ".join(text.split()), maxsplit=1)[0]


def sections(docstring: str) -> tuple[str, dict[str, str]]:
    """The text before the sections, and every section under its title."""
    head: list[str] = []
    found: dict[str, list[str]] = {}
    lines = head
    for line in docstring.splitlines():
        title = re.match(r"(Source|Differs from the source|Reduces to|Args|Raises):\s*(.*)", line)
        if title:
            lines = found.setdefault(title[1], [title[2]])
        else:
            lines.append(line)
    keep = ("Args", "Raises")
    joined = {
        name: "\n".join(body) if name in keep else " ".join(" ".join(body).split())
        for name, body in found.items()
    }
    return "\n".join(head).strip(), joined


def _arguments(block: str) -> dict[str, str]:
    """The entries of an `Args:` section, each in one line."""
    texts: dict[str, str] = {}
    name = ""
    for line in inspect.cleandoc("\n" + block).splitlines():
        entry = re.match(r"([\w, ]+): (.*)", line)
        if entry:
            name = entry[1]
            texts[name] = entry[2]
        elif name:
            texts[name] = f"{texts[name]} {line.strip()}".strip()
    return {one.strip(): text for names, text in texts.items() for one in names.split(",")}
