"""Rows of published sets, on stand-ins written here in their formats.

    python experiments/set_rows.py tasks/longbench

No row of a published set is shipped or fetched: texts are generated, a few sentences in them say
what is asked. Readers are simulated and read the prompt alone, after whatever was cut from it; the
bundled model reads CNNSum's, which needs `lengthwise[chinese]`.
"""

import json
import random
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from exact_rows import Row, main
from reader_rows import PLAIN, Simulated, mean, scores_of, shares
from rich.console import Console

import lengthwise as lw
from lengthwise.catalogue import parse_many
from lengthwise.lab.evidence import NO_MODEL, at_least, at_most, exact
from lengthwise.measure import LocalReader, Passkey, Suite, measure
from lengthwise.measure.published import CNNSum, suite_of
from lengthwise.measure.published.fables import errors_by, errors_by_position, read_claims
from lengthwise.measure.report.table import Table
from lengthwise.measure.run.own_copy import find_sets
from lengthwise.measure.run.rows import ItemRow
from lengthwise.measure.tasks import Item
from lengthwise.measure.tasks.draws import different, haystack, invented
from lengthwise.measure.tasks.passkey import QUESTION
from lengthwise.measure.tasks.text import held_out_text
from lengthwise.measure.tasks.words import ADJECTIVES, NOUNS

RUNS = Path("runs/tasks/cnnsum")  # kept, so that a run that was interrupted goes on
Told = Callable[[Item], str]
CHINESE = (
    "山上",
    "有庙",
    "和尚",
    "下雪",
    "老人",
    "渡口",
    "读书",
    "进城",
    "卖米",
    "回家",
    "大雨",
    "月亮",
)
SIMULATED = {"model": NO_MODEL, "control": "a reader that gives the answer to another question"}


def written(folder: Path, files: Mapping[str, Sequence[Any]]) -> Path:
    """The folder with JSON lines in it."""
    for name, rows in files.items():
        words = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{name}.jsonl").write_text(words + "\n", encoding="utf-8")
    return folder


def of_sets(folder: Path, name: str, length: int, answer: Told, **changed: Any) -> Table:
    """What a reader scores on all rows of a suite of sets, or of those that are changed."""
    asked = suite_of(name, find_sets([name], folder), folder)
    tasks = {key: replace(task, **changed) for key, task in asked.tasks.items()}  # type: ignore[type-var]
    with tempfile.TemporaryDirectory() as out:
        reader = Simulated(asked, lambda task, item: answer(item))
        reader.task = None
        return Table(
            measure(reader, Suite(asked.name, tasks, 0), {PLAIN: ()}, [length], folder=Path(out),
                    console=Console(quiet=True))
        )  # fmt: skip


def prose(rng: random.Random, words: int) -> list[str]:
    """Sentences of so many words in all, or a few more."""
    units, count = haystack(None, rng), words // 12
    while sum(len(one.split()) for one in units.first(count)) < words:
        count += 20
    return units.first(count)


def everyone(rng: random.Random) -> Iterator[str]:
    """Names that come once."""
    yield from different(lambda: invented(rng, 4).capitalize(), 400)


def seen(item: Item) -> str:
    """What the prompt says about whom its question names; nothing where the text was cut."""
    asked = re.findall(r"said about (\w+)\?", item.prompt)[-1]
    found = re.search(rf"About {asked}: (.+?) ;", item.prompt)
    return found[1] if found else ""


def wordy(item: Item) -> str:
    """The answer and as many words besides."""
    more = [f"besides{n}" for n in range(len(item.answer.split()))]
    return " ".join([item.answer, *more])


def shifted(answer: Told) -> Told:
    """The reply to the question before."""
    before = [""]

    def late(item: Item) -> str:
        before.append(answer(item))
        return before.pop(0)

    return late


