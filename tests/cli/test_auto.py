"""`lengthwise extend --auto`: it chooses, keeps to its time, tells everything and goes on."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import lengthwise as lw
from lengthwise.cli.auto import read_bytes, read_seconds, report
from lengthwise.extend.adapt import is_adapted
from lengthwise.search.race import Race

Call = Callable[..., tuple[int, str, str]]
TEXT = "It was a bright cold day in April, and the clocks were striking thirteen. " * 60


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


def test_a_race_writes_the_winner_and_everything_that_was_tried(
    checkpoint: Path, text: Path, tmp_path: Path, call: Call, refused: Callable[..., str]
) -> None:
    target = tmp_path / "long"
    words = ("extend", checkpoint, "--auto", "--to", 160, "--budget", "10m", "--text", text)
    status, out, err = call(*words, "-o", target)
    assert status == 0, err
    record = json.loads((target / "search.json").read_text(encoding="utf-8"))
    assert (target / "search.md").read_text(encoding="utf-8") == report(record)
    heights = {run["rung"] for run in record["runs"]}
    assert heights == {0, 1, 2} and record["arm"]["evaluated"]
    best = min((r for r in record["runs"] if r["rung"] == 2), key=lambda r: r["score"])
    assert record["winner"] == best["methods"] and f"Winner: `{best['methods']}`" in out
    assert [row["tokens"] for row in record["after"]["by_length"]] == [64, 128, 160]
    assert not (tmp_path / "long.search.json").exists()
    model, _ = lw.load(target)
    assert is_adapted(model) or model.config.rope_parameters["rope_type"] != "default"
    # A race that is killed after its checkpoint leaves its state for the next call to remove; the
    # state of another one is kept.
    state = tmp_path / "long.search.json"
    state.write_text(json.dumps(record | {"runs": []}), encoding="utf-8")
    assert "exists" in refused(*words, "-o", target) and state.exists()
    state.write_text(json.dumps({key: record[key] for key in ("about", "runs", "arm")}))
    assert "exists" in refused(*words, "-o", target) and not state.exists()


def test_it_ends_when_its_time_is_up(
    checkpoint: Path, text: Path, tmp_path: Path, call: Call
) -> None:
    words = ("extend", checkpoint, "--auto", "--to", 160, "--text", text, "--budget", "0.01s")
    status, out, _ = call(*words, "-o", tmp_path / "long")
    assert status == 0 and "The race to 160 tokens" in out
    assert out.count("| 1 |") == 1 and "| 2 |" not in out  # one candidate runs in any case
    assert "no time" in out


def test_a_race_that_was_interrupted_says_its_best_and_goes_on(
    checkpoint: Path, text: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("extend", checkpoint, "--auto", "--to", 160, "--text", text, "--budget", "10m")
    measure, runs = Race._measure, []

    def interrupted(self: Race, *args: object) -> object:
        runs.append(args)
        if len(runs) == 4:
            raise KeyboardInterrupt
        return measure(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Race, "_measure", interrupted)
    status, _, err = call(*words, "-o", tmp_path / "long")
    assert status == 130 and "Best so far: " in err
    state = tmp_path / "long.search.json"
    assert len(json.loads(state.read_text(encoding="utf-8"))["runs"]) == 3
    monkeypatch.undo()
    status, _, err = call(*words[:-1], "1s", "-o", tmp_path / "long")
    assert status == 0 and "3 runs are there already" in err


@pytest.mark.parametrize(
    "words, said",
    [
        (("--auto", "--to", "64"), "above the model's window of 64"),
        (("--auto", "--to", "100000"), "give a longer one"),
        (("--auto",), "write --to TOKENS"),
        (("--auto", "--to", "0"), "--to must be at least 1, got 0"),
        ((), "name a --method, or let a race choose"),
        (("--auto", "--to", "160", "-m", "pi:factor=2"), "leave out --method pi:factor=2 or"),
        (("--auto", "--to", "160", "--budget", "ten"), "'ten' is no time"),
        (("--auto", "--to", "160", "--memory", "8"), "'8' is no size"),
    ],
)
def test_bad_input_is_one_line(
    words: tuple[str, ...],
    said: str,
    checkpoint: Path,
    text: Path,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    target = tmp_path / "long"
    assert said in refused("extend", checkpoint, "--text", text, "-o", target, *words)
    assert not target.exists()


def test_a_scaled_checkpoint_is_refused(
    checkpoint: Path, text: Path, tmp_path: Path, call: Call, refused: Callable[..., str]
) -> None:
    scaled = tmp_path / "scaled"
    assert call("extend", checkpoint, "-m", "yarn:factor=2", "-o", scaled)[0] == 0
    said = refused("extend", scaled, "--auto", "--to", 400, "--text", text, "-o", tmp_path / "x")
    assert "is scaled already (yarn)" in said


def test_times_and_sizes() -> None:
    assert (read_seconds("90s"), read_seconds("1.5h")) == (90, 5400)
    assert (read_bytes("8GiB"), read_bytes("500 MB")) == (8 << 30, 500_000_000)
