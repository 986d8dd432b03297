"""In-context languages: strings of a random automaton, and one to go on with."""

import random
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, new_from
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens

_TRIES = 400  # for what most languages have; the others are taken as they are
_SEEN = 16  # strings that are counted
_LONG = 12  # symbols of the string that is gone on with
Automaton = list[dict[str, int]]  # for every state, from a symbol to the next state


@dataclass(frozen=True)
class InContextLanguage(Generated):
    """Go on with a string of a regular language that only examples describe.

    Source: Akyürek et al., In-Context Language Learning (arXiv:2401.12973), section 3: random
    automata of 4 to 12 states over 4 to 18 symbols, 1 to 4 ways out of every state, strings of 1 to
    50 symbols; a symbol is right if the automaton allows it.
    Differs from the source: more length means more strings; the state that the last string ends in
    has been reached in other ways before, and left by each allowed symbol; in one item of two the
    symbol that mostly follows its last one or its last two is not allowed there, so that counting
    pairs and triples of symbols does not do; automata that allow everything are left out.

    Args:
        states: States of the automaton; None draws 4 to 12.
        symbols: Symbols of the alphabet; None draws 5 to 18.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A number out of range.
    """

    version: ClassVar[int] = 2
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
        alphabet, automaton, asked = self._language(rng)
        own, state = new_from(rng), _end(automaton, asked)
        # The first strings reach the last state of the asked one, and leave it by every way.
        shown = [_way(automaton, state, asked, rng) + symbol for symbol in automaton[state]]
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

    def _language(self, rng: random.Random) -> tuple[list[str], Automaton, str]:
        """An alphabet, an automaton, and a string that counting can or cannot go on with."""
        hard = rng.random() < 0.5
        for _ in range(_TRIES):
            alphabet = rng.sample(string.ascii_lowercase, self.symbols or rng.randint(5, 18))
            automaton = _automaton(self.states or rng.randint(4, 12), alphabet, rng)
            asked = _walk(automaton, rng.randint(2, _LONG), rng)
            seen = [_walk(automaton, rng.randint(1, 50), rng) for _ in range(_SEEN)]
            usual = {followers(seen, asked[-size:])[:1] for size in (1, 2)}
            fits = len(usual & automaton[_end(automaton, asked)].keys())
            if fits == (0 if hard else len(usual)):
                break
        return alphabet, automaton, asked

    def score(self, text: str, item: Item) -> float:
        """1 if the first symbol of the reply is one that the automaton allows here, else 0."""
        record = item.record
        symbol = next((letter for letter in text if letter in record["alphabet"]), "")
        return float(symbol in record["automaton"][_end(record["automaton"], record["asked"])])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """A symbol that leaves the state of the asked string."""
        return min(record["automaton"][_end(record["automaton"], record["asked"])])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """What mostly follows the last symbol, or the last two, and the most frequent symbol."""
        *lines, asked = item.prompt.replace(" ", "").split("\n")[1:]
        shown = [line for line in lines if {*line} <= {*item.record["alphabet"]}]
        alike = [
            line[len(asked)] for line in shown if len(line) > len(asked) and line.startswith(asked)
        ]
        return {
            "the most frequent symbol": followers(shown, "")[:1],
            "what follows one": followers(shown, asked[-1:])[:1],
            "what follows two": followers(shown, asked[-2:])[:1],
            "what follows one now and then": followers(shown, asked[-1:])[1:2],
            "a line that begins alike": alike[0] if alike else "",
        }

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any symbol of the alphabet."""
        return rng.choice(item.record["alphabet"])

    def chance(self, item: Item) -> float:
        """The share of the alphabet that is allowed."""
        automaton = item.record["automaton"]
        allowed = automaton[_end(automaton, item.record["asked"])]
        return len(allowed) / len(item.record["alphabet"])


def followers(strings: Iterable[str], end: str) -> str:
    """The symbols that stand behind `end` in the strings, the most frequent ones first."""
    size = len(end)
    counts = Counter(
        line[i + size]
        for line in strings
        for i in range(len(line) - size)
        if line[i : i + size] == end
    )
    return "".join(symbol for symbol, _ in counts.most_common())


def _way(automaton: Automaton, state: int, asked: str, rng: random.Random) -> str:
    """A string that ends in a state, another one than `asked` if there is one."""
    for _ in range(_TRIES):
        word, now = "", 0
        while len(word) < 2 * _LONG and (now != state or rng.random() < 0.5):
            symbol = rng.choice(sorted(automaton[now]))
            word, now = word + symbol, automaton[now][symbol]
        if now == state and word and word[-2:] != asked[-2:]:
            return word
    return asked


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
