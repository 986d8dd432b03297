"""LV-Eval's eleven sets, from a person's own copy."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.measure.published.base import (
    Published,
    Row,
    filled,
    literal,
    questions,
    segmented,
)
from lengthwise.measure.published.chinese import plain_word, plain_words
from lengthwise.measure.run.json_lines import text, texts
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.metrics import f1, keyword_f1, rouge_l_summary, token_f1

ENGLISH = (
    "hotpotwikiqa_mixup", "loogle_SD_mixup", "loogle_CR_mixup", "loogle_MIR_mixup",
    "multifieldqa_en_mixup", "factrecall_en",
)  # fmt: skip
CHINESE = ("multifieldqa_zh_mixup", "factrecall_zh", "cmrc_mixup", "lic_mixup")
_ROUGE = "dureader_mixup"
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
    Differs from the source: prompts are worded by us unless a person gives the published ones; so
    is the blacklist of Chinese words, without which the Chinese sets are scored and
    `dureader_mixup`, which needs it, is refused.

    Command: lengthwise measure MODEL --suite published_lveval --data DIR
        (or one as published_lveval_factrecall_en_16k)

    Args:
        file: The set's JSON lines: `input`, `context`, `answers`, `length`, `dataset`, and
            `answer_keywords` where it has some; named as published, it says the level.
        prompts: The `config.py` of a person's own copy, which is read and not run.
        words: The `metrics.py` of a person's own copy, likewise.

    Raises:
        ValueError: A file in another format, or of an unknown set.
    """

    file: Path
    prompts: Path | None = None
    words: Path | None = None

    def __post_init__(self) -> None:
        self.rows()

    def rows(self) -> list[Row]:
        """All questions of the file, in its order."""
        prompts = None if self.prompts is None else literal(self.prompts, "DATASET_PROMPT")
        stop = [] if self.words is None else literal(self.words, "ABANDON_WORDS_ZH")
        known = (*ENGLISH, *CHINESE, *([_ROUGE] if self.words else []))
        level = re.search(r"_(\d{1,3}k)$", self.file.stem)

        def made(row: dict[str, Any]) -> list[Row]:
            name = re.split(r"_\d{1,3}k$", text(row, "dataset"))[0]
            if name == _ROUGE and name not in known:
                raise ValueError(f"{name} is scored with the published metrics.py beside it")
            if name not in known:
                raise ValueError(f"unknown set {name!r}; known: {', '.join(known)}")
            form = _PROMPT if prompts is None else text(prompts, name)
            keywords = text(row, "answer_keywords") if row.get("answer_keywords") else ""
            budget = 16 if name.startswith("factrecall") else 64
            record = {"dataset": name, "keywords": keywords, "stop": stop}
            groups = {"level": level[1]} if level else {}
            answers = texts(row, "answers")
            return [Row((filled(form, row),), answers, budget, record, groups=groups)]

        keys = ("input", "context", "answers", "length", "dataset")
        return questions(self.file, keys, made)

    def score(self, reply: str, item: Item) -> float:
        """The set's own metric, with the first reference."""
        answer, name = item.answer, item.record["dataset"]
        keywords = item.record["keywords"]
        if name in ENGLISH:
            plain = name == "factrecall_en" or not keywords
            return token_f1(reply, answer) if plain else keyword_f1(reply, answer, keywords)
        stop = set(item.record["stop"])
        if name == _ROUGE:
            kept = [
                " ".join(w for word in segmented(x) if (w := plain_word(word)) not in stop)
                for x in (reply, answer)
            ]
            return rouge_l_summary(*kept)
        found, wanted = plain_words(reply), plain_words(answer)
        if name != "factrecall_zh":
            key = plain_words(keywords or answer)
            shared = Counter(found) & Counter(key)
            recalled = sum(count for word, count in shared.items() if word not in stop)
            if key and recalled / len(key) < _LEAST:
                return 0.0
        return f1(found, wanted)
