"""Damaged corpora and tokenizers: `lengthwise pack`, and what `train` reads, on each of them.

    python tests/fuzz/corpora.py [--count N] [--seed N] [--only WORDS] [-v]

A case is a small corpus of some kind with something wrong in it, drawn by the seed: rows with
values of other types, columns that contradict each other, bytes that were lost or changed, files of
`datasets` and tokenizers that are no longer what they were. What must hold: the status is 0 or 2, a
refusal is one line without a traceback and leaves no data set behind, and what was packed can be
read and has rows that sum up.
"""

import argparse
import copy
import json
import os
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))  # this tree, not another
os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import pyarrow as pa
import pyarrow.parquet as pq

ODD: list[Any] = [
    None, True, -1, 0, 3.5, float("nan"), 1 << 31, -(1 << 40), 1 << 70, 10**400, "", "x", "\u2028",
    "\ud800", "\0", [], {}, [None], [[1]], [1.5], ["a"], [True], [-1], [10**9], [1 << 33],
    {"a": [1]}, [{"a": 1}], [1, None], [[[]]],
]  # fmt: skip
COLUMNS = (
    "input_ids", "text", "labels", "attention_mask", "seq_lengths", "segment_ids", "position_ids",
    "completion_mask", "other",
)  # fmt: skip
VOCABULARY = 320


def sound_rows(draw: random.Random, tokens: bool) -> list[dict[str, Any]]:
    """Rows that nothing is wrong with."""
    rows: list[dict[str, Any]] = []
    for _ in range(draw.randrange(1, 9)):
        count = draw.randrange(0, 30)
        if tokens:
            row: dict[str, Any] = {"input_ids": [draw.randrange(VOCABULARY) for _ in range(count)]}
        else:
            row = {"text": "word \u2028 \x85 " * count}
        rows.append(row)
    for name in draw.sample(COLUMNS[2:], draw.choice((0, 0, 1, 2))):
        for row in rows:
            count = len(row.get("input_ids", ()))
            row[name] = {
                "seq_lengths": [count], "segment_ids": [0] * count, "other": "x",
                "position_ids": [*range(count)], "labels": row.get("input_ids", ()),
            }.get(name, [1] * count)  # fmt: skip
    return rows


def spoil_rows(draw: random.Random, rows: list[dict[str, Any]]) -> None:
    """Make something wrong in some rows: values, lengths, columns that are missing or too many."""
    for _ in range(draw.randrange(1, 4)):
        row = draw.choice(rows)
        name = draw.choice([*row, *COLUMNS])
        how = draw.randrange(6)
        if how == 0:
            row[name] = copy.deepcopy(draw.choice(ODD))
        elif how == 1:
            row.pop(name, None)
        elif how == 2 and isinstance(row.get(name), list) and row[name]:
            row[name][draw.randrange(len(row[name]))] = copy.deepcopy(draw.choice(ODD))
        elif how == 3 and isinstance(row.get(name), list):
            row[name] = [*row[name], 1]
        elif how == 4:
            value = copy.deepcopy(draw.choice(ODD))
            for one in rows:
                one[name] = value
        elif how == 5:
            row["seq_lengths"] = [draw.randrange(-2, 20) for _ in range(draw.randrange(4))]


def spoil_bytes(draw: random.Random, path: Path) -> None:
    """Lose, change or add bytes of a file."""
    data = bytearray(path.read_bytes())
    how = draw.randrange(6)
    if how == 0:
        data = data[: draw.randrange(len(data) + 1)]
    elif how == 1 and data:
        for _ in range(draw.randrange(1, 9)):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif how == 2:
        at = draw.randrange(len(data) + 1)
        data[at:at] = bytes(draw.randrange(256) for _ in range(draw.randrange(1, 20)))
    elif how == 3:
        data = bytearray(draw.randbytes(draw.randrange(0, 200)))
    elif how == 4 and data:
        at = draw.randrange(len(data))
        data[at : at + 16] = b"\xff" * len(data[at : at + 16])
    elif how == 5:
        data += b"\0" * draw.randrange(1, 9)
    path.write_bytes(bytes(data))


