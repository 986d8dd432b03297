"""A stand-in for a person's own copy of every published set, written by us in their formats."""

import json
from pathlib import Path
from typing import Any

from lengthwise.names import PUBLISHED

_LONGBENCH = {
    "trec": ("Food", ["Food", "City"]), "lsht": ("体育", ["体育", "经济"]),
    "passage_count": ("3", None), "passage_retrieval_en": ("Paragraph 2", None),
    "passage_retrieval_zh": ("段落2", None), "lcc": ("x = 1", None),
}  # fmt: skip
_LEVAL = {
    "coursera": "BC", "quality": "(A) because", "tpo": "D", "gsm100": "The answer is 18.",
    "sci_fi": "True [fact: False]", "codeU": "[1, 2]",
}  # fmt: skip
_ROUGE = ("summ", "paper_assistant")


def copy_of(folder: Path, suite: str, rows: int = 3) -> Path:
    """Write every set of a suite as it is published, with a few rows each."""
    for task, form in PUBLISHED[suite].items():
        name = form.removesuffix(".jsonl")
        if suite == "fables":
            _fables(folder)
            continue
        file = folder / "data" / form.replace("*", "L")
        file.parent.mkdir(parents=True, exist_ok=True)
        made = [_row(suite, task, name, number) for number in range(rows)]
        words = [json.dumps(row, ensure_ascii=False) for row in made]
        file.write_text("\n".join(words) + "\n", encoding="utf-8")
    return folder


def _row(suite: str, task: str, name: str, number: int) -> dict[str, Any]:
    if suite.startswith("longbench_write") or suite == "longwrite_ruler":
        length = (100, 700, 3000)[number % 3]
        return {"prompt": f"Write {length} words {number}.", "type": "Report", "length": length}
    if suite == "cnnsum":
        return {"context": f"从前有座山{number}", "summary": "山上有庙"}
    if suite == "leval":
        answer = _LEVAL.get(name, "some words")
        scored = "exam" if name in _LEVAL or "topic" in name else "f1"
        scored = "rouge" if any(part in name for part in _ROUGE) else scored
        row = {"input": f"Doc {number}.", "instructions": ["Q?", "R?"], "outputs": [answer] * 2}
        return {**row, "source": name, "evaluation": scored}
    answer, classes = _LONGBENCH.get(name.removesuffix("_e"), ("blue fox", None))
    row = {
        "input": f"What {number}?", "context": "Paragraph 1: a\n\nParagraph 2: b 段落1 段落2",
        "answers": [answer], "length": (3000, 5000, 9000)[number % 3],
        "language": "en", "all_classes": classes, "_id": str(number),
    }  # fmt: skip
    if suite == "published_lveval":
        more = {"answer_keywords": "fox", "confusing_facts": ["a red fox"]}
        return {**row, **more, "dataset": name.rpartition("_")[0]}
    return {**row, "dataset": name}


def _fables(folder: Path) -> None:
    claims = {
        str(number): {
            "claim": f"C{number}", "label": ("Yes", "No")[number % 2],
            "evidence": [("one two", "nine ten")[number // 2 % 2]], "reason": [""],
        }
        for number in range(4)
    }  # fmt: skip
    book = {"M": {"summary": "S", "general_comment": "", "claims": claims}}
    (folder / "books").mkdir(parents=True, exist_ok=True)
    (folder / "books" / "Book.txt").write_text("one two three four five six seven nine ten")
    words = json.dumps({"canary": "x", "FABLES": {"Book": book}})
    (folder / "FABLES.json").write_text(words)
