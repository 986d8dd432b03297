"""Spinning the Golden Thread: a long text in blocks, with events where they belong."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import different, haystack, invented
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens

_SCENES = {
    "diary": ("diary of a year", "Week"),
    "tower": ("description of a tower", "Floor"),
    "menu": ("plan of meals", "Day"),
    "city": ("plan of a city", "Block"),
}


@dataclass(frozen=True)
class GoldenThread(Generated):
    """Write a text of many numbered blocks and bring events in exactly where they are asked for.

    Source: Wu et al., Spinning the Golden Thread (arXiv:2409.02076), section 2: diary, menu,
    skyscraper and urban planning; single, range and periodic instructions. The score is its
    STIC-2 over all instructions: the share of (block, event) pairs asked for that are there, the
    mean over the three kinds of instruction.
    Differs from the source: an event is an invented word that must stand in its block, so that a
    rule can check it, where the source asks a model; more length means longer notes.

    Args:
        scene: "diary", "tower", "menu" or "city".
        blocks: Blocks to write, 6 to 500.
        words: Words that each block should have; only told, not scored.
        single: Events in one block each.
        ranges: Events in several blocks one after another.
        periodic: Events in every so manieth block.
        budget: Tokens for the answer at least; give the text that you expect.

    Raises:
        ValueError: An unknown scene, or a number out of range.
    """

    scene: Literal["diary", "tower", "menu", "city"] = "diary"
    blocks: int = 12
    words: int = 40
    single: int = 3
    ranges: int = 1
    periodic: int = 1
    budget: int = 512

    def __post_init__(self) -> None:
        if self.scene not in _SCENES:
            raise ValueError(
                f"GoldenThread: scene must be one of {', '.join(_SCENES)}, got {self.scene!r}"
            )
        if not 6 <= self.blocks <= 500 or self.words < 1:
            raise ValueError(
                "GoldenThread: blocks must be from 6 to 500 and words at least 1, got "
                f"{self.blocks!r} and {self.words!r}"
            )
        for name in ("single", "ranges", "periodic"):
            if not 0 <= getattr(self, name) <= 50:
                raise ValueError(
                    f"GoldenThread: {name} must be from 0 to 50, got {getattr(self, name)!r}"
                )
        if self.single + self.ranges + self.periodic < 1:
            raise ValueError("GoldenThread: needs an event; set single, ranges or periodic above 0")

    @property
    def least(self) -> int:
        """A sentence of notes."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Events and their blocks; the notes grow by sentences."""
        what, block = _SCENES[self.scene]
        count = self.single + self.ranges + self.periodic
        events = different(lambda: invented(rng, 3), count)
        plan: list[tuple[str, str, list[int]]] = []
        orders = []
        for i, event in enumerate(events):
            if i < self.single:
                kind, where = "single", [rng.randint(1, self.blocks)]
                orders.append(f"The word {event} must come up in {block} {where[0]}.")
            elif i < self.single + self.ranges:
                size = rng.randint(2, self.blocks // 2)
                first = rng.randint(1, self.blocks - size + 1)
                kind, where = "range", list(range(first, first + size))
                orders.append(
                    f"The word {event} must come up in every {block} from {first} to {where[-1]}."
                )
            else:
                step = rng.randint(2, 5)
                first = rng.randint(1, step)
                kind, where = "periodic", list(range(first, self.blocks + 1, step))
                orders.append(
                    f"The word {event} must come up in {block} {first} and then in every "
                    f"{block} that is {step} further on."
                )
            plan.append((kind, event, where))
        units = haystack(None, rng)
        record = {"plan": plan, "block": block, "blocks": self.blocks}
        answer = self.oracle(record)
        tail = (
            f"\nWrite a {what} in {self.blocks} parts, {block} 1 to {block} {self.blocks}, of "
            f"about {self.words} words each. Begin each part with its name on a line of its own: "
            f"{block} 1, and so on. {' '.join(orders)} Write all {self.blocks} parts.\n"
        )

        def page(size: int) -> Page:
            notes = " ".join(units.first(size))
            return Page("Notes that may help you.\n", notes, tail, answer, record)

        return page

    def score(self, text: str, item: Item) -> float:
        """The share of (block, event) pairs that are there, averaged over kinds of instruction."""
        parts = blocks_of(text, item.record["block"])
        shares: dict[str, list[bool]] = {}
        for kind, event, where in item.record["plan"]:
            shares.setdefault(kind, []).extend(event in parts.get(i, "").lower() for i in where)
        return sum(sum(found) / len(found) for found in shares.values()) / len(shares)

    def completion(self, text: str, item: Item) -> float:
        """The share of the blocks that were written at all."""
        parts = blocks_of(text, item.record["block"])
        wanted = item.record["blocks"]
        return sum(bool(parts.get(i, "").strip()) for i in range(1, wanted + 1)) / wanted

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Every block with its events."""
        lines = []
        for i in range(1, record["blocks"] + 1):
            events = [event for _, event, where in record["plan"] if i in where]
            lines += [f"{record['block']} {i}", f"Here: {', '.join(events) or 'nothing new'}."]
        return "\n".join(lines)

    def guess(self, item: Item, rng: random.Random) -> str:
        """Every block, with events that nobody asked for."""
        plan = [["single", invented(rng, 3), [i + 1]] for i in range(self.blocks)]
        return self.oracle({**item.record, "plan": plan})

    def chance(self, item: Item) -> float:
        """Nobody invents the same word."""
        return 0.0


def blocks_of(text: str, name: str) -> dict[int, str]:
    """The text of every block by its number; of a number that comes twice, the first.

    Args:
        name: The word before the number; signs around it, as in "### Week 3:", do not matter.
    """
    parts = re.split(rf"^\W*{name}\s+(\d+)\b.*$", text, flags=re.MULTILINE | re.IGNORECASE)
    found: dict[int, str] = {}
    for number, body in zip(parts[1::2], parts[2::2], strict=True):
        found.setdefault(int(number), body)
    return found
