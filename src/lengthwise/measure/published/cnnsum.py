"""CNNSum's four subsets of Chinese novels, from a person's own copy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.measure.published.base import Published, Row, questions, segmented
from lengthwise.measure.run.json_lines import text
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.metrics import rouge_l_summary

_PROMPT = "阅读这部小说的节选，为它写一份摘要，只写摘要。\n\n{context}\n\n摘要："


@dataclass(frozen=True)
class CNNSum(Published):
    """Scores summaries of Chinese novels by ROUGE-L of segmented words.

    Source: Wei et al., CNNSum (arXiv:2412.02819), section 4, and its public code. One file is one
    subset (16k, 32k, 64k or 128k): the length tier of a score is its file.
    Differs from the source: the prompt is worded by us unless a person gives the published one.

    Args:
        file: The subset's JSON lines: `context` and `summary`.
        prompt: The prompt, with {} for the text; None takes ours.
        budget: Tokens for the summary.

    Raises:
        ValueError: A file in another format, or a prompt without {}.
    """

    file: Path
    prompt: str | None = None
    budget: int = 512

    def __post_init__(self) -> None:
        if self.prompt is not None and "{}" not in self.prompt:
            raise ValueError("CNNSum: the prompt must hold {} where the text goes")
        self.rows()

    def rows(self) -> list[Row]:
        """All texts of the file, in its order."""
        form = self.prompt or _PROMPT.replace("{context}", "{}")

        def made(row: dict[str, Any]) -> list[Row]:
            summary = text(row, "summary")
            return [Row(form.replace("{}", text(row, "context"), 1), (summary,), self.budget, {})]

        return questions(self.file, ("context", "summary"), made)

    def score(self, reply: str, item: Item) -> float:
        """ROUGE-L of words.

        Raises:
            ValueError: The segmenter is not installed.
        """
        return rouge_l_summary(" ".join(segmented(reply)), " ".join(segmented(item.answer)))
