"""`lengthwise measure` with a suite: kills, refusals, and what it writes."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tests import forked

from lengthwise.cli.app import app
from lengthwise.files import hold
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.runner import _Run
from lengthwise.names import RESULTS


class Served(BaseHTTPRequestHandler):
    """A server whose model always says the same, with a window of 600 tokens and a key."""

    def do_GET(self) -> None:
        self._reply(json.dumps({"data": [{"id": "parrot", "max_model_len": 600}]}))

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.headers["Authorization"] == "Bearer k-81-z"
        self.server.asked.append(self.path)
        if len(self.server.asked) == self.server.hang_at:
            while len(self.server.asked) < self.server.hang_at + 2:  # the others are answered
                time.sleep(0.01)
            time.sleep(0.5)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            while self.server.hang_at:  # a connection that is closed would be tried again
                time.sleep(0.01)
            return
        text = {"text": "a"} if "prompt" in asked else {"delta": {"content": "a"}}
        event = {"model": "parrot", "choices": [{**text, "finish_reason": "stop"}]}
        self._reply(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n", "text/event-stream")

    def _reply(self, text: str, kind: str = "application/json") -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def served() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Served) as server:
        server.asked, server.hang_at = [], 0
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Call = Callable[..., tuple[int, str, str]]
QUICK = ("--suite", "quick", "--lengths", "..512", "--items", "2")
SHORT = "streamingllm:sinks=2,window=32"


def test_what_it_writes_and_that_it_goes_on(checkpoint: Path, tmp_path: Path, call: Call) -> None:
    words = ("measure", checkpoint, "-o", tmp_path / "out", *QUICK, "-m", "plain", "-m", SHORT)
    status, out, err = call(*words)
    assert status == 0, err
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "results.jsonl", "results.parquet", "report.html",
    }  # fmt: skip
    results = Results.load(tmp_path / "out")
    assert results.methods == ["plain", SHORT]
    assert results.sessions[0]["command"].startswith("lengthwise measure ")
    assert f"Numbers: {tmp_path / 'out' / RESULTS}" in out
    before = (tmp_path / "out" / RESULTS).read_bytes()
    status, again, err = call(*words)
    assert (status, again) == (0, out) and "are there already" in err
    assert (tmp_path / "out" / RESULTS).read_bytes() == before


def test_copies_on_ray_answer_as_one_model_does(checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    rows = []
    for folder, more in (("alone", []), ("many", ["--ray", "2"])):
        words = [
            "measure",
            checkpoint.name,
            "-o",
            str(tmp_path / folder),
            *QUICK,
            "-m",
            SHORT,
            *more,
        ]
        subprocess.run(  # Ray leaves threads and sockets behind
            [sys.executable, "-m", "lengthwise", *words],
            cwd=checkpoint.parent, check=True, capture_output=True, timeout=300,
        )  # fmt: skip
        found = Results.load(tmp_path / folder).rows
        rows.append([(*row.key, row.score, row.reply, row.tokens) for row in found])
    assert rows[0] == rows[1] and rows[0]


def test_killed_again_and_again_it_comes_to_the_same_rows(
    checkpoint: Path, tmp_path: Path, call: Call
) -> None:
    def words(folder: str) -> list[str]:
        common = ["measure", str(checkpoint), "-o", str(tmp_path / folder), "-m", "plain"]
        return [*common, "-m", SHORT, "--suite", "quick", "--lengths", "..1024", "--items", "3"]

    assert call(*words("whole"))[0] == 0
    whole = Results.load(tmp_path / "whole").rows

    draw = random.Random(0)
    file = tmp_path / "killed" / RESULTS
    for share in (0.1, 0.6):
        run = forked.begin(lambda: app(words("killed")), tmp_path / "log")
        while not os.waitid(os.P_PID, run, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            lines = file.read_bytes().count(b"\n") if file.exists() else 0
            if lines > 2 + share * len(whole):
                time.sleep(0.05 * draw.random())
                os.kill(run, signal.SIGKILL)
            time.sleep(0.002)
        assert forked.end(run) == -signal.SIGKILL, (tmp_path / "log").read_text()
    kept = file.read_bytes()
    assert len(Results.load(tmp_path / "killed").rows) < len(whole)
    assert call(*words("killed"))[0] == 0
    assert file.read_bytes().startswith(kept[: kept.rindex(b"\n") + 1])
    assert content(Results.load(tmp_path / "killed").rows) == content(whole)


def content(rows: list) -> list:
    """Rows without what the clock, the allocator and the number of runs decide."""
    return [replace(r, first_token=None, seconds=0, held=0, peak=0, session=0) for r in rows]


def test_an_interruption_keeps_what_is_answered(
    checkpoint: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("measure", checkpoint, "-o", tmp_path / "out", *QUICK)
    add = _Run._add

    def interrupted(self: _Run, cell, *rest) -> None:
        if cell[1] == "lines":
            raise KeyboardInterrupt
        add(self, cell, *rest)

    monkeypatch.setattr(_Run, "_add", interrupted)
    status, _, err = call(*words)
    assert status == 130
    last = err.splitlines()[-1]
    assert last.startswith("Interrupted. ") and last.endswith("to go on from there.")
    assert (tmp_path / "out" / "report.html").exists()
    kept = len(Results.load(tmp_path / "out").rows)
    monkeypatch.setattr(_Run, "_add", add)
    status, _, err = call(*words)
    assert status == 0 and f"{kept} measurements are there already" in err


def test_ctrl_c_while_a_server_answers(
    served: ThreadingHTTPServer, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers before the one that hangs are kept and those after it too; the rest is asked."""
    monkeypatch.setenv("A_KEY", "k-81-z")
    url = f"http://127.0.0.1:{served.server_port}/v1"
    words = (
        "measure",
        url,
        "--suite",
        "quick",
        "--lengths",
        "..512",
        "--items",
        "4",
        "--parallel",
        "2",
    )
    words = (*words, "--tokenizer", "demo", "--key-env", "A_KEY", "-o")
    assert call(*words, tmp_path / "whole")[0] == 0
    whole = Results.load(tmp_path / "whole").rows
    served.asked.clear()
    served.hang_at = (
        1 + 4 + 2
    )  # the first contact, a task, and one of the first two prompts of the next
    status, _, err = call(*words, tmp_path / "out")
    assert status == 130 and "keeps the 7 measurements that are finished" in err
    kept = Results.load(tmp_path / "out").rows
    assert len([row.index for row in kept if row.task == "niah"]) == 3
    served.asked.clear()
    served.hang_at = 0
    assert call(*words, tmp_path / "out")[0] == 0
    assert len(served.asked) == 1 + 13
    rows = {row.key: row for row in content(Results.load(tmp_path / "out").rows)}
    assert rows == {row.key: row for row in content(whole)}


