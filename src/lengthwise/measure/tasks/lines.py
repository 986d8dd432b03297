"""LongChat's lines: one register among very many."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lengthwise.measure.tasks.base import Item, picked
from lengthwise.measure.tasks.draws import Endless, new_from, pair_of_words, scatter
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens

_MOST = 50_000  # contents go from 1 to this, as in the source


@dataclass(frozen=True)
class Lines(Generated):
    """Give the content of the register on one of very many lines.

    Source: Li et al., How long can open-source LLMs truly promise on context length (LMSYS, 2023),
    section on fine-grained line retrieval.
    Differs from the source: wording and words are ours, every name stands once, and lengths are
    exact.

    Args:
        depth: Where the line stands, from 0 to 1; None draws a place.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A depth out of range.
    """

    depth: float | None = None
    budget: int = 16

    def __post_init__(self) -> None:
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(f"Lines: depth must be from 0 to 1, got {self.depth!r}")

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """The line asked for and its place; the haystack grows by lines."""
        name, content = pair_of_words(rng), str(rng.randint(1, _MOST))
        place = rng.random() if self.depth is None else self.depth
        own, taken = new_from(rng), {name}

        def other() -> str:
            drawn = pair_of_words(own)
            # Words run out at 27,000 lines: then names get a number.
            while drawn in taken:
                drawn = f"{pair_of_words(own)}-{own.randrange(10**6)}"
            taken.add(drawn)
            return _line(drawn, str(own.randint(1, _MOST)))

        others, fact = Endless(other), _line(name, content)
        head = "This is a record of lines. Remember what the register of each line holds.\n"
        tail = (
            f"\nWhat does the register of line {name} hold? Reply with the number only. The "
            f"register of line {name} holds"
        )
        record = {"name": name, "content": content, "place": place}

        def page(count: int) -> Page:
            context = "\n".join(scatter(others.first(count), [fact], [place]))
            return Page(head, context, tail, content, record, (fact,))

        return page

    def score(self, text: str, item: Item) -> float:
        """1 if the first number in the reply is the content, else 0."""
        number = re.search(r"\d+", text)
        return float(number is not None and number.group() == item.answer)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The content of the register."""
        return f" <{record['content']}>"

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """The content of a line, whatever its name."""
        return picked(re.findall(r"<(\d+)>", item.prompt), kind="line")

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any content."""
        return str(rng.randint(1, _MOST))

    def chance(self, item: Item) -> float:
        """Every content is as likely."""
        return 1 / _MOST


def _line(name: str, content: str) -> str:
    return f"line {name}: the register holds <{content}>"
