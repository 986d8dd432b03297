"""What adapters of published benchmarks share: rows of a person's own copy become items."""

import json
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lengthwise.hf.prompts import encode_prompt
from lengthwise.measure.tasks.base import Item, token_count


def read_rows(file: Path, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file, each of which must have the keys.

    Raises:
        ValueError: A file that cannot be read or is empty, or a row that lacks a key.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from None
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{file}, line {number} is no JSON: {error}") from None
        missing = [key for key in keys if not isinstance(row, dict) or key not in row]
        if missing:
            raise ValueError(
                f"{file}, line {number} lacks {', '.join(missing)}; expected {', '.join(keys)}"
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"{file} holds no row")
    return rows


def filled(form: str, row: Mapping[str, Any]) -> str:
    """The form with {context} and {input} replaced by the row's, whatever these hold themselves."""
    return re.sub(r"\{(context|input)\}", lambda found: str(row[found[1]]), form)


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
    """One question of a published set, ready to ask and to score."""

    prompt: str
    references: tuple[str, ...]
    budget: int
    record: dict[str, Any]


class Published(ABC):
    """A published set from a person's own copy. Subclasses are frozen dataclasses.

    Lengths are what the rows have, up to the length asked for: unlike generated tasks, an item may
    be shorter. Nothing is downloaded, and no row is shipped.
    """

    @abstractmethod
    def rows(self) -> list[Row]:
        """All questions of the file, in its order."""

    @abstractmethod
    def score(self, text: str, item: Item) -> float:
        """The published score of a reply, from 0 to 1."""

    def build(
        self, tokenizer: PreTrainedTokenizerBase, length: int, count: int, seed: int
    ) -> list[Item]:
        """At most `count` rows drawn by `seed`, cut in the middle to `length` with the answer.

        Raises:
            ValueError: A bad count, or a length that the answer alone fills.
        """
        name = type(self).__name__
        if count < 1:
            raise ValueError(f"{name}: count must be at least 1, got {count!r}")
        rows = self.rows()
        chosen = random.Random(f"{name} {seed}").sample(rows, min(count, len(rows)))
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
            record = {**row.record, "references": list(row.references), "cut": prompt != row.prompt}
            items.append(
                Item(
                    prompt=prompt,
                    answer=row.references[0],
                    length=tokens + row.budget,
                    depths=(),
                    record=record,
                    allowance=row.budget,
                )
            )
        return items


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
    return list(jieba.cut(text, cut_all=False))