def test_own_text_and_questions(checkpoint: Path, novel: Path, tmp_path: Path, call: Call) -> None:
    words = ("measure", checkpoint, *QUICK, "--items", "1")
    assert call(*words, "-o", tmp_path / "text", "--text", novel)[0] == 0
    (row,) = Results.load(tmp_path / "text").cell("plain", "passkey", 512)
    assert row.prompt.splitlines()[1] in novel.read_text().splitlines()
    questions = tmp_path / "questions.json"
    context = [[f"Page {i}", [f"Fact {i} is about the number {i}. " * 3]] for i in range(9)]
    entry = {"question": "What is fact 3 about?", "answer": "the number 3", "context": context}
    other = {**entry, "context": [["Else", ["Another matter. " * 5]]]}
    questions.write_text(json.dumps([entry, other]))
    words = (*words, "-o", tmp_path / "questions", "--text", questions)
    assert call(*words)[0] == 0
    assert call(*words, "--seed", "1")[0] == 2


def test_what_is_refused(
    checkpoint: Path, tmp_path: Path, call: Call, refused: Callable[..., str]
) -> None:
    out = tmp_path / "out"
    words = ("measure", checkpoint, "-o", out)
    quick = (*words, "--suite", "quick")
    assert "there is no suite or task 'slow'" in refused(*words, "--suite", "slow")
    assert "--lengths: 'far' is no length" in refused(*quick, "--lengths", "..far")
    assert "at least 512 tokens, got 64" in refused(*quick, "--lengths", "..1x")
    assert "loss is read from a model in this process" in refused(*words, "--ray", "2")
    assert "effective spends items" in refused(*words, "--suite", "effective,ruler")
    assert "--key-env is for a server" in refused(*words, *QUICK, "--key-env", "KEY")
    assert not out.exists()
    assert call(*words, *QUICK)[0] == 0
    assert "its seed is 0, now it is 1" in refused(*words, *QUICK, "--seed", "1")
    with hold(out):
        assert "another lengthwise is writing into" in refused(*words, *QUICK)
        assert "another lengthwise is writing into" in refused(*words, *QUICK, "--force")
    assert call(*words, *QUICK, "--seed", "1", "--force")[0] == 0
    assert Results.load(out).plan["seed"] == 1
    # More tasks may join, but not the same name for another thing.
    assert "its items passkey is 2, now it is 3" in refused(
        *words, "--suite", "passkey", "--items", "3", "--lengths", "64", "--seed", "1"
    )
    assert call(*words, "--suite", "vt", "--lengths", "512", "--items", "1", "--seed", "1")[0] == 0
    assert Results.load(out).tasks[-1] == "vt"
    (out / "results.jsonl").write_text('{"lengthwise_suite": 1}\n')
    assert "another version of lengthwise (format 1, this one reads 2)" in refused(*words, *QUICK)


@pytest.mark.parametrize("chat", [[], ["--chat"]])
def test_a_server_is_measured_and_what_it_cannot_read_is_refused(
    chat: list[str],
    served: ThreadingHTTPServer,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("A_KEY", "k-81-z")
    url = f"http://127.0.0.1:{served.server_port}/v1"
    words = (
        "measure",
        url,
        "-o",
        tmp_path / "out",
        "--suite",
        "quick",
        "--lengths",
        "..1024",
        *chat,
    )
    words = (*words, "--items", "2", "--tokenizer", "demo", "--key-env", "A_KEY")
    status, _, err = call(*words)
    assert status == 0, err
    assert "does not count tokens of prompts: one that it cuts would go unnoticed" in err
    results = Results.load(tmp_path / "out")
    assert results.plan["reader"]["window"] == 600
    assert {row.reply for row in results.rows if row.length == 512} == {"a"}
    for row in results.rows:
        assert ("the server takes 600" in row.refused) == (row.length == 1024)
    path = "/v1/chat/completions" if chat else "/v1/completions"
    assert served.asked == [path] * (1 + 10)
    assert "k-81-z" not in (tmp_path / "out" / RESULTS).read_text()


def test_what_is_refused_for_a_server(
    tmp_path: Path, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("A_KEY", raising=False)
    words = ("measure", "http://localhost:9", "-o", tmp_path / "out")
    assert "loss is read from a model in this process, and a server" in refused(*words)
    assert "--method is for a model in this process" in refused(*words, *QUICK, "-m", "plain")
    assert "a server needs --tokenizer" in refused(*words, *QUICK)
    words = (*words, *QUICK, "--tokenizer")
    assert "A_KEY is not set; put the key there" in refused(*words, "demo", "--key-env", "A_KEY")
    assert "--tokenizer: cannot load" in refused(*words, tmp_path / "nowhere")
    assert not (tmp_path / "out").exists()
