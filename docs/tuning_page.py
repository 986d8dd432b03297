"""One table and one picture of all tuning recipes, from evidence/tuning: docs/tuning.md."""

from pathlib import Path
from typing import Any

import torch

from lengthwise.lab.evidence import Evidence
from lengthwise.measure.report import svg
from lengthwise.train.tuning.coverage import coverage, coverage_picture
from lengthwise.train.tuning.cream import CREAM
from lengthwise.train.tuning.e2llm import E2LLM
from lengthwise.train.tuning.longrecipe import LongRecipe
from lengthwise.train.tuning.pose import PoSE
from lengthwise.train.tuning.segmented import SegmentedTraining
from lengthwise.train.tuning.skipalign import SkipAlign

WINDOW, TARGET, BEYOND = "512", "2048", "4096"
LEFT, RIGHT, TOP, ROW, WIDTH = 150, 40, 50, 24, 860

INTRODUCTION = """\
# What tuning recipes do to the bundled model

The bundled model was trained on windows of 512 tokens. Every recipe of `lengthwise train` tunes it
to a longer window, with as many tokens as its line says. `experiments/tuning_rows.py` makes lines
of two million, each recipe at the best of three learning rates, mean of three seeds; lines of
100,000 are older: to 2,048 tokens, one rate for full tuning and one for adapters, one seed. Loss is
in nats a token on held-out files, always of the same tokens, after so many tokens of context;
passkeys are the share found. Seconds are of training alone, on {threads} thread of a CPU that other
work shared. What each paper claims, and which parts of it held, is on the page of
[evidence](evidence.md#tuning).

![Loss at 2,048 tokens before and after tuning](figures/tuning.svg)

"""


COVERAGE = """\
## Distances that position synthesis trains

A row of 512 tokens stands for a text of 2,048: which relative distances come up, and how often,
drawn from {draws} rows each. A line that breaks off is a distance that never came up; the share
beside each name is that of all distances that did.

![Pairs by relative distance](figures/coverage.svg)

"""
DRAWS, TEXT = 128, 2048


def coverage_figure() -> str:
    """Every synthesis of positions from a window of 512 to 2,048."""
    window, target = int(WINDOW), int(TARGET)
    every_twentieth = tuple(range(0, TEXT, 20))  # where sentences end, in a text of 0, 1, 2 …
    transforms = {
        "segmented": (SegmentedTraining(window, target), TEXT),
        "PoSE": (PoSE(window, target), TEXT),
        "CREAM": (CREAM(window, target), TEXT),
        "E2-LLM": (E2LLM(window, target // window), TEXT),
        "LongRecipe": (LongRecipe(window, target, ends=every_twentieth), TEXT),
        "SkipAlign": (SkipAlign(target), window),
    }
    curves = {}
    for name, (transform, length) in transforms.items():
        generator = torch.Generator().manual_seed(0)
        curves[name] = coverage(transform, target, length=length, draws=DRAWS, generator=generator)
    return coverage_picture(curves, window)


def recipe_of(one: Evidence) -> str:
    """The recipe's name."""
    return one.name.split("/")[1]


def passkeys(found: dict[str, Any], length: str) -> str:
    return f"{found['passkeys_found'][length]['share']:.0%}"


def page(found: list[Evidence]) -> str:
    """The page in Markdown."""
    first = found[0]
    words = INTRODUCTION.format(
        threads=first.details["hardware"]["threads"],
    )
    return words + table(found) + "\n\n" + COVERAGE.format(draws=DRAWS).rstrip() + "\n"


def table(found: list[Evidence]) -> str:
    """Losses and passkeys by length, tokens and seconds."""
    base = found[0].numbers["base"]
    head = ["recipe", "loss at 512", "at 2,048", "untuned", "at 4,096", "passkeys at 512",
            "at 2,048", "tokens", "seconds"]  # fmt: skip
    rows = [
        ["no tuning", *(f"{base['loss'][n]:.2f}" for n in (WINDOW, TARGET)), "",
         f"{base['loss'][BEYOND]:.2f}", *(passkeys(base, n) for n in (WINDOW, TARGET)),
         "", ""]
    ]  # fmt: skip
    for one in found:
        before, after = one.numbers["before"], one.numbers["after"]
        rows.append(
            [recipe_of(one), *(f"{after['loss'][n]:.2f}" for n in (WINDOW, TARGET)),
             f"{before['loss'][TARGET]:.2f}", f"{after['loss'][BEYOND]:.2f}",
             *(passkeys(after, n) for n in (WINDOW, TARGET)),
             f"{one.details['tokens']:,}", f"{one.details['seconds']:,.0f}"]
        )  # fmt: skip
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure(found: list[Evidence]) -> str:
    """A line for every recipe, from the loss at the target before tuning to the one after."""
    base = found[0].numbers["base"]["loss"]
    spans = [(recipe_of(one), one.numbers["before"]["loss"].get(TARGET),
              one.numbers["after"]["loss"].get(TARGET)) for one in found]  # fmt: skip
    values = [x for _, *pair in spans for x in pair if x is not None] + [base[WINDOW], base[TARGET]]
    low, high = min(values) - 0.1, max(values) + 0.1
    x = svg.Scale(low, high, LEFT, WIDTH - RIGHT)
    bottom = TOP + ROW * len(spans)
    parts = []
    for tick in svg.round_steps(low, high, 8):
        parts.append(svg.line(x(tick), TOP, x(tick), bottom, "grid"))
        parts.append(svg.text(x(tick), bottom + 18, f"{tick:.1f}", "axis", "middle"))
    for value, words in ((base[TARGET], "no tuning, 2,048"), (base[WINDOW], "no tuning, 512")):
        parts.append(svg.line(x(value), TOP - 6, x(value), bottom, "edge"))
        parts.append(svg.text(x(value), TOP - 12, words, "note", "middle"))
    for number, (name, before, after) in enumerate(spans):
        y = TOP + ROW * (number + 0.5)
        parts.append(svg.text(LEFT - 12, y + 4, name, "name", "end"))
        parts.append(svg.path([(x(before), y), (x(after), y)], "curve c1"))
        parts.append(svg.mark(x(before), y, 3, "mark c0", f"{name} before: {before:.3f}"))
        parts.append(svg.mark(x(after), y, 0, "mark c1", f"{name} after: {after:.3f}"))
    words = "nats a token at 2,048 tokens; diamonds: new frequencies untuned, circles: tuned"
    parts.append(svg.text((LEFT + WIDTH - RIGHT) / 2, bottom + 40, words, "axis", "middle"))
    drawing = svg.picture(WIDTH, bottom + 54, "Loss at 2,048 tokens by recipe", parts)
    return svg.alone(drawing)


def tuning_pages(docs: Path, found: list[Evidence]) -> dict[Path, str]:
    """The page and its pictures; the lowest loss at the target comes first."""
    tuned = [one for one in found if TARGET in one.numbers.get("after", {}).get("loss", {})]
    tuned.sort(key=lambda one: one.numbers["after"]["loss"][TARGET])
    return {
        docs / "tuning.md": page(tuned),
        docs / "figures" / "tuning.svg": figure(tuned),
        docs / "figures" / "coverage.svg": coverage_figure(),
    }