def longbench_row() -> Row:
    """Texts whole or cut, what is asked in their middle or near their start."""
    length, words, places = 4096, (1500, 5000, 8500), ("middle", "start")
    names = ("hotpotqa", "samsum", "trec", "lcc")
    rng = random.Random("longbench")
    persons, towns = everyone(rng), [f"class{n}" for n in range(1, 7)]
    place_of: dict[str, str] = {}

    def said(name: str) -> str:
        pair = f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"
        if name == "trec":
            return rng.choice(towns)
        if name == "lcc":
            return f"print({pair.replace(' ', '_')}, end='')"
        return pair if name == "hotpotqa" else f"{pair} and {rng.choice(ADJECTIVES)} cargo"

    def row(name: str, number: int) -> dict[str, Any]:
        text, person, answer = prose(rng, words[number % 3]), next(persons), said(name)
        place = places[number // 3 % 2]
        text.insert(len(text) // 2 if place == "middle" else 2, f"About {person}: {answer} ;")
        place_of[person] = place
        context = " ".join(text)
        return {"input": f"What is said about {person}?", "context": context, "answers": [answer],
                "length": len(context.split()), "dataset": name, "language": "en",
                "all_classes": towns if name == "trec" else None, "_id": str(number)}  # fmt: skip

    form = "Set {}. Read:\n{{context}}\nNow, set {}: {{input}}\n"
    forms = {name: form.format(name, name) for name in names}
    worded: list[bool] = []

    def reader(item: Item) -> str:
        name = item.record["dataset"]
        head, tail = forms[name].split("{context}")
        ends = item.prompt.startswith(head) and tail.split("{input}")[0] in item.prompt
        worded.append(ends and item.length <= length)
        return seen(item)

    def talks(item: Item) -> str:
        if item.record["dataset"] == "trec":
            return " or ".join([item.answer, next(t for t in towns if t != item.answer)])
        half = item.answer[: len(item.answer) // 2]
        return half if item.record["dataset"] == "lcc" else wordy(item)

    with tempfile.TemporaryDirectory() as out:
        folder = written(Path(out), {n: [row(n, k) for k in range(24)] for n in names})
        (folder / "dataset2prompt.json").write_text(json.dumps(forms), encoding="utf-8")
        table, parts = (of_sets(folder, "longbench", length, one) for one in (reader, talks))
        control = of_sets(folder, "longbench", length, shifted(lambda item: item.answer))

    def cells(place: str, *bins: str) -> list[float]:
        return [
            r.score for name in names for r in table.rows(PLAIN, f"longbench_{name}", length)
            if r.groups["words in the text"] in bins and r.score is not None
            and place_of[re.findall(r"said about (\w+)\?", r.prompt)[-1]] == place
        ]  # fmt: skip

    wanted = {"hotpotqa": 2 / 3, "samsum": 2 / 3, "trec": 1 / 2, "lcc": 2 / 3}
    off = {n: max(abs(s - w) for s in scores_of(parts, f"longbench_{n}", length))
           for n, w in wanted.items()}  # fmt: skip
    known = [s for name in control.tasks for s in scores_of(control, name, length)]
    bins = {b: {p: shares(cells(p, b)) for p in places} for b in ("0-4k", "4-8k", "8k+")}
    return SIMULATED | {
        "items": {"rows": 24 * len(names), "sets": len(names)},
        "numbers": {"score by words in the text and place of what is asked": bins,
                    "a reader that says twice as much: farthest from its score": off},
        "premise": at_most("it scores", mean(known), 0.5),
        "findings": [
            exact(at_least("prompts in the set's own wording, within the cut", sum(worded) /
                           len(worded), 1)),
            at_least("texts of 0-4k words, whole: answered", shares(
                [s for p in places for s in cells(p, "0-4k")]), 0.85),
            at_least("texts of 4k words and more, asked of their start: answered",
                     shares(cells("start", "4-8k", "8k+")), 0.85),
            at_most("texts of 4k words and more, asked of their middle: answered",
                    shares(cells("middle", "4-8k", "8k+")), 0.15),
            *(exact(at_most(f"{kind}: farthest from what its formula gives", off[n], 0.05))
              for n, kind in (("hotpotqa", "F1"), ("samsum", "ROUGE"), ("trec", "classes"),
                              ("lcc", "edits"))),
        ],
    }  # fmt: skip


LEVAL = {
    "quality": "option", "coursera": "options", "gsm100": "math", "codeU": "code",
    "topic_retrieval_longchat": "exact", "sci_fi": "truth", "natural_question": "f1",
    "news_summ": "rouge",
}  # fmt: skip


def leval_row() -> Row:
    """Eight sets, of every kind of question, asked by readers with one fault each."""
    length, rng = 2048, random.Random("leval")
    persons = everyone(rng)

    def answer(kind: str) -> str:
        letter, number = rng.choice("ABCD"), rng.randint(2, 999)
        some = [rng.choice(NOUNS) for _ in range(12)]
        return {
            "option": f"({letter})", "options": "".join(sorted(rng.sample("ABCD", 2))),
            "math": f"The answer is {number}.", "code": f"[{number}, {number + 1}]",
            "exact": f"the {some[0]} of {some[1]}", "truth": rng.choice(["True", "False"]),
            "f1": " ".join(some[:6]), "rouge": " ".join(some),
        }[kind]  # fmt: skip

    def row(name: str) -> dict[str, Any]:
        text, about = prose(rng, 300), [next(persons) for _ in range(2)]
        outputs = [answer(LEVAL[name]) for _ in about]
        for person, one in zip(about, outputs, strict=True):
            text.insert(rng.randrange(len(text)), f"About {person}: {one} ;")
        scored = LEVAL[name] if LEVAL[name] in ("f1", "rouge") else "exam"
        return {"input": " ".join(text), "outputs": outputs, "source": name, "evaluation": scored,
                "instructions": [f"What is said about {person}?" for person in about]}  # fmt: skip

    def partly(item: Item) -> str:
        found = seen(item)
        return found[:1] if item.record["kind"] == "options" else found

    def obeys(item: Item) -> str:
        asked = re.search(r"Use about (\d+) words", item.prompt)
        found = seen(item).split()
        count = int(asked[1]) if asked else 60
        return " ".join([*found, *(f"besides{n}" for n in range(60))][:count])

    with tempfile.TemporaryDirectory() as out:
        folder = written(Path(out), {name: [row(name) for _ in range(12)] for name in LEVAL})
        table, part, long = (of_sets(folder, "leval", length, one) for one in (seen, partly, wordy))
        told = of_sets(folder, "leval", length, obeys)
        untold = of_sets(folder, "leval", length, obeys, length_instruction=False)
        control = of_sets(folder, "leval", length, shifted(seen))
    by_kind = {kind: scores_of(table, f"leval_{name}", length) for name, kind in LEVAL.items()}
    opened = [f"leval_{name}" for name, kind in LEVAL.items() if kind in ("f1", "rouge")]
    gap = [
        a - b
        for n in opened
        for a, b in zip(scores_of(told, n, length), scores_of(untold, n, length), strict=True)
    ]
    twice = {
        kind: sum(s) / len(s)
        for name, kind in LEVAL.items()
        if kind in ("f1", "rouge")
        for s in [scores_of(long, f"leval_{name}", length)]
    }
    quarter = scores_of(part, "leval_coursera", length)
    known = [s for name in control.tasks for s in scores_of(control, name, length)]
    return SIMULATED | {
        "items": {"questions": 24 * len(LEVAL), "tasks": len(LEVAL)},
        "numbers": {"who reads, by kind": {k: shares(s) for k, s in by_kind.items()},
                    "who says twice as much": twice,
                    "who gives one of two right options": sum(quarter) / len(quarter)},
        "premise": at_most("it scores", mean(known), 0.4),
        "findings": [
            *(at_least(f"{kind}: who reads the prompt alone scores", shares(s), 0.85)
              for kind, s in by_kind.items()),
            exact(at_most("one of two right options, farthest from a quarter",
                          max(abs(s - 0.25) for s in quarter), 0)),
            exact(at_most("F1 of who says twice as much, farthest from 2/3",
                          abs(twice["f1"] - 2 / 3), 0.01)),
            at_least("open questions: what it gains who obeys the instruction on length to be told "
                     "it, paired over the questions", mean(gap), 0.2),
        ],
    }  # fmt: skip


def fables_row() -> Row:
    """Claims whose errors lie where we put them, and readers that overlook what we say."""
    length, rng, kinds = 16_384, random.Random("fables"), ("event", "cause")
    persons, books = everyone(rng), ("The Ferry", "The Orchard")
    rate = {"event": (4, 4, 4, 4, 6), "cause": (6, 6, 6, 6, 8)}  # unfaithful of ten, by fifth

    def thing() -> str:
        return f"{rng.choice(ADJECTIVES)} {rng.choice(NOUNS)}"

    data: dict[str, Any] = {}
    texts: dict[str, str] = {}
    for book in books:
        text, claims = list[str](), dict[str, Any]()
        for fifth in range(5):
            block = prose(rng, 350)
            for number in range(20):
                kind, person, own = kinds[number % 2], next(persons), thing()
                fact = f"{person} kept a {own}."
                wrong = number // 2 < rate[kind][fifth]
                other = next(t for t in iter(thing, "") if t != own)
                told = f"{person} kept a {other}." if wrong else fact
                # In the middle half of the fifth, so that no border is crossed.
                block.insert(round(len(block) * rng.uniform(0.25, 0.75)), fact)
                words = f"It was a cause that {told}" if kind == "cause" else told
                claims[str(len(claims))] = {
                    "claim": words, "label": "No" if wrong else "Yes", "evidence": [fact],
                    "reason": [""], "type": kind,
                }  # fmt: skip
            text += block
        texts[book] = " ".join(text)
        data[book] = {"writer": {"summary": "", "general_comment": "", "claims": claims}}

    def judges(blind: Callable[[Item, str], bool], item: Item) -> str:
        claim = re.findall(r"\n\nClaim: (.+)\n", item.prompt)[-1]
        told = claim.removeprefix("It was a cause that ")
        return "Yes" if blind(item, claim) or told in item.prompt.split("\n\nClaim:")[0] else "No"

    with tempfile.TemporaryDirectory() as out:
        folder = Path(out)
        (folder / "books").mkdir()
        for book, words in texts.items():
            (folder / "books" / f"{book}.txt").write_text(words, encoding="utf-8")
        file = folder / "FABLES.json"
        file.write_text(json.dumps({"FABLES": data}), encoding="utf-8")
        people = read_claims(file)
        sees, middle, causes, control = (
            of_sets(folder, "fables", length, partial(judges, blind))
            for blind in (
                lambda item, claim: False,
                lambda item, claim: 0.4 <= item.depths[0] < 0.6,
                lambda item, claim: claim.startswith("It was a cause"),
                lambda item, claim: True,
            )
        )  # fmt: skip
    by_kind = {k: share for k, (_, share) in errors_by(people, lambda c: c.kind).items()}
    by_place = [
        [share for _, share in errors_by_position([c for c in people if c.book == book], text, 5)]
        for book, text in texts.items()
    ]  # fmt: skip
    put = [sum(rate[k][fifth] for k in kinds) / 20 for fifth in range(5)]
    off = [abs((a or 0) - b) for one in by_place for a, b in zip(one, put, strict=True)]
    off += [abs(by_kind[k] - sum(rate[k]) / 50) for k in kinds]

    def said(table: Table, wanted: Callable[[ItemRow], bool]) -> dict[str, float]:
        """The share that is right of the claims that people called unfaithful."""
        rows = [
            r
            for r in table.rows(PLAIN, "fables", length)
            if r.groups["people said"] == "No" and wanted(r) and r.score is not None
        ]
        return shares([r.score for r in rows])  # type: ignore[misc]

    part, kind = "part of the book", "kind of claim"
    return SIMULATED | {
        "items": {"claims": len(people), "books": len(books)},
        "numbers": {"unfaithful by kind": by_kind, "unfaithful by fifth of each book": by_place,
                    "put there, by fifth": put},
        "control": "a reader that says yes to every claim",
        "premise": at_most("is right", shares(scores_of(control, "fables", length)), 0.6),
        "findings": [
            exact(at_most("rates of people's errors, by kind and by fifth: farthest from those put "
                          "there", max(off), 0.001)),
            at_least("who reads: unfaithful claims found", said(sees, lambda r: True), 0.9),
            at_most("who overlooks the middle fifth: found there",
                    said(middle, lambda r: r.groups[part] == "40-60%"), 0.2),
            at_least("who overlooks the middle fifth: found elsewhere",
                     said(middle, lambda r: r.groups[part] != "40-60%"), 0.9),
            at_most("who believes causes: found among them",
                    said(causes, lambda r: r.groups[kind] == "cause"), 0.2),
            at_least("who believes causes: found among events",
                     said(causes, lambda r: r.groups[kind] == "event"), 0.9),
        ],
    }  # fmt: skip


def cnnsum_row() -> Row:
    """Three tiers under the bundled model's own positions and under scaled ones; Chinese besides.

    A novel is a text of Python's standard library that hides a number, which is its summary, for
    the bundled model can say nothing else of a text.
    """
    tiers, count, rng = {"16k": 448, "32k": 1024, "64k": 2048}, 20, random.Random("cnnsum")
    model, tokenizer = lw.load("demo")
    task = Passkey(held_out_text())
    methods: dict[str, Any] = {PLAIN: (), "scaled": parse_many("dualchunk:chunk=384,window=64")}

    def row(item: Item) -> dict[str, Any]:
        return {"context": item.prompt.removesuffix(QUESTION), "summary": f" {item.answer}"}

    made = {
        tier: [row(item) for item in task.build(tokenizer, tokens, count, 0)]
        for tier, tokens in tiers.items()
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    folder = written(RUNS, {f"cnnsum_L_{tier}": rows for tier, rows in made.items()})
    tasks = {
        f"cnnsum_{tier}": CNNSum(folder / f"cnnsum_L_{tier}.jsonl", "{}" + QUESTION, 8)
        for tier in tiers
    }
    reader = LocalReader(model.eval(), tokenizer, name="demo")
    longest = [max(tiers.values())]
    asked = Suite("cnnsum", tasks, 0)
    table = Table(measure(reader, asked, methods, longest, folder=folder / "results"))
    known = {
        method: {t: [r.score for r in table.rows(method, f"cnnsum_{t}", longest[0])
                     if r.score is not None] for t in tiers}
        for method in methods
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        rows = []
        for number in range(24):
            story = "".join(rng.choice(CHINESE) for _ in range(200))
            told = "".join(rng.choice(CHINESE) for _ in range(6))
            rows.append({"context": f"{story}大意：{told}。{story}", "summary": told, "n": number})
        folder = written(Path(out), {f"cnnsum_L_{tier}": rows for tier in tiers})
        right, control = (
            of_sets(folder, "cnnsum", 8192, one)
            for one in (said_in_chinese, shifted(said_in_chinese))
        )
    chinese, other = (
        [s for name in one.tasks for s in scores_of(one, name, 8192)] for one in (right, control)
    )

    def gap(tier: str) -> Any:
        pairs = zip(known["scaled"][tier], known[PLAIN][tier], strict=True)
        return mean([a - b for a, b in pairs])

    about = reader.describe()
    return {
        "model": {key: about[key] for key in ("name", "fingerprint", "window", "dtype")},
        "items": {"texts of a tier": count, "tiers": len(tiers), "Chinese texts": len(rows)},
        "numbers": {"ROUGE-L by tier": {
            method: {tier: round(mean(s).value, 4) for tier, s in of.items()}
            for method, of in known.items()},
            "Chinese: who reads": mean(chinese).value, "another's summary": mean(other).value},
        "control": "the same texts under the positions as they were trained",
        "premise": at_most("its ROUGE-L in the tier 64k, four windows", shares(known[PLAIN]["64k"]),
                           0.2),
        "findings": [
            *(at_least(f"{tier}: ROUGE-L gained by scaled positions, paired over the texts",
                       gap(tier), 0.2) for tier in ("32k", "64k")),
            at_least("16k, inside the window: what scaled positions lose", gap("16k"), -0.1),
            exact(at_least("Chinese, words as jieba cuts them: who reads the prompt alone, to the "
                           "1e-8 that the published ROUGE adds below the line",
                           mean(chinese).value, 0.9999)),
            at_most("Chinese: another text's summary", mean(other), 0.5),
        ],
    }  # fmt: skip


def said_in_chinese(item: Item) -> str:
    """What the prompt says that it is about."""
    found = re.search("大意：(.+?)。", item.prompt)
    return found[1] if found else ""


if __name__ == "__main__":
    main({
        "tasks/longbench": longbench_row,
        "tasks/leval": leval_row,
        "tasks/fables": fables_row,
        "tasks/cnnsum": cnnsum_row,
    })  # fmt: skip
