"""Long outputs that rules can score: their length, their repetitions, what they must mention."""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, Literal

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import different, haystack, invented, number, scatter, sentence
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import length_score
from lengthwise.measure.tasks.words import NAMES, NOUNS


def word_count(text: str) -> int:
    """Words, as runs of letters, digits and what joins them."""
    return len(re.findall(r"\w+(?:['’-]\w+)*", text))


def repetition(text: str, before: str = "", n: int = 8) -> float:
    """The share of n-grams of words that came before, or that stand in another text before it; 0
    for a text without repetition.
    """
    grams = _grams(text, n)
    return 1 - len({*grams} - {*_grams(before, n)}) / len(grams) if grams else 0.0


def _grams(text: str, n: int) -> list[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


# Words that cannot follow an article.
_FUNCTION = frozenset(
    """a about across after against along among an and are around as at be been before behind beside
    between but by can could did do does down during for from had has have he her him his how i if
    in into is it its me my near nor not of off on onto or our out shall she
    should so some than that the their them then there these they this those through to toward
    under until up upon was we were what when where which who why with without would you
    your""".split()
)
_ARTICLES = frozenset(["a", "an", "the"])


def prose(text: str) -> float:
    """How much of English prose there is in a text, from 0 to 1; what is no prose has about 0.

    The product of four shares, each of which counts as all from some per cent of the words on:
    articles (from 3), function words (from 30; up to 20 count as none), articles that a word
    follows which can (from 90; up to 70 none), and words in sentences of 3 to 40 words (from 80).
    Words in random order fail the third, lists of words the first two, text without an end the
    last.
    """
    words = re.findall(r"\w+(?:['’-]\w+)*|[.!?]", text.lower())
    plain = [word for word in words if word not in ".!?"]
    places = [i for i, word in enumerate(words) if word in _ARTICLES]
    if not places:
        return 0.0
    function = sum(word in _FUNCTION for word in plain) / len(plain)
    followed = sum(
        i + 1 < len(words) and words[i + 1] not in _FUNCTION and words[i + 1] not in ".!?"
        for i in places
    )
    sizes = [len(part.split()) for part in re.split(r"[.!?]+", " ".join(words))]
    inside = sum(size for size in sizes if 3 <= size <= 40) / len(plain)
    return (
        min(1.0, len(places) / len(plain) / 0.03)
        * min(1.0, max(0.0, function - 0.2) / 0.1)
        * min(1.0, max(0.0, (followed / len(places) - 0.7) / 0.2))
        * min(1.0, inside / 0.8)
    )


def _written(begun: Sequence[str], count: int, salt: int) -> str:
    """Sentences drawn anew behind those that are begun with, cut at a number of words."""
    rng, words = random.Random(salt), " ".join(begun).split()
    while len(words) < count:
        # Frames come again: a number keeps eight words in a row from coming twice.
        words += [number(rng), *sentence(rng).split(), number(rng)]
    return " ".join(words[:count])


# What comes before the text, and what is to be written.
_ORDERS = {
    "completion": ("A story begins.\n", "Go on with this story."),
    "heuristic": ("Some lines that may give you ideas.\n", "Make up a story of your own."),
    "qa": ("What somebody noted down.\n", "Why do people write such things down? Explain it."),
    "chat": ("A message of a friend.\n", "Answer this message in a letter."),
    "summary": ("Notes of a long journey.\n", "Write a report on these notes in your own words."),
}


@dataclass(frozen=True)
class HelloBench(Generated):
    """Write a text of so many words, and bring in what is asked for.

    Scored by rules: how near the length is, times the share that repeats neither itself nor the
    prompt, times the share of the things that are mentioned, times how much of it is prose at all.
    The report has each of them beside the words that were written.

    Source: Que et al., HelloBench (arXiv:2409.16191), section 3: completion, heuristic generation,
    open-ended questions, chat and summaries; section 4: long outputs fail by their length and by
    repetition; length as in LongBench-Write (arXiv:2408.07055), section 4.1.
    Differs from the source: only what rules can score; its checklists need a judge, ours asks for
    invented words. The text before is generated; more length means more of it.

    Args:
        subtask: "completion" of a story, a story made up ("heuristic"), an answer to a question
            ("qa"), a reply in a "chat", or a report on notes ("summary").
        words: Words to write, 20 to 50,000.
        things: Things to mention, 0 to 20.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A number out of range.
    """

    version: ClassVar[int] = 2
    words: int = 200
    things: int = 5
    subtask: Literal["completion", "heuristic", "qa", "chat", "summary"] = "completion"
    budget: int = 256

    def __post_init__(self) -> None:
        if self.subtask not in _ORDERS:
            raise ValueError(
                f"HelloBench: subtask must be one of {', '.join(_ORDERS)}, got {self.subtask!r}"
            )
        if not 20 <= self.words <= 50_000:
            raise ValueError(f"HelloBench: words must be from 20 to 50000, got {self.words!r}")
        if not 0 <= self.things <= 20:
            raise ValueError(f"HelloBench: things must be from 0 to 20, got {self.things!r}")

    @property
    def least(self) -> int:
        """A sentence to go on from."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """The things; the beginning grows by sentences."""
        things = different(lambda: invented(rng, 3), self.things)
        units, salt = haystack(None, rng), rng.getrandbits(64)
        wanted = f" These must come up in it: {', '.join(things)}." if things else ""
        head, order = _ORDERS[self.subtask]
        tail = f"\n{order} Write {self.words} words, and do not repeat yourself.{wanted}\n"
        record = {"words": self.words, "things": things, "salt": salt}
        answer = self.oracle(record)

        def page(count: int) -> Page:
            return Page(head, " ".join(units.first(count)), tail, answer, record)

        return page

    def score(self, text: str, item: Item) -> float:
        """Length, times what is no repetition, times what is mentioned, times what is prose."""
        found = self.parts(text, item)
        return found["length"] * found["no repetition"] * found["checklist"] * found["prose"]

    def parts(self, text: str, item: Item) -> Mapping[str, float]:
        """The words written, and the four parts of the score."""
        things = item.record["things"]
        told = sum(thing in text.lower() for thing in things) / len(things) if things else 1.0
        return {
            "words": word_count(text),
            "length": length_score(word_count(text), self.words),
            "no repetition": 1 - repetition(text, item.prompt),
            "checklist": told,
            "prose": prose(text),
        }

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Words in random order, the text before, and the list of things over and over."""
        rng, things = random.Random(item.record["salt"]), item.record["things"]
        listed = " ".join(things)
        room = self.words - len(things)
        words = rng.choices([*NOUNS, *NAMES, *sorted(_FUNCTION)], k=room)
        salad = ". ".join(" ".join(words[i : i + 9]) for i in range(0, room, 9))
        before = " ".join(item.prompt.split()[-room - 60 : -60])
        return {
            "words in random order": f"{salad} {listed}.",
            "a copy of the text before": f"{before} {listed}.",
            "the list of things": " ".join(rng.choices(things or ["it"], k=self.words)),
        }

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Sentences drawn anew, with the things, cut at the number of words."""
        begun = [f"There was {thing}." for thing in record["things"]]
        return _written(begun, record["words"], record["salt"])

    def guess(self, item: Item, rng: random.Random) -> str:
        """A text of the right length about other things."""
        return self.oracle({**item.record, "things": [], "salt": rng.getrandbits(64)})

    def chance(self, item: Item) -> float:
        """Nothing that is asked for is mentioned by chance."""
        return 0.0 if item.record["things"] else 1.0


@dataclass(frozen=True)
class LCFO(Generated):
    """Summarise a text to a share of its length, or expand a summary back, without losing facts.

    Scored by rules: how near the length is, times the share of the facts' values that are kept (the
    questions about the text that it still answers); of an expansion also what repeats neither
    itself nor the prompt, and what is prose. The report has each of them.

    Source: Costa-jussà et al., LCFO (arXiv:2412.08268), section 3: summaries of 20, 10 and 5 % of
    the text, and expansions of these summaries, with questions and answers aligned to them.
    Differs from the source: texts and facts are generated; a question counts as answered if its
    value stands in what was written, where the source asks a model or people. More length means a
    longer text to summarise; of an expansion, more text before the summary that is not asked for.

    Args:
        share: Words of the summary over words of the text: 0.2, 0.1 and 0.05 in the source.
        facts: Facts that must be kept, 1 to 20.
        expand: Words to which a summary of `share` of them is expanded, at least 20; 0 summarises.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A number out of range.
    """

    share: float = 0.1
    facts: int = 3
    expand: int = 0
    budget: int = 64

    def __post_init__(self) -> None:
        if self.expand and self.expand < 20:
            raise ValueError(f"LCFO: expand must be 0 or at least 20 words, got {self.expand!r}")
        if not 0.01 <= self.share <= 0.5:
            raise ValueError(f"LCFO: share must be from 0.01 to 0.5, got {self.share!r}")
        if not 1 <= self.facts <= 20:
            raise ValueError(f"LCFO: facts must be from 1 to 20, got {self.facts!r}")

    @property
    def least(self) -> int:
        """Sentences enough for the facts to fit the summary."""
        return 1 if self.expand else round(self.facts / self.share)

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """The facts and their places; the text grows by sentences."""
        return (self._expansion if self.expand else self._summary)(rng)

    def _facts(self, rng: random.Random) -> tuple[list[str], list[str]]:
        """Notes and the numbers in them."""
        names = rng.sample(NAMES, self.facts)
        values = different(lambda: number(rng, 5), self.facts)
        facts = [
            f"Note that {name} paid {value} for the {rng.choice(NOUNS)}."
            for name, value in zip(names, values, strict=True)
        ]
        return facts, values

    def _expansion(self, rng: random.Random) -> Pages:
        facts, values = self._facts(rng)
        rest, short = sentence(rng).split(), " ".join(facts)
        while word_count(short) + len(rest) < self.expand * self.share:
            rest += sentence(rng).split()
        room = max(0, round(self.expand * self.share) - word_count(short))
        short += " " + " ".join(rest[:room])
        units, salt = haystack(None, rng), rng.getrandbits(64)
        tail = (
            f"\nSummary of another text: {short}\nExpand this summary to a text of {self.expand} "
            "words. Keep every note with its number. Text:"
        )
        record = {"facts": facts, "values": values, "words": self.expand, "salt": salt}
        answer = self.oracle(record)

        def page(count: int) -> Page:
            context = " ".join(units.first(count))
            return Page("A text that is done already.\n", context, tail, answer, record)

        return page

    def _summary(self, rng: random.Random) -> Pages:
        facts, values = self._facts(rng)
        places = sorted(rng.random() for _ in facts)
        units = haystack(None, rng)

        def page(count: int) -> Page:
            lines = scatter(units.first(count), facts, places)
            words = round(word_count(" ".join(lines)) * self.share)
            record = {"lines": lines, "facts": facts, "values": values, "words": words}
            tail = (
                f"\nSummarise this text in {words} words ({self.share:.0%} of its length). Keep "
                "every note with its number. Summary:"
            )
            context = " ".join(lines)
            return Page("", context, tail, self.oracle(record), record, tuple(facts))

        return page

    def score(self, text: str, item: Item) -> float:
        """The product of its parts."""
        return prod(part for name, part in self.parts(text, item).items() if name != "words")

    def parts(self, text: str, item: Item) -> Mapping[str, float]:
        """The words written, how near the length is, and what is kept; see the class."""
        values, wanted = item.record["values"], item.record["words"]
        kept = sum(re.search(rf"\b{value}\b", text) is not None for value in values)
        found: dict[str, float] = {"words": word_count(text)}
        found |= {
            "length": length_score(word_count(text), wanted), "facts kept": kept / len(values)
        }  # fmt: skip
        if self.expand:
            before = item.prompt
            for fact in item.record["facts"]:  # these are to be said again
                before = before.replace(fact, "\n")
            found |= {"no repetition": 1 - repetition(text, before), "prose": prose(text)}
        return found

    def at_depths(self, text: str, item: Item) -> tuple[float, ...]:
        """Whether each fact is kept."""
        values = [] if self.expand else item.record["values"]
        return tuple(float(re.search(rf"\b{value}\b", text) is not None) for value in values)

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """The beginning or the end of the text, as long as is asked."""
        words, prompt = item.record["words"], item.prompt.split(" ")
        return {
            "the beginning": " ".join(prompt[:words]),
            "the end": " ".join(item.prompt.rpartition("\n")[0].split(" ")[-words:]),
        }

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The notes, and as many words of the other sentences as there is room for."""
        if self.expand:
            return _written(record["facts"], record["words"], record["salt"])
        rest = [line for line in record["lines"] if line not in record["facts"]]
        words = " ".join([*record["facts"], *rest]).split(" ")
        return " ".join(words[: record["words"]])

    def guess(self, item: Item, rng: random.Random) -> str:
        """A text of the right length with other numbers."""
        words = item.record["words"]
        if self.expand:
            return _written([], words, rng.getrandbits(64))
        return " ".join(number(rng, 5) for _ in range(words))

    def chance(self, item: Item) -> float:
        """A value is among that many numbers of five digits with this probability."""
        return 0.0 if self.expand else 1 - (1 - 1 / 90_000) ** item.record["words"]
