"""What a task is: it makes items of an exact length and scores the answers."""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from lengthwise.hf.prompts import encode_prompt

if TYPE_CHECKING:
    from lengthwise.measure.engines.local import LocalReader


@dataclass(frozen=True)
class Item:
    """One question.

    Attributes:
        prompt: The text to continue.
        answer: The text that counts as right.
        length: Tokens of the prompt, with the special tokens that the tokenizer adds, plus the
            tokens allowed for the answer: exactly the length asked for.
        depths: Where the facts that the answer needs begin, as fractions of the surrounding text.
        record: Everything the generator drew; an oracle can answer from it. `groups` in it, if it
            is there, says what reports tell items apart by, as `level`, and to which of them the
            item belongs.
        allowance: Tokens allowed for the answer, the same for all items of one build.
    """

    prompt: str
    answer: str
    length: int
    depths: tuple[float, ...]
    record: Mapping[str, Any] = field(default_factory=dict)
    allowance: int = field(kw_only=True)


class Task(Protocol):
    """Makes items and scores answers. Implemented by frozen dataclasses.

    One that draws from a person's own set says in `most`, an int, how many of its items differ.
    """

    def build(
        self, tokenizer: PreTrainedTokenizerBase, length: int, count: int, seed: int
    ) -> list[Item]:
        """`count` items of exactly `length` tokens; the same arguments give the same items."""

    def score(self, text: str, item: Item) -> float:
        """How right the text that followed the prompt is, from 0 to 1."""

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The perfect answer, worked out from the record of an item."""

    def guess(self, item: Item, rng: random.Random) -> str:
        """An answer of the right form by somebody who has not read the prompt."""

    def chance(self, item: Item) -> float:
        """The expected score of `guess`, by arithmetic."""


class Beside:
    """What a task may tell beside its score; here nothing.

    Attributes:
        version: Goes up when the same arguments give other items or another score, so that results
            of both are told apart.
    """

    version: ClassVar[int] = 1

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Replies of readers who do not do the task, by what they do instead: the same kinds for
        every item. What the best of them scores is no sign of reading.
        """
        return {}

    def parts(self, text: str, item: Item) -> Mapping[str, float]:
        """What the score of a reply is made of, or goes with: shares from 0 to 1, and `words`."""
        return {}

    def at_depths(self, text: str, item: Item) -> tuple[float, ...]:
        """The score for each of the item's facts, in the order of its depths; or empty, where
        there is only that of the whole.
        """
        return ()


def picked(found: Sequence[str], count: int = 1, kind: str = "") -> dict[str, str]:
    """Replies that pick some of the candidates in a text by their place or number alone.

    Args:
        found: Candidates in the order of the text.
        count: How many a reply has.
        kind: What a candidate is called.
    """
    if not found:
        return {}
    s = "s" * (count > 1)
    often = [word for word, _ in Counter(found).most_common(count)]
    different = [*dict.fromkeys(found)]
    return {
        f"the first {kind}{s}": " ".join(different[:count]),
        f"the last {kind}{s}": " ".join(different[-count:]),
        f"the most frequent {kind}{s}": " ".join(often),
    }


def by_shortcuts(task: Task, item: Item) -> dict[str, float]:
    """What each shortcut of a task scores on an item."""
    replies = task.shortcuts(item) if isinstance(task, Beside) else {}
    return {name: task.score(reply, item) for name, reply in replies.items()}


def beside(task: Task, item: Item, text: str, answered: bool) -> dict[str, Any]:
    """What a row tells of an item beside the score: see `ItemRow`."""
    told = task if isinstance(task, Beside) else Beside()
    found: dict[str, Any] = {"characters": len(item.prompt), "shortcuts": by_shortcuts(task, item)}
    if answered:
        found |= {"parts": dict(told.parts(text, item)), "found": told.at_depths(text, item)}
    return found


@runtime_checkable
class Reading(Protocol):
    """Measures a model itself while it reads a text, instead of asking it. Implemented by frozen
    dataclasses.

    Attributes:
        samples: Stretches of the text that are read, each a measurement of its own.
        longest: Whether the longest length tells of the shorter ones, so that it alone is read.
        reference: What is measured of the untouched model, for methods to be held against; None if
            nothing is.
    """

    @property
    def samples(self) -> int: ...

    @property
    def longest(self) -> bool: ...

    @property
    def reference(self) -> "Reading | None": ...

    def check(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        """Refuse a length before anything is measured.

        Raises:
            ValueError: The text is too short for it, for one.
        """

    def measure(
        self,
        reader: "LocalReader",
        length: int,
        sample: int,
        known: Sequence[float],
        keep: Callable[[Sequence[float]], None],
    ) -> Mapping[str, Any]:
        """What is found on one stretch of `length` tokens, with the model as it is adapted now.

        Args:
            known: Parts that `keep` was given before the measurement was cut off.
            keep: Takes the next parts, so that whoever is cut off need not measure them again.

        Raises:
            ValueError: What cannot be measured.
        """


def token_count(tokenizer: PreTrainedTokenizerBase, text: str) -> int:
    """Tokens of a prompt; see `lengthwise.hf.prompts`."""
    return len(encode_prompt(tokenizer, text))
