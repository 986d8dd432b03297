"""FLenQA: the same small problem, with more and more text around it."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, NamedTuple

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, haystack, new_from
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.words import ADJECTIVES, NAMES, NOUNS


class Problem(NamedTuple):
    """Two facts that are both needed, a question about them, and the answer.

    Attributes:
        beside: A sentence that stands beside the second fact, and misleads who reads one alone.
    """

    facts: tuple[str, str]
    question: str
    right: bool
    beside: str = ""


_RELATIONS = ("taller", "older", "faster", "richer", "louder", "calmer")
_FLOORS = ("marble", "oak", "slate", "cork", "brick", "granite")
_ROOMS = [noun for noun in NOUNS if noun not in _FLOORS]


def _relations(rng: random.Random) -> Problem:
    """Two links of a chain of comparisons, of which one is turned round where nothing follows."""
    (a, b, c), word = rng.sample(NAMES, 3), rng.choice(_RELATIONS)
    right = rng.random() < 0.5
    links = [(a, b), (b, c)]
    if not right:
        turned = rng.randrange(2)
        links[turned] = links[turned][::-1]
    if rng.random() < 0.5:  # who stands first in the text says nothing
        links.reverse()
    first, second = (f"{x} is {word} than {y}." for x, y in links)
    return Problem((first, second), f"{a} is {word} than {c}.", right)


def _rooms(rng: random.Random) -> Problem:
    """Who is where, and what the floor is made of there."""
    name, right = rng.choice(NAMES), rng.random() < 0.5
    adjectives, nouns = rng.sample(ADJECTIVES, 2), rng.sample(_ROOMS, 2)
    room, elsewhere = (f"the {a} {n} room" for a, n in zip(adjectives, nouns, strict=True))
    floor, other = rng.sample(_FLOORS, 2)
    facts = (f"{name} is in {room}.", f"The floor of {room} is made of {floor}.")
    asked = floor if right else other
    beside = f"The floor of {elsewhere} is made of {other}."
    return Problem(facts, f"{name} is in a room whose floor is made of {asked}.", right, beside)


def _rules(rng: random.Random) -> Problem:
    """A rule, and somebody it may apply to."""
    name, right = rng.choice(NAMES), rng.random() < 0.5
    first, second, other = rng.sample(ADJECTIVES, 3)
    facts = (f"Whoever is {first} is {second} too.", f"{name} is {first if right else other}.")
    return Problem(facts, f"By these facts, {name} must be {second}.", right)


_PROBLEMS: dict[str, Callable[[random.Random], Problem]] = {
    "relations": _relations,
    "rooms": _rooms,
    "rules": _rules,
}
_PLACES = {"first": (0.0, 0.0), "middle": (0.5, 0.5), "last": (1.0, 1.0)}


_CONTENT = {*NAMES, *ADJECTIVES, *NOUNS}


def _content(text: str) -> set[str]:
    return {*re.findall(r"\w+", text)} & _CONTENT


@dataclass(frozen=True)
class FLenQA(Generated):
    """Say whether a statement follows from two facts, with padding around them.

    The problem depends on the seed only, never on the padding, its place or the length.

    Source: Levy et al., Same Task, More Tokens (arXiv:2402.14848), sections 2 and 3: monotone
    relations, people in rooms and rules; padding that repeats, resembles or ignores the facts; the
    facts first, in the middle, last, or apart at random places.
    Differs from the source: facts are single sentences, and lengths are exact.

    Args:
        problem: "relations", "rooms" or "rules".
        padding: "repeated" (the facts again and again), "similar" (facts of other problems) or
            "different" (prose, or a person's own text).
        place: Where the facts stand: "first", "middle", "last" or "random" (apart).
        text: A person's own prose for "different"; None generates it.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: An unknown problem, padding or place.
    """

    version: ClassVar[int] = 2
    problem: Literal["relations", "rooms", "rules"] = "relations"
    padding: Literal["repeated", "similar", "different"] = "different"
    place: Literal["first", "middle", "last", "random"] = "random"
    text: str | None = field(default=None, repr=False)
    budget: int = 8

    def __post_init__(self) -> None:
        for name, allowed in [
            ("problem", (*_PROBLEMS,)),
            ("padding", ("repeated", "similar", "different")),
            ("place", (*_PLACES, "random")),
        ]:
            if getattr(self, name) not in allowed:
                raise ValueError(
                    f"FLenQA: {name} must be one of {', '.join(allowed)}, got "
                    f"{getattr(self, name)!r}"
                )

    @property
    def least(self) -> int:
        """A sentence more than nothing."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """A problem; the haystack grows by sentences."""
        problem = _PROBLEMS[self.problem](rng)
        facts = problem.facts
        drawn_places = sorted(rng.random() for _ in range(2))
        places = drawn_places if self.place == "random" else list(_PLACES[self.place])
        units = self._units(problem, rng)
        around_second = [problem.facts[1], *filter(None, [problem.beside])]
        if rng.random() < 0.5:
            around_second.reverse()
        head = "Read these facts. Then say whether a statement follows from them.\n"
        tail = f'\nStatement: "{problem.question}" Is it true or false? Answer:'
        record = {**problem._asdict(), "kind": self.problem, "places": places}
        marks = () if self.padding == "repeated" else facts

        def page(count: int) -> Page:
            around = units.first(count)
            cuts = [int(count * place) for place in places]
            lines = [*around[: cuts[0]], facts[0], *around[cuts[0] : cuts[1]], *around_second]
            context = " ".join(lines + around[cuts[1] :])
            return Page(head, context, tail, str(problem.right), record, marks)

        return page

    def _units(self, problem: Problem, rng: random.Random) -> Endless[str]:
        own = new_from(rng)
        if self.padding == "different":
            return haystack(self.text, own)
        if self.padding == "repeated":
            facts = [*problem.facts, *filter(None, [problem.beside])]
            return Endless(lambda: own.choice(facts))
        taken = _content(" ".join([*problem.facts, problem.beside]))

        def similar() -> str:
            while True:
                # A fact about the same person, room or quality could change the answer.
                fact = own.choice(_PROBLEMS[self.problem](own).facts)
                if not _content(fact) & taken:
                    return fact

        return Endless(similar)

    def score(self, text: str, item: Item) -> float:
        """1 if the first "true" or "false" of the reply is right, else 0."""
        found = re.search(r"\b(true|false)\b", text.lower())
        return float(found is not None and found.group() == item.answer.lower())

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Works the statement out from the two facts."""
        first, second = record["facts"]
        asked = record["question"]
        if record["kind"] == "relations":
            (a, *_, b), (c, *_, d) = (fact.rstrip(".").split() for fact in (first, second))
            (x, *_, y) = asked.rstrip(".").split()
            return str((b == c and (x, y) == (a, d)) or (d == a and (x, y) == (c, b)))
        if record["kind"] == "rooms":
            return str(second.rsplit(" ", 1)[1] == asked.rsplit(" ", 1)[1])
        return str(first.split()[2] == second.rstrip(".").split()[2])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """One answer always; whether who is asked of stands first; one of the two facts alone; and
        whether all that the statement names stands in the text.
        """
        first, second = item.record["facts"]
        asked, before = item.record["question"], item.prompt.rpartition("\nStatement:")[0]
        named = re.findall(r"\w+", asked)
        x, y = named[0], named[-1]
        found = {
            "always true": True,
            "the order of names": 0 <= before.find(x) < before.find(y),
            "the words of the statement": y in before,
        }
        if self.problem == "relations":
            subjects = {first.split()[0], second.split()[0]}
            found |= {"one fact alone": x in subjects, "the other alone": y not in subjects}
        return {name: str(value) for name, value in found.items()}

    def guess(self, item: Item, rng: random.Random) -> str:
        """A coin."""
        return rng.choice(["True", "False"])

    def chance(self, item: Item) -> float:
        """A coin."""
        return 0.5
