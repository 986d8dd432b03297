"""Rows of the claims on generated tasks: what each tells apart, and LV-Eval's distractors.

    python experiments/reader_rows.py tasks/needle_threading     one row
    python experiments/reader_rows.py tasks/lveval               on SmolLM2: half an hour

Where the claim is of the instrument its readers are simulated, each with a known fault, and the
measurement must find that fault and no other; a reader that takes the best shortcut is the control.
LV-Eval is measured on SmolLM2, which `experiments/real_models.py` gets; results are kept under
runs/tasks, so that a run that was interrupted goes on.
"""

import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main, mean
from rich.console import Console

import lengthwise as lw
from lengthwise.lab.evidence import NO_MODEL, at_least, at_most, exact, share
from lengthwise.measure import LocalReader, Suite, measure, suite
from lengthwise.measure.engines.base import Reply
from lengthwise.measure.report.curves import against_base, contours
from lengthwise.measure.report.table import Table
from lengthwise.measure.tasks import Item, Task
from lengthwise.measure.tasks.axes import AXES
from lengthwise.measure.tasks.base import by_shortcuts
from lengthwise.measure.tasks.text import held_out_text

Answer = Callable[[Any, Item], str]
PLAIN = "plain"
SIMULATED = {"model": NO_MODEL, "control": "a reader that takes the best shortcut"}


class Simulated:
    """A reader that answers by a rule, with the bundled model's tokenizer."""

    task: Any  # whose items are asked now

    def __init__(self, asked: Suite, answer: Answer) -> None:
        self.tokenizer, self._suite, self._answer = lw.load("demo")[1], asked, answer

    def describe(self) -> Mapping[str, Any]:
        return {"name": "simulated", "window": None}

    def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
        for item in items:
            text = self._answer(self.task, item)
            yield Reply(text, len(text.split()), None, 0.0)


def read(spec: str, lengths: Sequence[int], items: int, answer: Answer) -> Table:
    """What a simulated reader scores."""
    asked = suite(spec, "a line to hide things in\n" * 99, items=items)
    reader, rows = Simulated(asked, answer), None
    with tempfile.TemporaryDirectory() as folder:
        for name, task in asked.tasks.items():  # one after another, for a rule asks of its task
            reader.task = task
            one = Suite(asked.name, {name: task}, items)
            quiet = Console(quiet=True)
            rows = measure(reader, one, {PLAIN: ()}, lengths, folder=Path(folder), console=quiet)
    assert rows is not None
    return Table(rows)


def right(task: Task, item: Item) -> str:
    """The answer."""
    return task.oracle(item.record)


def shortcut(task: Any, item: Item) -> str:
    """The reply of a shortcut that scores best on the item."""
    scores = by_shortcuts(task, item)
    return task.shortcuts(item)[max(scores, key=scores.__getitem__)]


def scores_of(table: Table, task: str, length: int) -> list[float]:
    return [row.score for row in table.rows(PLAIN, task, length) if row.score is not None]


def shares(scores: Sequence[float]) -> dict[str, float]:
    """Of scores of 0 and 1."""
    return share(sum(scores), len(scores))


def needle_threading_row() -> Row:
    """A reader that forgets what lies more than 2,000 tokens back."""
    reach, lengths, name = 2000, (1024, 2048, 4096, 8192), "needles:threads=1,clustered=false"

    def forgets(task: Task, item: Item) -> str:
        return right(task, item) if (1 - item.depths[0]) * item.length <= reach else "gone"

    table = read(name, lengths, 40, forgets)
    found = [one for one in contours(table, PLAIN, name)[:-1] if one is not None]
    truth = [reach / (1 - (i + 0.5) / 5) for i in range(5)]
    off = [
        max(a.tokens / b, b / a.tokens) for a, b in zip(found, truth, strict=True) if not a.whole
    ]
    per_token = [table.characters(name, n) / n for n in lengths]
    ratio = [one.characters / one.tokens / (sum(per_token) / len(per_token)) for one in found]
    chains = "thread_forward,branched_thread,threads"
    followed = read(chains, (4096,), 20, right)
    control = read(name, lengths, 40, lambda task, item: task.shortcuts(item)["the first value"])
    least = min(shares(scores_of(followed, t, 4096))["share"] for t in followed.tasks)
    return SIMULATED | {
        "items": {"items": 40, "lengths": len(lengths)},
        "numbers": {"contour, tokens": [round(one.tokens) for one in found],
                    "where it forgets, tokens": [round(one) for one in truth],
                    "contour, characters": [round(one.characters) for one in found]},
        "premise": at_most("values by their place alone, at 8,192 tokens",
                           shares(scores_of(control, name, 8192)), 0.3),
        "findings": [
            exact(at_most("by how many times a contour of depth misses where it forgets; one step "
                          "of the lengths is twice", max(off), 2)),
            exact(at_most("characters of a token, the contour's over those of the prompts",
                          max(ratio), 1.1)),
            exact(at_least("single, several and branched chains, of a right reader", least, 1)),
        ],
    }  # fmt: skip