def spoil_json(draw: random.Random, path: Path) -> None:
    """Give a JSON file a value of another type somewhere, or lose a key."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    places: list[tuple[Any, Any]] = []

    def walk(part: Any, depth: int) -> None:
        keys = list(part) if isinstance(part, dict) else range(len(part))
        for key in list(keys)[:40]:
            places.append((part, key))
            if isinstance(part[key], dict | list) and depth < 6:
                walk(part[key], depth + 1)

    walk(whole, 0)
    part, key = draw.choice(places)
    if isinstance(part, dict) and draw.random() < 0.3:
        del part[key]
    else:
        part[key] = draw.choice([one for one in ODD if one == one and one != "\ud800"])
    path.write_text(json.dumps(whole), encoding="utf-8")


def as_table(rows: list[dict[str, Any]]) -> pa.Table | None:
    """The rows in Arrow, if one type holds every column."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeEncodeError, ValueError):
            return None
    return pa.table(columns) if columns else None


def write(draw: random.Random, folder: Path, rows: list[dict[str, Any]]) -> Path:
    """The rows in some kind of file or directory."""
    table = as_table(rows)
    kinds = ["jsonl", "ndjson", "json", "text"]
    if table is not None:
        kinds += ["parquet", "parquet", "stream", "stream", "file", "dataset", "splits"]
    kind = draw.choice(kinds)
    if kind in ("jsonl", "ndjson", "json"):
        path = folder / f"rows.{kind}"
        lines = []
        for row in rows:
            line: Any = row if draw.random() < 0.97 else draw.choice(ODD)
            lines.append(json.dumps(line, ensure_ascii=draw.random() < 0.5))
        if draw.random() < 0.05:
            lines.append(draw.choice(["[" * 100_000, '{"text":' * 9_000, "1" * 9_000, "{", "NaN"]))
        end = draw.choice(["\n", "\r\n"])
        path.write_bytes(end.join(lines).encode("utf-8", "surrogatepass"))
        return path
    if kind == "text":
        path = folder / draw.choice(["a.txt", "a.jsonl", "a.parquet", "a.arrow"])
        path.write_text("\n".join(str(row) for row in rows), encoding="utf-8", errors="replace")
        return path
    assert table is not None
    if kind == "parquet":
        path = folder / "rows.parquet"
        try:
            pq.write_table(table, path, row_group_size=3)
        except pa.ArrowNotImplementedError:  # it has no structs without a field
            path.write_bytes(b"PAR1")
    elif kind in ("stream", "file"):
        path = folder / "rows.arrow"
        make = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with pa.OSFile(str(path), "wb") as file, make(file, table.schema) as writer:
            writer.write_table(table, max_chunksize=4)
    else:
        from datasets import Dataset, DatasetDict

        path = folder / "saved"
        data = Dataset(table)
        (DatasetDict({"train": data}) if kind == "splits" else data).save_to_disk(str(path))
    return path


def a_tokenizer(draw: random.Random, folder: Path) -> Path:
    """A tokenizer's directory with something wrong in it."""
    from lengthwise.testing.models import tiny_tokenizer

    path = folder / "tokenizer"
    tiny_tokenizer().save_pretrained(path)
    file = path / draw.choice(["tokenizer.json", "tokenizer_config.json"])
    how = draw.randrange(4)
    if how == 0:
        file.unlink()
    elif how == 1:
        spoil_bytes(draw, file)
    else:
        spoil_json(draw, file)
    return path


def a_case(draw: random.Random, folder: Path) -> list[str]:
    """A damaged corpus in a folder, and the command line that packs it."""
    tokens = draw.random() < 0.6
    rows = sound_rows(draw, tokens)
    wrong = draw.choice(("rows", "rows", "bytes", "json", "tokenizer", "nothing"))
    if wrong == "rows":
        spoil_rows(draw, rows)
    source = write(draw, folder, rows)
    files = [source] if source.is_file() else sorted(f for f in source.rglob("*") if f.is_file())
    if wrong == "bytes":
        spoil_bytes(draw, draw.choice(files))
    elif wrong == "json" and (found := [f for f in files if f.suffix == ".json"]):
        try:
            spoil_json(draw, draw.choice(found))
        except (ValueError, IndexError, TypeError):
            spoil_bytes(draw, draw.choice(found))
    words = ["pack", str(source), "-o", str(folder / "out"), "--capacity", "16", "--workers", "1"]
    if wrong == "tokenizer":
        words += ["--tokenizer", str(a_tokenizer(draw, folder))]
    elif draw.random() < 0.8:
        words += ["--tokenizer", "demo"]
    for more in (["--skip-bad"], ["--vocabulary", str(VOCABULARY)], ["--slim"], ["--mask"],
                 ["--column", draw.choice(COLUMNS)], ["--document", "line"],
                 ["--overflow", draw.choice(("split", "truncate", "drop", "raise"))]):  # fmt: skip
        if draw.random() < 0.25:
            words += more
    return words


