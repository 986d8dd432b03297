"""LongICLBench: classify a text into one of very many labels, from demonstrations alone."""

import random
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, ClassVar

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, different, invented, new_from
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.words import ADJECTIVES, NOUNS

_WORDS = 2  # of a group; each is shown in turn
_ONLY_NOUNS = [noun for noun in NOUNS if noun not in ADJECTIVES]
_CONTENT = {*NOUNS, *ADJECTIVES}
# A noun {n} and an adjective {a} that tell the label, another noun and adjective that do not.
_FRAMES = (
    "The {a} {m} is near the {b} {n}.",
    "A {b} {n} and a {a} {m} were seen.",
    "They sold a {a} {m} for a {b} {n}.",
    "Who left the {b} {n} by the {a} {m}?",
    "Neither a {a} {m} nor a {b} {n}.",
)


@dataclass(frozen=True)
class LongICL(Generated):
    """Classify a text into one of very many labels that only demonstrations show.

    A label stands for a group of nouns and a group of adjectives. The last text has a noun of the
    one and an adjective of the other that no demonstration has together: other labels share the
    noun, others the adjective, and only the right one has shown both, apart. So no demonstration
    can be copied, and nobody is told what the groups are.

    Source: Li et al., LongICLBench (arXiv:2404.02060), sections 3 and 5: 28 to 174 labels, at least
    one demonstration of each, scattered or grouped by label, with the position of the label varied.
    Differs from the source: labels and texts are generated, so nothing can be known beforehand;
    at least two demonstrations of each label.

    Args:
        labels: Number of labels, 4 to 200.
        grouped: Whether the demonstrations of a label stand together.
        position: Where the group of the right label stands, from 0 to 1; None draws it. Needs
            `grouped`.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A number out of range, or a position without groups.
    """

    version: ClassVar[int] = 2
    labels: int = 28
    grouped: bool = False
    position: float | None = None
    budget: int = 16

    def __post_init__(self) -> None:
        if not 4 <= self.labels <= 200:
            raise ValueError(f"LongICL: labels must be from 4 to 200, got {self.labels!r}")
        if self.position is not None and not 0 <= self.position <= 1:
            raise ValueError(f"LongICL: position must be from 0 to 1, got {self.position!r}")
        if self.position is not None and not self.grouped:
            raise ValueError("LongICL: a position needs grouped demonstrations; set grouped=True")

    @property
    def least(self) -> int:
        """Two demonstrations of every label."""
        return _WORDS * self.labels

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Labels, their groups and the text to classify; grows by demonstrations."""
        labels = different(lambda: invented(rng, 2), self.labels)
        side = isqrt(self.labels - 1) + 1
        nouns, adjectives = (
            rng.sample(_ONLY_NOUNS, len(_ONLY_NOUNS)),
            rng.sample(ADJECTIVES, len(ADJECTIVES)),
        )
        groups = {
            label: (
                nouns[_WORDS * (i % side) :][:_WORDS],
                adjectives[_WORDS * (i // side) :][:_WORDS],
            )
            for i, label in enumerate(labels)
        }
        told = (nouns[_WORDS * side :], adjectives[_WORDS * side :])  # that tell nothing

        shared = Counter(word for words in groups.values() for word, _ in words)
        # A label that is alone with one of its groups could be told by that one.
        right = rng.choice([x for x in labels if all(shared[word] > 1 for word, _ in groups[x])])
        order = [label for label in labels if label != right]
        place = rng.random() if self.position is None else self.position
        order.insert(round(place * (self.labels - 1)), right)
        own, turn = new_from(rng), 0

        def demonstration() -> tuple[float, str, str]:
            nonlocal turn
            label, word = labels[turn % self.labels], turn // self.labels % _WORDS
            noun, adjective = (group[word] for group in groups[label])
            turn += 1
            return own.random(), label, f"{_text(own, noun, adjective, told)} => {label}"

        shown = Endless(demonstration)
        asked = _text(rng, groups[right][0][0], groups[right][1][1], told)
        tail = f"\n{asked} =>"
        record = {"labels": order, "words": groups, "asked": asked, "answers": [right]}

        def page(count: int) -> Page:
            rows = shown.first(count)
            if self.grouped:
                rows = sorted(rows, key=lambda row: order.index(row[1]))
            else:
                rows = sorted(rows)
            own_rows = tuple(row[2] for row in rows if row[1] == right)
            context = "\n".join(row[2] for row in rows)
            return Page(
                "Each text is followed by its label.\n", context, tail, right, record, own_rows
            )

        return page

    def score(self, text: str, item: Item) -> float:
        """1 if the first label that the reply names is right, else 0."""
        lower = text.lower()
        named = {lower.index(label): label for label in item.record["labels"] if label in lower}
        return float(bool(named) and named[min(named)] == item.answer)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The label whose noun and adjective stand in the text."""
        words = {*re.findall(r"\w+", record["asked"])}
        return next(
            label
            for label, (nouns, adjectives) in record["words"].items()
            if words & {*nouns} and words & {*adjectives}
        )

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any label."""
        return rng.choice(item.record["labels"])

    def chance(self, item: Item) -> float:
        """Every label is as likely."""
        return 1 / self.labels

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Copies a label: of the last demonstration, the last or first that is most alike, or the
        most frequent one.
        """
        rows = re.findall(r"^(.+) => (\w+)$", item.prompt, re.MULTILINE)
        asked = {*re.findall(r"\w+", item.record["asked"])} & _CONTENT
        alike = [len(asked & {*re.findall(r"\w+", text)}) for text, _ in rows]
        nearest = [label for (_, label), n in zip(rows, alike, strict=True) if n == max(alike)]
        return {
            "the last label": rows[-1][1],
            "the most frequent label": Counter(label for _, label in rows).most_common(1)[0][0],
            "the first text alike": nearest[0],
            "the last text alike": nearest[-1],
        }


def _text(rng: random.Random, noun: str, adjective: str, told: tuple[list[str], list[str]]) -> str:
    """A text with a noun and an adjective that tell the label, and two that tell nothing."""
    words = {"n": noun, "a": adjective, "m": rng.choice(told[0]), "b": rng.choice(told[1])}
    text = rng.choice(_FRAMES).format(**words)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)
