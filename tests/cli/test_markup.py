"""What people write is printed as they wrote it, though rich takes brackets for markup."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

Call = Callable[..., tuple[int, str, str]]
ODD = "[bold] a [/b] [red"


def test_brackets_in_names(
    call: Call, checkpoint: Path, novel: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    place = tmp_path / ODD
    place.mkdir(parents=True)
    model, out, method = place / "model", place / "out", "[/pi]:factor=2"
    shutil.copytree(checkpoint, model)
    text = shutil.copy(novel, place / "text.txt")
    small = ("--lengths", 64, "--items", 1, "--suite", "loss,passkey", "--text", text)
    small = (*small, "-m", "plain", "-m", method)
    measure = ("measure", model, "-o", out, *small)
    for _ in range(2):  # the second finds all of it there
        status, said, err = call(*measure)
        assert status == 0, err
        said = "".join(said.split())  # titles are wrapped to the width of their tables
        assert str(model).replace(" ", "") in said and method in said
    assert str(out) in err
    study = ("probe", "study", model, "-o", place / "study", "-m", method, "--lengths", "2x",
             "--tasks", "needle", "--items", 1, "--text", text)  # fmt: skip
    status, said, err = call(*study)
    assert status == 0 and method in said, err
    for words in (("run", place, "--prompt-file", text), ("compare", place), ("plan", place)):
        status, said, err = call(*words)
        assert status == 2 and ODD in err, err


def test_brackets_in_results_of_a_suite(
    call: Call, checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    place = tmp_path / "[/dim]"
    status, _, err = call(
        "measure", checkpoint, "--suite", "quick", "--lengths", "..512", "--items", 1, "-o", place,
        "-m", "[/pi]:factor=2",
    )  # fmt: skip
    assert status == 0, err
    file = place / "results.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    tasks = lines[1]["session"]["tasks"]
    odd = {name: f"[/b]{name}" for name in tasks}
    text = file.read_text()
    for name, other in odd.items():
        text = text.replace(json.dumps(name), json.dumps(other))
    file.write_text(text)
    status, said, err = call("compare", place, place)
    assert status == 0 and "[/b]" in said and "[/pi]" in said, err