def longins_row() -> Row:
    """A reader that overlooks the middle fifth of a paper."""
    names, length = ("longins_gist", "longins_list", "longins_limt"), 4096

    def overlooks(task: Task, item: Item) -> str:
        pairs = zip(item.record["wrong"], item.depths, strict=True)
        return ", ".join(number for number, depth in pairs if not 0.4 <= depth < 0.6)

    table = read(",".join(names), (1024, length), 40, overlooks)
    control = read(names[0], (length,), 40, shortcut)
    inside, outside = [], []
    for name in names:
        for row in table.rows(PLAIN, name, length):
            for depth, one in zip(row.depths, row.found, strict=True):
                (inside if 0.4 <= depth < 0.6 else outside).append(one)
    whole = [score for name in names for score in scores_of(table, name, length)]
    return SIMULATED | {
        "items": {"papers": 40 * len(names), "questions": len(inside) + len(outside)},
        "numbers": {"found in the middle": shares(inside), "found elsewhere": shares(outside),
                    "F1 by length": {str(n): {t: round(sum(s) / len(s), 3) for t in names
                                              for s in [scores_of(table, t, n)]}
                                     for n in (1024, length)}},
        "premise": at_most("F1 of the best set of numbers without reading",
                           mean(scores_of(control, names[0], length)), 0.35),
        "findings": [
            at_most("wrong answers found in the middle fifth", shares(inside), 0.05),
            at_least("wrong answers found elsewhere", shares(outside), 0.95),
            at_least("F1 of the whole papers, which hides it", mean(whole), 0.7),
        ],
    }  # fmt: skip


