"""Byte-level text classification: does somebody like a thing or not, over a long review?"""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lengthwise.lab.arena.base import Arena, as_bytes, as_text

GOOD = tuple("charming splendid clever lovely moving superb touching witty".split())
BAD = tuple("dull clumsy tedious awful bland dreary hollow sloppy".split())
THINGS = tuple(
    """plot ending music cast dialogue opening camera pace humour setting costume story lighting
    title rhythm scenery""".split()
)
_NAMES = tuple("Ada Ben Cora Dan Eve Finn Gus Hana Ida Jon Kim Leo Mia Ned Ole Pia".split())
_PLACES = tuple("station harbour market library garden cinema bakery bridge".split())
_DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
_OPINION = re.compile(rf"The (?:{'|'.join(THINGS)}) was (not )?(\w+)\.")


def filler(rng: np.random.Generator) -> str:
    """A sentence without an opinion."""
    name, place, day = (str(rng.choice(words)) for words in (_NAMES, _PLACES, _DAYS))
    shape = int(rng.integers(4))
    if shape == 0:
        return f"{name} came from the {place} on {day}."
    if shape == 1:
        return f"On {day} we met {name} at the {place}."
    if shape == 2:
        return f"{name} had seen it before, on a {day}."
    return f"Somebody at the {place} spoke of {name}."


def mixed(said: list[str], length: int, rng: np.random.Generator) -> str:
    """The sentences in random order between as many others as `length` characters have room for."""
    said = list(said)
    room = length - sum(len(sentence) + 1 for sentence in said)
    while (room := room - len(sentence := filler(rng)) - 1) >= 0:
        said.append(sentence)
    return " ".join(said[i] for i in rng.permutation(len(said)))


@dataclass(frozen=True)
class TextClassification(Arena):
    """Tell from the bytes of a review whether more of its opinions are good (1) or bad (0).

    An opinion is good if its word is, or if it is `not` a bad one. Good and bad words are as many
    in both classes on average, and they stand anywhere in the review, so neither a word nor a
    place gives the class away: the opinions have to be counted.

    Source: Tay et al., Long Range Arena (arXiv:2011.04006), section 2.2.2 (IMDb reviews as bytes).
    Differs from the source: the reviews are generated.

    Args:
        length: Bytes of a review at most, at least 256.
        lead: Opinions by which one side is ahead, at least 1.

    Raises:
        ValueError: A size out of range.
    """

    classes = 2
    vocabulary = 257
    length: int = 4096
    lead: int = 3

    def __post_init__(self) -> None:
        if self.length < 256 or self.lead < 1 or 64 * self.lead > self.length:
            raise ValueError(
                "TextClassification: length must be at least 256 and lead from 1 to length / 64, "
                f"got {self.length} and {self.lead}"
            )

    def example(self, label: int, rng: np.random.Generator) -> NDArray[np.uint16]:
        """Opinions in random order between sentences without one."""
        weaker = int(rng.integers(0, max(2, self.length // 256)))
        sides = [label] * (weaker + self.lead) + [1 - label] * weaker
        said = [_opinion(side, rng) for side in sides]
        return as_bytes(mixed(said, self.length, rng), self.length)

    def solve(self, tokens: NDArray[Any]) -> int:
        """Counts the opinions."""
        found = _OPINION.findall(as_text(tokens))
        good = sum((word in GOOD) != bool(negation) for negation, word in found)
        return int(2 * good > len(found))


def _opinion(side: int, rng: np.random.Generator) -> str:
    negated = bool(rng.integers(2))
    words = GOOD if bool(side) != negated else BAD
    return f"The {rng.choice(THINGS)} was {'not ' if negated else ''}{rng.choice(words)}."
