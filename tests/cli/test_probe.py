"""`lengthwise probe`: every command on a tiny checkpoint, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

Call = Callable[..., tuple[int, str, str]]


def test_context(call: Call, checkpoint: Path, novel: Path, tmp_path: Path) -> None:
    status, out, err = call(
        "probe", "context", checkpoint, "--text", novel, "--contexts", "8,16,1x", "--places", 4,
        "--block", 4, "--json", tmp_path / "c.json",
    )  # fmt: skip
    assert status == 0, err
    assert out.count("nats per token") == 3 and "effective context: " in out
    record = json.loads((tmp_path / "c.json").read_text())
    assert record["contexts"] == [8, 16, 64] and record["effective"]["value"] in (8, 16, 64)


def test_numbers_that_are_there_are_not_written_over(
    call: Call, refused: Callable[..., str], checkpoint: Path, novel: Path, tmp_path: Path
) -> None:
    file = tmp_path / "mine.json"
    file.write_text("mine")
    words = {
        "context": ("--text", novel, "--contexts", "8,16", "--places", 2, "--block", 4),
        "tokens": ("--text", novel),
        "field": (),
        "capacity": (),
        "heads": (),
    }
    for command, options in words.items():
        assert "exists" in refused("probe", command, checkpoint, *options, "--json", file)
    assert "directory" in refused("probe", "field", checkpoint, "--json", tmp_path)
    assert file.read_text() == "mine"
    context = ("probe", "context", checkpoint, *words["context"], "--json", file, "--force")
    assert call(*context)[0] == 0
    assert json.loads(file.read_text())["contexts"] == [8, 16]


def test_tokens(call: Call, checkpoint: Path, book: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.txt"
    short.write_text(book.read_text()[:60])
    status, out, err = call(
        "probe", "tokens", checkpoint, "--text", short, "--window", 16, "--last", 2
    )
    assert status == 0, err
    assert len(out.splitlines()) == 2 and " back " in out


def test_field(call: Call, checkpoint: Path, novel: Path) -> None:
    words = ("probe", "field", checkpoint, "--text", novel, "--length", 60, "--block", 10)
    status, out, err = call(*words)
    assert status == 0, err
    assert "one layer reaches 60 of 60 tokens, all layers 60" in out
    status, out, err = call(*words, "--method", "slidingwindow:window=5")
    assert "one layer reaches 5 of 60 tokens, all layers 9" in out
    assert "99% of the effect comes from the last 10 tokens" in out


def test_capacity(call: Call, checkpoint: Path, novel: Path) -> None:
    status, out, err = call(
        "probe", "capacity", checkpoint, "--text", novel, "--length", 40, "--texts", 2
    )
    assert status == 0, err
    assert "information capacity" in out


def test_study(call: Call, checkpoint: Path, novel: Path, tmp_path: Path) -> None:
    words = (
        "probe", "study", checkpoint, "-o", tmp_path / "s", "-m", "plain", "-m", "pi:factor=2",
        "--tuned", f"same={checkpoint}", "--lengths", "2x", "--tasks", "needle", "--items", 1,
        "--text", novel,
    )  # fmt: skip
    status, out, err = call(*words)
    assert status == 0, err
    assert "perplexity" in out and "- loss and needle" in out and "same" in out
    again = call(*words)
    assert again[0] == 0 and again[1] == out  # nothing measured twice


def test_refusals(
    refused: Callable[..., str], checkpoint: Path, novel: Path, tmp_path: Path
) -> None:
    assert "asks for 100,000" in refused(
        "probe", "field", checkpoint, "--text", novel, "--length", 100_000
    )
    assert "unknown task 'x'" in refused(
        "probe", "study", checkpoint, "-o", tmp_path / "a", "--tasks", "x", "--text", novel
    )
    assert "write NAME=DIRECTORY" in refused(
        "probe", "study", checkpoint, "-o", tmp_path / "a", "--tuned", "nowhere"
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    assert "holds no measurement" in refused("probe", "study", checkpoint, "-o", tmp_path / "full")