def hellobench_row() -> Row:
    """Readers with one fault each, whom the parts of the score must tell apart."""
    words = (60, 240)
    spec = f"hellobench:subtask=completion/qa/chat,words={words[0]}/{words[1]},things=4"

    def halved(task: Any, item: Item) -> str:
        return " ".join(right(task, item).split()[: task.words // 2])

    def forgetful(task: Any, item: Item) -> str:
        text = right(task, item)
        for thing in item.record["things"][:2]:
            text = text.replace(thing, "something")
        return text

    def repeating(task: Any, item: Item) -> str:
        half = right(task, item).split()[: task.words // 2]
        return " ".join([*half, *half])

    found, numbers = {}, {}
    for fault, answer, part in (
        ("half as long", halved, "length"),
        ("two of four things", forgetful, "checklist"),
        ("everything twice", repeating, "no repetition"),
    ):
        table = read(spec, (900,), 20, answer)
        rows = [row for task in table.tasks for row in table.rows(PLAIN, task, 900)]
        found[fault] = mean([row.parts[part] for row in rows])
        others = {p for p in ("length", "checklist", "no repetition") if p != part}
        numbers[fault] = {
            p: round(mean([r.parts[p] for r in rows]).value, 3) for p in {part, *others}
        }
    control = read(spec, (900,), 20, shortcut)
    salad = mean([score for task in control.tasks for score in scores_of(control, task, 900)])
    return SIMULATED | {
        "items": {"items": 20 * 6, "subtasks": 3, "requested lengths": 2},
        "numbers": {"parts": numbers, "the best of salad, copies and lists": salad.value},
        "premise": at_most("words in random order, copies and lists score", salad, 0.1),
        "findings": [
            at_most(f"{fault}: that part", one, 0.75) for fault, one in found.items()
        ] + [
            exact(at_least(f"{fault}: the smallest other part",
                           min(v for p, v in numbers[fault].items() if p != part), 0.9))
            for fault, part in (("half as long", "length"), ("two of four things", "checklist"),
                                ("everything twice", "no repetition"))
        ],
    }  # fmt: skip


def lcfo_row() -> Row:
    """Readers that lose a fact, or write twice as much, at every share and expanding back."""
    specs = {"lcfo:share=0.2/0.1/0.05,facts=2": 2048, "lcfo:share=0.2,facts=2,expand=200": 2048}

    def loses(task: Any, item: Item) -> str:
        return right(task, item).replace(item.record["values"][0], "some")

    def wordy(task: Any, item: Item) -> str:
        more = " ".join(str(n) for n in range(1000, 1000 + item.record["words"]))
        return f"{right(task, item)} {more}"

    kept, length, whole = {}, {}, []
    for spec, tokens in specs.items():
        lost, long = read(spec, (tokens,), 20, loses), read(spec, (tokens,), 20, wordy)
        control = read(spec, (tokens,), 20, shortcut)
        for task in lost.tasks:
            kept[task] = [r.parts["facts kept"] for r in lost.rows(PLAIN, task, tokens)]
            length[task] = [r.parts["length"] for r in long.rows(PLAIN, task, tokens)]
            whole += scores_of(control, task, tokens)
    return SIMULATED | {
        "items": {"items": 20 * len(kept), "targets": len(kept)},
        "numbers": {task: {"facts kept by who loses one of two": sum(kept[task]) / 20,
                           "length of who writes twice as much": round(sum(length[task]) / 20, 3)}
                    for task in kept},
        "premise": at_most("the beginning or the end of the text as the summary", mean(whole), 0.4),
        "findings": [
            exact(at_most("facts kept by who loses one of two, at most",
                          max(max(scores) for scores in kept.values()), 0.5)),
            exact(at_least("facts kept by who loses one of two, at least",
                           min(min(scores) for scores in kept.values()), 0.5)),
            exact(at_most("length of who writes twice as much, farthest from 2/3",
                          max(abs(x - 2 / 3) for one in length.values() for x in one), 0.05)),
        ],
    }  # fmt: skip


def diffusion_scope_row() -> Row:
    """A reader that can hold four gifts, and one that sees a fifth of the text."""
    length = 3000

    def holds_four(task: Any, item: Item) -> str:
        facts = [fact for fact in item.record["facts"] if "coins" in fact][:4]
        return str(sum(int(re.findall(r"(\d+) coins", fact)[0]) for fact in facts))

    def near(task: Any, item: Item) -> str:
        first = item.depths[0]
        seen = [
            f
            for f, d in zip(item.record["facts"], item.depths, strict=True)
            if abs(d - first) < 0.1
        ]
        return str(sum(int(coins) for f in seen for coins in re.findall(r"(\d+) coins", f)))

    scope = read("diffusion_scattered:scope=1/4/8", (length,), 40, holds_four)
    axis = read("diffusion_together,diffusion_scattered,diffusion_linked", (length,), 40, near)
    control = read("diffusion_linked", (length,), 40,
                   lambda task, item: task.shortcuts(item)["who gave most often"])  # fmt: skip
    by_scope = {
        n: shares(scores_of(scope, f"diffusion_scattered:scope={n}", length)) for n in (1, 4, 8)
    }
    by_hiding = {name: shares(scores_of(axis, name, length)) for name in axis.tasks}
    return SIMULATED | {
        "items": {"items": 40},
        "numbers": {"four gifts, by scope": by_scope, "a fifth, by diffusion": by_hiding},
        "premise": at_most("sums of who gave most often, without the name",
                           shares(scores_of(control, "diffusion_linked", length)), 0.5),
        "findings": [
            exact(at_least("benchmarks that are tagged by both", len(AXES), 34)),
            at_least("who holds four gifts, scope 4", by_scope[4], 0.9),
            at_most("who holds four gifts, scope 8, at the same length", by_scope[8], 0.2),
            at_least("who sees a fifth, together", by_hiding["diffusion_together"], 0.75),
            at_most("who sees a fifth, scattered, at the same length and scope",
                    by_hiding["diffusion_scattered"], 0.35),
        ],
    }  # fmt: skip


def nolima_row() -> Row:
    """A reader that knows the world and forgets, beside one that only matches words."""
    lengths = (512, 1024, 2048, 4096)
    know = {512: 0.9, 1024: 0.9, 2048: 0.85, 4096: 0.4}  # how often it still knows

    def forgets(task: Task, item: Item) -> str:
        luck = random.Random(item.record["needle"]).random()  # of the item, at every length
        return right(task, item) if luck < know[item.length] else "nobody"

    def matches(task: Any, item: Item) -> str:
        asked = {*re.findall(r"\w{4,}", item.record["question"].lower())}
        said = re.split(r"(?<=[.])\s", item.prompt.rpartition("\nQuestion:")[0])
        shared = [len(asked & {*re.findall(r"\w{4,}", one.lower())}) for one in said]
        names = re.findall(r"\b[A-Z]\w+", said[shared.index(max(shared))])
        return names[-1] if names else "nobody"

    table = read("nolima", lengths, 120, forgets)
    control = read("nolima", (512,), 120, matches)
    base = against_base(table, PLAIN, "nolima")
    assert base is not None
    at_most_length = exact(at_most("the effective length, tokens", base.length, 2048))
    return SIMULATED | {
        "items": {"needles": 120},
        "numbers": {"score": {str(n): shares(scores_of(table, "nolima", n)) for n in lengths},
                    "base": base.base, "effective": base.length, "shown": base.shown},
        "control": "a reader that takes the sentence with most words of the question",
        "premise": at_most("who only matches words, at 512 tokens",
                           shares(scores_of(control, "nolima", 512)), 0.2),
        "findings": [
            at_most_length,
            exact(at_least("the effective length, tokens", base.length, 2048)),
            at_most("at 4,096 tokens, over the base score",
                    shares(scores_of(table, "nolima", 4096)), 0.85 * base.base),
        ],
    }  # fmt: skip


def lveval_row() -> Row:
    """SmolLM2 on the same items without and among 16 confusing facts."""
    from real_models import get

    names = [f"lveval:confusing={n},budget=24" for n in (0, 16)]
    model, tokenizer = lw.load(get("smollm2"), dtype=torch.float32)
    reader, text = LocalReader(model.eval(), tokenizer, name="smollm2"), held_out_text()
    asked = suite("lveval:confusing=0/16,budget=24", text, items=20)
    table = Table(
        measure(reader, asked, {PLAIN: ()}, [512], folder=Path("runs/tasks/lveval"), text=text)
    )
    without, among = (scores_of(table, name, 512) for name in names)
    rows = [row for name in names for row in table.rows(PLAIN, name, 512)]
    known = max(row.shortcuts["what everybody knows"] for row in rows)
    told = reader.describe()
    return {
        "model": {key: told[key] for key in ("name", "fingerprint", "window", "dtype", "chat")},
        "items": {"items": len(without)},
        "numbers": {"score without": mean(without).value, "score among 16": mean(among).value,
                    "without": [round(x, 3) for x in without],
                    "among": [round(x, 3) for x in among]},
        "control": "the same questions and texts without confusing facts",
        "premise": exact(at_most("who answers from memory: keywords are replaced", known, 0)),
        "findings": [
            at_least("what 16 confusing facts cost, paired over the items",
                     mean([a - b for a, b in zip(without, among, strict=True)]), 0.02),
        ],
    }  # fmt: skip


ROWS: dict[str, Callable[[], Row]] = {
    "tasks/needle_threading": needle_threading_row,
    "tasks/longins": longins_row,
    "tasks/hellobench": hellobench_row,
    "tasks/lcfo": lcfo_row,
    "tasks/diffusion_scope": diffusion_scope_row,
    "tasks/nolima": nolima_row,
    "tasks/lveval": lveval_row,
}


if __name__ == "__main__":
    main(ROWS)
