"""The papers' claims and the experiments held against them: one table, `claims.toml`."""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

INHERITED = ("system", "source", "claim")  # what a further experiment has of the first one


@dataclass(frozen=True)
class Claim:
    """A sentence of a paper, in our words, and an experiment that is held against it.

    Attributes:
        name: A room and a name, as `extend/pi`: the file of evidence.
        system: What the paper calls its method.
        source: Authors, year, arXiv number.
        claim: The sentence.
        minutes: How long the experiment takes on two cores, about; 0 where there is none yet.
        script: The file under experiments/ and its arguments; empty where the library measures.
        untested: Why what is run is not what the paper claims; empty where it is.
        differences: What else the paper did that the experiment does not.
        of: The entry whose claim this is a further experiment of; empty for the first one.
    """

    name: str
    system: str
    source: str
    claim: str
    minutes: float = 0
    script: tuple[str, ...] = ()
    untested: str = ""
    differences: tuple[str, ...] = ()
    of: str = ""

    @property
    def room(self) -> str:
        return self.name.split("/")[0]

    @property
    def command(self) -> str:
        """What makes the evidence; empty where nothing does yet."""
        return f"lengthwise lab reproduce {self.name}" if self.minutes else ""


@cache
def claims() -> dict[str, Claim]:
    """All claims and further experiments of them by name, in the order of the table."""
    file = files(__package__).joinpath("claims.toml")
    table: dict[str, dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8"))
    made = {}
    for name, row in table.items():
        first = table[row["of"]] if "of" in row else {}
        own = {key: tuple(value) if type(value) is list else value for key, value in row.items()}
        made[name] = Claim(name, **{key: first[key] for key in INHERITED if first} | own)
    return made


def find(names: Sequence[str]) -> list[Claim]:
    """The experiments of names, each once: `extend/pi`, a room as `extend`, or `rerope` alone.

    Raises:
        ValueError: For a name that no claim has, that several rooms have, or that nothing is held
            against yet.
    """
    found: dict[str, Claim] = {}
    for name in names:
        low = name.lower().strip("/")
        known = claims().values()
        inside = [claim for claim in known if claim.room == low and claim.minutes]
        hits = inside or [one for one in known if low in (one.name, one.name.split("/")[1])]
        if not hits:
            raise ValueError(f"no claim of {name!r} is held against a model; `lengthwise lab list` "
                             "names all that are")  # fmt: skip
        if len(hits) > 1 and not inside:
            both = " or ".join(claim.name for claim in hits)
            raise ValueError(f"{name!r} is of several rooms: write {both}")
        if not hits[0].minutes:
            raise ValueError(f"{hits[0].name} has no experiment yet"
                             + f": {hits[0].untested}" * bool(hits[0].untested))  # fmt: skip
        found |= {claim.name: claim for claim in hits}
    return list(found.values())
