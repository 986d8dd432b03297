"""Spinning the Golden Thread: a long text in blocks, with events where they belong."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import different, haystack, invented
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import set_f1

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
    skyscraper and urban planning; single, range and periodic instructions, whose shares are its
    STIC-2, and the completion rate, the share of the blocks that were written at all.
    Differs from the source: an event is an invented word that must stand in its block, so that a
    rule can check it, where the source asks a model; the share of an event is the F1 of its blocks,
    so that to write every event everywhere earns little; more length means longer notes.

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

    version: ClassVar[int] = 2
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
        """The mean over the kinds of instruction of what `parts` says of them."""
        found = self.parts(text, item)
        kinds = {kind for kind, _, _ in item.record["plan"]}
        return sum(found[kind] for kind in sorted(kinds)) / len(kinds)

    def parts(self, text: str, item: Item) -> Mapping[str, float]:
        """The share of the blocks that were written at all, and for each kind of instruction the
        mean F1 of the blocks in which its events stand.
        """
        blocks = {i: body.lower() for i, body in blocks_of(text, item.record["block"]).items()}
        wanted = range(1, item.record["blocks"] + 1)
        written = sum(bool(blocks.get(i, "").strip()) for i in wanted)
        shares: dict[str, list[float]] = {}
        for kind, event, where in item.record["plan"]:
            there = {str(i) for i in wanted if event in blocks.get(i, "")}
            shares.setdefault(kind, []).append(set_f1(there, {*map(str, where)}))
        means = {kind: sum(found) / len(found) for kind, found in shares.items()}
        return {"completion": written / len(wanted), **means}

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Every event in every block."""
        plan = [(kind, event, range(self.blocks + 1)) for kind, event, _ in item.record["plan"]]
        return {"every event everywhere": self.oracle({**item.record, "plan": plan})}

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
