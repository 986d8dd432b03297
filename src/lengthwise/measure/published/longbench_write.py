"""LongBench-Write: texts of a length that was asked for, from a person's own copy."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.measure.published.base import Published, Row, questions
from lengthwise.measure.run.json_lines import text
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.metrics import length_score

# The ranges of the paper's table.
_ASKED = {"0-500": 500, "500-2k": 2000, "2k-4k": 4000, "4k+": float("inf")}


def written_words(text: str) -> int:
    """Chinese characters plus words of Latin letters, as the source counts them."""
    return len(re.findall(r"[\u4e00-\u9fff]", text)) + len(re.findall(r"\b[a-zA-Z]+\b", text))


@dataclass(frozen=True)
class LongBenchWrite(Published):
    """Scores how near a text comes to the length that was asked for (S_l).

    Source: Bai et al., LongWriter (arXiv:2408.07055), section 4.1. Its second score, quality, needs
    a judge and is not here.

    Command: lengthwise measure MODEL --suite longbench_write --data DIR
        (or longbench_write_en, longwrite_ruler)

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
        return questions(self.file, ("prompt", "type", "length"), self._made)

    def _made(self, row: dict[str, Any]) -> list[Row]:
        words = row["length"]
        if isinstance(words, bool) or not isinstance(words, int | float) or words < 1:
            raise ValueError(f"length must be a number of words, at least 1, got {words!r:.60}")
        budget = max(16, round(words * self.tokens_per_word))
        record = {"type": text(row, "type"), "words": words}
        asked = next(name for name, below in _ASKED.items() if words < below)
        groups = {"words asked for": asked, "kind of text": text(row, "type")}
        return [Row((text(row, "prompt"),), ("",), budget, record, groups=groups)]

    def score(self, reply: str, item: Item) -> float:
        """S_l / 100."""
        return length_score(written_words(reply), item.record["words"])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """As many words as were asked for."""
        return " ".join(["word"] * round(record["words"]))
