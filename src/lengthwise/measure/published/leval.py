"""L-Eval's tasks, from a person's own copy."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lengthwise.measure.published.base import Published, Row, questions
from lengthwise.measure.run.json_lines import text, texts
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.metrics import rouge_l, rouge_n, token_f1

_BUDGET = 512
Kind = Literal["option", "options", "math", "exact", "truth", "code", "f1", "rouge"]
KINDS: tuple[Kind, ...] = get_args(Kind)
# The closed tasks; of open ones every row says itself how it is scored.
CLOSED: Mapping[str, Kind] = {
    "coursera": "options", "quality": "option", "tpo": "option", "gsm100": "math",
    "topic_retrieval_longchat": "exact", "sci_fi": "truth", "codeU": "code",
}  # fmt: skip
_JUDGED = ("LLM", "human")


@dataclass(frozen=True)
class LEval(Published):
    """Scores one task of L-Eval: exact match for closed questions, F1 or ROUGE for open ones.

    Source: An et al., L-Eval (arXiv:2307.11088), sections 3 and 4, and its public code: a quarter
    of a point for some of several right options; ROUGE is the geometric mean of 1, 2 and L; open
    questions say how many words the answer should have, against the bias of length; rows for
    judges ("LLM" and "human") are left out.
    Differs from the source: prompts are worded by us; documents lose their middle where the source
    cuts their end; ROUGE's mean is taken for each reply, not over the averages of all; of `sci_fi`
    the question on the document is asked, not that on the world.

    Command: lengthwise measure MODEL --suite leval --data DIR
        (or one task as leval_coursera)

    Args:
        file: The task's JSON lines: `input`, `instructions`, `outputs`, `evaluation`.
        kind: "option" (a letter), "options" (one or several), "math" (the last number), "exact"
            (the answer occurs in the reply), "truth" (true or false), "code" (what a program
            gives), "f1" or "rouge"; None is the kind of the published task that the file is named
            after.
        length_instruction: Whether open questions tell the words of the reference.

    Raises:
        ValueError: A file in another format, or an unknown kind.
    """

    file: Path
    kind: Kind | None = None
    length_instruction: bool = True

    def __post_init__(self) -> None:
        if self.kind not in (None, *KINDS):
            raise ValueError(f"LEval: kind must be one of {', '.join(KINDS)}, got {self.kind!r}")
        self.rows()

    def rows(self) -> list[Row]:
        """All questions of the file that need no judge, in its order."""
        keys = ("input", "instructions", "outputs", "evaluation")
        found = questions(self.file, keys, self._made)
        if not found:
            raise ValueError(f"{self.file} holds no row that is scored without a judge")
        return found

    def _made(self, row: dict[str, Any]) -> list[Row]:
        document, orders, answers = (
            text(row, "input"), texts(row, "instructions"), texts(row, "outputs")
        )  # fmt: skip
        if len(orders) != len(answers):
            raise ValueError("it has not as many outputs as instructions")
        scored = text(row, "evaluation")
        if scored in _JUDGED:
            return []
        kind: Any = self.kind or CLOSED.get(self.file.stem) or scored
        if kind not in KINDS:
            raise ValueError(
                f"evaluation is {scored!r} and the file is named after no closed task; expected "
                f"f1, rouge, or a file of {', '.join(CLOSED)}"
            )
        guesses = _GUESSES.get(kind, ())
        groups = {"questions": "open" if kind in ("f1", "rouge") else "closed"}
        found = []
        for order, answer in zip(orders, answers, strict=True):
            usable = _USABLE.get(kind)
            if usable is not None and not usable(answer):
                raise ValueError(f"{answer!r} is no answer that replies of {kind} can match")
            parts = self._prompt(document, order, answer, kind)
            record = {"kind": kind}
            found.append(Row(parts, (answer,), _BUDGET, record, guesses, groups))
        return found

    def _prompt(self, document: str, order: str, answer: str, kind: Kind) -> tuple[str, ...]:
        how = _HOW.get(kind, "")
        if not how and self.length_instruction:
            how = f"Use about {len(answer.split())} words."
        return "This is a document.\n\n", document, f"\n\n{order}\n{how}\nAnswer:"

    def score(self, reply: str, item: Item) -> float:
        """The published metric of this kind of question."""
        answer, kind = item.answer, item.record["kind"]
        if kind == "f1":
            return token_f1(reply, answer)
        if kind == "rouge":
            one, two, long = (
                rouge_n(reply, answer, 1),
                rouge_n(reply, answer, 2),
                rouge_l(reply, answer),
            )
            return float((one * two * long) ** (1 / 3))
        if kind in ("option", "options"):
            return _options(reply, answer, kind == "options")
        if kind == "math":
            return float(bool(_number(reply)) and _number(reply) == _number(answer))
        if kind == "truth":
            return float(_truth(reply) == _truth(answer))
        if kind == "code":
            reply, answer = _near_the_output(reply, answer), _plain_code(answer)
        return _exact(reply, answer)


def _exact(reply: str, answer: str) -> float:
    """1 if two numbers are equal, or else the answer stands in the reply, blanks aside."""
    try:
        return float(float(reply) == float(answer))
    except ValueError:
        return float(answer.lower().replace(" ", "") in reply.lower().replace(" ", ""))


def _options(text: str, answer: str, several: bool) -> float:
    """1 for all options, a quarter for some of several, 0 with a wrong one."""
    wanted, found = _letters(answer), _chosen(text, several)
    if found == wanted:
        return 1.0
    return 0.25 if found and found < wanted else 0.0


def _chosen(text: str, several: bool) -> set[str]:
    """The letters that a reply chooses, by the rules of the public code."""
    if text in "ABCD" or not text.strip():
        return {*text.strip()}
    first = re.search("[A-D]", text)
    if not several:
        return {*first.group()} if first else set()
    begin = re.match("[A-D]*", text)
    assert begin is not None
    if len(begin.group()) > 1:
        return {*begin.group()}
    alone = re.findall(r"[A-D](?=[\s.)])", text[begin.end() :].split("Question")[0])
    run = re.search("[A-D]+", text)
    return {*begin.group(), *alone} or ({*run.group()} if run else {"A"})


def _letters(answer: str) -> set[str]:
    """The options that an answer begins with."""
    return {*re.sub(r"[^A-D]", "", (answer.split() or [""])[0])}


def _number(text: str) -> str:
    """Digits of the number behind "The answer is", or else of the last word with a digit."""
    told = re.search(r"The answer is (\S+)", text)
    words = [word for word in text.split("\n\n")[0].split() if re.search(r"\d", word)]
    word = told.group(1) if told else (words[-1] if words else "")
    return re.sub(r"\D", "", word.split(".")[0])


def _truth(text: str) -> str:
    """The first of true and false that a word holds; empty where none does."""
    found = re.search("true|false", text.lower())
    return found.group() if found else ""


def _plain_code(text: str) -> str:
    """A value as a program prints it, without commas, quotes and blanks between brackets."""
    text = re.sub(r"\s+", " ", text)
    for mark in (",", "'", "\\", ".0"):
        text = text.replace(mark, "")
    for open_, shut in (("] [", "]["), ("[ [", "[["), ("] ]", "]]")):
        text = text.replace(open_, shut)
    return text


def _near_the_output(reply: str, answer: str) -> str:
    """The words of a reply among which the value stands: after "the final output", or the last."""
    text, near = _plain_code(reply), len(answer.split()) + 3
    for words in (
        "will be", "of the code", "is", "would be", "the value of", "the result of", "printed"
    ):  # fmt: skip
        text = text.replace(words, "")
    _, told, rest = text.rpartition("the final output")
    # As published: a blank at the end counts as one of the last words.
    return " ".join(re.split(r"\s+", rest)[:near] if told else re.split(r"\s+", text)[-near:])


_USABLE: Mapping[str, Callable[[str], object]] = {
    "option": _letters, "options": _letters, "math": _number, "exact": str.strip,
    "truth": _truth, "code": str.strip,
}  # fmt: skip
_GUESSES: Mapping[str, tuple[str, ...]] = {
    "option": tuple("ABCD"), "options": tuple("ABCD"), "truth": ("True", "False"),
}  # fmt: skip
_HOW = {
    "option": "Reply with the letter of the right option and nothing else.",
    "options": "Reply with the letters of the right options and nothing else.",
    "math": "End with: The answer is",
    "exact": "Reply with the answer and nothing else.",
    "truth": "Reply True or False.",
    "code": "End with: the final output is",
}
