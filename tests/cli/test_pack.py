"""`lengthwise pack`: a thin layer over `lengthwise.train.data`, and what it refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import load_from_disk

Call = Callable[..., tuple[int, str, str]]
Refused = Callable[..., str]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    texts = [f"Document {i} {'goes on ' * (i % 9)}" for i in range(60)]
    path = tmp_path / "corpus.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


def words(source: Path, out: Path, *more: object) -> tuple[object, ...]:
    base = ("pack", source, "-o", out, "--capacity", 64, "--tokenizer", "demo", "--workers", 1)
    return (*base, *more)


def test_report_and_data(corpus: Path, tmp_path: Path, call: Call) -> None:
    status, out, err = call(*words(corpus, tmp_path / "out"))
    assert (status, err) == (0, "")
    rows = load_from_disk(tmp_path / "out")
    assert sum(len(row["seq_lengths"]) for row in rows) == 60
    assert out.startswith((tmp_path / "out" / "report.txt").read_text(encoding="utf-8"))
    assert f"Picture: {tmp_path / 'out' / 'report.html'}" in out

    status, out, err = call(*words(corpus, tmp_path / "slim", "--slim", "--packer", "greedy"))
    assert status == 0 and "by greedy" in out
    assert load_from_disk(tmp_path / "slim").column_names == ["input_ids", "seq_lengths"]


def test_what_is_there_needs_force(
    corpus: Path, tmp_path: Path, call: Call, refused: Refused
) -> None:
    assert call(*words(corpus, tmp_path / "out"))[0] == 0
    assert "exists and is complete" in refused(*words(corpus, tmp_path / "out"))
    assert call(*words(corpus, tmp_path / "out", "--force", "--seed", 3))[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    said = refused(*words(corpus, tmp_path / "mine", "--force"))
    assert "has files and is no packed data set" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--capacity", 1), "capacity must be at least 2 tokens, got 1"),
        (("--overflow", "cut"), "overflow must be one of split, truncate, drop, raise"),
        (("--overflow", "raise", "--capacity", 8), "say what to do with such documents"),
        (("--packer", "tetris"), "packer must be one of best_fit"),
        (("--column", "words"), "has no words, only text; name the column"),
        (("--tokenizer", "./none"), "cannot load a tokenizer from ./none"),
        (("--tokenizer", ""), "the documents are text; name a tokenizer"),
        (("--workers", -1), "workers must be at least 1, got -1"),
    ],
)
def test_refused(
    corpus: Path, tmp_path: Path, refused: Refused, more: tuple[object, ...], said: str
) -> None:
    assert said in refused(*words(corpus, tmp_path / "out", *more))


def test_a_corrupt_line_is_named(
    corpus: Path, tmp_path: Path, call: Call, refused: Refused
) -> None:
    corpus.write_text(corpus.read_text() + '\n{"text": "cut o')
    said = refused(*words(corpus, tmp_path / "out"))
    assert "corpus.jsonl, line 61 is not JSON" in said and "--skip-bad" in said
    status, out, _ = call(*words(corpus, tmp_path / "out", "--skip-bad"))
    assert status == 0 and "line 61 is not JSON" in out


def test_no_source(tmp_path: Path, refused: Refused) -> None:
    assert "there is no file or directory" in refused(*words(tmp_path / "no", tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    assert "directory without files" in refused(*words(tmp_path / "empty", tmp_path / "out"))
    (tmp_path / "blank.txt").write_text("")
    said = refused(*words(tmp_path / "blank.txt", tmp_path / "out"))
    assert "all 1 documents of" in said and "are empty" in said


def test_a_full_disk_is_one_line(corpus: Path, tmp_path: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "from lengthwise.cli import main; main()"
    )
    line = [sys.executable, "-B", "-c", code, *map(str, words(corpus, tmp_path / "out"))]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("lengthwise: "), done.stderr
    assert done.stderr.endswith(".arrow: File too large\n")


def test_ctrl_c_keeps_what_is_finished(corpus: Path, tmp_path: Path, call: Call) -> None:
    lines = corpus.read_text().splitlines()
    corpus.write_text("\n".join(lines * 500))
    out = tmp_path / "out"
    line = [sys.executable, "-m", "lengthwise", *map(str, words(corpus, out))]
    process = subprocess.Popen(line, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    while not list(out.glob(".pack/tokens/.*.arrow.*.tmp")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "Interrupted: what is finished is kept; the same command goes on\n"
    assert not list(out.rglob("*.tmp"))
    assert os.path.exists(corpus) and call(*words(corpus, out))[0] == 0
    assert sum(len(row["seq_lengths"]) for row in load_from_disk(out)) == 30_000
