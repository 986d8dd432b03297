"""Conditional needles: the values of all keys in which a character stands."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lengthwise.measure.tasks.base import Item, picked
from lengthwise.measure.tasks.draws import Endless, new_from, uuid4
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import set_f1
from lengthwise.measure.tasks.threads import UUID

_HEAD = "This is a JSON object.\n"


@dataclass(frozen=True)
class ConditionalNeedles(Generated):
    """Give the values of every key that holds a character, without being told how many there are.

    Source: Roberts et al., Needle Threading (arXiv:2411.05000), section 3, conditional needles: in
    random places or one after another.
    Differs from the source: lengths are exact in the model's own tokens; the character takes the
    place of a digit of the key; the score is the F1 of the values, so that to recite the whole
    object earns little.

    Args:
        needles: Keys that hold the character, from 1 to 100.
        character: The character; no hexadecimal digit, hyphen, quote or blank.
        clustered: Whether these pairs stand one after another.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A count out of range, or a character that keys have anyway.
    """

    needles: int = 4
    character: str = "*"
    clustered: bool = False
    budget: int = 48

    def __post_init__(self) -> None:
        if not 1 <= self.needles <= 100:
            raise ValueError(
                f"ConditionalNeedles: needles must be from 1 to 100, got {self.needles!r}"
            )
        if len(self.character) != 1 or self.character in "0123456789abcdefABCDEF-\"'\\\n\t ":
            raise ValueError(
                "ConditionalNeedles: character must be one character that no UUID has, such as *, "
                f"got {self.character!r}"
            )

    @property
    def least(self) -> int:
        """A pair more than nothing."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """The needles and their places; the haystack grows by pairs."""
        table = {self._key(rng): uuid4(rng) for _ in range(self.needles)}
        start = rng.random()
        places = [start if self.clustered else rng.random() for _ in table]
        facts = [_pair(key, value) for key, value in table.items()]
        placed = sorted(zip(places, facts, strict=True), key=lambda pair: pair[0])
        own = new_from(rng)
        others = Endless(lambda: _pair(uuid4(own), uuid4(own)))
        wanted = list(table.values())
        record = {"table": table, "character": self.character, "answers": wanted}
        tail = (
            f"\nGive the values of all keys in which the character {self.character} stands, and no "
            "others. Values only: "
        )

        def page(count: int) -> Page:
            pairs, lines, begun = others.first(count), list[str](), 0
            for place, fact in placed:
                lines += [*pairs[begun : int(place * count)], fact]
                begun = int(place * count)
            context = "{" + ",\n".join(lines + pairs[begun:]) + "}"
            return Page(_HEAD, context, tail, "\n".join(wanted), record, tuple(facts))

        return page

    def _key(self, rng: random.Random) -> str:
        key = list(uuid4(rng))
        place = rng.choice([i for i, letter in enumerate(key) if letter != "-"])
        key[place] = self.character
        return "".join(key)

    def score(self, text: str, item: Item) -> float:
        """The F1 of the values in the reply."""
        return set_f1({*UUID.findall(text.lower())}, {*item.record["answers"]})

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Goes through the keys."""
        table, character = record["table"], record["character"]
        return "\n".join(value for key, value in table.items() if character in key)

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Values, whatever their key."""
        values = re.findall(r'":\[?"([^"]+)"', item.prompt)
        return picked(values, len(item.record["answers"]), "value")

    def at_depths(self, text: str, item: Item) -> tuple[float, ...]:
        """Whether each value is in the reply."""
        found = {*UUID.findall(text.lower())}
        return tuple(float(value in found) for value in item.record["answers"])

    def guess(self, item: Item, rng: random.Random) -> str:
        """UUIDs drawn anew, as many as there are."""
        return "\n".join(uuid4(rng) for _ in item.record["answers"])

    def chance(self, item: Item) -> float:
        """A UUID has 122 random bits."""
        return len(item.record["answers"]) / 2**122


def _pair(key: str, value: str) -> str:
    return f'"{key}":"{value}"'
