"""LV-Eval's three devices: confusing facts, replaced keywords, keyword recall before F1."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lengthwise.measure.tasks.base import Item, picked
from lengthwise.measure.tasks.draws import depths, different, haystack, invented, scatter
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import keyword_f1

# What everybody knows, by what is asked: every answer is one word, and no answer comes twice.
_PLACES = {
    "Mount Everest": "Nepal", "Lake Titicaca": "Peru", "the Serengeti": "Tanzania",
    "the Matterhorn": "Switzerland", "Lake Ladoga": "Russia", "Mount Fuji": "Japan",
    "the Alhambra": "Spain", "the Parthenon": "Greece", "Angkor Wat": "Cambodia",
    "the Brandenburg Gate": "Germany", "the Eiffel Tower": "France", "Mount Etna": "Italy",
    "the Grand Canyon": "America", "Uluru": "Australia", "the Geirangerfjord": "Norway",
    "Lake Balaton": "Hungary", "the Taj Mahal": "India", "the Atomium": "Belgium",
}  # fmt: skip
_WORKS = {
    "Moby Dick": "Melville", "Hamlet": "Shakespeare", "Faust": "Goethe", "Emma": "Austen",
    "War and Peace": "Tolstoy", "Don Quixote": "Cervantes", "The Trial": "Kafka",
    "Oliver Twist": "Dickens", "The Divine Comedy": "Dante", "Madame Bovary": "Flaubert",
    "Ulysses": "Joyce", "Dracula": "Stoker", "Frankenstein": "Shelley", "Candide": "Voltaire",
    "The Odyssey": "Homer", "The Idiot": "Dostoevsky", "Les Misérables": "Hugo",
    "Peer Gynt": "Ibsen",
}  # fmt: skip


@dataclass(frozen=True)
class _Kind:
    facts: Mapping[str, str]
    fact: str
    question: str
    answer: str
    subject: str  # form of a subject that nobody knows


_KINDS = (
    _Kind(
        _PLACES,
        "Travellers know that {subject} can be visited in {value}.",
        "In which country can {subject} be visited?",
        "One can visit it in {value}",
        "the {name} Rock",
    ),
    _Kind(
        _WORKS,
        "It is no secret that the book {subject} was written by {value}.",
        "Who wrote the book {subject}?",
        "The author is {value}",
        "The {name} Letters",
    ),
)


@dataclass(frozen=True)
class LVEval(Generated):
    """Answer from a text whose facts have been changed, among facts that look alike.

    Source: Yuan et al., LV-Eval (arXiv:2402.05136), section 3.3: confusing facts are inserted,
    keywords are replaced so that what a model remembers is wrong, and F1 counts only above a recall
    of the answer's keywords.
    Differs from the source: facts, replacements and confusing facts are generated instead of
    written by a model and revised by people; the text around is generated or a person's own.

    Args:
        confusing: Facts of other subjects, and of the same form, that stand in the text.
        replaced: Whether the true answer is replaced by a wrong one throughout.
        text: A person's own prose; None generates it.
        budget: Tokens for the answer at least; 64 in the source.

    Raises:
        ValueError: A number of confusing facts out of range.
    """

    confusing: int = 4
    replaced: bool = True
    text: str | None = field(default=None, repr=False)
    budget: int = 64

    def __post_init__(self) -> None:
        if not 0 <= self.confusing <= 16:
            raise ValueError(f"LVEval: confusing must be from 0 to 16, got {self.confusing!r}")

    @property
    def least(self) -> int:
        """A sentence more than nothing."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """A fact, its replacement, confusing ones; the haystack grows by sentences."""
        kind_number = rng.randrange(len(_KINDS))
        kind = _KINDS[kind_number]
        known = list(kind.facts.items())
        if self.text is not None:  # of what a person's text speaks it may say otherwise
            known = [pair for pair in known if pair[0] not in self.text]
            if not known:
                raise ValueError("the text speaks of everything that is asked; give another text")
        subject, true = rng.choice(known)
        others = [value for value in kind.facts.values() if value != true]
        rng.shuffle(others)
        value = others.pop() if self.replaced else true
        names = different(lambda: invented(rng, 2).capitalize(), self.confusing)
        confusing = [
            kind.fact.format(subject=kind.subject.format(name=name), value=other)
            for name, other in zip(names, others, strict=False)
        ]
        fact = kind.fact.format(subject=subject, value=value)
        places = depths(rng, 1 + self.confusing)
        units = haystack(self.text, rng)
        answer = kind.answer.format(value=value)
        head = "Read this text. Some of it may differ from what you know; answer from the text.\n"
        tail = f"\nQuestion: {kind.question.format(subject=subject)} Answer:"
        record = {"kind": kind_number, "subject": subject, "true": true, "fact": fact}
        record |= {"keyword": value, "confusing": confusing, "answers": [value]}

        def page(count: int) -> Page:
            context = " ".join(scatter(units.first(count), [fact, *confusing], places))
            return Page(head, context, tail, answer, record, (fact,))

        return page

    def score(self, text: str, item: Item) -> float:
        """F1 with the whole answer, or 0 if too few of its keywords are recalled."""
        return keyword_f1(text, item.answer, item.record["keyword"])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The value that the changed fact gives to the subject."""
        kind = _KINDS[record["kind"]]
        before = kind.fact.format(subject=record["subject"], value="{value}").split("{value}")[0]
        return kind.answer.format(value=record["fact"].removeprefix(before).rstrip("."))

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """What everybody knows, and the value of a fact of the kind, whatever its subject."""
        kind = _KINDS[item.record["kind"]]
        values = "|".join(map(re.escape, kind.facts.values()))
        begun = re.escape(kind.fact.partition("{subject}")[0])
        found = re.findall(rf"{begun}.{{1,60}}? (?:in|by) ({values})\.", item.prompt)
        replies = {"what everybody knows": item.record["true"]} | picked(found, kind="fact")
        return {name: kind.answer.format(value=value) for name, value in replies.items()}

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any value of this kind, in the form of the answer."""
        kind = _KINDS[item.record["kind"]]
        return kind.answer.format(value=rng.choice(list(kind.facts.values())))

    def chance(self, item: Item) -> float:
        """Every value is as likely; a wrong one recalls no keyword."""
        return 1 / len(_KINDS[item.record["kind"]].facts)
