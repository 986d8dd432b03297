"""Long outputs that rules can score: their length, their repetitions, what they must mention."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import different, haystack, invented, number, scatter, sentence
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import length_score
from lengthwise.measure.tasks.words import NAMES, NOUNS


def word_count(text: str) -> int:
    """Words, as runs of letters, digits and what joins them."""
    return len(re.findall(r"\w+(?:['’-]\w+)*", text))


def repetition(text: str, n: int = 8) -> float:
    """The share of n-grams of words that came before; 0 for a text without repetition."""
    words = re.findall(r"\w+", text.lower())
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len({*grams}) / len(grams) if grams else 0.0


@dataclass(frozen=True)
class HelloBench(Generated):
    """Go on with a story for a number of words, and bring in what is asked for.

    Scored by rules: how near the length is, times the share that is no repetition, times the share
    of the things that are mentioned.

    Source: Que et al., HelloBench (arXiv:2409.16191), section 4: long outputs fail by their length
    and by repetition; length as in LongBench-Write (arXiv:2408.07055), section 4.1.
    Differs from the source: only what rules can score; its checklists need a judge. The beginning
    of the story is generated; more length means a longer beginning.

    Args:
        words: Words to write, 20 to 50,000.
        things: Things to mention, 0 to 20.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A number out of range.
    """

    words: int = 200
    things: int = 5
    budget: int = 256

    def __post_init__(self) -> None:
        if not 20 <= self.words <= 50_000:
            raise ValueError(f"HelloBench: words must be from 20 to 50000, got {self.words!r}")
        if not 0 <= self.things <= 20:
            raise ValueError(f"HelloBench: things must be from 0 to 20, got {self.things!r}")

    @property
    def least(self) -> int:
        """A sentence to go on from."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """The things; the beginning grows by sentences."""
        things = different(lambda: invented(rng, 3), self.things)
        units, salt = haystack(None, rng), rng.getrandbits(64)
        wanted = f" These must come up in it: {', '.join(things)}." if things else ""
        tail = (
            f"\nGo on with this story. Write {self.words} words, and do not repeat yourself."
            f"{wanted}\n"
        )
        record = {"words": self.words, "things": things, "salt": salt}
        answer = self.oracle(record)

        def page(count: int) -> Page:
            return Page("A story begins.\n", " ".join(units.first(count)), tail, answer, record)

        return page

    def score(self, text: str, item: Item) -> float:
        """Length, times what is no repetition, times what is mentioned."""
        things = item.record["things"]
        told = sum(thing in text.lower() for thing in things) / len(things) if things else 1.0
        length = length_score(word_count(text), self.words)
        return length * (1 - repetition(text)) * told

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Sentences drawn anew, with the things, cut at the number of words."""
        rng = random.Random(record["salt"])
        words = [word for thing in record["things"] for word in ("There", "was", thing + ".")]
        while len(words) < record["words"]:
            # Frames come again: a number keeps eight words in a row from coming twice.
            words += [number(rng), *sentence(rng).split(), number(rng)]
        return " ".join(words[: record["words"]])

    def guess(self, item: Item, rng: random.Random) -> str:
        """A text of the right length about other things."""
        return self.oracle({**item.record, "things": [], "salt": rng.getrandbits(64)})

    def chance(self, item: Item) -> float:
        """Nothing that is asked for is mentioned by chance."""
        return 0.0 if item.record["things"] else 1.0


@dataclass(frozen=True)
class LCFO(Generated):
    """Summarise a text to a share of its length, without losing its facts.

    Scored by rules: how near the length is to the share, times the share of the facts' values that
    the summary keeps (the questions about the text that it still answers).

    Source: Costa-jussà et al., LCFO (arXiv:2412.08268), section 3: summaries of 20, 10 and 5 % of
    the text, with questions and answers aligned to them.
    Differs from the source: texts and facts are generated; a question counts as answered if its
    value stands in the summary, where the source asks a model or people.

    Args:
        share: Words of the summary over words of the text: 0.2, 0.1 and 0.05 in the source.
        facts: Facts that the summary must keep, 1 to 20.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A number out of range.
    """

    share: float = 0.1
    facts: int = 3
    budget: int = 64

    def __post_init__(self) -> None:
        if not 0.01 <= self.share <= 0.5:
            raise ValueError(f"LCFO: share must be from 0.01 to 0.5, got {self.share!r}")
        if not 1 <= self.facts <= 20:
            raise ValueError(f"LCFO: facts must be from 1 to 20, got {self.facts!r}")

    @property
    def least(self) -> int:
        """Sentences enough for the facts to fit the summary."""
        return round(self.facts / self.share)

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """The facts and their places; the text grows by sentences."""
        names = rng.sample(NAMES, self.facts)
        values = different(lambda: number(rng, 5), self.facts)
        facts = [
            f"Note that {name} paid {value} for the {rng.choice(NOUNS)}."
            for name, value in zip(names, values, strict=True)
        ]
        places = sorted(rng.random() for _ in facts)
        units = haystack(None, rng)

        def page(count: int) -> Page:
            lines = scatter(units.first(count), facts, places)
            words = round(word_count(" ".join(lines)) * self.share)
            record = {"lines": lines, "facts": facts, "values": values, "words": words}
            tail = (
                f"\nSummarise this text in {words} words ({self.share:.0%} of its length). Keep "
                "every note with its number. Summary:"
            )
            context = " ".join(lines)
            return Page("", context, tail, self.oracle(record), record, tuple(facts))

        return page

    def score(self, text: str, item: Item) -> float:
        """Length times the share of the values that are kept."""
        values = item.record["values"]
        kept = sum(re.search(rf"\b{value}\b", text) is not None for value in values) / len(values)
        return length_score(word_count(text), item.record["words"]) * kept

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The notes, and as many words of the other sentences as there is room for."""
        rest = [line for line in record["lines"] if line not in record["facts"]]
        words = " ".join([*record["facts"], *rest]).split(" ")
        return " ".join(words[: record["words"]])

    def guess(self, item: Item, rng: random.Random) -> str:
        """A text of the right length with other numbers."""
        words = item.record["words"]
        return " ".join(number(rng, 5) for _ in range(words))

    def chance(self, item: Item) -> float:
        """A value is among that many numbers of five digits with this probability."""
        return 1 - (1 - 1 / 90_000) ** item.record["words"]
