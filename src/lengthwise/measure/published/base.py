"""What adapters of published benchmarks share: rows of a person's own copy become items."""

import ast
import logging
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lengthwise.hf.prompts import encode_prompt
from lengthwise.measure.run.json_lines import parse, read_objects, text
from lengthwise.measure.tasks.base import Item, token_count


def read_rows(file: Path, keys: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a JSON-lines file with their numbers, each of which must have the keys.

    Raises:
        ValueError: A file that cannot be read or is empty, or a row that lacks a key.
    """
    for number, row in read_objects(file):
        missing = [key for key in keys if key not in row]
        if missing:
            raise ValueError(
                f"{file}, line {number} lacks {', '.join(missing)}; expected {', '.join(keys)}"
            )
        yield number, row


def questions(
    file: Path, keys: Sequence[str], made: Callable[[dict[str, Any]], Sequence["Row"]]
) -> list["Row"]:
    """What is made of every line of a file.

    Raises:
        ValueError: As `read_rows`, or what was wrong with a line, with the line's number.
    """
    found: list[Row] = []
    for number, row in read_rows(file, keys):
        try:
            found += made(row)
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
            raise ValueError(f"{file}, line {number}: {error}") from None
    return found


def filled(form: str, row: Mapping[str, Any]) -> str:
    """The form with {context} and {input} replaced by the row's, whatever these hold themselves.

    Raises:
        ValueError: One of them is no text.
    """
    return re.sub(r"\{(context|input)\}", lambda found: text(row, found[1]), form)


def read_prompts(file: Path) -> dict[str, str]:
    """The prompts by name of a JSON file.

    Raises:
        ValueError: The file holds something else.
    """
    try:
        found = parse(file.read_text(encoding="utf-8"))
        return {name: text(found, name) for name in dict(found)}
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} is no file of prompts: {error}") from None


def cut_middle(tokenizer: PreTrainedTokenizerBase, prompt: str, most: int) -> str:
    """The prompt, or its first and last tokens if it has more than `most`.

    Source: LongBench (arXiv:2308.14508), section 4.1: what is too long loses its middle.
    Differs from the source: text that grows again when it is tokenised is cut further, so that
    the result never has more than `most` tokens.

    Raises:
        ValueError: `most` leaves no token on each side.
    """
    ids = encode_prompt(tokenizer, prompt)
    if len(ids) <= most:
        return prompt
    half = most // 2
    while half > 0:
        sides = [
            tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:half], ids[-half:])
        ]
        if token_count(tokenizer, "".join(sides)) <= most:
            return "".join(sides)
        half -= 1
    raise ValueError(f"a prompt cannot be cut to {most} tokens; give a greater length")


@dataclass(frozen=True)
class Row:
    """One question of a published set, ready to ask and to score.

    Attributes:
        parts: The prompt in parts that follow each other: a text that many questions are about is
            held once.
        references: What counts as right, one at least.
        budget: Tokens for the answer, 1 at least.
        guesses: Every answer that somebody might give who has not read, each as likely; none where
            the question is open.
        groups: By what a report tells items apart, as `level`, and to which of them it belongs.
        depths: Where in the text the answer stands, from 0 to 1, where that is known.
    """

    parts: tuple[str, ...]
    references: tuple[str, ...]
    budget: int
    record: dict[str, Any]
    guesses: tuple[str, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    depths: tuple[float, ...] = ()

    @property
    def prompt(self) -> str:
        """The whole prompt, before anything is cut."""
        return "".join(self.parts)

    def __post_init__(self) -> None:
        if not self.references or not all(isinstance(one, str) for one in self.references):
            raise ValueError(f"answers must be texts, one at least, got {self.references!r:.60}")


class Published(ABC):
    """A published set from a person's own copy. Subclasses are frozen dataclasses.

    Lengths are what the rows have, up to the length asked for: unlike generated tasks, an item may
    be shorter, and there are no more items than rows. Nothing is downloaded, and no row is shipped.
    """

    @abstractmethod
    def rows(self) -> list[Row]:
        """All questions of the file, in its order."""

    @property
    def most(self) -> int:
        """Items that differ: one a row."""
        return len(self.rows())

    def facts(self) -> list[str]:
        """Sentences about the set itself, which need no model."""
        return []

    @abstractmethod
    def score(self, text: str, item: Item) -> float:
        """The published score of a reply, from 0 to 1."""

    def build(
        self, tokenizer: PreTrainedTokenizerBase, length: int, count: int, seed: int
    ) -> list[Item]:
        """At most `count` rows drawn by `seed`, cut in the middle to `length` with the answer.

        Raises:
            ValueError: A bad count, a length that the answer alone fills, or a set whose score
                needs what is not installed.
        """
        name = type(self).__name__
        if count < 1:
            raise ValueError(f"{name}: count must be at least 1, got {count!r}")
        rows = self.rows()
        # The same order for every count: item i is the same row however many are asked for.
        random.Random(f"{name} {seed}").shuffle(rows)
        chosen = rows[:count]
        longest = max(row.budget for row in chosen)
        if length < longest + 2:
            raise ValueError(
                f"{name}: a length of {length} tokens is too short: the answer alone may take "
                f"{longest}"
            )
        items = []
        for row in chosen:
            prompt = cut_middle(tokenizer, row.prompt, length - row.budget)
            tokens = token_count(tokenizer, prompt)
            record = {
                **row.record,
                "references": list(row.references),
                "cut": prompt != row.prompt,
                "guesses": list(row.guesses),
                "groups": dict(row.groups),
            }
            item = Item(
                prompt=prompt,
                answer=row.references[0],
                length=tokens + row.budget,
                depths=row.depths,
                record=record,
                allowance=row.budget,
            )
            self.score("", item)  # what no reply can be scored with is said before one is asked for
            items.append(item)
        return items

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The first reference."""
        return str(record["references"][0])

    def guess(self, item: Item, rng: random.Random) -> str:
        """One of the answers to choose from; nothing, where the question is open."""
        return str(rng.choice(item.record["guesses"] or [""]))

    def chance(self, item: Item) -> float:
        """The mean score of the answers to choose from; 0 where the question is open."""
        guesses = item.record["guesses"]
        return sum(self.score(guess, item) for guess in guesses) / max(len(guesses), 1)


def segmented(text: str) -> list[str]:
    """Chinese words.

    Raises:
        ValueError: The segmenter is not installed.
    """
    try:
        jieba = import_module("jieba")
    except ImportError:
        raise ValueError(
            "published scores of Chinese text need the segmenter jieba: pip install jieba"
        ) from None
    logging.getLogger("jieba").setLevel(logging.WARNING)  # it tells how it reads its dictionary
    return list(jieba.cut(text, cut_all=False))


def literal(file: Path, name: str) -> Any:
    """What a name is set to in a Python file of a person's own copy, read without running it.

    Raises:
        ValueError: A file that cannot be read, or in which the name is set to no plain value.
    """
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.Assign) and name in [ast.unparse(one) for one in node.targets]:
                return ast.literal_eval(node.value)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError, TypeError) as error:
        raise ValueError(f"{file} cannot be read: {str(error).splitlines()[0]}") from None
    raise ValueError(f"{file} does not set {name}; expected the published file")
