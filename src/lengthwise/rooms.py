"""What there is besides methods: what `lengthwise list` shows and the documentation describes."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lengthwise.docstrings import first_sentence, sections

# From the word of the command line to the module whose `__all__` is the room.
ROOMS = {
    "tasks": "lengthwise.measure.tasks",
    "published": "lengthwise.measure.published",
    "probes": "lengthwise.measure.probes",
    "packers": "lengthwise.train.data.packers",
    "tuning": "lengthwise.train.tuning",
    "patterns": "lengthwise.train.patterns",
    "objectives": "lengthwise.train.objectives",
    "memory": "lengthwise.train.memory",
    "recipes": "lengthwise.train.recipes",
    "arena": "lengthwise.lab.arena",
}


@dataclass(frozen=True)
class Item:
    """Something that a room exports.

    Attributes:
        summary: The first sentence about it.
        source: Paper and section, or empty.
        thing: The class, the function or the recipe itself.
    """

    name: str
    summary: str
    source: str
    thing: Any


def about(room: str) -> str:
    """The first line about a room.

    Raises:
        ValueError: For an unknown room.
    """
    return (_module(room).__doc__ or "").split("\n")[0]


def items(room: str) -> list[Item]:
    """Everything that a room exports and describes, in its order.

    Raises:
        ValueError: For an unknown room.
    """
    module = _module(room)
    if room == "recipes":
        recipes: Mapping[str, Any] = module.RECIPES
        return [Item(name, one.about, one.source, one) for name, one in recipes.items()]
    found = []
    for name in module.__all__:
        thing = getattr(module, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            head, parts = sections(inspect.getdoc(thing) or "")
            found.append(Item(name, first_sentence(head), parts.get("Source", ""), thing))
    return found


def _module(room: str) -> Any:
    if room not in ROOMS:
        raise ValueError(f"there are no {room!r}; list one of {', '.join(ROOMS)}")
    return import_module(ROOMS[room])
