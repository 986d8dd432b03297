"""Ada-LEval: put segments in order (TSort), and find the best of many answers (BestAnswer)."""

import itertools
import json
import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, Stretch, depths, invented, new_from, number
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.facts import HOBBIES, TRADES
from lengthwise.measure.tasks.words import NAMES, NOUNS

# Every step goes on from where the last one ended; nothing else tells what comes first.
_STEPS = (
    "From {place} they went on to {next}, where {name} bought a {thing}.",
    "They left {place} for {next}, and {name} mended the {thing}.",
    "Between {place} and {next} they slept, after {name} had sold the {thing}.",
)


@dataclass(frozen=True)
class TSort(Generated):
    """Put shuffled segments of a text back in order.

    Source: Wang et al., Ada-LEval (arXiv:2404.06480), section 3.1: four segments, exact match of
    the whole order; chance is 1 / 24.
    Differs from the source: without a text, the segments come from a generated tale of a journey
    whose every step begins where the last one ended; each prompt ends where the answer begins.

    Args:
        segments: Segments to put in order, 2 to 6.
        text: A person's own text with an order of its own; None generates a journey.
        budget: Tokens for the answer at least.

    Raises:
        ValueError: A number of segments out of range.
    """

    version: ClassVar[int] = 2
    segments: int = 4
    text: str | None = field(default=None, repr=False)
    budget: int = 24

    def __post_init__(self) -> None:
        if not 2 <= self.segments <= 6:
            raise ValueError(f"TSort: segments must be from 2 to 6, got {self.segments!r}")

    @property
    def least(self) -> int:
        """A sentence in each segment."""
        return self.segments

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """An order; the segments grow by sentences."""
        order = list(range(self.segments))
        while order == sorted(order):  # never right as it stands
            rng.shuffle(order)
        units = self._sentences(rng)
        answer = [order.index(i) + 1 for i in range(self.segments)]
        head = f"{self.segments} consecutive segments of a text follow, in a wrong order.\n"
        tail = (
            "\nGive the numbers of the segments in the right order as a JSON list, and nothing "
            "else. Answer:"
        )
        record = {"order": order, "answer": answer}

        def page(count: int) -> Page:
            edges = [i * count // self.segments for i in range(self.segments + 1)]
            lines = units.first(count)
            parts = [" ".join(lines[a:b]) for a, b in itertools.pairwise(edges)]
            shown = [f"Segment {i}: {parts[part]}" for i, part in enumerate(order, 1)]
            alike = {}
            if len({*parts}) < len(parts):  # a text that repeats itself has several right orders
                alike = {"alike": [parts.index(parts[part]) for part in order]}
            return Page(head, "\n".join(shown), tail, json.dumps(answer), record | alike)

        return page

    def _sentences(self, rng: random.Random) -> Endless[str] | Stretch:
        own = new_from(rng)
        if self.text is not None:
            return Stretch(self.text, own)
        here, seen = invented(own, 3), set[str]()

        def entry() -> str:
            nonlocal here
            seen.add(here)
            place = here
            while here in seen:
                here = invented(own, 3)
            return own.choice(_STEPS).format(
                place=place.capitalize(),
                next=here.capitalize(),
                name=own.choice(NAMES),
                thing=own.choice(NOUNS),
            )

        return Endless(entry)

    def score(self, text: str, item: Item) -> float:
        """1 if the reply is the right order, else 0.

        A list is read behind the last "Answer:". Where none stands, the numbers of the reply count
        if exactly one order of the segments can be read from them.
        """
        found = re.search(r"\[[\d,\s]*\]", text.rpartition("Answer:")[2])
        if found is not None:
            return self._right(_numbers(found.group()), item)
        numbers = _numbers(text)
        orders = [
            list(order)
            for order in itertools.permutations(range(1, self.segments + 1))
            if _is_within(order, numbers)
        ]
        return self._right(orders[0], item) if len(orders) == 1 else 0.0

    def _right(self, order: list[int], item: Item) -> float:
        """1 if the segments in this order are the text, else 0."""
        wanted = item.record["answer"]
        alike = item.record.get("alike")
        if alike is None or sorted(order) != sorted(wanted):
            return float(order == wanted)
        return float([alike[i - 1] for i in order] == [alike[i - 1] for i in wanted])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Where each part of the text went."""
        order = record["order"]
        return "Answer: " + json.dumps([order.index(i) + 1 for i in range(len(order))])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """The order backwards, and that of the first number in each segment."""
        parts = item.prompt.split("\nSegment ")[1:]
        found = [int((re.findall(r"\d{1,9}", part[1:]) or ["0"])[0]) for part in parts]
        by_number = sorted(range(1, len(parts) + 1), key=lambda i: found[i - 1])
        return {
            "backwards": json.dumps(list(range(self.segments, 0, -1))),
            "by the first numbers": json.dumps(by_number),
        }

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any order but the one that is shown, which is never right."""
        order = list(range(1, self.segments + 1))
        while order == sorted(order):
            rng.shuffle(order)
        return json.dumps(order)

    def chance(self, item: Item) -> float:
        """One order of all but the one that is shown; more where segments are alike."""
        others = [*itertools.permutations(range(1, self.segments + 1))][1:]
        return sum(self._right(list(order), item) for order in others) / len(others)


def _numbers(text: str) -> list[int]:
    """The numbers of a text; of one that goes on and on, its beginning."""
    return [int(digits[:9]) for digits in re.findall(r"\d+", text)]


def _is_within(order: tuple[int, ...], numbers: list[int]) -> bool:
    rest = iter(numbers)
    return all(number in rest for number in order)


@dataclass(frozen=True)
class BestAnswer(Generated):
    """Find the one answer among many that does what the question asks.

    Source: Wang et al., Ada-LEval (arXiv:2404.06480), section 3.2: one question, many answers, one
    of them accepted; accuracy of the designation.
    Differs from the source: questions and answers are generated: an answer is right if it meets all
    three conditions of the question, and every other answer misses one. A designation
    counts only as a whole word ("A1" is not found in "A12"), and the first one counts.

    Args:
        budget: Tokens for the answer at least.
    """

    budget: int = 16

    @property
    def least(self) -> int:
        """Two wrong answers."""
        return 2

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Three conditions and the place of the right answer; grows by wrong answers."""
        trade, hobby, fee = rng.choice(TRADES), rng.choice(HOBBIES), int(number(rng, 2))
        place, own = depths(rng, 1)[0], new_from(rng)

        def offer(trade: str, hobby: str, fee: int) -> str:
            name = f"{own.choice(NAMES)} {invented(own, 3).capitalize()}"
            return f"Try {name}, a {trade} who likes {hobby} and takes {fee} coins."

        def wrong() -> str:
            kind, likes, takes = trade, hobby, own.randint(10, fee)
            missed = own.randrange(3)
            if missed == 0:
                kind = own.choice([t for t in TRADES if t != trade])
            elif missed == 1:
                likes = own.choice([h for h in HOBBIES if h != hobby])
            else:
                takes = own.randint(fee + 1, fee + 50)
            return offer(kind, likes, takes)

        right, others = offer(trade, hobby, rng.randint(10, fee)), Endless(wrong)
        head = (
            f"Question: Who knows a {trade} who likes {hobby} and takes no more than {fee} coins?"
            "\nThese are the answers.\n"
        )
        tail = "\nOnly one answer is right. Give its designation and nothing else. The answer is"

        def page(count: int) -> Page:
            offers = others.first(count)
            at = int(count * place)
            offers = [*offers[:at], right, *offers[at:]]
            context = "\n".join(f"A{i}: {text}" for i, text in enumerate(offers, 1))
            record = {"trade": trade, "hobby": hobby, "fee": fee, "offers": offers}
            return Page(head, context, tail, f"A{at + 1}", record, (right,))

        return page

    def score(self, text: str, item: Item) -> float:
        """1 if the first designation in the reply is the right one, else 0."""
        found = re.search(r"\bA\d+\b", text)
        return float(found is not None and found.group() == item.answer)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The number of the answer that meets all conditions."""
        for i, text in enumerate(record["offers"], 1):
            fee = int(re.findall(r"\d+", text)[0])
            fits = f"a {record['trade']} who likes {record['hobby']} and" in text
            if fits and fee <= record["fee"]:
                return f"A{i}"
        raise AssertionError("no offer meets the conditions")

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """An answer by its place, or by the words it shares with the question."""
        offers, words = item.record["offers"], (item.record["trade"], item.record["hobby"])
        alike = [i for i, text in enumerate(offers, 1) if all(word in text for word in words)]
        return {
            "the first answer": "A1", "the middle answer": f"A{(len(offers) + 1) // 2}",
            "the last answer": f"A{len(offers)}", "the first answer alike": f"A{alike[0]}",
        }  # fmt: skip

    def guess(self, item: Item, rng: random.Random) -> str:
        """Any designation."""
        return f"A{rng.randint(1, len(item.record['offers']))}"

    def chance(self, item: Item) -> float:
        """Every designation is as likely."""
        return 1 / len(item.record["offers"])
