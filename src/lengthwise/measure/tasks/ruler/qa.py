"""RULER's question answering: the right documents among many others."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Literal

from lengthwise.measure.run.json_lines import parse, text
from lengthwise.measure.tasks.base import Item, picked
from lengthwise.measure.tasks.draws import Endless, depths, new_from, scatter
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.facts import TRADES, people, person
from lengthwise.measure.tasks.metrics import match_part

_ORDER = "Answer the question from the given documents. Reply with the answer and nothing else."


@dataclass(frozen=True)
class Question:
    """A question, every accepted answer, its documents, and others of the same subject."""

    text: str
    answers: tuple[str, ...]
    documents: tuple[str, ...]
    related: tuple[str, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """The questions of a file, and all of its documents in a fixed order."""

    questions: tuple[Question, ...]
    documents: tuple[str, ...]


def _squad(data: Any) -> Corpus:
    questions = []
    for article in data["data"]:
        every = [text(paragraph, "context") for paragraph in article["paragraphs"]]
        for paragraph in article["paragraphs"]:
            own = paragraph["context"]
            related = tuple(sorted({*every} - {own}))
            for qa in paragraph["qas"]:
                # An empty answer stands in every reply.
                told = dict.fromkeys(text(one, "text").strip() for one in qa["answers"])
                answers = tuple(one for one in told if one)
                if answers and not qa.get("is_impossible", False):
                    questions.append(Question(text(qa, "question"), answers, (own,), related))
    documents = {p["context"] for article in data["data"] for p in article["paragraphs"]}
    return Corpus(tuple(questions), tuple(sorted(documents)))


def _hotpot(data: Any) -> Corpus:
    questions = []
    for entry in data:
        own = tuple(f"{title}\n{''.join(lines)}" for title, lines in entry["context"])
        answer = text(entry, "answer").strip()
        if answer and own:
            questions.append(Question(text(entry, "question"), (answer,), own))
    return Corpus(tuple(questions), tuple(sorted({d for q in questions for d in q.documents})))


@cache
def read_corpus(file: Path, form: str) -> Corpus:
    """Reads a file in SQuAD's or HotpotQA's format.

    Raises:
        ValueError: A file that is not there, is not JSON, or has another form.
    """
    try:
        data = parse(file.read_text(encoding="utf-8-sig"))
        corpus = _squad(data) if form == "squad" else _hotpot(data)
    except (OSError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{file} is no {form} file: {error!r}") from None
    if not corpus.questions:
        raise ValueError(f"{file} holds no question that has an answer")
    return corpus


@dataclass(frozen=True)
class DocumentQA(Generated):
    """Answer a question whose documents stand among many others.

    Source: Hsieh et al., RULER (arXiv:2404.06654), section 3.4 and appendix B; order of the
    distractors (same article first) and metric of its public code.
    Differs from the source: without a file, documents and questions are about invented people; the
    right documents get random places among the others, which a greater length only adds to.

    Args:
        form: "squad" (one document answers) or "hotpot" (two documents answer together).
        file: A person's own file in that format; None generates a corpus.
        budget: Tokens for the answer at least; 32 in the source.

    Raises:
        ValueError: An unknown form, or a file that cannot be read as that form.
    """

    version: ClassVar[int] = 2
    form: Literal["squad", "hotpot"] = "squad"
    file: Path | None = None
    budget: int = 32

    def __post_init__(self) -> None:
        if self.form not in ("squad", "hotpot"):
            raise ValueError(f"DocumentQA: form must be squad or hotpot, got {self.form!r}")
        if self.file is not None:
            read_corpus(self.file, self.form)

    @property
    def most(self) -> int | None:
        """Questions of the file; more items begin again with the first. None: no limit."""
        return None if self.file is None else len(read_corpus(self.file, self.form).questions)

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """A question and places of its documents; the haystack grows by other documents."""
        if self.file is None:
            question, others = self._generated(rng)
        else:
            corpus = read_corpus(self.file, self.form)
            question = corpus.questions[index % len(corpus.questions)]
            others = self._others(corpus, question, new_from(rng))
        places = depths(rng, len(question.documents))
        tail = f"\n\n{_ORDER}\n\nQuestion: {question.text} Answer:"
        record = {"question": question.text, "documents": question.documents, "places": places}
        record["answers"] = question.answers

        def page(count: int) -> Page:
            chosen = scatter(others.first(count), question.documents, places)
            context = "\n\n".join(f"Document {i}:\n{d}" for i, d in enumerate(chosen, 1))
            head = f"{_ORDER}\n\nThese are the documents.\n\n"
            return Page(head, context, tail, question.answers[0], record, self._marks(question))

        return page

    def _marks(self, question: Question) -> tuple[str, ...]:
        # HotpotQA marks all ten documents of a question as its own; depths of two would mislead.
        return question.documents if self.file is None or self.form == "squad" else ()

    def _generated(self, rng: random.Random) -> tuple[Question, Endless[str]]:
        asked, *rest = people(rng, 4)
        own = new_from(rng)
        # Of others both documents too, so that a person with both is no sign.
        related = [d for p in rest for d in (p.document(), p.work())]
        related = related if self.form == "hotpot" else []
        first = iter(related)

        def other() -> str:
            given = next(first, None)
            drawn = person(own)
            while asked.name.split()[1] in drawn.name or asked.town in drawn.town:
                drawn = person(own)
            return given or (drawn.work() if own.random() < 0.3 else drawn.document())

        if self.form == "squad":
            text = f"What is the trade of {asked.name}?"
            return Question(text, (asked.trade,), (asked.document(),)), Endless(other)
        text = f"What is the trade of the person who built the {asked.thing} of {asked.town}?"
        return Question(text, (asked.trade,), (asked.document(), asked.work())), Endless(other)

    def _others(self, corpus: Corpus, question: Question, own: random.Random) -> Endless[str]:
        """Documents of the same article first, then all others; round again where they end."""
        related = list(question.related)
        own.shuffle(related)
        rest = sorted({*corpus.documents} - {*related} - {*question.documents})
        own.shuffle(rest)
        order = related + rest
        if not order:
            raise ValueError(f"{self.file} holds no document but those of one question; add more")
        place = -1

        def following() -> str:
            nonlocal place
            place = (place + 1) % len(order)
            return order[place]

        return Endless(following)

    def score(self, text: str, item: Item) -> float:
        """1 if an accepted answer stands in the reply, else 0."""
        return match_part(text, item.record["answers"])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The trade that the person's document gives; of a person's file, the accepted answer."""
        if self.file is None:
            return str(record["documents"][0].split(" is a ")[1].split(".")[0])
        return str(record["answers"][0])

    def _answers(self) -> list[str]:
        if self.file is None:
            return list(TRADES)
        return [q.answers[0] for q in read_corpus(self.file, self.form).questions]

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """A trade, whoever has it; none for questions of a file."""
        trades = re.findall(r" is a (\w+)\. The evenings", item.prompt)
        return {} if self.file is not None else picked(trades, kind="trade")

    def guess(self, item: Item, rng: random.Random) -> str:
        """The answer of any question."""
        return rng.choice(self._answers())

    def chance(self, item: Item) -> float:
        """The share of all answers that would count here."""
        answers = self._answers()
        return sum(self.score(answer, item) for answer in answers) / len(answers)
