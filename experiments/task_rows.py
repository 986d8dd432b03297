"""Rows of generated tasks whose claim is of the generator: lengths, golds, chance, shortcuts.

    python experiments/task_rows.py tasks/m4le

Items are made at three lengths by the bundled model's tokenizer. A solver reads the prompt alone,
without the record that the generator keeps; beside it stand a guess that reads nothing, and the
best of the shortcuts that the task itself knows. No model answers.
"""

import random
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from exact_rows import Row, main, mean

import lengthwise as lw
from lengthwise.lab.evidence import NO_MODEL, Finding, at_least, at_most, exact, share
from lengthwise.measure.statistics.effective import score_interval
from lengthwise.measure.tasks import M4LE, BestAnswer, TSort
from lengthwise.measure.tasks.m4le import _SAID, ABILITIES

LENGTHS = (1024, 2048, 4096)
ITEMS, GUESSES = 20, 10  # of each length, and of each item
Solver = Callable[[str], str]


def in_order(prompt: str) -> str:
    """TSort: every part of the journey begins where another one ended."""
    parts = re.split(r"\sSegment \d+: ", prompt.split("\nGive the")[0])[1:]
    steps = []
    for part in parts:
        places = re.findall(
            r"(?:From (\w+) they went on to (\w+),|They left (\w+) for (\w+),|"
            r"Between (\w+) and (\w+) they)", part,
        )  # fmt: skip
        pairs = [[place for place in found if place] for found in places]
        steps.append((pairs[0][0], pairs[-1][1]))
    first = next(a for a, _ in steps if a not in {b for _, b in steps})
    at, order = first, list[int]()
    while len(order) < len(steps):
        number = next(i for i, (a, _) in enumerate(steps) if a == at)
        order.append(number + 1)
        at = steps[number][1]
    return f"Answer: {order}"


def best_offer(prompt: str) -> str:
    """BestAnswer: the one that meets the three conditions of the question."""
    found = re.search(r"knows an? (.+?) who likes (.+?) and takes no more than (\d+)", prompt)
    assert found is not None
    trade, hobby, fee = found.groups()
    for name, kind, likes, takes in re.findall(
        r"(A\d+): Try [^,]+, an? (.+?) who likes (.+?) and takes (\d+) coins", prompt
    ):
        if (kind, likes) == (trade, hobby) and int(takes) <= int(fee):
            return str(name)
    return ""


def labelled(prompt: str) -> str:
    """M4LE: label every text by what it says, then do what is asked."""
    texts = re.findall(r"^Text (\d+): (.*)$", prompt, re.MULTILINE)
    label = {
        int(n): name for n, text in texts for name, said in _SAID.items()
        if any(text.endswith(f"{words}.") for words in said)
    }  # fmt: skip
    question = prompt.rsplit("\n", 1)[1]
    if found := re.search(r"text about the (.+?)\?", question):
        return next(label[int(n)] for n, text in texts if f"The {found[1]} was" in text)
    if found := re.search(r"three texts about the (.+?)\?", question):
        return ", ".join(n for n, text in texts if f"The {found[1]} was" in text)
    numbers = [int(n) for n in re.findall(r"\d+", question)]
    if "same label" in question:
        return str(list(label.values()).count(label[numbers[0]]))
    return ", ".join(label[n] for n in numbers)


def generated(tasks: Mapping[str, tuple[Any, Solver]]) -> Row:
    """Items of every task at every length, and who gets how much of them."""
    _, tokenizer = lw.load("demo")
    table: dict[str, dict[str, float]] = {}
    wrong, more, findings = 0, [], list[Finding]()
    for name, (task, solver) in tasks.items():
        solved, guessed, chances, guesses = [], [], [], list[float]()
        cheap: dict[str, list[float]] = {}
        for length in LENGTHS:
            items = task.build(tokenizer, length, ITEMS, seed=0)
            for number, item in enumerate(items):
                tokens = len(tokenizer(item.prompt, verbose=False)["input_ids"]) + item.allowance
                wrong += (tokens != length) + (item.length != length)
                solved.append(task.score(solver(item.prompt), item))
                rng = random.Random(f"{name} {length} {number}")
                tries = [task.score(task.guess(item, rng), item) for _ in range(GUESSES)]
                guesses += tries
                guessed.append(sum(tries) / GUESSES)
                chances.append(task.chance(item))
                for kind, reply in task.shortcuts(item).items():
                    cheap.setdefault(kind, []).append(task.score(reply, item))
            table[f"{name} {length}"] = {
                "solver": sum(solved[-ITEMS:]) / ITEMS, "guess": sum(guessed[-ITEMS:]) / ITEMS,
                "chance": sum(map(task.chance, items)) / ITEMS,
            }  # fmt: skip
        best = max([guessed, *cheap.values()], key=sum)
        more.append(torch.tensor(solved) - torch.tensor(best))
        drawn, told = score_interval(guesses, 1 - 0.05 / len(tasks)), sum(chances) / len(chances)
        findings += [
            at_least(f"{name}: a solver that reads the prompt alone gets",
                     share(sum(solved), len(solved)), 0.9),
            exact(at_least(f"{name}: chance, as reported, is inside the interval of guesses",
                           float(drawn.low <= told <= drawn.high), 1)),
        ]  # fmt: skip
    beyond = mean(torch.cat(more))
    return {
        "model": NO_MODEL,
        "items": {"of each task and length": ITEMS, "lengths": len(LENGTHS), "tasks": len(tasks)},
        "numbers": {"scores by task and length": table},
        "control": "a guess, or the best shortcut that the task knows",
        "premise": at_least("the solver gets more than they do, over all items", beyond, 0.3),
        "findings": [
            exact(at_most("items that are not of the length asked for", wrong, 0)), *findings
        ],
    }  # fmt: skip


ROWS = {
    "tasks/m4le": lambda: generated(
        {one: (M4LE(one), labelled) for one in ABILITIES}  # type: ignore[arg-type]
    ),
    "tasks/adaleval": lambda: generated(
        {"TSort": (TSort(), in_order), "BestAnswer": (BestAnswer(), best_offer)}
    ),
}

if __name__ == "__main__":
    main(ROWS)
