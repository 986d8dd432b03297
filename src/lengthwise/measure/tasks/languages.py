"""In-context languages: strings of a random automaton, and one to go on with."""

import random
import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, new_from
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens

Automaton = list[dict[str, int]]  # for every state, from a symbol to the next state


@dataclass(frozen=True)
class InContextLanguage(Generated):
    """Go on with a string of a regular language that only examples describe.

    Source: Akyürek et al., In-Context Language Learning (arXiv:2401.12973), section 3: random
    automata of 4 to 12 states over 4 to 18 symbols, 1 to 4 ways out of every state, strings of 1 to
    50 symbols; a symbol is right if the automaton allows it.
    Differs from the source: more length means more strings; every state that the last string ends
    in has been left before, by each allowed symbol; automata that allow everything are left out.

    Args:
        states: States of the automaton; None draws 4 to 12.
        symbols: Symbols of the alphabet; None draws 5 to 18.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A number out of range.
    """

    states: int | None = None
    symbols: int | None = None
    budget: int = 4

    def __post_init__(self) -> None:
        if self.states is not None and not 2 <= self.states <= 50:
            raise ValueError(f"InContextLanguage: states must be from 2 to 50, got {self.states!r}")
        if self.symbols is not None and not 5 <= self.symbols <= 26:
            raise ValueError(
                f"InContextLanguage: symbols must be from 5 to 26, got {self.symbols!r}"
            )

    @property
    def least(self) -> int:
        """Two strings."""
        return 2

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """An automaton and strings; grows by strings."""
        alphabet = rng.sample(string.ascii_lowercase, self.symbols or rng.randint(5, 18))
        automaton = _automaton(self.states or rng.randint(4, 12), alphabet, rng)
        own = new_from(rng)
        # The first strings leave the last state of the asked one by every way.
        asked = _walk(automaton, rng.randint(2, 12), rng)
        state = _end(automaton, asked)
        shown = [asked + symbol for symbol in automaton[state]]
        following = iter(shown)

        def example() -> str:
            known = next(following, None)
            return known or _walk(automaton, own.randint(1, 50), own)

        strings, keys = Endless(example), Endless(rng.random)
        allowed = sorted(automaton[state])
        tail = "\n" + " ".join(asked)
        record = {"automaton": automaton, "alphabet": sorted(alphabet), "asked": asked}

        def page(count: int) -> Page:
            rows = strings.first(count + len(shown))
            order = sorted(zip(keys.first(len(rows)), rows, strict=True))
            context = "\n".join(" ".join(row) for _, row in order)
            head = "Each line is a string of the same language.\n"
            return Page(head, context, tail, allowed[0], record)

        return page

    def score(self, text: str, item: Item) -> float:
        """1 if the first symbol of the reply is one that the automaton allows here, else 0."""
        record = item.record
        symbol = next((letter for letter in text if letter in record["alphabet"]), "")
        return float(symbol in record["automaton"][_end(record["automaton"], record["asked"])])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """A symbol that leaves the state of the asked string."""
        return min(record["automaton"][_end(record["automaton"], record["asked"])])

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any symbol of the alphabet."""
        return rng.choice(item.record["alphabet"])

    def chance(self, item: Item) -> float:
        """The share of the alphabet that is allowed."""
        automaton = item.record["automaton"]
        allowed = automaton[_end(automaton, item.record["asked"])]
        return len(allowed) / len(item.record["alphabet"])


def _automaton(states: int, alphabet: list[str], rng: random.Random) -> Automaton:
    return [
        {symbol: rng.randrange(states) for symbol in rng.sample(alphabet, rng.randint(1, 4))}
        for _ in range(states)
    ]


def _walk(automaton: Automaton, length: int, rng: random.Random) -> str:
    state, word = 0, ""
    for _ in range(length):
        symbol = rng.choice(sorted(automaton[state]))
        word, state = word + symbol, automaton[state][symbol]
    return word


def _end(automaton: Automaton, word: str) -> int:
    state = 0
    for symbol in word:
        state = automaton[state][symbol]
    return state
