"""CNNSum's four subsets of Chinese novels, from a person's own copy."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.measure.published.base import (
    Published,
    Row,
    questions,
    read_prompts,
    segmented,
)
from lengthwise.measure.run.json_lines import text
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.metrics import rouge_l_summary

_PROMPT = "阅读这部小说的节选，为它写一份摘要，只写摘要。\n\n{}\n\n摘要："
_BUDGETS = {"16k": 400, "32k": 400, "64k": 500, "128k": 500}


@dataclass(frozen=True)
class CNNSum(Published):
    """Scores summaries of Chinese novels by ROUGE-L of segmented words.

    Source: Wei et al., CNNSum (arXiv:2412.02819), section 4, and its public code: 400 tokens for
    the two shorter subsets, 500 for the others; the score is the mean over its prompts. One file is
    one subset (16k, 32k, 64k or 128k): the length tier of a score.
    Differs from the source: the prompt is worded by us unless a person gives the published ones.

    Command: lengthwise measure MODEL --suite cnnsum --data DIR
        (or one tier as cnnsum_16k)

    Args:
        file: The subset's JSON lines: `context` and `summary`; named as published, it says the tier.
        prompt: The prompt, with {} for the text; None takes those of `prompts`, or ours.
        budget: Tokens for the summary; None takes the published number of the tier, or 500.
        prompts: The `prompts.json` of a person's own copy: every text is asked with each of them.

    Raises:
        ValueError: A file in another format, or a prompt without {}.
    """  # noqa: E501

    file: Path
    prompt: str | None = None
    budget: int | None = None
    prompts: Path | None = None

    def __post_init__(self) -> None:
        forms = self._forms()
        if not forms or not all("{}" in form for form in forms):
            raise ValueError("CNNSum: the prompt must hold {} where the text goes")
        self.rows()

    def _forms(self) -> list[str]:
        if self.prompt is not None:
            return [self.prompt]
        return [_PROMPT] if self.prompts is None else list(read_prompts(self.prompts).values())

    def rows(self) -> list[Row]:
        """All texts of the file, in its order, with every prompt."""
        forms = [form.split("{}", 1) for form in self._forms()]
        tier = self.file.stem.rsplit("_", 1)[-1]
        budget = self.budget or _BUDGETS.get(tier, 500)
        groups = {"tier": tier} if tier in _BUDGETS else {}

        def made(row: dict[str, Any]) -> list[Row]:
            novel, summary = text(row, "context"), (text(row, "summary"),)
            return [
                Row((before, novel, after), summary, budget, {}, groups=groups)
                for before, after in forms
            ]

        return questions(self.file, ("context", "summary"), made)

    def score(self, reply: str, item: Item) -> float:
        """ROUGE-L of words.

        Raises:
            ValueError: The segmenter is not installed.
        """
        return rouge_l_summary(" ".join(segmented(reply)), " ".join(segmented(item.answer)))
