"""The papers' claims that experiments hold against small models: one table, `claims.toml`."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, in our words, and the experiment that is held against it.

    Attributes:
        name: A room and a name, as `extend/pi`: the file of evidence.
        system: What the paper calls its method.
        source: Authors, year, arXiv number.
        claim: The sentence.
        minutes: How long the experiment takes on two cores, about.
        script: The file under experiments/ and its arguments; empty where the library measures.
        untested: Why what is run is not what the paper claims; empty where it is.
        differences: What else the paper did that the experiment does not.
    """

    name: str
    system: str
    source: str
    claim: str
    minutes: float
    script: tuple[str, ...] = ()
    untested: str = ""
    differences: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """What makes the evidence."""
        return f"lengthwise lab reproduce {self.name}"


@cache
def claims() -> dict[str, Claim]:
    """All claims by name, in the order of the table."""
    file = files(__package__).joinpath("claims.toml")
    table: dict[str, dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8"))
    made = {}
    for name, row in table.items():
        values: dict[str, Any] = {k: tuple(v) if type(v) is list else v for k, v in row.items()}
        made[name] = Claim(name, **values)
    return made


def find(names: Sequence[str]) -> list[Claim]:
    """The claims of names, each once: `extend/pi`, a room as `extend`, or `rerope` alone.

    Raises:
        ValueError: For a name that no claim has, or that several rooms have.
    """
    found: dict[str, Claim] = {}
    for name in names:
        low = name.lower().strip("/")
        rooms = {room: room.startswith(f"{low}/") for room in claims()}
        hits = [full for full, inside in rooms.items() if low == full or inside]
        hits = hits or [full for full in claims() if full.split("/")[1] == low]
        if not hits:
            raise ValueError(f"no claim of {name!r} is held against a model; `lengthwise lab list` "
                             "names all that are")  # fmt: skip
        if len(hits) > 1 and not rooms[hits[0]]:
            raise ValueError(f"{name!r} is of several rooms: write {' or '.join(hits)}")
        found |= {full: claims()[full] for full in hits}
    return list(found.values())
