"""One table and one picture of all tuning recipes: docs/tuning.md from evidence/tuning/.

python experiments/tuning_report.py            write
python experiments/tuning_report.py --check    exit 1 if they are out of date
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch

from lengthwise.measure.report import svg
from lengthwise.measure.report.style import STYLE
from lengthwise.train.tuning.coverage import coverage, coverage_picture
from lengthwise.train.tuning.cream import CREAM
from lengthwise.train.tuning.e2llm import E2LLM
from lengthwise.train.tuning.longrecipe import LongRecipe
from lengthwise.train.tuning.pose import PoSE
from lengthwise.train.tuning.segmented import SegmentedTraining
from lengthwise.train.tuning.skipalign import SkipAlign

ROOT = Path(__file__).resolve().parent.parent
EVIDENCE = ROOT / "evidence" / "tuning"
PAGE, FIGURES = ROOT / "docs" / "tuning.md", ROOT / "docs" / "figures"
WINDOW, TARGET, BEYOND = "512", "2048", "4096"
LEFT, RIGHT, TOP, ROW, WIDTH = 150, 40, 50, 24, 860

INTRODUCTION = """\
# What tuning recipes do to the bundled model

The bundled model was trained on windows of 512 tokens. Every recipe of `lengthwise train` tunes it
to 2,048 on the same text, with about {tokens:,} tokens each (see `experiments/tuning_evidence.py`;
the learning rate is one for full tuning and one for adapters, not searched for each recipe). Loss
is in nats a token on held-out files, always of the same tokens, after so many tokens of context;
passkeys are the share found of {passkeys}. Seconds are of training alone, on {threads} thread of a
CPU that other work shared.

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


def records() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The recipes' evidence, the lowest loss at the target first, and the rest of it."""
    found = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(EVIDENCE.glob("*.json"))]
    recipes = [one for one in found if "recipe" in one]
    recipes.sort(key=lambda one: one["numbers"]["after"]["loss"].get(TARGET, 99.0))
    return recipes, [one for one in found if "recipe" not in one]


def page(found: list[dict[str, Any]], others: list[dict[str, Any]]) -> str:
    """The page in Markdown."""
    first = found[0]
    words = INTRODUCTION.format(
        tokens=round(max(one["tokens"] for one in found), -3),
        passkeys=first["settings"]["passkeys"],
        threads=first["hardware"]["threads"],
    )
    pictures = COVERAGE.format(draws=DRAWS)
    return words + table(found) + "\n\n" + pictures + verdicts([*found, *others]) + "\n"


def table(found: list[dict[str, Any]]) -> str:
    """Losses and passkeys by length, tokens and seconds."""
    base = found[0]["numbers"]["base"]
    head = ["recipe", "loss at 512", "at 2,048", "untuned", "at 4,096", "passkeys at 512",
            "at 2,048", "tokens", "seconds"]  # fmt: skip
    rows = [
        ["no tuning", *(f"{base['loss'][n]:.2f}" for n in (WINDOW, TARGET)), "",
         f"{base['loss'][BEYOND]:.2f}", *(f"{base['passkey'][n]:.0%}" for n in (WINDOW, TARGET)),
         "", ""]
    ]  # fmt: skip
    for one in found:
        before, after = one["numbers"]["before"], one["numbers"]["after"]
        rows.append(
            [one["recipe"], *(f"{after['loss'][n]:.2f}" for n in (WINDOW, TARGET)),
             f"{before['loss'][TARGET]:.2f}", f"{after['loss'][BEYOND]:.2f}",
             *(f"{after['passkey'][n]:.0%}" for n in (WINDOW, TARGET)),
             f"{one['tokens']:,}", f"{one['seconds']:,.0f}"]
        )  # fmt: skip
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def verdicts(found: list[dict[str, Any]]) -> str:
    """What each paper claims, and which parts of it held here."""
    parts = ["## Claims and verdicts\n"]

    def name(one: dict[str, Any]) -> str:
        return str(one.get("recipe") or one["method"])

    for one in sorted(found, key=name):
        note = f" Note: {one['note']}." if one["note"] else ""
        parts.append(f"**{name(one)}** ({one['paper']}): {one['verdict']}. {one['claim']}{note}")
        for finding in one["findings"]:
            mark = "held" if finding["holds"] else "did not hold"
            value = "not measured" if finding["value"] is None else f"{finding['value']:g}"
            parts.append(f"- {finding['says']}: {value} against {finding['bound']:g}, {mark}")
        parts.append("")
    return "\n".join(parts).rstrip()


def figure(found: list[dict[str, Any]]) -> str:
    """A line for every recipe, from the loss at the target before tuning to the one after."""
    base = found[0]["numbers"]["base"]["loss"]
    spans = [(one["recipe"], one["numbers"]["before"]["loss"].get(TARGET),
              one["numbers"]["after"]["loss"].get(TARGET)) for one in found]  # fmt: skip
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
    parts.append(f"<style>{STYLE}</style>")
    drawing = svg.picture(WIDTH, bottom + 54, "Loss at 2,048 tokens by recipe", parts)
    return drawing.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def main() -> None:
    """Write the page and the picture, or say that they are old."""
    found, others = records()
    if not found:
        sys.exit("no evidence in evidence/tuning; run experiments/tuning_evidence.py")
    here = [one for one in found if TARGET in one["numbers"]["after"]["loss"]]
    made = {
        PAGE: page(here, others),
        FIGURES / "tuning.svg": figure(here),
        FIGURES / "coverage.svg": coverage_figure(),
    }
    old = [path for path, text in made.items()
           if not path.exists() or path.read_text(encoding="utf-8") != text]  # fmt: skip
    if old and "--check" in sys.argv:
        sys.exit(f"out of date: {', '.join(path.name for path in old)}; run {Path(__file__).name}")
    for path in old:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(made[path], encoding="utf-8")


if __name__ == "__main__":
    main()
