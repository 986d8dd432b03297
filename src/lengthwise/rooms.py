"""What there is besides methods: what `lengthwise list` shows and the documentation describes.

It is read from the sources, without torch.
"""

from dataclasses import dataclass

from lengthwise.docstrings import first_sentence, sections
from lengthwise.outline import docstring, exports

# From the word of the command line to the module whose `__all__` is the room.
ROOMS = {
    "tasks": "lengthwise.measure.tasks",
    "published": "lengthwise.measure.published",
    "probes": "lengthwise.measure.probes",
    "strategies": "lengthwise.measure.strategies",
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
        command: What runs it, where that is a command of its own.
    """

    name: str
    summary: str
    source: str
    command: str = ""


def about(room: str) -> str:
    """The first line about a room.

    Raises:
        ValueError: For an unknown room.
    """
    return docstring(_home(room)).split("\n")[0]


def items(room: str) -> list[Item]:
    """Everything that a room exports and describes, in its order.

    Raises:
        ValueError: For an unknown room.
    """
    home = _home(room)
    if room == "recipes":
        from lengthwise.train.recipes import RECIPES

        return [Item(name, one.about, one.source) for name, one in RECIPES.items()]
    found = []
    for name, text in exports(home).items():
        head, parts = sections(text)
        source, command = parts.get("Source", ""), parts.get("Command", "")
        found.append(Item(name, first_sentence(head), source, command))
    return found


def _home(room: str) -> str:
    if room not in ROOMS:
        raise ValueError(f"there are no {room!r}; list one of {', '.join(ROOMS)}")
    return ROOMS[room]
