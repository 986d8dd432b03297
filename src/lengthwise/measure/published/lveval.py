"""LV-Eval's eleven sets, from a person's own copy."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.measure.published.base import Published, Row, filled, questions
from lengthwise.measure.published.chinese import plain_words
from lengthwise.measure.run.json_lines import text, texts
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.metrics import f1, keyword_f1, token_f1

ENGLISH = (
    "hotpotwikiqa_mixup", "loogle_SD_mixup", "loogle_CR_mixup", "loogle_MIR_mixup",
    "multifieldqa_en_mixup", "factrecall_en",
)  # fmt: skip
CHINESE = ("multifieldqa_zh_mixup", "factrecall_zh", "cmrc_mixup", "lic_mixup")
_LEAST = 0.4  # of the keywords, in Chinese
_PROMPT = (
    "Only some of these passages matter for the question.\n\n{context}\n\nQuestion: {input}\n"
    "Reply with the answer and nothing else.\nAnswer:"
)


@dataclass(frozen=True)
class PublishedLVEval(Published):
    """Scores one set of LV-Eval as its own code does: F1 above a recall of the keywords.

    Source: Yuan et al., LV-Eval (arXiv:2402.05136), section 3.3 and its public code: only the first
    reference counts; 16 tokens for fact recall, 64 for the others.
    Differs from the source: prompts are worded by us; the Chinese sets are scored without its
    blacklist of Chinese words, and `dureader_mixup`, which needs it, is refused.

    Args:
        file: The set's JSON lines: `input`, `context`, `answers`, `length`, `dataset`, and
            `answer_keywords` where it has some.

    Raises:
        ValueError: A file in another format, or of an unknown set.
    """

    file: Path

    def __post_init__(self) -> None:
        self.rows()

    def rows(self) -> list[Row]:
        """All questions of the file, in its order."""
        return questions(
            self.file, ("input", "context", "answers", "length", "dataset"), self._made
        )

    def _made(self, row: dict[str, Any]) -> list[Row]:
        name = re.split(r"_\d{1,3}k$", text(row, "dataset"))[0]
        if name not in ENGLISH + CHINESE:
            raise ValueError(f"unknown set {name!r}; known: {', '.join(ENGLISH + CHINESE)}")
        keywords = text(row, "answer_keywords") if row.get("answer_keywords") else ""
        budget = 16 if name.startswith("factrecall") else 64
        record = {"dataset": name, "keywords": keywords}
        return [Row(filled(_PROMPT, row), texts(row, "answers"), budget, record)]

    def score(self, reply: str, item: Item) -> float:
        """The set's own metric, with the first reference."""
        answer, name = item.answer, item.record["dataset"]
        keywords = item.record["keywords"]
        if name in ENGLISH:
            plain = name == "factrecall_en" or not keywords
            return token_f1(reply, answer) if plain else keyword_f1(reply, answer, keywords)
        found, wanted = plain_words(reply), plain_words(answer)
        if name != "factrecall_zh":
            key = plain_words(keywords or answer)
            recalled = sum((Counter(found) & Counter(key)).values())
            if key and recalled / len(key) < _LEAST:
                return 0.0
        return f1(found, wanted)
