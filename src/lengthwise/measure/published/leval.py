"""L-Eval's tasks, from a person's own copy."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lengthwise.measure.published.base import Published, Row, questions
from lengthwise.measure.run.json_lines import text, texts
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.metrics import rouge_l, rouge_n, token_f1

_BUDGET = 512


@dataclass(frozen=True)
class LEval(Published):
    """Scores one task of L-Eval: exact match for closed questions, F1 or ROUGE for open ones.

    Source: An et al., L-Eval (arXiv:2307.11088), sections 3 and 4, and its public code: a quarter
    of a point for some of several right options; ROUGE is the geometric mean of 1, 2 and L; open
    questions say how many words the answer should have, against the bias of length.
    Differs from the source: prompts are worded by us; documents lose their middle where the source
    cuts their end; ROUGE's mean is taken for each reply, not over the averages of all.

    Args:
        file: The task's JSON lines: `input`, `instructions`, `outputs`, `evaluation`.
        kind: "options" (letters), "math" (the last number), "exact" (the answer occurs in the
            reply), "f1" or "rouge".
        length_instruction: Whether open questions tell the words of the reference.

    Raises:
        ValueError: A file in another format, or an unknown kind.
    """

    file: Path
    kind: Literal["options", "math", "exact", "f1", "rouge"]
    length_instruction: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ("options", "math", "exact", "f1", "rouge"):
            raise ValueError(
                f"LEval: kind must be options, math, exact, f1 or rouge, got {self.kind!r}"
            )
        self.rows()

    def rows(self) -> list[Row]:
        """All questions of the file, in its order."""
        return questions(self.file, ("input", "instructions", "outputs", "evaluation"), self._made)

    def _made(self, row: dict[str, Any]) -> list[Row]:
        document, orders, answers = (
            text(row, "input"), texts(row, "instructions"), texts(row, "outputs")
        )  # fmt: skip
        if len(orders) != len(answers):
            raise ValueError("it has not as many outputs as instructions")
        guesses = tuple("ABCD") if self.kind == "options" else ()
        found = []
        for order, answer in zip(orders, answers, strict=True):
            usable = {"options": _letters, "math": _number, "exact": str.strip}.get(self.kind)
            if usable is not None and not usable(answer):
                raise ValueError(f"{answer!r} is no answer that replies of {self.kind} can match")
            prompt = self._prompt(document, order, answer)
            found.append(Row(prompt, (answer,), _BUDGET, {}, guesses))
        return found

    def _prompt(self, document: str, order: str, answer: str) -> str:
        how = {
            "options": "Reply with the letters of the right options and nothing else.",
            "math": "End with: The answer is",
            "exact": "Reply with the answer and nothing else.",
        }.get(self.kind, "")
        if not how and self.length_instruction:
            how = f"Use about {len(answer.split())} words."
        return f"This is a document.\n\n{document}\n\n{order}\n{how}\nAnswer:"

    def score(self, reply: str, item: Item) -> float:
        """The published metric of this kind of question."""
        answer = item.answer
        if self.kind == "f1":
            return token_f1(reply, answer)
        if self.kind == "rouge":
            one, two, long = (
                rouge_n(reply, answer, 1),
                rouge_n(reply, answer, 2),
                rouge_l(reply, answer),
            )
            return float((one * two * long) ** (1 / 3))
        if self.kind == "options":
            return _options(reply, answer)
        if self.kind == "math":
            return float(bool(_number(reply)) and _number(reply) == _number(answer))
        return float(answer.lower().replace(" ", "") in reply.lower().replace(" ", ""))


def _options(text: str, answer: str) -> float:
    """1 for all options, a quarter for some of several, 0 with a wrong one."""
    wanted = _letters(answer)
    found = {*re.findall(r"(?<![A-Za-z])([A-D])(?![A-Za-z])", text)}
    if not found:  # letters written together, as in "AC"
        together = re.search(r"\b[A-D]{2,4}\b", text)
        found = {*together.group()} if together else set()
    if found == wanted:
        return 1.0
    return 0.25 if found and found < wanted else 0.0


def _letters(answer: str) -> set[str]:
    """The options that an answer begins with."""
    return {*re.sub(r"[^A-D]", "", (answer.split() or [""])[0])}


def _number(text: str) -> str:
    """Digits of the number behind "The answer is", or else of the last word with a digit."""
    told = re.search(r"The answer is (\S+)", text)
    words = [word for word in text.split("\n\n")[0].split() if re.search(r"\d", word)]
    word = told.group(1) if told else (words[-1] if words else "")
    return re.sub(r"\D", "", word.split(".")[0])
