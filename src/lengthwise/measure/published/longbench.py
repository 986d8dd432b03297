"""LongBench's 21 sets, from a person's own copy."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lengthwise.measure.published.base import (
    Published,
    Row,
    filled,
    questions,
    read_prompts,
    segmented,
)
from lengthwise.measure.published.chinese import plain_words
from lengthwise.measure.run.json_lines import text, texts
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.metrics import (
    edit_similarity,
    f1,
    rouge_l_summary,
    token_f1,
)  # fmt: skip

Score = Callable[[str, str, list[str]], float]  # of a reply, a reference and all classes


def _number_share(reply: str, number: str) -> float:
    numbers = re.findall(r"\d+", reply)
    return numbers.count(number) / len(numbers) if numbers else 0.0


def _paragraph(reply: str, reference: str, classes: list[str]) -> float:
    return _number_share(reply, re.findall(r"\d+", reference)[0])


def _count(reply: str, reference: str, classes: list[str]) -> float:
    return _number_share(reply, reference)


def _code(reply: str, reference: str, classes: list[str]) -> float:
    """Edit similarity of the first line that is neither comment nor fence."""
    lines = reply.lstrip("\n").split("\n")
    code = next((line for line in lines if not any(m in line for m in ("`", "#", "//"))), "")
    return edit_similarity(code, reference)


def _class(reply: str, reference: str, classes: list[str]) -> float:
    """One over the classes that are named, without those that are a part of the right one."""
    named = [name for name in classes if name in reply]
    # As published: leaving one out moves the next one up unseen.
    for name in named:
        if name in reference and name != reference:
            named.remove(name)
    return 1 / len(named) if reference in named else 0.0


def _f1_chinese(reply: str, reference: str, classes: list[str]) -> float:
    return f1(plain_words(reply), plain_words(reference))


def _rouge_chinese(reply: str, reference: str, classes: list[str]) -> float:
    return rouge_l_summary(" ".join(segmented(reply)), " ".join(segmented(reference)))


def _f1(reply: str, reference: str, classes: list[str]) -> float:
    return token_f1(reply, reference)


def _rouge(reply: str, reference: str, classes: list[str]) -> float:
    return rouge_l_summary(reply, reference)


# Score and tokens of the answer.
SETS: dict[str, tuple[Score, int]] = {
    "narrativeqa": (_f1, 128), "qasper": (_f1, 128), "multifieldqa_en": (_f1, 64),
    "multifieldqa_zh": (_f1_chinese, 64), "hotpotqa": (_f1, 32), "2wikimqa": (_f1, 32),
    "musique": (_f1, 32), "dureader": (_rouge_chinese, 128), "gov_report": (_rouge, 512),
    "qmsum": (_rouge, 512), "multi_news": (_rouge, 512), "vcsum": (_rouge_chinese, 512),
    "trec": (_class, 64), "triviaqa": (_f1, 32), "samsum": (_rouge, 128), "lsht": (_class, 64),
    "passage_count": (_count, 32), "passage_retrieval_en": (_paragraph, 32),
    "passage_retrieval_zh": (_paragraph, 32), "lcc": (_code, 64), "repobench-p": (_code, 64),
}  # fmt: skip
_FIRST_LINE = ("trec", "triviaqa", "samsum", "lsht")
_OWN_PROMPT = "Read this.\n\n{context}\n\nReply to this as briefly as you can.\n\n{input}\nReply:"
BINS = {"0-4k": 4000, "4-8k": 8000, "8k+": float("inf")}  # of LongBench-E, in words
_ABILITIES = {
    "questions, one document": ("narrativeqa", "qasper", "multifieldqa_en", "multifieldqa_zh"),
    "questions, several documents": ("hotpotqa", "2wikimqa", "musique", "dureader"),
    "summaries": ("gov_report", "qmsum", "multi_news", "vcsum"),
    "examples": ("trec", "triviaqa", "samsum", "lsht"),
    "synthetic": ("passage_count", "passage_retrieval_en", "passage_retrieval_zh"),
    "code": ("lcc", "repobench-p"),
}


@dataclass(frozen=True)
class LongBench(Published):
    """Scores one set of LongBench as its own code does.

    Source: Bai et al., LongBench (arXiv:2308.14508), section 3 and table 1; formats, answer lengths
    and metrics of its public code. The best of several references counts.

    Command: lengthwise measure MODEL --suite longbench --data DIR
        (or longbench_e, or one set as longbench_qasper)

    Args:
        file: The set's JSON lines: `input`, `context`, `answers`, `length`, `dataset`,
            `all_classes`.
        prompts: The `dataset2prompt.json` of a person's own copy. None takes one wording of ours
            for all sets: fine to compare models, but not the published prompts.

    Raises:
        ValueError: A file in another format, or of an unknown set.
    """

    file: Path
    prompts: Path | None = None

    def __post_init__(self) -> None:
        self.rows()

    def rows(self) -> list[Row]:
        """All questions of the file, in its order."""
        prompts = None if self.prompts is None else read_prompts(self.prompts)
        keys = ("input", "context", "answers", "length", "dataset", "all_classes")

        def made(row: dict[str, Any]) -> list[Row]:
            name = text(row, "dataset").removesuffix("_e")
            if name not in SETS:
                raise ValueError(f"unknown set {name!r}; known: {', '.join(SETS)}")
            form = _OWN_PROMPT if prompts is None else prompts.get(name)
            if form is None:
                raise ValueError(f"{self.prompts} holds no prompt for {name}")
            if isinstance(row["length"], bool) or not isinstance(row["length"], int | float):
                raise ValueError(f"length must be a number of words, got {row['length']!r:.60}")
            classes = texts(row, "all_classes") if row["all_classes"] else ()
            answers, guesses = texts(row, "answers"), classes
            score, budget = SETS[name]
            if score is _class and not {*answers} & {*classes}:
                raise ValueError(f"none of the answers {answers!r:.60} is among all_classes")
            if score is _paragraph:
                if not all(re.search(r"\d", answer) for answer in answers):
                    raise ValueError(f"answers must name a paragraph, got {answers!r:.60}")
                # The paragraphs to choose from stand numbered in the context.
                mark = "段落" if name.endswith("zh") else "Paragraph "
                shown = re.findall(rf"{mark}(\d+)", text(row, "context"))
                guesses = tuple(mark + number for number in dict.fromkeys(shown))
            record = {"length": row["length"], "all_classes": list(classes), "dataset": name}
            groups = {
                "words in the text": length_bin(row["length"]),
                "ability": next(kind for kind, sets in _ABILITIES.items() if name in sets),
            }
            return [Row((filled(form, row),), answers, budget, record, guesses, groups)]

        return questions(self.file, keys, made)

    def score(self, reply: str, item: Item) -> float:
        """The set's own metric, with the best reference."""
        name = item.record["dataset"]
        if name in _FIRST_LINE:
            reply = reply.lstrip("\n").split("\n")[0]
        classes = item.record["all_classes"] or []
        return max(SETS[name][0](reply, answer, classes) for answer in item.record["references"])


def length_bin(words: float) -> str:
    """The bin of LongBench-E for a text of so many words: "0-4k", "4-8k" or "8k+"."""
    return next(name for name, below in BINS.items() if words < below)
