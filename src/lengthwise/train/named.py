"""What a recipe can name beside methods: each kind with its classes, told apart without torch."""

import inspect
from functools import cache
from typing import TYPE_CHECKING, Any

from lengthwise.outline import outline
from lengthwise.specs import PLUS, Room

if TYPE_CHECKING:
    from lengthwise.train.memory.methods import Memory

MEMORY = ("StreamBP", "TiledMLP", "TiledLoss", "Offload")
HOMES = {
    "transform": ("tuning", "patterns", "objectives"),
    "layout": ("patterns",),
    "objective": ("objectives", "tuning"),
}


@cache
def room(kind: str) -> Room:
    """The classes that a recipe can name as its `transform`, `layout`, `objective` or `memory`."""
    if kind == "memory":
        return Room("memory method", dict.fromkeys(MEMORY, "lengthwise.train.memory.methods"))
    named = [
        (name, home)
        for home in (f"lengthwise.train.{one}" for one in HOMES[kind])
        for name in outline(home, "__all__")
        if name[0].isupper() and _is(kind, outline(home, name))
    ]
    return Room(kind, dict(named))


def _is(kind: str, cls: Any) -> bool:
    if not hasattr(cls, "__dataclass_fields__"):
        return False
    if kind == "layout":
        pattern = outline("lengthwise.train.patterns.pattern", "Pattern")
        return issubclass(cls, (outline("lengthwise.extend.method", "Layout"), pattern))
    takes = inspect.signature(cls.__call__).parameters if "__call__" in dir(cls) else ()
    return ("generator" if kind == "transform" else "model") in takes


def check(kind: str, words: str) -> None:
    """Refuse what cannot be built, before torch is imported and numbers in braces are known.

    Raises:
        ValueError: As `Room.check`.
    """
    for piece in pieces(words) if kind == "memory" else [words]:
        room(kind).check(piece)


def pieces(words: str) -> list[str]:
    """The methods that `streambp:chunk=2048+tiledloss` joins; none in an empty text."""
    return [piece for piece in PLUS.split(words) if piece.strip()]


def read_memory(words: str) -> "tuple[Memory, ...]":
    """`streambp:chunk=2048+tiledloss` as methods of `lengthwise.train.memory`.

    Raises:
        ValueError: As `Room.parse`.
    """
    return tuple(room("memory").parse(piece) for piece in pieces(words))
