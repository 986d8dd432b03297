"""Diffusion and scope: how hard the facts are to find, and how many are needed."""

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, depths, invented, new_from, scatter, sentence
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.words import NAMES

_MOST = 9  # coins of one gift
_RIVALS = 2  # others who gave as often
_NAMES = {*NAMES}
_PLAIN = "{name} gave {coins} coins."
_PHRASED = (
    "The box was {coins} coins heavier after {name} had come by.",
    "Thanks to {name} there were {coins} coins more in the box.",
    "When {name} left, {coins} coins lay in the box that had not been there.",
    "It was {name} who parted with {coins} coins that morning.",
    "From the purse of {name}, {coins} coins went into the box.",
)


@dataclass(frozen=True)
class DiffusionScope(Generated):
    """Add up what one person gave, with the number of facts and their hiding set apart.

    Two others gave as often or once more, hidden in the same way, and many others now and then, so
    that only the name tells whose gifts are asked for.

    Source: Goldman et al., Is It Really Long Context if All You Need Is Retrieval
    (arXiv:2407.00402), section 3: diffusion is how hard the needed information is to find, scope is
    how much of it there is. The paper names the axes and has no generator; this one is ours.

    Args:
        scope: Gifts of the person that the sum needs, 1 to 50.
        diffusion: "together" (one after another, worded alike), "scattered" (all over the text),
            "worded" (scattered, and each worded in its own way) or "linked" (scattered, and every
            gift needs a second sentence elsewhere that says what was in the bag).
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A scope out of range, or an unknown diffusion.
    """

    version: ClassVar[int] = 2
    scope: int = 4
    diffusion: Literal["together", "scattered", "worded", "linked"] = "scattered"
    budget: int = 12

    def __post_init__(self) -> None:
        if not 1 <= self.scope <= 50:
            raise ValueError(f"DiffusionScope: scope must be from 1 to 50, got {self.scope!r}")
        if self.diffusion not in ("together", "scattered", "worded", "linked"):
            raise ValueError(
                "DiffusionScope: diffusion must be together, scattered, worded or linked, got "
                f"{self.diffusion!r}"
            )

    @property
    def least(self) -> int:
        """A sentence more than nothing."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """The gifts and their places; the haystack grows by sentences and gifts of others."""
        name, *rivals = rng.sample(NAMES, 1 + _RIVALS)
        coins = [rng.randint(1, _MOST) for _ in range(self.scope)]
        # Two of them the same gift would be one needle that stands twice.
        days = rng.sample(range(1, 32 + self.scope), self.scope)
        facts = [
            told for gift in zip(coins, days, strict=True) for told in self._told(rng, name, *gift)
        ]
        places = self._places(rng, len(facts))
        misleading, aside = list[str](), list[float]()
        for rival in rivals:
            gifts = [
                told
                for _ in range(self.scope + rng.randint(0, 1))
                for told in self._told(rng, rival, rng.randint(1, _MOST), rng.randint(1, 40))
            ]
            misleading += gifts
            aside += self._places(rng, len(gifts))
        units = self._around(new_from(rng), {name, *rivals})
        head = "This is a book of gifts, among other things.\n"
        tail = (
            f"\nHow many coins did {name} give in all? Reply with the number only. In all, {name} "
            "gave"
        )
        answer = str(sum(coins))
        record = {"facts": facts, "name": name, "diffusion": self.diffusion}

        def page(count: int) -> Page:
            lines = scatter(units.first(count), [*facts, *misleading], [*places, *aside])
            return Page(head, " ".join(lines), tail, answer, record, tuple(facts))

        return page

    def _places(self, rng: random.Random, count: int) -> list[float]:
        places = depths(rng, count, grid=101)
        return [places[0]] * count if self.diffusion == "together" else places

    def _around(self, own: random.Random, taken: set[str]) -> Endless[str]:
        """Sentences, and among them gifts of others; what is in a bag comes some sentences after
        or before the bag.
        """
        waiting: list[tuple[int, str]] = []
        others, place = [n for n in NAMES if n not in taken], 0

        def unit() -> str:
            nonlocal place
            place += 1
            if waiting and waiting[0][0] <= place:
                return waiting.pop(0)[1]
            if own.random() < 0.7:
                return sentence(own)
            giver = own.choice(others)
            told = self._told(own, giver, own.randint(1, _MOST), own.randint(1, 40))
            own.shuffle(told)
            waiting.extend((place + own.randint(1, 12), later) for later in told[1:])
            waiting.sort()
            return told[0]

        return Endless(unit)

    def _told(self, rng: random.Random, name: str, coins: int, day: int) -> list[str]:
        if self.diffusion == "linked":
            bag = invented(rng, 3)
            return [
                f"On day {day}, {name} handed in the {bag} bag.",
                f"The {bag} bag, as was found on day {day}, held {coins} coins.",
            ]
        form = rng.choice(_PHRASED) if self.diffusion == "worded" else _PLAIN
        told = form.format(name=name, coins=coins)
        return [f"On day {day} this was noted: {told}"]

    def score(self, text: str, item: Item) -> float:
        """1 if the first number in the reply is the sum, else 0."""
        found = re.search(r"\d+", text)
        return float(found is not None and found.group() == item.answer)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Adds up the coins of the facts."""
        found = [re.search(r"(\d+) coins", fact) for fact in record["facts"]]
        return str(sum(int(coins.group(1)) for coins in found if coins))

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Sums without the name: the likeliest, of all gifts, and of who gave most often."""
        gifts: list[tuple[str, int]] = []
        if self.diffusion == "linked":
            held = dict(
                re.findall(r"The (\w+) bag, as was found on day \d+, held (\d) coins", item.prompt)
            )
            handed = re.findall(r"day \d+, (\w+) handed in the (\w+) bag", item.prompt)
            gifts = [(giver, int(held.get(bag, 0))) for giver, bag in handed]
        else:
            for noted in re.findall(r"this was noted: (.*?\d.*?\.)", item.prompt):
                giver = next(word for word in re.findall(r"\w+", noted) if word in _NAMES)
                gifts.append((giver, int(re.findall(r"\d+", noted)[0])))
        sums, often = Counter[str](), Counter[str]()
        for giver, coins in gifts:
            sums[giver] += coins
            often[giver] += 1
        return {
            "the likeliest sum": str(round((1 + _MOST) / 2 * self.scope)),
            "all gifts": str(sum(sums.values())),
            "who gave most often": str(sums[often.most_common(1)[0][0]]),
        }

    def guess(self, item: Item, rng: random.Random) -> str:
        """A sum of as many gifts drawn anew."""
        return str(sum(rng.randint(1, _MOST) for _ in range(self.scope)))

    def chance(self, item: Item) -> float:
        """The probability of this sum."""
        ways = {0: 1.0}
        for _ in range(self.scope):
            ways = {
                total: sum(ways.get(total - coins, 0.0) for coins in range(1, _MOST + 1)) / _MOST
                for total in range(max(ways) + _MOST + 1)
            }
        return ways[int(item.answer)]
