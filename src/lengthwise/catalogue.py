"""Methods by name, as the command line writes them and the docs describe them.

parse("yarn:factor=8")                              -> YaRN(factor=8.0)
parse_many("yarn:factor=8+streamingllm:window=256") -> both, on two axes
parse_many("plain")                                 -> no method
check(["yarn:factor=0.5"])                          -> ValueError, without torch
"""

import dataclasses
import inspect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from lengthwise.docstrings import first_sentence, sections
from lengthwise.outline import docstring, outline
from lengthwise.specs import PLUS, Option, Room, example, options, plain_letters

if TYPE_CHECKING:
    from lengthwise.extend.method import Method

AXES = {
    "scaling": "lengthwise.extend.scaling",
    "layout": "lengthwise.extend.layouts",
    "selector": "lengthwise.extend.selectors",
    "store": "lengthwise.extend.stores",
}
PLAIN = "plain"
INTERNAL = ("CacheSlots", "FarAsOne", "OwnScaling")  # what others bring, or nothing at all


@cache
def room() -> Room:
    """All methods, axis by axis."""
    homes = {name: home for home in AXES.values() for name in outline(home, "__all__")}
    return Room("method", homes, nested=("Scaling", "Store"), internal=INTERNAL)


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


def methods() -> "dict[str, type[Method]]":
    """Every exported method by its name, axis by axis."""
    return {name: room().find(name) for name in room().homes}


def find(name: str) -> "type[Method]":
    """The method of that name.

    Raises:
        ValueError: If there is none; the message names the nearest.
    """
    found: type[Method] = room().find(name)
    return found


def parse(words: str) -> "Method":
    """A method from `name` or `name:option=value,option=value`.

    Raises:
        ValueError: For an unknown method or option, a missing or repeated option, or a value out
            of its range.
    """
    method: Method = room().parse(words)
    return method


def parse_many(words: str) -> "tuple[Method, ...]":
    """Methods on several axes, joined by `+`; `plain` is none at all.

    Raises:
        ValueError: As `parse`, and for an empty name.
    """
    return tuple(parse(piece) for piece in pieces(words))


def check(specs: Iterable[str], together: bool = True) -> None:
    """Refuse what `parse_many` would, without torch, whose import takes seconds.

    Args:
        together: Whether all of it is for one model.

    Raises:
        ValueError: As `parse_many`, and for two methods on one axis.
    """
    by_axis = outline("lengthwise.extend.method", "by_axis")
    chosen: list[Any] = []
    for words in specs:
        chosen = [*(chosen if together else ()), *map(room().check, pieces(words))]
        by_axis(chosen)


def pieces(words: str) -> list[str]:
    """The methods that a specification joins by `+`, each as `name:option=value`.

    Raises:
        ValueError: For an empty name, and for `plain` beside others.
    """
    if plain_letters(words) == PLAIN:
        return []
    found = [piece.strip() for piece in PLUS.split(words)]
    if not all(found):
        raise ValueError(
            f"{words!r} names no method; write one as yarn:factor=8, several as "
            f"yarn:factor=8+streamingllm, none as {PLAIN}"
        )
    if any(plain_letters(piece) == PLAIN for piece in found):
        raise ValueError(f"{words!r}: {PLAIN} means no method, so it stands alone")
    return found


def describe(name: str) -> Description:
    """What the docstring of a method says, in its parts."""
    cls = room().outline(name)
    head, parts = sections(inspect.getdoc(cls) or "")
    return Description(
        name=cls.__name__,
        axis=cls.axis,
        summary=first_sentence(head),
        details=head,
        source=parts.get("Source", ""),
        differs=parts.get("Differs from the source", ""),
        reduces=parts.get("Reduces to", ""),
        options=tuple(options(cls).values()),
        example=example(cls),
    )


def about(axis: str) -> str:
    """What the methods of an axis do."""
    return docstring(AXES[axis])


def check_defaults(chosen: "Sequence[Method]", window: int) -> None:
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
        fields: dict[str, Any] = {
            field.name: field.default
            for field in dataclasses.fields(method)  # type: ignore[arg-type]
        }
        own = getattr(method, "window", None)
        if own is not None and own == fields.get("window") and own > window:
            name = type(method).__name__
            fitting = max(1, window - getattr(method, "sinks", 0))
            raise ValueError(
                f"{name}: the default window of {own:,} tokens is wider than this model's, "
                f"{window:,}; write {name.lower()}:window={fitting}"
            )
