"""Nothing is lost and nothing is there twice, whatever ends a run."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, load_from_disk

from lengthwise.train.data import pipeline, rows, state, tokens
from lengthwise.train.data.pipeline import Sizes, pack

TINY = Sizes(part_bytes=400, block_tokens=400, block_documents=20, file_tokens=100)
WORDS = "so it goes on and on until the end of all the things that were said"


def corpus(folder: Path, count: int = 150) -> Path:
    draw = random.Random(0)
    lines = [f"{i} {WORDS[: draw.randrange(len(WORDS))]}" for i in range(count)]
    (folder / "corpus.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in lines))
    return folder / "corpus.jsonl"


def run(source: Any, out: Path, **settings: Any) -> Any:
    return pack(source, out, 60, **{"tokenizer": "demo", "sizes": TINY, **settings})


def content(folder: Path) -> dict[str, bytes]:
    """Everything but the account of how long it took."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    left = {"pack.json", "report.txt", "report.html"}
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if f.name not in left}


CHILD = """
import sys
from lengthwise.train.data.pipeline import Sizes, pack
print("ready", flush=True)
sys.stdin.readline()
pack(sys.argv[1], sys.argv[2], 60, tokenizer="demo", workers=int(sys.argv[3]),
     sizes=Sizes(part_bytes=400, block_tokens=400, block_documents=20, file_tokens=100),
     progress=lambda *done: print(*done, flush=True))
"""


def child(source: Path, out: Path, workers: int = 1) -> "subprocess.Popen[str]":
    """A process that packs and says a line after every piece of work."""
    words = [sys.executable, "-c", CHILD, str(source), str(out), str(workers)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(words, text=True, **pipes)
    assert process.stdin is not None and process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("\n")
    process.stdin.flush()
    return process


def test_killed_ten_times_at_random_moments(tmp_path: Path) -> None:
    source = corpus(tmp_path, 200)
    process = child(source, tmp_path / "undisturbed")
    said = process.communicate()[0].count("\n")
    assert process.returncode == 0 and said > 30

    # Some run ends before its kill; the next one begins in a new directory.
    draw, out, kills = random.Random(5), tmp_path / "killed-0", 0
    while kills < 10:
        if state.is_complete(out):
            out = tmp_path / f"killed-{kills}"
        process = child(source, out)
        assert process.stdout is not None
        for _ in range(draw.randrange(said)):
            process.stdout.readline()
        time.sleep(draw.random() * 0.01)  # in the middle of a piece of work
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
    for folder in tmp_path.glob("killed-*"):
        if not state.is_complete(folder):
            assert run(source, folder).tally.documents == 200
        files = {n: b for n, b in content(folder).items() if not n.startswith(".pack/")}
        assert files == content(tmp_path / "undisturbed")


def test_killed_with_workers_and_no_worker_stays(tmp_path: Path) -> None:
    source, out = corpus(tmp_path), tmp_path / "out"
    run(source, tmp_path / "undisturbed")
    process = child(source, out, workers=2)
    while not any((out / ".pack" / "tokens").glob("*.json")):
        assert process.poll() is None
        time.sleep(0.01)
    workers = _children(process.pid)
    process.kill()
    process.communicate()
    run(source, out)
    assert content(out) == content(tmp_path / "undisturbed")
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() and not _is_zombie(pid) for pid in workers):
        assert time.monotonic() < deadline, "a worker outlived the process that it worked for"
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def _is_zombie(pid: int) -> bool:
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True


def steps() -> Iterator[tuple[str, int]]:
    """Every write that a run does, by its name and how often it may succeed before."""
    for count in (0, 1, 3, 7):
        yield "write_arrow", count
        yield "write_text", count


@pytest.mark.parametrize(("name", "count"), list(steps()))
def test_a_full_disk_at_any_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, count: int
) -> None:
    source = corpus(tmp_path)
    run(source, tmp_path / "undisturbed")
    left = [count]

    def failing(write: Any) -> Any:
        def attempt(path: Path, *more: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device", str(path))
            return write(path, *more)

        return attempt

    with monkeypatch.context() as patch:
        for module in (pipeline, rows, state, tokens):
            if hasattr(module, name):
                patch.setattr(module, name, failing(getattr(module, name)))
        with pytest.raises(OSError, match="No space left on device"):
            run(source, tmp_path / "out")
    assert not state.is_complete(tmp_path / "out")
    report = run(source, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "undisturbed")
    assert report.tally == run(source, tmp_path / "undisturbed", force=True).tally


def test_a_full_disk_within_a_file(tmp_path: Path) -> None:
    source = corpus(tmp_path)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))"
    code = f"{limit}\n" + CHILD.replace("file_tokens=100", "file_tokens=100000")
    words = [sys.executable, "-B", "-c", code, str(source), str(tmp_path / "out"), "1"]
    done = subprocess.run(words, input="\n", capture_output=True, text=True, check=False)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("OSError: [Errno 27] File too large: "), last
    assert ".arrow" in last
    assert not list((tmp_path / "out").rglob("*.tmp"))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_finished_parts_are_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = corpus(tmp_path), tmp_path / "out"
    with pytest.raises(ValueError, match="overflow"):
        pack(source, out, 8, tokenizer="demo", sizes=TINY, overflow="raise")
    monkeypatch.setattr(tokens, "load_encoder", None)  # tokenising once more would fail
    monkeypatch.setattr(pipeline, "load_encoder", lambda name: tokens.Encoder(list, 1536, 2))
    report = pack(source, out, 8, tokenizer="demo", sizes=TINY, overflow="truncate")
    assert report.resumed and report.tally.cut > 0


