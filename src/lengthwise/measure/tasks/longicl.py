"""Long in-context learning: very many labels, shown by demonstrations only."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, different, invented, new_from, sentence
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens

_CUES = 3  # words of its own that point to a label


@dataclass(frozen=True)
class LongICL(Generated):
    """Classify a text into one of very many labels that only demonstrations show.

    Every label has words of its own; each demonstration holds one of them among others. The last
    text holds a word that a demonstration of its label has shown.

    Source: Li et al., LongICLBench (arXiv:2404.02060), sections 3 and 5: 28 to 174 labels, at least
    one demonstration of each, scattered or grouped by label, with the position of the label varied.
    Differs from the source: labels and texts are generated, so nothing can be known beforehand.

    Args:
        labels: Number of labels, 2 to 200.
        grouped: Whether the demonstrations of a label stand together.
        position: Where the group of the right label stands, from 0 to 1; None draws it. Needs
            `grouped`.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A number out of range, or a position without groups.
    """

    labels: int = 28
    grouped: bool = False
    position: float | None = None
    budget: int = 16

    def __post_init__(self) -> None:
        if not 2 <= self.labels <= 200:
            raise ValueError(f"LongICL: labels must be from 2 to 200, got {self.labels!r}")
        if self.position is not None and not 0 <= self.position <= 1:
            raise ValueError(f"LongICL: position must be from 0 to 1, got {self.position!r}")
        if self.position is not None and not self.grouped:
            raise ValueError("LongICL: a position needs grouped demonstrations; set grouped=True")

    @property
    def least(self) -> int:
        """A demonstration of every label."""
        return self.labels

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Labels, their words and the text to classify; grows by demonstrations."""
        drawn = different(lambda: invented(rng, 3), self.labels * (1 + _CUES))
        labels, rest = drawn[: self.labels], drawn[self.labels :]
        cues = {label: rest[i :: self.labels] for i, label in enumerate(labels)}
        right = rng.choice(labels)
        order = [label for label in labels if label != right]
        place = rng.random() if self.position is None else self.position
        order.insert(round(place * (self.labels - 1)), right)
        own, turn = new_from(rng), 0

        def demonstration() -> tuple[float, str, str, str]:
            nonlocal turn
            label, cue = labels[turn % self.labels], cues[labels[turn % self.labels]]
            text = _with(sentence(own), cue[turn // self.labels % _CUES])
            turn += 1
            return own.random(), label, text, f"{text} => {label}"

        shown = Endless(demonstration)
        asked = _with(sentence(rng), cues[right][0])
        tail = f"\n{asked} =>"
        record = {"labels": order, "cues": cues, "asked": asked, "answers": [right]}

        def page(count: int) -> Page:
            rows = shown.first(count)
            if self.grouped:
                rows = sorted(rows, key=lambda row: order.index(row[1]))
            else:
                rows = sorted(rows)
            own_rows = tuple(row[3] for row in rows if row[1] == right)
            context = "\n".join(row[3] for row in rows)
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
        """The label whose word stands in the text."""
        words = {*record["asked"].rstrip(".").replace(",", "").split()}
        return next(label for label, cues in record["cues"].items() if words & {*cues})

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any label."""
        return rng.choice(item.record["labels"])

    def chance(self, item: Item) -> float:
        """Every label is as likely."""
        return 1 / self.labels


def _with(text: str, cue: str) -> str:
    """The sentence with the word before its full stop."""
    return f"{text.rstrip('.')}, said the {cue}."