def wrong_with(words: list[str], folder: Path, call: Callable[..., tuple[int, str, str]]) -> str:
    """What a command line did that it must not, or the empty string."""
    status, out, err = call(*words)
    if status not in (0, 2, 130):
        return f"status {status}: {err.strip()[-400:]}"
    if "Traceback" in out + err or "internal error" in err:
        return f"no words for people: {err.strip()[-400:]}"
    packed = folder / "out"
    if status == 2:
        if err.count("\n") != 1 or not err.startswith("lengthwise: ") or out:
            return f"a refusal is one line: {out!r} {err!r}"
        return "half a data set is left" if (packed / "state.json").exists() else ""
    from datasets import load_from_disk

    for row in load_from_disk(str(packed)):
        if sum(row["seq_lengths"]) != len(row["input_ids"]) or min(row["input_ids"]) < 0:
            return f"a row that does not sum up: {row}"
    return ""


def read_by_train(draw: random.Random, folder: Path) -> str:
    """What the reader of `lengthwise train` made of damaged rows that it must not, or nothing."""
    from datasets import Dataset

    from lengthwise.train.loop.rows import Plan, micro_batches, open_source
    from lengthwise.train.recipe import Recipe

    rows = sound_rows(draw, tokens=True)
    wrong = draw.choice(("rows", "rows", "bytes", "json"))
    if wrong == "rows":
        spoil_rows(draw, rows)
    table = as_table(rows)
    if table is None:
        return ""
    saved = folder / "saved"
    Dataset(table).save_to_disk(str(saved))
    files = sorted(file for file in saved.rglob("*") if file.is_file())
    if wrong == "bytes":
        spoil_bytes(draw, draw.choice(files))
    elif wrong == "json":
        spoil_json(draw, draw.choice([file for file in files if file.suffix == ".json"]))
    documents = draw.choice(("joined", "apart"))
    recipe = Recipe(base="demo", data=str(saved), target=16, documents=documents, step_tokens=64)
    try:
        source = open_source(recipe, 16, 16, 2, folder / "rows", None)
        plan = Plan(recipe, source.usable, 16, 16, 16)
        for number in range(3):
            batches, _ = micro_batches(source, plan.step(number), recipe, None, 1.0, VOCABULARY)
            assert all(batch["input_ids"].dtype.is_signed for batch in batches)
    except (ValueError, OSError) as error:
        return "" if str(error).strip() else "a refusal without words"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def run(count: int, seed: int, only: str = "", say: Callable[[str], None] = print) -> list[str]:
    """Every case that went wrong, in words."""
    from datasets import disable_progress_bars
    from typer.testing import CliRunner

    from lengthwise.cli.app import app

    disable_progress_bars()

    def call(*words: str) -> tuple[int, str, str]:
        done = CliRunner().invoke(app, list(words))
        return done.exit_code, done.stdout, done.stderr

    failures = []
    for number in range(count):
        draw = random.Random(f"{seed} {number}")
        folder = Path(tempfile.mkdtemp(prefix="corpora"))
        try:
            if number % 4 == 3:  # a quarter of them
                say(f"{number}: train")
                if found := read_by_train(draw, folder):
                    failures.append(f"{number}: train\n    {found}")
                continue
            words = a_case(draw, folder)
            if only and only not in " ".join(words):
                continue
            say(f"{number}: {' '.join(words)}")
            if found := wrong_with(words, folder, call):
                failures.append(f"{number}: {' '.join(words[1:])}\n    {found}")
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="command lines that hold this")
    parser.add_argument("-v", "--verbose", action="store_true")
    asked = parser.parse_args()
    say = (lambda words: print(words, flush=True)) if asked.verbose else (lambda words: None)
    failures = run(asked.count, asked.seed, asked.only, say)
    print("\n".join(failures) or f"{asked.count} corpora: every one was packed or refused by name")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
