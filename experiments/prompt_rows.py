"""Rows of the strategies for prompts, on SmolLM2 with a window that is made small on purpose.

    python experiments/prompt_rows.py prompts/xl3m

Every strategy answers the same items as a prompt that is cut in its middle to the same window, and
what is said of it is paired over them. `experiments/real_models.py` gets the model. Answers are
kept under runs/prompts, so that a run that was interrupted goes on.
"""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from exact_rows import Row, main

import lengthwise as lw
from lengthwise.lab.evidence import at_least, at_most, exact, share
from lengthwise.measure import ItemRow, LocalReader, Suite, measure
from lengthwise.measure.report.table import Table
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.strategies import (
    XL3M,
    ChainOfAgents,
    RandomAccessReading,
    StrategyReader,
    SuperpositionPrompting,
    Truncation,
)
from lengthwise.measure.strategies.base import Asking, Strategy
from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import NOISE, haystack, number, pair_of_words
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import match_all
from lengthwise.measure.tasks.text import held_out_text
from lengthwise.measure.tasks.words import NAMES

WINDOW, LENGTH, ITEMS = 384, 1152, 12
OWN_PLAIN, CUT = "whole", "cut"


@dataclass(frozen=True)
class Found(Generated):
    """A task whose answer is a number, in prose that is drawn or a person's own."""

    text: str | None = None
    budget: int = 24

    def score(self, text: str, item: Item) -> float:
        return match_all(text, item.record["answers"])

    def oracle(self, record: Mapping[str, Any]) -> str:
        return str(record["answers"][0])

    def guess(self, item: Item, rng: random.Random) -> str:
        return number(rng)

    def chance(self, item: Item) -> float:
        return 1 / (9 * 10**6)

    def needles(self, rng: random.Random, key: str, value: str) -> tuple[list[str], str]:
        """The sentences that are hidden, and the question."""
        return [f"The special number of {key} is: {value}."], (
            f"What is the special number of {key} in the text? The special number of {key} is"
        )

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        key, value = pair_of_words(rng), number(rng)
        hidden, question = self.needles(rng, key, value)
        places = [rng.random() for _ in hidden]
        units = self.units(rng)

        def page(count: int) -> Page:
            lines = list(units.first(count))
            for sentence, place in zip(hidden, places, strict=True):
                lines.insert(round(place * len(lines)), sentence)
            record = {"answers": [value]}
            head = "Read the text; a question follows.\n"
            return Page(head, " ".join(lines), f"\n{question}", value, record)

        return page

    def units(self, rng: random.Random) -> Any:
        return haystack(self.text, rng)


@dataclass(frozen=True)
class TwoHops(Found):
    """Who keeps a thing stands at one place, and that person's number at another."""

    def needles(self, rng: random.Random, key: str, value: str) -> tuple[list[str], str]:
        who = rng.choice(NAMES)
        return [f"The {key} is kept by {who}.", f"The special number of {who} is: {value}."], (
            f"Who keeps the {key}, and what is the special number of that person?"
        )


@dataclass(frozen=True)
class InNoise(Found):
    """A passage of prose, its fact at the end, among lines that repeat themselves."""

    def needles(self, rng: random.Random, key: str, value: str) -> tuple[list[str], str]:
        facts, question = super().needles(rng, key, value)
        prose = haystack(self.text, rng).first(14)
        return [" ".join([*prose, *facts])], question

    def units(self, rng: random.Random) -> Any:
        return _Same()


class _Same:
    def first(self, count: int) -> list[str]:
        return [NOISE] * count


@dataclass(frozen=True)
class Evenly(RandomAccessReading):
    """Skips the same number of tokens after every stretch: what confidence is held against."""

    skipped: int = 64

    def skip(self, loss: float, left: int) -> int:
        return min(self.skipped, left)


@dataclass(frozen=True)
class AtRandom(XL3M):
    """Keeps segments by lot."""

    def score(self, asking: Asking, ids: list[int], behind: list[int]) -> float:
        return random.Random(str(ids)).random()


def smollm2() -> StrategyReader:
    """The model with its template."""
    from real_models import get

    model, tokenizer = lw.load(get("smollm2"), dtype=torch.float32)
    return StrategyReader(LocalReader(model.eval(), tokenizer, name="smollm2"))


def answered(
    name: str, kind: type[Found], strategies: Mapping[str, Strategy | None], items: int = ITEMS
) -> tuple[dict[str, list[ItemRow]], dict[str, Any]]:
    """Rows of every strategy over items of two texts, and what the file says of the model."""
    reader, prose = smollm2(), prose_of_docstrings()
    tasks = {"generated": kind(), "docstrings": kind(text=prose)}
    asked = Suite("prompts", tasks, items)
    given: Any = {one: () if how is None else (how,) for one, how in strategies.items()}
    folder = Path("runs/prompts") / name.partition("/")[2]
    table = Table(measure(reader, asked, given, [LENGTH], folder=folder, text=prose))
    told = reader.describe()
    about = {key: told[key] for key in ("name", "fingerprint", "window", "dtype", "chat")}
    rows = {one: [row for task in tasks for row in table.rows(one, task, LENGTH)] for one in given}
    for one, found in rows.items():
        if refused := [row.refused for row in found if row.refused]:
            raise ValueError(f"{one}: {refused[0]}")
    return rows, about


def prose_of_docstrings() -> str:
    """Sentences of the documentation inside Python's standard library."""
    texts = re.findall(r'"""(.*?)"""', held_out_text(), re.DOTALL)
    found = [line for text in texts for line in re.findall(r"[A-Z][a-z ,']{40,160}\.",
             " ".join(text.split()))]  # fmt: skip
    return " ".join(found)


