"""RULER's aggregation: the words that are most common in a list or in a coded text."""

import random
import re
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, invented, new_from
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import match_all
from lengthwise.measure.tasks.words import ADJECTIVES, NOUNS, VERBS

_SHORT = 4096  # tokens below which the source repeats the words less often

_HEAD = (
    "This is a numbered list of words. A few of them come up more often than the others. "
    "Remember those.\n"
)
_TAIL = (
    "\nQuestion: Which {count} words come up most often in the list above? Answer: The {count} "
    "words that come up most often in the list are:"
)


@cache
def real_words() -> tuple[str, ...]:
    """Words of which none is a part of another one, so that a reply cannot hold two in one."""
    every = sorted({*ADJECTIVES, *NOUNS, *VERBS} - {*(_HEAD + _TAIL).lower().split()})
    return tuple(w for w in every if not any(w != other and w in other for other in every))


def _numbered(words: list[str]) -> str:
    return " ".join(f"{i}. {word}" for i, word in enumerate(words, 1))


@dataclass(frozen=True)
class CommonWords(Generated):
    """Name the words that come up most often in a shuffled, numbered list.

    Source: Hsieh et al., RULER (arXiv:2404.06654), section 3.3 and appendix B; counts and metric of
    its public code: 30 against 3 with an example of 40 words at 10 against 3, and below 4,096
    tokens 6 against 1 with an example of 20 words at 3 against 1.
    Differs from the source: words are ours; where they run out, invented ones go on.

    Args:
        common: Words that are asked for.
        repeats: How often common and other words come up; None chooses by length as the source.
        budget: Tokens for the answer at least; 120 in the source.

    Raises:
        ValueError: A count out of range, or common words that are not more common.
    """

    common: int = 10
    repeats: tuple[int, int] | None = None
    budget: int = 120

    def __post_init__(self) -> None:
        if not 1 <= self.common <= 19:
            raise ValueError(f"CommonWords: common must be from 1 to 19, got {self.common!r}")
        if self.repeats is not None and not self.repeats[0] > self.repeats[1] >= 1:
            raise ValueError(
                f"CommonWords: repeats must fall and be at least 1, got {self.repeats!r}"
            )

    @property
    def least(self) -> int:
        """One word that is not common."""
        return 1

    def sized(self, length: int) -> "CommonWords":
        """Below 4,096 tokens the source repeats the words less often."""
        short = (6, 1) if length < _SHORT else (30, 3)
        return replace(self, repeats=self.repeats or short)

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Common words and endless others; the list grows by other words."""
        assert self.repeats is not None
        often, seldom = self.repeats
        pool = list(real_words())
        rng.shuffle(pool)
        solved, rest = pool[:40], pool[40:]
        common, others = rest[: self.common], self._others(rng, rest[self.common :])
        salt = rng.getrandbits(64)
        shown = self._solved(rng, solved, often < 30)
        tail = _TAIL.format(count=self.common)
        record = {"common": common, "often": often, "seldom": seldom, "answers": common}

        def page(count: int) -> Page:
            words = common * often + others.first(count) * seldom
            random.Random(f"{salt} {count}").shuffle(words)
            counts = dict(Counter(words))
            context = _numbered(words)
            return Page(
                shown + _HEAD, context, tail, _numbered(common), {**record, "counts": counts}
            )

        return page

    def _others(self, rng: random.Random, real: list[str]) -> Endless[str]:
        own, used = new_from(rng), {*real_words()}
        left = iter(real)

        def other() -> str:
            word = next(left, None) or invented(own, 3)
            while word in used and word not in real:
                word = invented(own, 3)
            used.add(word)
            return word

        return Endless(other)

    def _solved(self, rng: random.Random, words: list[str], short: bool) -> str:
        size, often, seldom = (20, 3, 1) if short else (40, 10, 3)
        words = words[:size]
        common = words[: self.common]
        shown = common * often + words[self.common :] * seldom
        rng.shuffle(shown)
        return (
            _HEAD
            + _numbered(shown)
            + _TAIL.format(count=self.common)
            + " "
            + (_numbered(common) + "\n\n")
        )

    def score(self, text: str, item: Item) -> float:
        """The fraction of the common words that stand in the reply."""
        return match_all(text, item.record["answers"])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The words with the highest counts."""
        counts = record["counts"]
        return _numbered(sorted(counts, key=counts.get, reverse=True)[: len(record["answers"])])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """The first and the last words of the list."""
        listed = item.prompt.rpartition(_HEAD)[2].rpartition("\nQuestion:")[0]
        words = re.findall(r"\d+\. ([a-z]+)", listed)
        return {
            "the first words": _numbered([*dict.fromkeys(words)][: self.common]),
            "the last words": _numbered([*dict.fromkeys(words)][-self.common :]),
        }

    def guess(self, item: Item, rng: random.Random) -> str:
        """Real words drawn without looking."""
        return _numbered(rng.sample(real_words(), self.common))

    def chance(self, item: Item) -> float:
        """Every common word is guessed with the same probability."""
        return self.common / len(real_words())


