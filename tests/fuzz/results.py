"""Damage results, suites and sets of a person's own, and go on with them: one line, status 0 or 2.

    python tests/fuzz/results.py                       200 damages
    python tests/fuzz/results.py --count 50 --seed 3
    python tests/fuzz/results.py --only 17             one of them, with its traceback

Results go through the commands that read them: `measure` again, `compare`, and the reports that
these write. Sets of a person's own go through a suite with a reader that knows the answers.
Everything runs in this process.
"""

import io
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.checkpoints import damage_json
from tests.fuzz.trying import Case, Ended, answer, main

KINDS = ("results", "results", "suite", "suite", "compare", "compare", "set", "set", "parquet")
BENCH = {"input": "q", "context": "Paragraph 1: one\n\nParagraph 2: two", "length": 4}
# Names of the sets, and a row of each.
SETS: dict[str, dict[str, Any]] = {
    "narrativeqa": BENCH | {"answers": ["x"], "all_classes": None, "dataset": "narrativeqa"},
    "trec": BENCH | {"answers": ["a"], "all_classes": ["a", "b"], "dataset": "trec"},
    "passage": BENCH
    | {"answers": ["Paragraph 2"], "all_classes": None, "dataset": "passage_retrieval_en"},
    "lveval": BENCH | {"answers": ["x"], "dataset": "factrecall_en_16k", "answer_keywords": "x"},
    "leval": {"input": "d", "instructions": ["q"], "outputs": ["B"], "evaluation": "exam"},
    "write": {"prompt": "p", "type": "t", "length": 30},
    "fables": {"FABLES": {"B": {"M": {"claims": {"0": {"claim": "c", "label": "Yes"}}}}}},
    "squad": {
        "data": [
            {"paragraphs": [
                {"context": "One.", "qas": [{"question": "q", "answers": [{"text": "a"}]}]},
                {"context": "Two.", "qas": []},
            ]}
        ]
    },
    "hotpot": {"rows": [{"question": "q", "answer": "a", "context": [["t", ["x y"]]]}] * 2},
    "m4le": {"text": "t", "label": "a", "topic": "p"},
    "longsafety": {"instruction": "i", "category": "c"},
}  # fmt: skip


def measure(folder: Path, out: Path) -> list[str]:
    words: list[object] = [
        "measure", folder / "model", "--text", folder / "text.txt", "--lengths", 128,
        "--items", 2, "-m", "plain", "-m", "pi:factor=2", "-o", out,
    ]  # fmt: skip
    return [str(word) for word in words]


def suite(folder: Path, out: Path) -> list[str]:
    words: list[object] = [
        "measure", folder / "model", "--suite", "quick", "--lengths", "..512", "--items", 1,
        "--text", folder / "text.txt", "-o", out,
    ]  # fmt: skip
    return [str(word) for word in words]


def make_sound(folder: Path) -> Path:
    """A tiny checkpoint, a text, and what the two kinds of measurement write."""
    from lengthwise.testing.models import tiny_model, tiny_tokenizer

    model = tiny_model("llama")
    model.generation_config.eos_token_id = None
    model.save_pretrained(folder / "model")
    tiny_tokenizer().save_pretrained(folder / "model")
    (folder / "text.txt").write_text("The reader keeps a window open on the text. " * 60)
    for make, name in ((measure, "measured"), (suite, "suite")):
        status, said = answer(make(folder, folder / name))
        assert status == 0, said
    return folder


