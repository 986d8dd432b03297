"""Needle threading: pairs of UUIDs, and threads whose value is the next key."""

import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from lengthwise.measure.tasks.base import Item, picked
from lengthwise.measure.tasks.draws import Endless, new_from, uuid4
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens

UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HEAD = "This is a JSON object. A value may be the key of another pair.\n"

Values = list[str]  # of one key; several where a thread branches


@dataclass(frozen=True)
class Threads(Generated):
    """Follow keys to their values, and values that are keys again, to the end.

    Source: Roberts et al., Needle Threading (arXiv:2411.05000), section 3: needles are threads of
    one step; single threads forward, backward or in random order; several threads at once; and
    branched threads, of which the longest branch counts.
    Differs from the source: lengths are exact in the model's own tokens; a key that branches has a
    JSON list of values, of which all but one end there.

    Args:
        threads: Threads to follow; all their first keys are asked for.
        steps: Pairs of each thread; 1 is a needle.
        direction: Order of a thread's pairs in the text.
        branches: Values of every key of a thread.
        clustered: Whether the pairs of the threads stand one after another.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A count out of range, or an unknown direction.
    """

    threads: int = 1
    steps: int = 1
    direction: Literal["forward", "backward", "random"] = "forward"
    branches: int = 1
    clustered: bool = False
    budget: int = 48

    def __post_init__(self) -> None:
        for name in ("threads", "steps", "branches"):
            value = getattr(self, name)
            if not 1 <= value <= 100:
                raise ValueError(f"Threads: {name} must be from 1 to 100, got {value!r}")
        if self.direction not in ("forward", "backward", "random"):
            raise ValueError(
                f"Threads: direction must be forward, backward or random, got {self.direction!r}"
            )

    @property
    def least(self) -> int:
        """A pair more than nothing."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Threads and their places; the haystack grows by pairs."""
        chains = [[uuid4(rng) for _ in range(self.steps + 1)] for _ in range(self.threads)]
        start = rng.random()
        placed: list[tuple[float, str]] = []
        table: dict[str, Values] = {}
        for chain in chains:
            facts = []
            for i, (key, value) in enumerate(pairwise(chain)):
                # The last value is the end: it must not be one of several.
                dead = [uuid4(rng) for _ in range(self.branches - 1)] if i < self.steps - 1 else []
                table[key] = sorted([value, *dead])
                facts.append(_pair(key, table[key]))
            placed += zip(self._places(start, rng), facts, strict=True)
        placed.sort(key=lambda pair: pair[0])
        own = new_from(rng)
        others = Endless(lambda: _pair(uuid4(own), [uuid4(own)]))
        starts, wanted = [chain[0] for chain in chains], [chain[-1] for chain in chains]
        record = {"starts": starts, "table": table, "answers": wanted}
        marks = tuple(_pair(key, values) for key, values in table.items())
        tail = _question(starts, self.steps, self.branches)

        def page(count: int) -> Page:
            pairs, lines, begun = others.first(count), list[str](), 0
            for place, fact in placed:
                lines += [*pairs[begun : int(place * count)], fact]
                begun = int(place * count)
            context = "{" + ",\n".join(lines + pairs[begun:]) + "}"
            return Page(_HEAD, context, tail, "\n".join(wanted), record, marks)

        return page

    def _places(self, start: float, rng: random.Random) -> list[float]:
        """A place for each step of a thread."""
        places = [start] * self.steps
        if not self.clustered:
            places = sorted(rng.random() for _ in range(self.steps))
        if self.direction == "random":
            rng.shuffle(places)
        # Places that are equal keep their order: a step apart in the last digits turns it round.
        order = -1 if self.direction == "backward" else 1
        nudged = [place + 1e-12 * i for i, place in enumerate(places)]
        return nudged[::order]

    def score(self, text: str, item: Item) -> float:
        """The fraction of the wanted values among as many first UUIDs of the reply."""
        wanted = item.record["answers"]
        found = list(dict.fromkeys(UUID.findall(text.lower())))[: len(wanted)]
        return len({*found} & {*wanted}) / len(wanted)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Follows every thread through the table."""
        table, ends = record["table"], []
        for key in record["starts"]:
            while key in table:
                key = next((v for v in table[key] if v in table), table[key][0])
            ends.append(key)
        return "\n".join(ends)

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Values, whatever their key."""
        values = re.findall(r'":\[?"([^"]+)"', item.prompt)
        return picked(values, len(item.record["answers"]), "value")

    def guess(self, item: Item, rng: random.Random) -> str:
        """UUIDs drawn anew."""
        return "\n".join(uuid4(rng) for _ in item.record["answers"])

    def chance(self, item: Item) -> float:
        """A UUID has 122 random bits."""
        return len(item.record["answers"]) / 2**122


def _pair(key: str, values: Values) -> str:
    return f'"{key}":{json.dumps(values if len(values) > 1 else values[0])}'


def _question(starts: list[str], steps: int, branches: int) -> str:
    listed = ", ".join(f'"{key}"' for key in starts)
    if steps == 1:
        return f"\nWhat is the value of each of these keys: {listed}? Give only values: "
    which = "Where a value is a list, follow the key that goes on. " if branches > 1 else ""
    return (
        "\nStart at a key, take its value as the next key, and go on until a value is no key. "
        f"{which}What is the last value for each of these keys: {listed}? Give only last values: "
    )