@cache
def zeta(alpha: float) -> float:
    """Riemann's zeta function for alpha > 1, to about 1e-9 (Euler and Maclaurin)."""
    n = 1000
    head = sum(k**-alpha for k in range(1, n))
    return head + n ** (1 - alpha) / (alpha - 1) + n**-alpha / 2 + alpha * n ** (-alpha - 1) / 12


@dataclass(frozen=True)
class FrequentWords(Generated):
    """Name the three most frequent words of a coded text whose frequencies follow Zipf.

    Source: Hsieh et al., RULER (arXiv:2404.06654), section 3.3 and appendix B; counts and metric of
    its public code: `int(N k^-alpha / zeta(alpha))` words of rank k, dots in place of rank 1,
    asked are ranks 2 to 4.
    Differs from the source: every rank whose count is at least 1 has a word (the source cuts at one
    word per 50 tokens, a rank that it never reaches from 512 tokens on at alpha 2).

    Args:
        alpha: Exponent of the frequencies, 1.5 to 3.5.
        budget: Tokens for the answer at least; 50 in the source.

    Raises:
        ValueError: An exponent out of range.
    """

    alpha: float = 2.0
    budget: int = 50

    def __post_init__(self) -> None:
        if not 1.5 <= self.alpha <= 3.5:
            raise ValueError(f"FrequentWords: alpha must be from 1.5 to 3.5, got {self.alpha!r}")

    def _counts(self, words: int) -> list[int]:
        scale = words / zeta(self.alpha)
        counts: list[int] = []
        while (count := int(scale * (len(counts) + 1) ** -self.alpha)) >= 1:
            counts.append(count)
        return counts

    @property
    def least(self) -> int:
        """Words from which on ranks 2 to 5 always differ in count."""
        scale, power = zeta(self.alpha), self.alpha
        return int(scale / (4**-power - 5**-power)) + 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Coded words by rank; the text grows by words."""
        own, used = new_from(rng), set[str]()

        def coded() -> str:
            word = ""
            while not word or word in used:
                word = "".join(own.choices(string.ascii_lowercase, k=6))
            used.add(word)
            return word

        ranks, salt = Endless(coded), rng.getrandbits(64)
        head = (
            "Keep track of how often each coded word comes up in this text, and find the three "
            "most frequent ones.\n"
        )
        tail = (
            "\nQuestion: Which three words come up most often in the coded text above? Pay no "
            "attention to the dots, and give no explanation. Answer: The three words that come up "
            "most often in the coded text are:"
        )

        def page(count: int) -> Page:
            counts = self._counts(count)
            words = ["...", *ranks.first(len(counts))[1:]]
            text = [word for word, times in zip(words, counts, strict=True) for _ in range(times)]
            random.Random(f"{salt} {count}").shuffle(text)
            record = {"counts": dict(zip(words, counts, strict=True)), "answers": words[1:4]}
            return Page(head, " ".join(text), tail, " ".join(words[1:4]), record)

        return page

    def score(self, text: str, item: Item) -> float:
        """The fraction of the three words that stand in the reply."""
        return match_all(text, item.record["answers"])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The words with the highest counts, without the dots."""
        counts = {word: count for word, count in record["counts"].items() if word != "..."}
        return " ".join(sorted(counts, key=counts.__getitem__, reverse=True)[:3])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """The first and the last coded words."""
        text = item.prompt.partition("\n")[2].rpartition("\nQuestion:")[0]
        words = [*dict.fromkeys(word for word in text.split() if word != "...")]
        return {"the first words": " ".join(words[:3]), "the last words": " ".join(words[-3:])}

    def guess(self, item: Item, rng: random.Random) -> str:
        """Coded words drawn anew."""
        return " ".join("".join(rng.choices(string.ascii_lowercase, k=6)) for _ in range(3))

    def chance(self, item: Item) -> float:
        """A guess of three words holds a given one with about this probability."""
        return 3 / 26**6
