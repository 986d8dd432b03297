"""M4LE's converter: many short items in one long prompt, and a question about some of them."""

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb
from pathlib import Path
from typing import Any, Literal

from lengthwise.measure.run.json_lines import read_objects, text
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, new_from, sentence
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import set_f1
from lengthwise.measure.tasks.words import ADJECTIVES, NOUNS

ABILITIES = (
    "explicit single", "semantic single", "explicit multiple", "semantic multiple", "global",
)  # fmt: skip


@dataclass(frozen=True)
class Short:
    """A short item: a text, the label that a model should give it, and what it is about."""

    text: str
    label: str
    topic: str


_SAID = {
    "positive": ("a joy from the first day on", "worth twice its price", "better than promised"),
    "negative": ("broken within a week", "a waste of money", "far worse than promised"),
    "mixed": ("fine on some days only", "good, but not for long", "neither good nor bad"),
}  # fmt: skip


def _review(rng: random.Random, topic: str) -> Short:
    label = rng.choice([*_SAID])
    text = f"{sentence(rng)} The {topic} was {rng.choice(_SAID[label])}."
    return Short(text, label, topic)


def _things(rng: random.Random) -> str:
    return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"


@cache
def read_short(file: Path) -> tuple[Short, ...]:
    """Reads JSON lines with `text`, `label` and `topic`.

    Raises:
        ValueError: A file that is not there, or a line that lacks one of the three.
    """
    found = []
    for number, row in read_objects(file):
        try:
            short = Short(*(text(row, key).strip() for key in ("text", "label", "topic")))
        except (KeyError, ValueError) as error:
            raise ValueError(
                f"{file}, line {number} must be an object with text, label and topic: {error}"
            ) from None
        if not (short.text and short.label and short.topic):
            raise ValueError(f"{file}, line {number}: text, label and topic must not be empty")
        found.append(short)
    if len({short.label for short in found}) < 2 or len({short.topic for short in found}) < 8:
        raise ValueError(f"{file}: needs items of 2 labels and 8 topics at least")
    return tuple(found)


