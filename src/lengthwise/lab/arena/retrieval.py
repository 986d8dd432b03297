"""Byte-level matching: does one of two documents cite the other?"""

import re
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lengthwise.lab.arena.base import Arena, as_bytes, as_text
from lengthwise.lab.arena.text import mixed

_ADJECTIVES = tuple("early late deep sparse linear local global noisy".split())
_SUBJECTS = tuple("memory vision speech music motion colour number grammar".split())
_PLACES = tuple("rivers cities forests deserts islands mountains markets harbours".split())
_TITLE = re.compile(r"^Title: (.+)\.$", re.MULTILINE)
_CITED = re.compile(r"See (\w+ \w+ in \w+)\.")

Title = tuple[str, str, str]


@dataclass(frozen=True)
class Retrieval(Arena):
    """Tell from the bytes of two documents whether one cites the other's title (1) or not (0).

    Every document cites several titles among other sentences. Where there is no citation, a title
    that shares two of its three words with the other document's is cited instead.

    Source: Tay et al., Long Range Arena (arXiv:2011.04006), section 2.2.3 (papers that cite each
    other, each document compressed on its own).
    Differs from the source: the documents are generated.

    Args:
        length: Bytes of each document at most, at least 512.
        citations: Titles that a document cites, from 1 to `length / 64`.

    Raises:
        ValueError: A size out of range.
    """

    classes = 2
    vocabulary = 257
    pair: ClassVar[bool] = True
    length: int = 4000
    citations: int = 8

    def __post_init__(self) -> None:
        if self.length < 512 or not 1 <= self.citations <= self.length // 64:
            raise ValueError(
                "Retrieval: length must be at least 512 and citations from 1 to length / 64, got "
                f"{self.length} and {self.citations}"
            )

    def example(self, label: int, rng: np.random.Generator) -> NDArray[np.uint16]:
        """Two documents; which of them cites is drawn."""
        titles = [_title(rng), _title(rng)]
        while titles[0] == titles[1]:
            titles[1] = _title(rng)
        citing = int(rng.integers(2))
        rows = []
        for i, title in enumerate(titles):
            other = titles[1 - i]
            cited = [_near(other, rng) for _ in range(self.citations)]
            if label and i == citing:
                cited[int(rng.integers(self.citations))] = other
            rows.append(as_bytes(self._document(title, cited, rng), self.length))
        return np.stack(rows)

    def _document(self, title: Title, cited: list[Title], rng: np.random.Generator) -> str:
        said = [f"See {_words(one)}." for one in cited]
        first = f"Title: {_words(title)}.\n"
        return first + mixed(said, self.length - len(first), rng)

    def solve(self, tokens: NDArray[Any]) -> int:
        """Looks both titles up among the other document's citations."""
        texts = [as_text(row) for row in tokens]
        titles = [found[1] for text in texts if (found := _TITLE.search(text))]
        return int(any(titles[1 - i] in _CITED.findall(text) for i, text in enumerate(texts)))


def _title(rng: np.random.Generator) -> Title:
    adjective, subject, place = (rng.choice(w) for w in (_ADJECTIVES, _SUBJECTS, _PLACES))
    return str(adjective), str(subject), str(place)


def _near(title: Title, rng: np.random.Generator) -> Title:
    """A title with one word changed."""
    place = int(rng.integers(3))
    words = list(title)
    while words[place] == title[place]:
        words[place] = _title(rng)[place]
    return words[0], words[1], words[2]


def _words(title: Title) -> str:
    return "{} {} in {}".format(*title)