def damage_lines(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Other JSON lines, and what was done to them."""
    lines = data.split(b"\n")[:-1]
    at = rng.randrange(len(lines))
    kind = rng.choice(["value"] * 10 + ["key", "key", "deep", "cut", "flip", "drop", "twice"])
    kind = rng.choice(["swap", "junk", "empty", "marks"]) if rng.random() < 0.1 else kind
    if kind in ("value", "key", "deep"):
        lines[at], what = damage_json(json.loads(lines[at]), kind, rng)
    elif kind == "cut":
        size = rng.randrange(len(data))
        return data[:size], f"cut to {size} bytes"
    elif kind == "flip":
        place = rng.randrange(len(data))
        return data[:place] + bytes([rng.randrange(256)]) + data[place + 1 :], f"byte {place}"
    elif kind == "marks":  # which end no line
        marks = "\u2028\u2029\x85".encode()
        return data.replace(b'"plain"', b'"plain' + marks + b'"'), "marks"
    elif kind == "empty":
        return b"", "empty"
    else:
        what = kind
        other = rng.randrange(len(lines))
        if kind == "swap":
            lines[at], lines[other] = lines[other], lines[at]
        elif kind == "drop":
            del lines[at]
        else:
            lines.insert(other, lines[at] if kind == "twice" else rng.randbytes(60))
    return b"\n".join(lines) + b"\n", f"line {at + 1}: {what}"


class Oracle:
    """Answers what the task calls right."""

    def __init__(self, task: Any) -> None:
        from lengthwise.testing.models import tiny_tokenizer

        self.task, self.tokenizer = task, tiny_tokenizer()

    def describe(self) -> dict[str, object]:
        return {"name": "oracle", "window": None}

    def answer(self, items: Sequence[Any]) -> Iterator[Any]:
        from lengthwise.measure.engines.base import Reply

        for item in items:
            yield Reply(self.task.oracle(item.record), 3, 0.1, 0.2)


def task_of(name: str, file: Path) -> Any:
    from lengthwise.measure import published
    from lengthwise.measure.tasks import M4LE, DocumentQA, LongSafety

    if name in ("squad", "hotpot"):
        return DocumentQA(name, file)
    made = {
        "lveval": published.PublishedLVEval, "write": published.LongBenchWrite,
        "leval": lambda file: published.LEval(file, "options"), "longsafety": LongSafety,
        "fables": lambda file: published.FABLES(file, file.parent),
        "m4le": lambda file: M4LE("semantic single", file),
    }  # fmt: skip
    return made.get(name, published.LongBench)(file)


def write_set(name: str, folder: Path, rng: random.Random) -> tuple[Path, str]:
    """A damaged set of a person's own."""
    (folder / "B.txt").write_text("A book.")
    row = SETS[name]
    if name in ("fables", "squad", "hotpot"):
        data, what = damage_json(json.loads(json.dumps(row)), rng.choice(["value", "key"]), rng)
        if name == "hotpot":
            rows = json.loads(data)
            data = json.dumps(rows.get("rows", rows) if isinstance(rows, dict) else rows).encode()
        file = folder / "set.json"
        file.write_bytes(data)
        return file, what
    rows = [row | {"topic": f"p{i}", "label": "ab"[i % 2]} if name == "m4le" else row
            for i in range(9)]  # fmt: skip
    data, what = damage_lines("".join(json.dumps(one) + "\n" for one in rows).encode(), rng)
    file = folder / "set.jsonl"
    file.write_bytes(data)
    return file, what


def ask_set(name: str, file: Path, out: Path) -> Ended:
    """A suite of the set, ended as the command line ends what goes wrong."""
    from contextlib import redirect_stderr

    from rich.console import Console

    from lengthwise.cli.app import _explain
    from lengthwise.measure.report import print_report, write_report
    from lengthwise.measure.run.runner import measure
    from lengthwise.measure.run.suites import Suite

    said = io.StringIO()
    quiet = Console(file=io.StringIO())
    try:
        task = task_of(name, file)
        results = measure(
            Oracle(task), Suite("mine", {name: task}, items=12), {"plain": ()}, [700], folder=out,
            console=quiet,
        )  # fmt: skip
        write_report(results, out / "report.html", "again")
        print_report(results, quiet)
    except Exception as error:
        with redirect_stderr(said):
            return _explain(error), said.getvalue()
    return 0, ""


def damaged(number: int, seed: int, folder: Path) -> tuple[str, Callable[[], Ended]]:
    """Write one damage: what it is, and to go on with it."""
    rng = random.Random(f"results {seed} {number}")
    kind, out = rng.choice(KINDS), folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    if kind == "set":
        out.mkdir()
        name = rng.choice(sorted(SETS))
        file, what = write_set(name, out, rng)
        return f"set {name}, {what}", partial(ask_set, name, file, out / "answers")
    source, name = "measured" if kind == "results" else "suite", "results.jsonl"
    shutil.copytree(folder / source, out)
    if kind == "parquet":
        file = out / "results.parquet"
        file.write_bytes(rng.randbytes(rng.choice([0, 4, 200])))
        return f"{kind}, junk", partial(answer, suite(folder, out))
    data, what = damage_lines((out / name).read_bytes(), rng)
    (out / name).write_bytes(data)
    if kind == "compare":
        words = ["compare", str(out), str(folder / "suite")]
    else:
        words = (measure if kind == "results" else suite)(folder, out)
    return f"{kind}, {what[:200]}", partial(answer, words)


def cases(seed: int, folder: Path) -> Case:
    """Damaged results, suites and sets."""
    make_sound(folder)
    return lambda number: damaged(number, seed, folder)


if __name__ == "__main__":
    sys.exit(main(__doc__, "damages", 200, cases))
