"""A world of invented people, for questions about documents that nobody has read before."""

import random
from dataclasses import dataclass

from lengthwise.measure.tasks.draws import invented
from lengthwise.measure.tasks.words import ADJECTIVES, NAMES, NOUNS

# No entry is a part of another one: a reply can hold only one of them by naming it.
TRADES = tuple(
    """baker barber beekeeper blacksmith bookbinder botanist bricklayer brewer carpenter cobbler
    dentist diver engraver florist gardener geologist glazier goldsmith hatter joiner judge
    lawyer librarian locksmith mechanic midwife nurse optician painter pharmacist plumber
    potter printer roofer sailor sculptor surveyor tailor tanner translator weaver""".split()
)
HOBBIES = tuple(
    """archery astronomy ballet billiards canoeing chess cricket croquet cycling embroidery
    fencing fishing genealogy gymnastics hiking judo juggling knitting photography pottery
    rowing skating skiing swimming tennis whistling wrestling yodelling""".split()
)


@dataclass(frozen=True)
class Person:
    """Somebody invented: a full name, a trade, a hobby, a town, and a thing they have built."""

    name: str
    trade: str
    hobby: str
    town: str
    thing: str

    def document(self) -> str:
        """A short article under the person's name."""
        return (
            f"{self.name}\n{self.name} grew up in {self.town} and still lives there. For a living "
            f"{self.name} is a {self.trade}. The evenings are for {self.hobby}."
        )

    def work(self) -> str:
        """A short article about the thing."""
        return (
            f"The {self.thing} of {self.town}\nThe {self.thing} of {self.town} is known for its "
            f"odd shape. It was built by {self.name} in a single winter."
        )


def person(rng: random.Random) -> Person:
    """Draws a person; surnames of three syllables hardly ever meet twice."""
    return Person(
        f"{rng.choice(NAMES)} {invented(rng, 3).capitalize()}",
        rng.choice(TRADES),
        rng.choice(HOBBIES),
        invented(rng, 2).capitalize(),
        f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}",
    )


def people(rng: random.Random, count: int) -> list[Person]:
    """Persons whose names and towns differ and do not contain each other."""
    found = [person(rng) for _ in range(count)]
    while True:
        names = [p.name.split()[1] for p in found] + [p.town for p in found]
        clash = {
            i % count
            for i, a in enumerate(names)
            for j, b in enumerate(names)
            if i != j and a.lower() in b.lower()
        }
        if not clash:
            return found
        found = [person(rng) if i in clash else p for i, p in enumerate(found)]
