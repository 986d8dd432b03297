"""LongBench-Write: texts of a length that was asked for, from a person's own copy."""

import re
from dataclasses import dataclass
from pathlib import Path

from lengthwise.measure.metrics import length_score
from lengthwise.measure.published.base import Published, Row, read_rows
from lengthwise.measure.tasks.base import Item


def written_words(text: str) -> int:
    """Chinese characters plus words of Latin letters, as the source counts them."""
    return len(re.findall(r"[\u4e00-\u9fff]", text)) + len(re.findall(r"\b[a-zA-Z]+\b", text))


@dataclass(frozen=True)
class LongBenchWrite(Published):
    """Scores how near a text comes to the length that was asked for (S_l).

    Source: Bai et al., LongWriter (arXiv:2408.07055), section 4.1. Its second score, quality, needs
    a judge and is not here.

    Args:
        file: JSON lines of `prompt`, `type` and `length` (words asked for).
        tokens_per_word: Tokens of output allowed for each word asked for, 1 to 10.

    Raises:
        ValueError: A file in another format, or a number out of range.
    """

    file: Path
    tokens_per_word: float = 3.0

    def __post_init__(self) -> None:
        if not 1 <= self.tokens_per_word <= 10:
            raise ValueError(
                f"LongBenchWrite: tokens_per_word must be from 1 to 10, got {self.tokens_per_word}"
            )
        self.rows()

    def rows(self) -> list[Row]:
        """All prompts of the file, in its order."""
        found = []
        for row in read_rows(self.file, ("prompt", "type", "length")):
            record = {"type": row["type"], "words": row["length"]}
            budget = max(16, round(row["length"] * self.tokens_per_word))
            found.append(Row(row["prompt"], ("",), budget, record))
        return found

    def score(self, text: str, item: Item) -> float:
        """S_l / 100."""
        return length_score(written_words(text), item.record["words"])
