"""What the generators draw: endless units, names that nobody has heard, prose about nothing."""

import random
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from lengthwise.measure.tasks.words import ADJECTIVES, CODAS, NOUNS, ONSETS, VOWELS

T = TypeVar("T")

# Plain sentences without a number, a name or a colon, so that none looks like a needle.
_FRAMES = (
    "The {a} {n} stood near the {b} {m} for a while.",
    "Behind the {n} there was a {a} {m}, and nobody minded.",
    "Some people like a {a} {n} better than a {b} one.",
    "On most days the {n} was {a} and the {m} was {b}.",
    "It is hard to say why the {a} {n} looked so {b} that day.",
    "They walked past the {n} and the {m} without a word.",
    "A {a} {n} is of little use without a {b} {m}.",
    "The {m} beside the {n} had always been {a}.",
    "In the {a} light even the {n} seemed {b}.",
    "Nobody remembered who had left the {n} by the {a} {m}.",
    "What the {n} needed was a {a} {m}, not a {b} one.",
    "There was rain on the {n} and dust on the {m}.",
    "Past the {a} {m} the road turned toward the {n}.",
    "One could see the {n} from the {m} when the air was {a}.",
    "The story of the {a} {n} was told slowly and often.",
    "All that was left of the {n} was a {a} {m}.",
)

NOISE = "The wind blows. The rain falls. The clock ticks on. Now it is day. Now it is night again."


class Exhausted(ValueError):
    """A person's text has no more units than `most`."""

    def __init__(self, words: str, most: int) -> None:
        super().__init__(words)
        self.most = most


class Endless(Generic[T]):
    """A list that is drawn as far as it is needed; its start never changes."""

    def __init__(self, draw: Callable[[], T]) -> None:
        self._draw = draw
        self._drawn: list[T] = []

    def first(self, count: int) -> list[T]:
        """The first `count` draws."""
        self._drawn += [self._draw() for _ in range(count - len(self._drawn))]
        return self._drawn[:count]


def new_from(rng: random.Random) -> random.Random:
    """A generator of its own for an endless list, so that reading it disturbs no other draw."""
    return random.Random(rng.getrandbits(64))


def sentence(rng: random.Random) -> str:
    """A sentence about nothing in particular."""
    words = {"a": ADJECTIVES, "b": ADJECTIVES, "n": NOUNS, "m": NOUNS}
    text = rng.choice(_FRAMES).format(**{slot: rng.choice(words[slot]) for slot in words})
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


def sentences(text: str) -> list[str]:
    """A text cut behind full stops, question and exclamation marks; white space becomes blanks."""
    words, found, begun = text.split(), [], 0
    for i, word in enumerate(words, 1):
        if word.rstrip("\"')").endswith((".", "?", "!")) or i == len(words):
            found.append(" ".join(words[begun:i]))
            begun = i
    return found


def haystack(text: str | None, rng: random.Random) -> Endless[str]:
    """Sentences of a person's text from a random one on, going round; None draws our own."""
    own = new_from(rng)
    if text is None:
        return Endless(lambda: sentence(own))
    given = sentences(text)
    if not given:
        raise ValueError("the haystack is empty; give a text, or None for generated sentences")
    place = own.randrange(len(given)) - 1

    def following() -> str:
        nonlocal place
        place = (place + 1) % len(given)
        return given[place]

    return Endless(following)


class Stretch:
    """A piece of a person's text in its own order: it grows to the text's end, then backwards.

    Raises:
        ValueError: A text without a sentence; later, one that is asked for more than it has.
    """

    def __init__(self, text: str, rng: random.Random) -> None:
        self._given = sentences(text)
        if not self._given:
            raise ValueError("the text is empty; give a longer text, or None for a generated one")
        self._start = rng.randrange(len(self._given))

    def first(self, count: int) -> list[str]:
        """`count` sentences that follow each other, among them all of any smaller count."""
        if count > len(self._given):
            words = f"the text has only {len(self._given):,} sentences"
            raise Exhausted(f"{words}; give a longer text, or a shorter length", len(self._given))
        start = min(self._start, len(self._given) - count)
        return self._given[start : start + count]


def scatter(units: Sequence[str], facts: Sequence[str], places: Sequence[float]) -> list[str]:
    """The units with each fact inserted at its place, a fraction of their number."""
    result, begun = [], 0
    for place, fact in sorted(zip(places, facts, strict=True), key=lambda pair: pair[0]):
        at = int(len(units) * place)
        result += [*units[begun:at], fact]
        begun = at
    return result + list(units[begun:])


def depths(rng: random.Random, count: int, grid: int = 40) -> list[float]:
    """`count` different places out of `grid` even ones from 0 to 1, in random order."""
    grid = max(grid, count)
    return [place / (grid - 1) for place in rng.sample(range(grid), count)]


def number(rng: random.Random, digits: int = 7) -> str:
    """A number of that many digits."""
    return str(rng.randrange(10 ** (digits - 1), 10**digits))


def uuid4(rng: random.Random) -> str:
    """A random UUID."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def pair_of_words(rng: random.Random) -> str:
    """An adjective and a noun with a hyphen."""
    return f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"


def invented(rng: random.Random, syllables: int = 2) -> str:
    """A word that does not exist, in lower case."""
    parts = [rng.choice(ONSETS) + rng.choice(VOWELS) for _ in range(syllables)]
    return "".join(parts) + rng.choice(CODAS)


def different(draw: Callable[[], str], count: int, taken: Sequence[str] = ()) -> list[str]:
    """`count` draws that differ, none of them a part of another one."""
    found: list[str] = []
    while len(found) < count:
        word = draw()
        if not any(word in other or other in word for other in [*found, *taken]):
            found.append(word)
    return found