@dataclass(frozen=True)
class M4LE(Generated):
    """Turns short labelled items into long prompts that ask for one, several or all of them.

    Source: Kwan et al., M4LE (arXiv:2310.19240), section 3: five abilities; items are found by
    their number (explicit) or by what they are about (semantic), one or several of them, or all
    count (global).
    Differs from the source: without a file the items are generated reviews; more length means more
    items.

    Args:
        ability: One of `ABILITIES`.
        file: A person's own items as JSON lines of `text`, `label` and `topic`; None generates.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: An unknown ability, or a file that cannot be read.
    """

    ability: Literal[
        "explicit single", "semantic single", "explicit multiple", "semantic multiple", "global"
    ] = "explicit single"
    file: Path | None = None
    budget: int = 24

    def __post_init__(self) -> None:
        if self.ability not in ABILITIES:
            raise ValueError(
                f"M4LE: ability must be one of {', '.join(ABILITIES)}, got {self.ability!r}"
            )
        if self.file is not None:
            read_short(self.file)

    @property
    def least(self) -> int:
        """Items enough for three that are asked for."""
        return 4

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """What is asked for; the haystack grows by items."""
        asked, units = self._units(rng)
        places = sorted(rng.random() for _ in range(3))
        labels = sorted(_SAID if self.file is None else {s.label for s in read_short(self.file)})
        head = f"Numbered texts follow. The label of each is one of: {', '.join(labels)}.\n"

        def page(count: int) -> Page:
            shorts = units.first(count)
            at = [int(place * (count - 2)) + i for i, place in enumerate(places)]
            if "semantic" in self.ability:
                for i, short in zip(at[: len(asked)], asked, strict=True):
                    shorts = [*shorts[:i], short, *shorts[i + 1 :]]
            chosen = at[:1] if "single" in self.ability else at
            lines = [f"Text {i}: {short.text}" for i, short in enumerate(shorts, 1)]
            marks = () if self.ability == "global" else tuple(lines[i] for i in chosen)
            record = {
                "shorts": [[s.text, s.label, s.topic] for s in shorts],
                "chosen": chosen,
                "labels": labels,
            }
            record |= {"ability": self.ability}
            tail = f"\n{_question(self.ability, chosen, shorts)} Answer:"
            return Page(head, "\n".join(lines), tail, self.oracle(record), record, marks)

        return page

    def _units(self, rng: random.Random) -> tuple[list[Short], Endless[Short]]:
        """The items of one topic that a semantic question is about, and all others."""
        several = 3 if "multiple" in self.ability else 1
        own = new_from(rng)
        if self.file is None:
            topic = _things(rng)
            asked = [_review(rng, topic) for _ in range(several)]

            def review() -> Short:
                while (drawn := _things(own)) == topic:
                    pass
                return _review(own, drawn)

            return asked, Endless(review)
        every = read_short(self.file)
        topics = Counter(short.topic for short in every)
        enough = sorted(topic for topic, n in topics.items() if n >= several)
        if "semantic" in self.ability and not enough:
            raise ValueError(f"{self.file}: no topic has {several} items")
        topic = rng.choice(enough) if enough else ""
        asked = [short for short in every if short.topic == topic][:several]
        others = [short for short in every if short.topic != topic]
        return asked, Endless(lambda: own.choice(others))

    def score(self, text: str, item: Item) -> float:
        """The share of the labels that are right in order; for numbers F1; for a count 0 or 1."""
        if self.ability == "semantic multiple":
            return set_f1({*re.findall(r"\d+", text)}, {*re.findall(r"\d+", item.answer)})
        if self.ability == "global":
            found = re.search(r"\d+", text)
            return float(found is not None and found.group() == item.answer)
        # The longest first: a label may begin another one, hold a comma or end in a sign.
        every = sorted({label.lower() for label in item.record["labels"]}, key=len, reverse=True)
        names = "|".join(map(re.escape, every))
        found_labels = re.findall(rf"(?<!\w)(?:{names})(?!\w)", text.lower())
        shorts = item.record["shorts"]
        wanted = [shorts[i][1].lower() for i in item.record["chosen"]]
        return sum(map(str.__eq__, found_labels, wanted)) / len(wanted)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Reads the labels, numbers or the count off the items."""
        shorts, chosen = record["shorts"], record["chosen"]
        if record["ability"] == "semantic multiple":
            return ", ".join(str(i + 1) for i in chosen)
        if record["ability"] == "global":
            return str(sum(short[1] == shorts[chosen[0]][1] for short in shorts))
        return ", ".join(shorts[i][1] for i in chosen)

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """The same label always; the first or last numbers; an even share of all."""
        labels, total = item.record["labels"], len(item.record["shorts"])
        if self.ability == "semantic multiple":
            return {
                "the first texts": "1, 2, 3",
                "the last texts": f"{total - 2}, {total - 1}, {total}",
            }
        if self.ability == "global":
            return {"an even share": str(round(total / len(labels)))}
        asked = len(item.record["chosen"])
        return {f"always {label}": ", ".join([label] * asked) for label in labels}

    def guess(self, item: Item, rng: random.Random) -> str:
        """Labels, numbers, or a count, drawn without looking."""
        labels, total = item.record["labels"], len(item.record["shorts"])
        if self.ability == "semantic multiple":
            return ", ".join(map(str, rng.sample(range(1, total + 1), 3)))
        if self.ability == "global":
            return str(rng.randint(1, total))
        return ", ".join(rng.choice(labels) for _ in item.record["chosen"])

    def chance(self, item: Item) -> float:
        """By counting: labels are equally likely guesses, numbers are a draw of three."""
        total = len(item.record["shorts"])
        if self.ability == "semantic multiple":
            ways = [comb(3, k) * comb(total - 3, 3 - k) * k / 3 for k in range(4)]
            return sum(ways) / comb(total, 3)
        if self.ability == "global":
            return 1 / total
        return 1 / len(item.record["labels"])


def _question(ability: str, chosen: Sequence[int], shorts: Sequence[Short]) -> str:
    numbers = ", ".join(str(i + 1) for i in chosen)
    topic = shorts[chosen[0]].topic
    return {
        "explicit single": f"What is the label of text {numbers}?",
        "semantic single": f"What is the label of the text about the {topic}?",
        "explicit multiple": f"What are the labels of the texts {numbers}, in this order?",
        "semantic multiple": f"What are the numbers of the three texts about the {topic}?",
        "global": f"How many texts have the same label as text {chosen[0] + 1}, itself included?",
    }[ability]
