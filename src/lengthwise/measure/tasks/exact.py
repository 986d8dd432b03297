"""Prompts of an exact number of tokens, made of as many units of haystack as fit."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase

from lengthwise.measure.tasks.base import Beside, Item, token_count
from lengthwise.measure.tasks.draws import Exhausted
from lengthwise.measure.tasks.fit import fit

DOTS = ". "  # pads lists and tables, where words would be taken for entries
_NEAR = 120  # characters around the padding that are tokenised to find its size
_STEPS = 8  # whole prompts that are tokenised for one item at most
_END = 2  # tokens for the blank before an answer and the end after it


@dataclass(frozen=True)
class Page:
    """A prompt with a given number of units of haystack: `head + padding + context + tail`.

    Attributes:
        head: What comes before the surrounding text.
        context: The text that the answer is drawn from.
        tail: The question, and a begun answer for base models.
        answer: What counts as right.
        record: What the generator drew.
        marks: Pieces that stand in the context exactly once; their places are the depths.
        padding: Text that is cut to fill up what is too short for another unit.
    """

    head: str
    context: str
    tail: str
    answer: str
    record: Mapping[str, Any] = field(default_factory=dict)
    marks: tuple[str, ...] = ()
    padding: str = DOTS

    def prompt(self, padding: str = "") -> str:
        """The whole text."""
        return self.head + padding + self.context + self.tail

    def depths(self, padding: str) -> tuple[float, ...]:
        """Where the marks begin, as fractions of padding and context."""
        places = [len(padding) + self.context.index(mark) for mark in self.marks]
        return tuple(place / (len(padding) + len(self.context)) for place in places)


Pages = Callable[[int], Page]
Tokens = Callable[[str], int]


class Generated(Beside, ABC):
    """A task whose prompts grow by units of haystack; `build` finds how many fit.

    The draws depend on the seed and the number of the item, never on the length, so that the same
    item can be compared at all lengths. A subclass is a frozen dataclass with a field `budget`.
    """

    budget: int

    @abstractmethod
    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Draws one item; what comes back makes its page from a number of units.

        Args:
            index: Number of the item, from 0; for tasks that go through a person's questions.
            rng: Of this item alone. The pages must be the same whatever order they are asked in.
            tokens: Counts the tokens of a text, without special tokens.
        """

    @abstractmethod
    def score(self, text: str, item: Item) -> float:
        """How right the text that followed the prompt is, from 0 to 1."""

    def sized(self, length: int) -> "Generated":
        """The task with everything chosen that depends on the length in tokens."""
        return self

    @property
    def least(self) -> int:
        """The fewest units that make a sensible page."""
        return 0

    def build(
        self, tokenizer: PreTrainedTokenizerBase, length: int, count: int, seed: int
    ) -> list[Item]:
        """`count` items of exactly `length` tokens, answer included.

        Raises:
            ValueError: A bad count, a length too short, or one that this tokenizer cannot meet.
        """
        name = type(self).__name__
        if count < 1:
            raise ValueError(f"{name}: count must be at least 1, got {count!r}")
        if self.budget < 1:
            raise ValueError(f"{name}: budget must be at least 1 token, got {self.budget!r}")

        def tokens(text: str) -> int:
            return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

        task = self.sized(length)
        drawn = [task.drawn(i, random.Random(f"{name} {seed} {i}"), tokens) for i in range(count)]
        answers = [pages(task.least).answer for pages in drawn]
        allowance = self.budget
        while True:
            # An answer may need more than the budget, and may grow with the prompt.
            allowance = max([allowance] + [tokens(" " + answer) + _END for answer in answers])
            items = task._items(tokenizer, drawn, length, allowance)
            answers = [item.answer for item in items]
            if all(tokens(" " + answer) + _END <= allowance for answer in answers):
                return items

    def _items(
        self,
        tokenizer: PreTrainedTokenizerBase,
        drawn: list[Pages],
        length: int,
        allowance: int,
    ) -> list[Item]:
        units, items = self.least + 16, []
        for pages in drawn:
            try:
                page, padding, units = fill(tokenizer, pages, length, allowance, self.least, units)
            except ValueError as error:
                raise ValueError(f"{type(self).__name__}: {error}") from None
            items.append(
                Item(
                    prompt=page.prompt(padding),
                    answer=page.answer,
                    length=length,
                    depths=page.depths(padding),
                    record={**page.record, "units": units},
                    allowance=allowance,
                )
            )
        return items


def fill(
    tokenizer: PreTrainedTokenizerBase,
    pages: Pages,
    length: int,
    allowance: int,
    least: int,
    guess: int,
) -> tuple[Page, str, int]:
    """The page with the most units that fits, the padding that makes it exact, and the units.

    Args:
        guess: Units that may be about right; costs time only where it is wrong.

    Raises:
        ValueError: Not even `least` units fit, a person's text has too few, or no padding makes
            the length exact.
    """
    wanted = length - allowance
    lowest = token_count(tokenizer, pages(least).prompt())
    if lowest > wanted:
        raise ValueError(
            f"a length of {length} tokens is too short: the shortest prompt and the answer take "
            f"{lowest + allowance}"
        )
    best, tokens, over = least, lowest, None
    counts = {least: lowest}
    n = max(guess, least + 1)
    for _ in range(_STEPS):
        try:
            found = counts[n] = token_count(tokenizer, pages(n).prompt())
        except Exhausted as error:
            if best < error.most:
                n = error.most
                continue
            if (wanted - tokens) * best > tokens:  # there is room for one more at least
                raise
            break
        if found <= wanted and n > best:
            best, tokens = n, found
        elif found > wanted and (over is None or n < over):
            over = n
        a_unit = max((found - lowest) / (n - least), 0.1)
        n = best + int((wanted - tokens) / a_unit)
        if over is not None:
            n = min(n, over - 1)
        if n <= best:  # what is missing is less than a unit
            break
    for units in range(best, max(best - 4, least - 1), -1):
        page = pages(units)
        tokens = counts.get(units) or token_count(tokenizer, page.prompt())
        padding = _padding(tokenizer, page, wanted, wanted - tokens)
        if padding is not None:
            return page, padding, units
    raise ValueError(
        f"no padding makes exactly {length} tokens with this tokenizer; try {length + 1}"
    )


def _padding(
    tokenizer: PreTrainedTokenizerBase, page: Page, wanted: int, missing: int
) -> str | None:
    """Text of about `missing` tokens that makes the prompt exactly `wanted` tokens, or None."""
    if missing == 0:
        return ""
    if missing < 0:
        return None
    # A line of its own, if there is room for its end.
    for end in ("\n", ""):
        padding = _fitted(tokenizer, page, wanted, missing, end)
        if padding is not None:
            return padding
    return None


def _fitted(
    tokenizer: PreTrainedTokenizerBase, page: Page, wanted: int, missing: int, end: str
) -> str | None:
    # The padding touches only its neighbourhood: sizes are tried on that alone, then checked.
    near = Page(page.head[-_NEAR:], page.context[:_NEAR], "", "")

    def start(characters: int) -> str:
        return (page.padding * (characters // len(page.padding) + 1))[:characters]

    def size(filler: str) -> int:
        return token_count(tokenizer, near.prompt(filler + end))

    target = token_count(tokenizer, near.prompt()) + missing
    for _ in range(3):
        if target < size(""):
            return None
        filler = fit(size, start, target)
        if filler is None:
            return None
        off = token_count(tokenizer, page.prompt(filler + end)) - wanted
        if off == 0:
            return filler + end
        target -= off
    return None