def scores(rows: Sequence[ItemRow]) -> list[float]:
    return [float(row.score or 0) for row in rows]


def gap(first: Sequence[ItemRow], second: Sequence[ItemRow]) -> Interval:
    """How much better the first are, paired over the items."""
    apart = torch.tensor(scores(first)) - torch.tensor(scores(second))
    return bootstrap_mean(apart.double(), torch.Generator().manual_seed(0))


def told(rows: Mapping[str, Sequence[ItemRow]]) -> dict[str, Any]:
    """Found items, tokens and seconds of every strategy."""
    return {
        name: {
            "found": share(sum(scores(found)), len(found)),
            "tokens read": round(fmean(row.read or LENGTH - 24 for row in found)),
            "tokens written": round(fmean(row.tokens for row in found), 1),
            "seconds": round(fmean(row.seconds for row in found), 2),
        }
        for name, found in rows.items()
    }


def row_of(rows: Mapping[str, Sequence[ItemRow]], about: Row, control: str, **more: Any) -> Row:
    found = len(next(iter(rows.values())))
    return {
        "model": about, "items": {"items": found, "texts": 2}, "numbers": told(rows),
        "control": control, "window_of_prompts": WINDOW, "length": LENGTH, **more,
    }  # fmt: skip


def found_share(rows: Sequence[ItemRow]) -> dict[str, float]:
    return share(sum(scores(rows)), len(rows))


def xl3m_row() -> Row:
    rows, about = answered("prompts/xl3m", Found, {
        CUT: Truncation(WINDOW), "XL3M": XL3M(WINDOW, segment=96),
        "at random": AtRandom(WINDOW, segment=96),
    })  # fmt: skip
    made = rows["XL3M"]
    return row_of(
        rows, about, "the prompt cut in its middle to the same window; segments kept by lot",
        premise=at_most("the cut prompt finds", found_share(rows[CUT]), 0.7),
        findings=[
            at_least("found at 3 windows", found_share(made), 0.6),
            at_least("more than the cut prompt, paired", gap(made, rows[CUT]), 0.1, CUT),
            at_least("more than by lot, paired", gap(made, rows["at random"]), 0.1, "at random"),
        ],
    )  # fmt: skip


def superposition_row() -> Row:
    keep, part = 2, 96
    rows, about = answered("prompts/superposition", Found, {
        CUT: Truncation(WINDOW), OWN_PLAIN: None,
        "superposition": SuperpositionPrompting(WINDOW, part=part, keep=keep),
    })  # fmt: skip
    made = rows["superposition"]
    # Pairs that attention sees: of one prompt, and of paths that see the preamble and themselves.
    paths = LENGTH / part
    before, query = 32, 32
    path = part + query
    ours = paths * (before * path + path * path / 2) + 8 * (before + keep * path)
    return row_of(
        rows, about, "the prompt cut in its middle to the same window; the whole prompt at once",
        premise=at_most("the cut prompt finds", found_share(rows[CUT]), 0.7),
        findings=[
            at_least("found among 12 documents", found_share(made), 0.6),
            at_least("more than the cut prompt, paired", gap(made, rows[CUT]), 0.1, CUT),
            exact(at_most("pairs of attention, of those of one prompt",
                          ours / (LENGTH * LENGTH / 2), 0.3, OWN_PLAIN)),
            at_least("beside the whole prompt, paired", gap(made, rows[OWN_PLAIN]), -0.2),
        ],
    )  # fmt: skip


def chain_of_agents_row() -> Row:
    rows, about = answered("prompts/chain_of_agents", TwoHops, {
        CUT: Truncation(WINDOW), "chain": ChainOfAgents(WINDOW, notes=48),
    })  # fmt: skip
    made = rows["chain"]
    return row_of(
        rows, about, "the prompt cut in its middle to the same window",
        premise=at_most("the cut prompt finds", found_share(rows[CUT]), 0.5),
        findings=[
            at_least("more than the cut prompt, paired", gap(made, rows[CUT]), 0.05, CUT),
            at_least("found", found_share(made), 0.2),
        ],
    )  # fmt: skip


def random_access_row() -> Row:
    rows, about = answered("prompts/random_access", InNoise, {
        "in order": RandomAccessReading(patience=0),
        "by confidence": RandomAccessReading(stretch=32, patience=0.15, step=16),
        "evenly": Evenly(stretch=32, skipped=32),
        CUT: Truncation(WINDOW),
    })  # fmt: skip
    made = rows["by confidence"]
    told = {name: [row.read or 0 for row in some] for name, some in rows.items()}
    ours = told["by confidence"]
    read = [n / whole for n, whole in zip(ours, told["in order"], strict=True)]
    evenly = [n / other for n, other in zip(told["evenly"], ours, strict=True)]
    draws = torch.Generator().manual_seed(0)
    return row_of(
        rows, about, "as many tokens read at even distances; the prompt cut in its middle",
        premise=at_most("evenly finds", found_share(rows["evenly"]), 0.7),
        findings=[
            at_most("tokens read, of all", bootstrap_mean(torch.tensor(read), draws), 0.7),
            at_least("beside reading in order, paired", gap(made, rows["in order"]), -0.15),
            at_least("more than evenly, paired", gap(made, rows["evenly"]), 0.1, "evenly"),
            at_least("tokens read evenly, of those",
                     bootstrap_mean(torch.tensor(evenly), draws), 0.9),
        ],
    )  # fmt: skip


ROWS: dict[str, Callable[[], Row]] = {
    "prompts/xl3m": xl3m_row,
    "prompts/superposition": superposition_row,
    "prompts/chain_of_agents": chain_of_agents_row,
    "prompts/random_access": random_access_row,
}


if __name__ == "__main__":
    main(ROWS)