def test_skipping_is_asked_for_after_the_first_error(tmp_path: Path) -> None:
    source = corpus(tmp_path)
    lines = source.read_text().splitlines()
    source.write_text("\n".join([*lines[:100], "{", *lines[100:]]))
    with pytest.raises(ValueError, match="line 101 is not JSON"):
        run(source, tmp_path / "out")
    report = run(source, tmp_path / "out", skip_bad=True)
    assert report.resumed and (report.bad, report.tally.documents) == (1, 150)


def test_what_was_skipped_is_an_error_for_a_run_that_does_not_skip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = corpus(tmp_path)
    source.write_text("{\n" + source.read_text())
    with monkeypatch.context() as patch:
        patch.setattr(rows, "write_arrow", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(source, tmp_path / "out", skip_bad=True)
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        run(source, tmp_path / "out")


def test_two_runs_into_one_directory(tmp_path: Path) -> None:
    source, out = corpus(tmp_path), tmp_path / "out"

    def second(*_: Any) -> None:
        with pytest.raises(ValueError, match="another lengthwise is writing into"):
            run(source, out)
        with pytest.raises(ValueError, match="another lengthwise is writing into"):
            run(source, out, force=True)

    run(source, out, progress=second)
    run(source, tmp_path / "undisturbed")
    assert content(out) == content(tmp_path / "undisturbed")


def test_what_is_there_is_not_replaced(tmp_path: Path) -> None:
    source, out = corpus(tmp_path), tmp_path / "out"
    run(source, out)
    before = content(out)
    with pytest.raises(ValueError, match=r"exists and is complete; .* --force"):
        run(source, out)
    assert content(out) == before
    run(source, out, seed=1, force=True)
    assert content(out).keys() == before.keys() and content(out) != before

    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("years of work")
    for force in (False, True):
        with pytest.raises(ValueError, match="has files and is no packed data set"):
            run(source, other, force=force)
    with pytest.raises(ValueError, match=r"thesis\.txt is a file; name a directory"):
        run(source, other / "thesis.txt")
    assert (other / "thesis.txt").read_text() == "years of work"


def interrupted(source: Path, out: Path, patch: pytest.MonkeyPatch) -> None:
    with patch.context() as context:
        context.setattr(rows, "write_arrow", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(source, out)


def test_another_corpus_does_not_go_on_from_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = corpus(tmp_path), tmp_path / "out"
    interrupted(source, out, monkeypatch)
    with pytest.raises(ValueError, match=r"half packed from something else: its end is True, now"):
        run(source, out, end=False)
    with open(source, "a") as file:
        file.write('\n{"text": "one more"}')
    with pytest.raises(ValueError, match="half packed from something else: its files is"):
        run(source, out)
    report = run(source, out, force=True)
    assert report.tally.documents == 151 and not report.resumed


def test_another_capacity_keeps_the_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = corpus(tmp_path), tmp_path / "out"
    interrupted(source, out, monkeypatch)
    monkeypatch.setattr(tokens, "load_encoder", None)
    report = pack(source, out, 33, tokenizer="demo", sizes=TINY)
    assert report.resumed and report.capacity == 33
    monkeypatch.undo()
    pack(source, tmp_path / "undisturbed", 33, tokenizer="demo", sizes=TINY)
    assert content(out) == content(tmp_path / "undisturbed")


def test_a_stream_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"{i} {WORDS}" for i in range(50)]
    rows_of = [{"text": text} for text in texts]
    monkeypatch.setattr("lengthwise.train.data.sources.ROWS", 8)
    interrupted(rows_of, tmp_path / "out", monkeypatch)  # type: ignore[arg-type]
    report = run(rows_of, tmp_path / "out")
    assert report.resumed and report.tally.documents == 50


def test_packed_data_can_be_packed_again(tmp_path: Path) -> None:
    Dataset.from_dict({"input_ids": [[1, 2, 3], [4, 5]]}).save_to_disk(tmp_path / "in")
    pack(tmp_path / "in", tmp_path / "once", 5, slim=True)
    pack(tmp_path / "once", tmp_path / "twice", 10, slim=True)
    assert os.path.exists(tmp_path / "twice" / "state.json")
    assert load_from_disk(tmp_path / "twice")["input_ids"][0] == [1, 2, 3, 4, 5]


ON_RAY = """
import sys
from lengthwise.train.data.pipeline import Sizes, pack
sizes = Sizes(part_bytes=700, block_tokens=400, block_documents=20, file_tokens=100)
pack(sys.argv[1], sys.argv[2] + "/sound", 60, tokenizer="demo", ray=True, sizes=sizes)
with open(sys.argv[1], "a") as corpus:
    corpus.write("\\n{")
try:
    pack(sys.argv[1], sys.argv[2] + "/bad", 60, tokenizer="demo", ray=True, sizes=sizes)
except ValueError as error:
    print("refused:", error)
"""


def test_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    source = corpus(tmp_path, 30)
    sizes = Sizes(part_bytes=700, block_tokens=400, block_documents=20, file_tokens=100)
    run(source, tmp_path / "local", sizes=sizes)
    words = [sys.executable, "-c", ON_RAY, str(source), str(tmp_path / "ray")]
    (tmp_path / "ray").mkdir()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused: ") and "line 31 is not JSON" in done.stdout
    assert content(tmp_path / "ray" / "sound") == content(tmp_path / "local")


def test_a_stream_does_not_go_to_ray(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="ray reads files, and list is a stream"):
        pack([{"text": "a"}], tmp_path / "out", 8, tokenizer="demo", ray=True)
