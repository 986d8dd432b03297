"""LongIns: an exam paper whose answers are given, and some of them are wrong."""

import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, new_from
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import set_f1
from lengthwise.measure.tasks.words import NOUNS

Draw = Callable[[random.Random], tuple[str, str, str]]  # a question, its answer, a wrong one


def _sum(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    return f"{a} + {b}", str(a + b), str(a + b + rng.choice([-10, -2, -1, 1, 2, 10]))


def _larger(rng: random.Random) -> tuple[str, str, str]:
    a, b = rng.sample(range(100, 1000), 2)
    return f"{a} or {b}", str(max(a, b)), str(min(a, b))


def _first(rng: random.Random) -> tuple[str, str, str]:
    words = rng.sample(NOUNS, 3)
    first, *others = sorted(words)
    return ", ".join(words), first, rng.choice(others)


def _letters(rng: random.Random) -> tuple[str, str, str]:
    word = rng.choice(NOUNS)
    return word, str(len(word)), str(len(word) + rng.choice([-1, 1, 2]))


def _backwards(rng: random.Random) -> tuple[str, str, str]:
    word = rng.choice([noun for noun in NOUNS if len({*noun[:2]}) == 2])
    return word, word[::-1], word[::-1][:-2] + word[0] + word[1]


_EXAMS: dict[str, tuple[str, Draw]] = {
    "sum": ("Add the two numbers.", _sum),
    "larger": ("Choose the larger number.", _larger),
    "first": ("Choose the word that comes first in a dictionary.", _first),
    "letters": ("Count the letters of the word.", _letters),
    "backwards": ("Write the word backwards.", _backwards),
}


@dataclass(frozen=True)
class LongIns(Generated):
    """Give the numbers of all questions of an exam paper that were answered wrongly.

    Source: Gavin et al., LongIns (arXiv:2406.17588), section 3: GIST (one instruction for all
    questions), LIST (the instruction repeated with each) and LIMT (several kinds of questions);
    about one answer in ten is wrong; F1 of the numbers.
    Differs from the source: the questions are generated, so that their answers are certain.

    Args:
        setting: "GIST", "LIST" or "LIMT".
        wrong: The share of wrong answers, above 0 to 0.5; one at least is wrong.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: An unknown setting, or a share out of range.
    """

    setting: Literal["GIST", "LIST", "LIMT"] = "GIST"
    wrong: float = 0.1
    budget: int = 32

    def __post_init__(self) -> None:
        if self.setting not in ("GIST", "LIST", "LIMT"):
            raise ValueError(f"LongIns: setting must be GIST, LIST or LIMT, got {self.setting!r}")
        if not 0 < self.wrong <= 0.5:
            raise ValueError(f"LongIns: wrong must be above 0 to 0.5, got {self.wrong!r}")

    @property
    def least(self) -> int:
        """Four questions make a paper."""
        return 4

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """The kind of the questions; the paper grows by questions."""
        kind, place, own = rng.choice([*_EXAMS]), rng.random(), new_from(rng)

        def question() -> tuple[str, str, str, str, bool]:
            chosen = own.choice([*_EXAMS]) if self.setting == "LIMT" else kind
            return (chosen, *_EXAMS[chosen][1](own), own.random() < self.wrong)

        questions = Endless(question)
        head = "These are the questions and the given answers of an exam.\n"
        if self.setting == "GIST":
            head += f"In every question: {_EXAMS[kind][0]}\n"
        tail = (
            "\nSome of the given answers are wrong. List the numbers of all questions that were "
            "answered wrongly, and nothing else. Wrong are the questions"
        )

        def page(count: int) -> Page:
            lines, rows = [], []
            for i, (name, text, right, other, flip) in enumerate(questions.first(count), 1):
                flip = flip or i == int(place * count) + 1
                given = other if flip else right
                order = "" if self.setting == "GIST" else _EXAMS[name][0] + " "
                lines.append(f"{i}. {order}{text} Answer: {given}")
                rows.append([text, given, right])
            wrong = [str(i) for i, (_, given, right) in enumerate(rows, 1) if given != right]
            marks = tuple("\n" * (i != "1") + lines[int(i) - 1] for i in wrong)
            record = {"rows": rows, "wrong": wrong}
            return Page(head, "\n".join(lines), tail, ", ".join(wrong), record, marks)

        return page

    def score(self, text: str, item: Item) -> float:
        """F1 of the numbers in the reply."""
        return set_f1({*re.findall(r"\d+", text)}, {*item.record["wrong"]})

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Compares every given answer with the right one."""
        rows = enumerate(record["rows"], 1)
        return ", ".join(str(i) for i, (_, given, right) in rows if given != right)

    def parts(self, text: str, item: Item) -> Mapping[str, float]:
        """Precision and recall."""
        found, wanted = {*re.findall(r"\d+", text)}, {*item.record["wrong"]}
        right = len(found & wanted)
        return {"precision": right / max(len(found), 1), "recall": right / len(wanted)}

    def at_depths(self, text: str, item: Item) -> tuple[float, ...]:
        """Whether each wrong answer was found, where it stands."""
        found = {*re.findall(r"\d+", text)}
        return tuple(float(i in found) for i in item.record["wrong"])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Numbers without a look at the questions."""
        every = [str(i) for i in range(1, len(item.record["rows"]) + 1)]
        return {
            "all numbers": ", ".join(every),
            "the second half": ", ".join(every[len(every) // 2 :]),
            "the last number": every[-1],
            "the first number": every[0],
        }

    def guess(self, item: Item, rng: random.Random) -> str:
        """One number."""
        return str(rng.randint(1, len(item.record["rows"])))

    def chance(self, item: Item) -> float:
        """One number hits with the share of wrong answers; then F1 is 2 / (1 + wrong answers)."""
        wrong = len(item.record["wrong"])
        return wrong / len(item.record["rows"]) * 2 / (1 + wrong)
