"""`--strategy` of measure and run: rows beside each other, and refusals before torch."""

import json
from collections.abc import Callable
from pathlib import Path

from lengthwise.cli.strategies import room
from lengthwise.names import ASKING

URL = "http://127.0.0.1:9"


def test_strategies_are_rows_beside_each_other_with_what_they_read(
    tmp_path: Path, call: Callable
) -> None:
    out = tmp_path / "out"
    words = "measure demo --suite niah_single_1 --lengths 400 --items 2"
    words += " --strategy truncation:window=256 --strategy xl3m:window=256,segment=64"
    words += f" --strategy jrt:window=256 -o {out}"
    status, _, err = call(*words.split())
    assert status == 0, err
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    rows = [line["item"] for line in lines if "item" in line]
    by = {name: [row for row in rows if row["method"] == name] for name in
          {row["method"] for row in rows}}  # fmt: skip
    assert {name: len(found) for name, found in by.items()} == {
        "truncation:window=256": 2, "xl3m:window=256,segment=64": 2, "jrt:window=256": 2,
    }  # fmt: skip
    assert all(row["read"] <= 256 and not row["refused"] for row in by["truncation:window=256"])
    assert all(row["read"] > 256 for row in by["xl3m:window=256,segment=64"])
    assert all(
        "do not fit into the window of 256" in row["refused"] for row in by["jrt:window=256"]
    )


def test_a_question_about_a_file(tmp_path: Path, call: Callable) -> None:
    file = tmp_path / "text.txt"
    file.write_text("def add(a, b):\n    return a + b\n\n" * 80)
    words = f"run demo --prompt-file {file} --max-new-tokens 4 --strategy truncation:window=128"
    status, out, err = call(*words.split(), "--question", "def sub(a, b):")
    assert status == 0 and out.strip(), err
    status, _, err = call(*words.replace("truncation", "jrt").split(), "-q", "def sub(a, b):")
    assert status == 2 and "do not fit into the window of 128" in err


def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, refused: Callable[..., str]) -> None:
    file = tmp_path / "text.txt"
    file.write_text("a text\n")
    out = str(tmp_path / "out")
    measured = ["measure", "demo", "-o", out, "--suite", "quick", "--strategy"]
    for words, said in (
        ([*measured, "xl4m"], "did you mean XL3M"),
        ([*measured, "xl3m:window=3"], "window must be 0 or at least 16"),
        ([*measured, "jrt", "--suite", "loss"], "loss is read from the model itself"),
        ([*measured, "jrt", "--ray", "2"], "leave --ray out"),
        (["measure", URL, "-o", out, "--tokenizer", "demo", "--suite", "quick",
          "--strategy", "xl3m"], "a server can only be asked"),
        (["run", "demo", "--prompt-file", str(file), "--strategy", "jrt"], "add --question"),
    ):  # fmt: skip
        assert said in refused(*words)


def test_which_strategies_only_ask_is_known_without_torch() -> None:
    assert {name for name in room().homes if not room().find(name).inside} == {*ASKING}
