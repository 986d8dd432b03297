"""NoLiMa's design: the needle and the question share no word, only knowledge joins them."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lengthwise.measure.tasks.base import Item, picked
from lengthwise.measure.tasks.draws import Endless, depths, haystack, new_from, scatter, sentence
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.words import ADJECTIVES, NAMES, NOUNS

# A needle, what must be known of its person one step away, two steps away, and a sentence that
# shares the first question's word but is no answer. Ours; the source's set may not be passed on.
ASSOCIATIONS = (
    ("{name} sees the Eiffel Tower from the kitchen window every morning.",
     "has surely been to Paris", "has surely been to France", "A song about Paris was hummed."),
    ("{name} sells postcards right beside the Colosseum.",
     "works in Rome", "works in Italy", "A novel about Rome lay open."),
    ("Each spring {name} walks through the Brandenburg Gate on the way to the office.",
     "lives in Berlin", "lives in Germany", "An old radio play was set in Berlin."),
    ("{name} restores tiles at the Alhambra.",
     "is employed in Granada", "is employed in Spain", "A guitar piece called Granada was played."),
    ("{name} guards the Acropolis at night.",
     "has a job in Athens", "has a job in Greece", "A poster of Athens hung askew."),
    ("{name} changes the light bulbs of the Kremlin.",
     "earns money in Moscow", "earns money in Russia", "A film about Moscow was shown."),
    ("{name} swept the floor of the Hagia Sophia for ten years.",
     "has spent time in Istanbul", "has spent time in Turkey", "A tale about Istanbul was told."),
    ("{name} was married in front of the Taj Mahal.",
     "celebrated in Agra", "celebrated in India", "A painting of Agra was sold."),
    ("{name} paints the Golden Gate Bridge year after year.",
     "can be met in San Francisco", "can be met in California", "A song praised San Francisco."),
    ("{name} draws portraits on the Charles Bridge.",
     "can be found in Prague", "can be found in Bohemia", "A puppet from Prague was admired."),
    ("{name} polishes the spheres of the Atomium.",
     "is busy in Brussels", "is busy in Belgium", "A cartoon from Brussels was printed."),
    ("{name} lost a hat at the feet of Christ the Redeemer.",
     "has visited Rio de Janeiro", "has visited Brazil", "A dance from Rio de Janeiro was taught."),
    ("{name} cleans the windows of the Petronas Towers.",
     "knows Kuala Lumpur", "knows Malaysia", "A stamp from Kuala Lumpur was traded."),
    ("{name} photographed the Little Mermaid on her rock.",
     "was once in Copenhagen", "was once in Denmark", "A chair from Copenhagen was repaired."),
    ("{name} plays chess in the shade of Table Mountain.",
     "is at home in Cape Town", "is at home in South Africa", "A wine from Cape Town was tasted."),
    ("{name} tunes the pianos at Schönbrunn.",
     "goes out in Vienna", "goes out in Austria", "A waltz from Vienna was heard."),
    ("{name} eats nothing that ever had a mother.",
     "would turn down a steak", "would turn down lasagne with beef", "The steak was overdone."),
    ("{name} gets a rash from everything that a cow gives.",
     "would turn down yoghurt", "would turn down a slice of gouda", "The yoghurt was too sweet."),
    ("{name} has worn a cast since the fall from the ladder.",
     "has a fracture", "needed an orthopaedist", "A fracture ran across the old vase."),
    ("{name} spends the nights behind the eyepiece of a telescope.",
     "is an astronomer", "could explain a supernova", "An astronomer was the hero of the play."),
    ("{name} pulled two molars before lunch.",
     "is a dentist", "studied teeth", "The dentist in the joke was late."),
    ("{name} leads the orchestra with a small white baton.",
     "is a conductor", "understands symphonies", "The conductor of the tram rang twice."),
    ("{name} has three Olympic medals for the butterfly stroke.",
     "is a swimmer", "feels safe in a pool", "A swimmer was printed on the towel."),
    ("{name} measures magma on the rim of a crater.",
     "is a volcanologist", "could lecture about Etna", "A volcanologist wrote the foreword."),
)  # fmt: skip

# What others do: known of nobody who is asked for.
_OTHERS = (
    "{name} waited for the bus with a {a} {n}.",
    "{name} had left the {n} at home again.",
    "{name} spoke about a {a} {n} for an hour.",
    "{name} asked who had taken the {a} {n}.",
    "{name} carried a {n} up the stairs.",
    "{name} did not care for the {a} {n} at all.",
)
_SURELY = 4  # others whom the shortest text has
_SHARE = 0.25  # of the sentences around are about others
PEOPLE = tuple(n for n in NAMES if not any(n != other and n in other for other in NAMES))


@dataclass(frozen=True)
class NoLiMa(Generated):
    """Name the person of a needle that shares no word with the question.

    Source: Modarressi et al., NoLiMa (arXiv:2502.05167), section 3: one needle with a random name
    at one of 26 depths, questions of one or two steps, a distractor at 20 to 80 % of the text and
    at least 20 % away; the score is whether the name occurs.
    Differs from the source: the needles are ours, the text is generated (or a person's own), with
    other people in it, so that a name alone is no answer; the first name of the reply counts; and
    the length covers the whole prompt and the answer.

    Args:
        steps: 1 or 2 steps of knowledge between needle and question.
        distractor: Whether a sentence with the question's word misleads.
        text: A person's own prose; None generates it.
        budget: Tokens for the answer at least; 192 in the source.

    Raises:
        ValueError: Steps out of range.
    """

    version: ClassVar[int] = 2
    steps: int = 1
    distractor: bool = False
    text: str | None = field(default=None, repr=False)
    budget: int = 32

    def __post_init__(self) -> None:
        if self.steps not in (1, 2):
            raise ValueError(f"NoLiMa: steps must be 1 or 2, got {self.steps!r}")

    @property
    def least(self) -> int:
        """A sentence more than nothing."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """A needle, its person and its place; the haystack grows by sentences."""
        own = self.text or ""
        known = [one for one in ASSOCIATIONS if not _speaks(own, one[self.steps])]
        if not known:
            raise ValueError("the text speaks of everything that is asked; give another text")
        needle, *questions, misleading = rng.choice(known)
        # A name that a person's own text uses would be a second answer.
        free = [name for name in PEOPLE if self.text is None or name not in self.text]
        if not free:
            raise ValueError("the text holds every name that could be hidden; give another text")
        name = rng.choice(free)
        fact, question = needle.format(name=name), questions[self.steps - 1]
        place = depths(rng, 1, grid=26)[0]
        facts, places = [fact], [place]
        if self.distractor:
            facts.append(misleading)
            places.append(_away(place, rng))
        units = haystack(self.text, rng) if self.text is not None else self._others(rng, name)
        if self.text is None:
            facts += [_other(rng, name) for _ in range(_SURELY)]
            places += [rng.random() for _ in range(_SURELY)]
        head = "Read this text; a question follows.\n"
        tail = (
            f"\nQuestion: Which person {question}? Reply with the name only. Answer: The person "
            "who does is"
        )
        record = {"needle": fact, "template": needle, "question": question, "places": places}

        def page(count: int) -> Page:
            context = " ".join(scatter(units.first(count), facts, places))
            return Page(head, context, tail, name, record, (fact,))

        return page

    def _others(self, rng: random.Random, name: str) -> Endless[str]:
        own = new_from(rng)
        return Endless(lambda: _other(own, name) if own.random() < _SHARE else sentence(own))

    def score(self, text: str, item: Item) -> float:
        """1 if the first name in the reply is that of the person, else 0."""
        named = {text.index(name): name for name in PEOPLE if name in text}
        return float(bool(named) and named[min(named)] == item.answer)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """What stands in the needle in place of the name."""
        before, after = record["template"].split("{name}")
        return str(record["needle"])[len(before) : len(record["needle"]) - len(after)]

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """A name, whatever the person does."""
        words = re.findall(r"\b[A-Z]\w+", item.prompt)
        return picked([word for word in words if word in PEOPLE], kind="name")

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any name."""
        return rng.choice(PEOPLE)

    def chance(self, item: Item) -> float:
        """Every name is as likely."""
        return 1 / len(PEOPLE)


def _other(rng: random.Random, name: str) -> str:
    """A sentence about somebody else."""
    words = {"a": rng.choice(ADJECTIVES), "n": rng.choice(NOUNS)}
    other = rng.choice([one for one in PEOPLE if one != name])
    told = rng.choice(_OTHERS).format(name=other, **words)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", told)


def _speaks(text: str, question: str) -> bool:
    """Whether a text has the word that a question turns on: others may be answers there too."""
    words = question.split()
    named = [word for word in words if word[0].isupper()] or words[-1:]
    return re.search(rf"\b{re.escape(' '.join(named))}\b", text) is not None


def _away(place: float, rng: random.Random) -> float:
    """A place from 0.2 to 0.8 that is at least 0.2 away."""
    while True:
        drawn = rng.uniform(0.2, 0.8)
        if abs(drawn - place) >= 0.2:
            return drawn
