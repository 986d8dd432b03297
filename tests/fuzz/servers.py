"""Servers on a bad day, and worse ones: `lengthwise measure http://…` against each of them.

    python tests/fuzz/servers.py [--seed N] [--mutants N] [--kills N] [--only WORDS] [-v]

Every behaviour is met twice: for the prompts of a suite only, and from the first contact on. What
must hold: the status is 0 or 2, the words are no traceback, it ends in time, no answer that a
server broke off or never gave is graded, and one that is sound is. Where the server has only had a
bad day, the same command asks again once it is well, and nothing that was answered is asked twice.
After the named behaviours come `--mutants` damaged streams and `--kills` runs that are killed or
interrupted, drawn by the seed: what is answered is kept, the rest is asked, the rows are the same.
"""

import argparse
import gzip
import json
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

SOURCE = str(Path(__file__).resolve().parents[2] / "src")
sys.path.insert(0, SOURCE)  # this tree, not another
os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
os.environ["TOKENIZERS_PARALLELISM"] = "false"

NAME, FIRST, TEXT = "m", "a", "The answer is 7."
TIMEOUT, BOUND = 0.4, 20.0  # seconds for one try, and for one command line


HEAD = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream"


class Talk:
    """One request, and the connection on which it came."""

    def __init__(self, connection: socket.socket, method: str, path: str, body: Any) -> None:
        self.connection, self.method, self.path, self.body = connection, method, path, body
        self.chat = "chat" in path
        self.over = time.monotonic() + 10 * TIMEOUT  # nobody listens longer

    @property
    def prompt(self) -> str:
        return self.body["messages"][0]["content"] if self.chat else self.body["prompt"]

    def send(self, data: bytes | str) -> None:
        self.connection.sendall(data.encode() if isinstance(data, str) else data)

    def chunk(self, text: Any = "", end: Any = None, **more: Any) -> dict[str, Any]:
        part = {"delta": {"content": text}} if self.chat else {"text": text}
        choice = {"index": 0, "finish_reason": end, **part}
        return {"model": NAME, "choices": [choice], **more}

    def stream(self, *events: Any, done: bool = True, kind: str = "text/event-stream") -> None:
        """A head and events; a str is sent as it is."""
        self.send(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n")
        for event in [*events, "data: [DONE]\n\n"] if done else events:
            self.send(event if isinstance(event, str | bytes) else sse(event))

    def answer(self, status: str, body: bytes | str, *headers: str) -> None:
        body = body.encode() if isinstance(body, str) else body
        head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
        self.send("\r\n".join([*head, *headers]) + "\r\n\r\n")
        self.send(body)

    def for_ever(self, data: bytes | str, pause: float = 0.0) -> None:
        while time.monotonic() < self.over:
            self.send(data)
            time.sleep(pause)

    def good(self, **usage: Any) -> None:
        more = {"usage": usage} if usage else {}
        self.stream(self.chunk(TEXT), self.chunk(end="stop", **more))


Behaviour = Callable[[Talk], None]


def sse(event: Any) -> str:
    return f"data: {json.dumps(event)}\n\n"


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


# Sound, if odd: what they answer is graded.
SOUND: dict[str, Behaviour] = {
    "as it should be": lambda t: t.good(),
    "no [DONE]": lambda t: t.stream(t.chunk(TEXT), t.chunk(end="stop"), done=False),
    "ended by length": lambda t: t.stream(t.chunk(TEXT), t.chunk(end="length")),
    "ended by eos_token": lambda t: t.stream(t.chunk(TEXT, ""), t.chunk(end="eos_token")),
    "an answer of nothing": lambda t: t.stream(t.chunk(end="stop")),
    "lines end in CR LF": lambda t: t.stream(
        sse(t.chunk(TEXT, "stop")).replace("\n", "\r\n"), "data: [DONE]\r\n\r\n"
    ),
    "comments between": lambda t: t.stream(
        ": ping\n\n", t.chunk(TEXT), ": ping\n\n", t.chunk(end="stop")
    ),
    "an event in many lines": lambda t: t.stream(
        "data: " + json.dumps(t.chunk(TEXT, "stop"), indent=1).replace("\n", "\ndata: ") + "\n\n"
    ),
    "ids and retry fields": lambda t: t.stream(
        "id: 1\nretry: x\nevent: message\n" + sse(t.chunk(TEXT)), t.chunk(end="stop")
    ),
    "chunks of one byte": lambda t: one_byte_chunks(t),
    "bytes that come slowly": lambda t: slowly(t),
    "usage in a chunk of its own": lambda t: t.stream(
        t.chunk(TEXT), t.chunk(end="stop"), usage_of(t, choices=[])
    ),
    "usage in every chunk": lambda t: t.stream(
        usage_of(t, **t.chunk(TEXT)), usage_of(t, **t.chunk(end="stop"))
    ),
    "usage null": lambda t: t.stream(t.chunk(TEXT, usage=None), t.chunk(end="stop", usage=None)),
    "usage a list": lambda t: t.stream(t.chunk(TEXT, "stop", usage=[1])),
    "counts of 0": lambda t: t.good(prompt_tokens=0, completion_tokens=0),
    "choices null": lambda t: t.stream({"choices": None}, t.chunk(TEXT), t.chunk(end="stop")),
    "choices empty at first": lambda t: t.stream(
        {"model": "", "choices": []}, t.chunk(TEXT, "stop")
    ),
    "no name": lambda t: t.stream({"choices": t.chunk(TEXT, "stop")["choices"]}),
    "a dated name": lambda t: t.stream({**t.chunk(TEXT, "stop"), "model": f"{NAME}-2025-01-31"}),
    "half a surrogate pair": lambda t: t.stream(t.chunk("a\ud800b"), t.chunk(end="stop")),
    "a pair in two chunks": lambda t: t.stream(t.chunk("\ud83d"), t.chunk("\ude00", "stop")),
    "bytes that are no UTF-8": lambda t: t.stream(
        sse(t.chunk("x~x", "stop")).encode().replace(b"~", b"\xff\xfe")
    ),
    "control characters": lambda t: t.stream(t.chunk("\0\x1b[2J\u2028\x85 7", "stop")),
    "digits that are none": lambda t: t.stream(t.chunk("² ٣ ߷ ① " + "9" * 900, "stop")),
    "a character set of its own": lambda t: t.stream(
        t.chunk(TEXT, "stop"), kind="text/event-stream; charset=hex"
    ),
    "a second choice": lambda t: t.stream(
        t.chunk(TEXT), {"choices": [{"index": 1, "text": "no"}]}, t.chunk(end="stop")
    ),
    "100 at first": lambda t: (t.send("HTTP/1.1 100 Continue\r\n\r\n"), t.good()),
    "cookies of nonsense": lambda t: (
        t.send(f"{HEAD}\r\nSet-Cookie: ;=;\xff; a=\r\n\r\n"), t.send(sse(t.chunk(TEXT, "stop"))),
    ),
    "a field 50 deep": lambda t: t.stream(t.chunk(TEXT, "stop", more=json.loads(nested(50)))),
    **{
        f"completion_tokens {n!r:.20}": lambda t, n=n: t.good(prompt_tokens=n, completion_tokens=n)
        for n in (None, "12", 10**30, -1, True, float("nan"), 1e400, 2.5, [7], {})
    },
}  # fmt: skip


def one_byte_chunks(talk: Talk) -> None:
    talk.send(f"{HEAD}\r\nTransfer-Encoding: chunked\r\n\r\n")
    body = sse(talk.chunk(TEXT, "stop")) + "data: [DONE]\n\n"
    talk.send("".join(f"1\r\n{letter}\r\n" for letter in body) + "0\r\n\r\n")


def slowly(talk: Talk) -> None:
    talk.stream(done=False)
    for letter in sse(talk.chunk(TEXT, "stop")):
        talk.send(letter)
        time.sleep(0.0005)


def usage_of(talk: Talk, **chunk: Any) -> dict[str, Any]:
    """A chunk with counts that fit: every character of these prompts may be a token."""
    return {"usage": {"prompt_tokens": len(talk.prompt) + 9, "completion_tokens": 5}, **chunk}


def raw(data: bytes | str) -> Behaviour:
    return lambda talk: talk.send(data)


def error(status: str, body: bytes | str = '{"error": {"message": "no"}}', *more: str) -> Behaviour:
    return lambda talk: talk.answer(status, body, "Content-Type: application/json", *more)


def ended(by: Any) -> Behaviour:
    return lambda talk: talk.stream(talk.chunk(TEXT), talk.chunk(end=by))


def events(*lines: str) -> Behaviour:
    """Text, then these as they are, then a sound end."""
    return lambda talk: talk.stream(talk.chunk(TEXT), *lines, talk.chunk(end="stop"))


def field_of(**fields: Any) -> Behaviour:
    """A sound stream, but for a chunk with fields of other types."""
    return events(sse({**fields}))


def in_the_choice(**fields: Any) -> Behaviour:
    return events(sse({"choices": [{"index": 0, **fields}]}))


def head_then(data: str, pause: float = 0.0, head: str = "") -> Behaviour:
    def behave(talk: Talk) -> None:
        talk.stream(talk.chunk(TEXT), head, done=False)
        talk.for_ever(data, pause)

    return behave


def packed(kind: str, data: bytes) -> Behaviour:
    more = (f"Content-Encoding: {kind}", "Content-Type: text/event-stream")
    return lambda talk: talk.answer("200 OK", data, *more)


def reset(talk: Talk) -> None:
    talk.stream(talk.chunk(TEXT), done=False)
    talk.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def promised(length: str) -> Behaviour:
    head = f"{HEAD}\r\nContent-Length: {length}\r\n\r\n"
    return lambda talk: (talk.send(head), talk.send(sse(talk.chunk(TEXT))))  # type: ignore[func-returns-value]


def chunked(data: str) -> Behaviour:
    return raw(f"{HEAD}\r\nTransfer-Encoding: chunked\r\n\r\n{data}")


PAGE = "<html>\n<h1>Welcome</h1>\n</html>"
BOMB = gzip.compress(b": ping\n\n" * 2**22)  # 32 MiB in 32 KiB, and it has no answer in it
# Broken for a while: never graded, and asked again by the next run (or the run ends with status 2).
BROKEN: dict[str, Behaviour] = {
    "nothing but the end": lambda t: t.stream(),
    "an empty stream": lambda t: t.stream(done=False),
    "an error object": events(sse({"object": "error", "message": "engine died", "code": 500})),
    "an error in a chunk": events(sse({"error": {"message": "out of\nmemory"}})),
    "an error without words": events(sse({"error": True})),
    "an event of kind error": events('event: error\ndata: {"message": "died"}\n\n'),
    "an error after the end": lambda t: t.stream(t.chunk(TEXT, "stop"), {"error": "died"}),
    "ended by abort": ended("abort"),
    "ended by error": ended("error"),
    "never ended": lambda t: t.stream(t.chunk(TEXT)),
    "ended by nothing": ended(""),
    "half an answer": lambda t: t.stream(t.chunk(TEXT), done=False),
    "half a line": lambda t: t.stream('data: {"choices": [{"te', done=False),
    "a reset in the middle": reset,
    "a page for an answer": lambda t: t.answer("200 OK", PAGE, "Content-Type: text/html"),
    "no stream but an object": lambda t: t.answer(
        "200 OK", json.dumps(t.chunk(TEXT, "stop")), "Content-Type: application/json"
    ),
    "an error with status 200": error("200 OK"),
    "no media type": lambda t: t.answer("200 OK", sse(t.chunk(TEXT, "stop"))),
    "lines of JSON": lambda t: t.stream(t.chunk(TEXT, "stop"), kind="application/x-ndjson"),
    "not JSON": events("data: <oops>\n\n"),
    "an array": events("data: [1]\n\n"),
    "a number": events("data: 7\n\n"),
    "a number of 5,000 digits": events("data: " + "7" * 5000 + "\n\n"),
    "null": events("data: null\n\n"),
    "100,000 deep": events(f"data: {nested(100_000)}\n\n"),
    "900 deep in the error": events(f'data: {{"error": {nested(900)}}}\n\n'),
    "choices a text": field_of(choices="x"),
    "choices an object": field_of(choices={"0": {}}),
    "choices of numbers": field_of(choices=[1]),
    "choices of null": field_of(choices=[None]),
    "choices a number": field_of(choices=7),
    "a model that is a number": field_of(model=7, choices=[]),
    "finish_reason an object": in_the_choice(finish_reason={"type": "abort"}),
    "finish_reason a number": in_the_choice(finish_reason=1),
    "index a text": in_the_choice(index="x"),
    "text a number": lambda t: t.stream(t.chunk(7), t.chunk(end="stop")),
    "text a list": lambda t: t.stream(t.chunk(["x"]), t.chunk(end="stop")),
    "a line of 3 MB": events("data: " + "x" * 3_000_000 + "\n\n"),
    "comments for ever": head_then(": ping\n\n", 0.05),
    "comments as fast as can be": head_then(": ping\n\n" * 1000),
    "bytes for ever": head_then("x", 0.05, head="data: "),
    "one line for ever": head_then("x" * 65536, head="data: "),
    "chunks without text for ever": head_then(sse({"choices": []}) * 100),
    "pings after the end": lambda t: (
        t.stream(t.chunk(TEXT, "stop"), done=False), t.for_ever(": ping\n\n", 0.05)
    ),
    "silence": lambda t: t.for_ever(b"", 0.05),
    "silence after the head": lambda t: (t.stream(done=False), t.for_ever(b"", 0.05)),
    "silence after the text": lambda t: (
        t.stream(t.chunk(TEXT), done=False), t.for_ever(b"", 0.05)
    ),
    "a head for ever": lambda t: (t.send("HTTP/1.1 200 OK\r\n"), t.for_ever("X-A: b\r\n", 0.05)),
    "a status line for ever": lambda t: t.for_ever("H", 0.05),
    "100 for ever": lambda t: t.for_ever("HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "hung up": raw(b""),
    "more bytes promised": promised("99999"),
    "fewer bytes promised": promised("40"),
    "a length below 0": promised("-5"),
    "a length of letters": promised("many"),
    "two lengths": promised("5\r\nContent-Length: 6"),
    "a chunk of no size": chunked("zz\r\ndata: x\r\n"),
    "a chunk of a huge size": chunked("f" * 30 + "\r\ndata: x\r\n"),
    "a chunk that is cut": chunked("ffff\r\ndata: "),
    "a bomb in gzip": packed("gzip", BOMB),
    "gzip that is none": packed("gzip", b"data: x\n\n"),
    "an unknown packing": packed("br, zstd, magic", b"data: x\n\n"),
    "no HTTP": raw(b"\x16\x03\x01\x02\x00 hello\r\n\r\n"),
    "HTTP 2": raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "bytes of nothing": raw(b"\0" * 9999),
    "a status of letters": raw("HTTP/1.1 OK 200\r\n\r\n"),
    "10,000 headers": raw("HTTP/1.1 200 OK\r\n" + "X-A: b\r\n" * 10_000 + "\r\n"),
    "a header of 1 MB": raw("HTTP/1.1 200 OK\r\nX-A: " + "b" * 2**20 + "\r\n\r\n"),
    "429 for ever": error("429 Slow Down"),
    **{
        f"Retry-After {words}": error("429 Slow Down", "{}", f"Retry-After: {words}")
        for words in ("inf", "nan", "-5", "1e999", "soon", "Wed, 21 Oct 2015 07:28:00 +9999999999")
    },
    "500": error("500 Oops"),
    "500 in a page": error("500 Oops", PAGE),
    "500 with 80 MB": lambda t: t.answer("500 Oops", b"x" * 80_000_000),
    "500, 100,000 deep": error("500 Oops", nested(100_000)),
    "500 in bits": error("500 Oops", b"\xff\xfe\x00\x1b[2J"),
    "503 that drips": lambda t: (
        t.send("HTTP/1.1 503 Busy\r\nConnection: close\r\n\r\n"), t.for_ever("x", 0.05)
    ),
    "599": error("599 What"),
}  # fmt: skip
# Words of the server that are final: never graded, and not asked again.
FINAL: dict[str, Behaviour] = {
    "a prompt cut to 50 tokens": lambda t: t.good(prompt_tokens=50, completion_tokens=1),
    "a prompt cut, said in every chunk": lambda t: t.stream(
        t.chunk(TEXT, usage={"prompt_tokens": 99}), t.chunk(end="stop", usage={"prompt_tokens": 99})
    ),
    "content filter": ended("content_filter"),
    "tool calls": ended("tool_calls"),
    "a word of its own": ended("because"),
    "a word of surrogates": ended("\ud800\x1b[2J"),
    "writes on for ever": lambda t: (
        t.stream(done=False), t.for_ever(sse(t.chunk("All work and no play. " * 100)))
    ),
    "400, too long": error("400 Bad", '{"error": {"message": "maximum context length is 4"}}'),
    "400 in odd words": error("400 Bad", '{"detail": [{"msg": "\\ud800 \\u001b[2J [/b]"}]}'),
    "413": error("413 Too Large", PAGE),
    "422": error("422 No", '{"object":"error","message":{"detail":[]}}'),
    "204": raw("HTTP/1.1 204 No Content\r\n\r\n"),
    "206": error("206 Partial"),
}  # fmt: skip
# Nothing can go on: status 2.
FATAL: dict[str, Behaviour] = {
    "401": error("401 No"),
    "402": error("402 Pay"),
    "403": error("403 No"),
    "404": error("404 Not Found"),
    "a redirect to elsewhere": error("301 Moved", "", "Location: http://198.51.100.1/v1"),
    "a redirect in odd bytes": error("307 Moved", "", "Location: \xff\x1b[2J\ud7ff"),
    "a redirect to nowhere": error("302 Found", ""),
    "another model": lambda t: t.stream({**t.chunk(TEXT, "stop"), "model": "another"}),
    "a model in odd characters": lambda t: t.stream({**t.chunk(TEXT), "model": "\ud800\x1b[2J"}),
}
LISTED = json.dumps({"data": [{"id": NAME}]})
# Lists of models; whether measuring goes on with a model that is named, None where time decides.
LISTS: dict[str, tuple[Behaviour, bool | None]] = {
    **{
        f"listed {text:.40}": (error("200 OK", text), True)
        for text in (
            "7", "null", "[]", "{}", '"data"', '{"data": 7}', '{"data": {"id": "m"}}',
            '{"data": [7]}', '{"data": [{}]}', '{"data": [{"id": 7}, {"id": "m"}]}',
            '{"data": [{"id": ["m"]}]}', '{"data": [{"id": "\\ud800"}, {"id": "m"}]}',
            nested(100_000), PAGE,
            *(f'{{"data": [{{"id": "m", "max_model_len": {n}}}]}}' for n in
              ("null", '"9"', "-1", "true", "NaN", "1e99", "9" * 99, "[]", "2.5")),
        )
    },
    "no list": (error("404 Not Found"), True),
    "a list that is broken": (error("500 Oops"), True),
    "a list in 70 MB": (error("200 OK", b" " * 70_000_000), None),
    "a list of 50,000": (
        error("200 OK", json.dumps({"data": [{"id": f"x{i}"} for i in range(50_000)]})), False),
    "a list that sends on": (error("301 Moved", "", "Location: https://127.0.0.1/"), False),
    "a list that wants a key": (error("401 No"), False),
    "a list that drips": (lambda t: t.for_ever("x", 0.05), False),
    "a list that resets": (raw(b""), False),
}  # fmt: skip


@dataclass
class Server:
    """Answers `behave` where it is asked for it, and otherwise as a server should."""

    behave: Behaviour | None = None
    listing: Behaviour | None = None
    always: bool = False  # at the first contact too
    prompts: list[str] = field(default_factory=list)

    def serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            head, _, rest = read_until(connection, b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            size = next((int(x[15:]) for x in lines if x.lower().startswith("content-length:")), 0)
            while len(rest) < size:
                rest += connection.recv(65536)
            method, path, _ = lines[0].split(" ", 2)
            talk = Talk(connection, method, path, json.loads(rest) if rest else None)
            if method == "GET":
                (self.listing or error("200 OK", LISTED))(talk)
                return
            first = talk.prompt == FIRST
            if not first:
                self.prompts.append(talk.prompt)
            (self.behave if self.behave and (self.always or not first) else Talk.good)(talk)


def read_until(connection: socket.socket, end: bytes) -> tuple[bytes, bytes, bytes]:
    data = b""
    while end not in data:
        more = connection.recv(65536)
        if not more:
            raise OSError
        data += more
    return data.partition(end)


@contextmanager
def serving(server: Server) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    threading.Thread(target=server.serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


@contextmanager
def in_haste() -> Iterator[None]:
    """Short pauses and one more try, so that a bad day is over within a second."""
    from lengthwise.measure.engines import endpoint

    defaults = endpoint.Endpoint.__init__.__kwdefaults__
    before = {**defaults}
    pause, endpoint.FIRST_PAUSE = endpoint.FIRST_PAUSE, 0.01
    defaults |= {"timeout": TIMEOUT, "retries": 1}
    try:
        yield
    finally:
        defaults |= before
        endpoint.FIRST_PAUSE = pause


def command(url: str, folder: Path) -> list[str]:
    words = [
        "measure",
        url,
        "-o",
        str(folder),
        "--suite",
        "quick",
        "--lengths",
        "..512",
        "--items",
        "1",
    ]
    return [*words, "--tokenizer", "demo", "--served-model", NAME]


def run(words: list[str]) -> tuple[int, str, str]:
    """The command line in this process: its status, standard error, and all that it said."""
    from typer.testing import CliRunner

    from lengthwise.cli.app import app

    done = CliRunner().invoke(app, words)
    return done.exit_code, done.stderr, done.output


def measure(url: str, folder: Path, chat: bool) -> str:
    """Run the command line; its status, or what is wrong with how it ended."""
    began = time.monotonic()
    status, error, said = run([*command(url, folder), *(["--chat"] if chat else [])])
    took = time.monotonic() - began
    if took > BOUND:
        return f"{took:.0f} s"
    if status not in (0, 2) or "Traceback" in said or "internal error" in said:
        return f"status {status}: {said.strip()[-300:]}"
    if status == 2 and error.count("lengthwise: ") != 1:
        return f"not one line: {error[-300:]!r}"
    if any(ord(c) < 32 and c not in "\n\r" for c in said) or "\x7f" in said:
        return f"control characters: {said[-300:]!r}"
    return f"{status}"


def scores(folder: Path) -> list[float | None]:
    from lengthwise.measure.run.results import Results
    from lengthwise.names import RESULTS

    return [row.score for row in Results.load(folder).rows] if (folder / RESULTS).exists() else []


def wrong(kind: str, behave: Behaviour, chat: bool = False) -> list[str]:
    """What does not hold of a behaviour for prompts, then from the first contact on."""
    found = []
    with tempfile.TemporaryDirectory() as temporary, in_haste():
        folder, server = Path(temporary) / "out", Server(behave)
        with serving(server) as url:
            ended = measure(url, folder, chat)
            graded = [score is not None for score in scores(folder)]
            asked = len(set(server.prompts))
            # Where a busy machine lets the server look gone, it is 2 for a broken one.
            expected = {"sound": ["0"], "final": ["0"], "fatal": ["2"]}.get(kind, ["0", "2"])
            if ended not in expected:
                found.append(f"ended with {ended}")
            if kind == "sound" and graded != [True] * 5:
                found.append(f"graded {sum(graded)} of 5")
            if kind in ("broken", "final", "fatal") and any(graded):
                found.append(f"graded {sum(graded)} though {kind}")
            # The server is well again: what is open is asked again, and nothing else.
            server.behave = None
            server.prompts.clear()
            ended = measure(url, folder, chat)
            if ended != "0":
                found.append(f"the next run ended with {ended}")
            again = {"sound": 0, "broken": 5, "final": 0, "fatal": 5}
            if kind in again and len(server.prompts) != again[kind]:
                found.append(f"{len(server.prompts)} of {asked} asked again")
            server.behave, server.always = behave, True
            ended = measure(url, Path(temporary) / "first", chat)
            # At the first contact it does not matter what the answer is, if it is one.
            if ended not in {"sound": ["0"], "final": ["0", "2"]}.get(kind, ["0", "2"]):
                found.append(f"from the first contact on it ended with {ended}")
    return found


def wrong_list(listing: Behaviour, goes_on: bool | None) -> list[str]:
    with (
        tempfile.TemporaryDirectory() as temporary,
        in_haste(),
        serving(Server(listing=listing)) as url,
    ):
        ended = measure(url, Path(temporary) / "out", False)
    expected = {True: ["0"], False: ["2"], None: ["0", "2"]}[goes_on]
    return [] if ended in expected else [f"ended with {ended}"]


def wrong_kill(rng: random.Random) -> list[str]:
    """What does not hold where a run is ended in the middle, and the same command goes on."""
    sent = rng.choice([signal.SIGKILL, signal.SIGINT])
    after, pause = rng.randrange(1, 19), rng.random() * 0.05

    def answer(talk: Talk) -> None:
        time.sleep(0.02 + 0.04 * (zlib.crc32(talk.prompt.encode()) % 3))
        talk.stream(talk.chunk(talk.prompt[-40:], "stop"))

    with tempfile.TemporaryDirectory() as temporary:
        server, whole, ended = Server(answer), Path(temporary) / "whole", Path(temporary) / "ended"
        with serving(server) as url:
            words = [*command(url, whole), "--items", "4", "--parallel", "3"]
            run([*words])
            server.prompts.clear()
            words[words.index(str(whole))] = str(ended)
            process = subprocess.Popen(
                [sys.executable, "-m", "lengthwise", *words],
                env={**os.environ, "PYTHONPATH": SOURCE},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None and len(server.prompts) < after:
                time.sleep(0.002)
            time.sleep(pause)
            process.send_signal(sent)
            status = process.wait(60)
            kept, asked = rows(ended), len(server.prompts)
            status_again = run(words)[0]
            twice = len(server.prompts) - len(set(server.prompts))
    found = []
    if status != (130 if sent == signal.SIGINT else -sent):
        found.append(f"ended with {status}")
    # Three are under way at a time, and what came while a row was written waits for its turn.
    if len(kept) < asked - 6:
        found.append(f"{len(kept)} rows kept of {asked} that were asked")
    if status_again != 0 or rows(ended) != rows(whole):
        found.append(f"other rows (status {status_again})")
    if twice > 6:
        found.append(f"{twice} asked twice")
    return [f"{sent.name} after {after}: {words}" for words in found]


def rows(folder: Path) -> dict[Any, Any]:
    """The rows by their keys, without what the clock and the number of runs decide."""
    from lengthwise.measure.run.results import Results
    from lengthwise.names import RESULTS

    if not (folder / RESULTS).exists():
        return {}
    blank = {"first_token": None, "seconds": 0, "session": 0}
    return {row.key: replace(row, **blank) for row in Results.load(folder).rows}


def mutant(rng: random.Random) -> Behaviour:
    """A sound stream with something drawn in it that is not."""
    strange: list[Any] = [
        None, True, 0, -1, 2**70, 1e308, float("nan"), "", "\ud800", "x" * 9000, [], {}, [[]], "7",
    ]  # fmt: skip
    way, place, value = rng.randrange(4), rng.random(), rng.choice(strange)

    def behave(talk: Talk) -> None:
        parts = [usage_of(talk, **talk.chunk(word + " ")) for word in TEXT.split()]
        parts.append(usage_of(talk, **talk.chunk(end="stop")))
        if way == 0:  # a value somewhere
            entry: Any = parts[int(place * len(parts))]
            drawn = random.Random(place)
            while True:
                key = drawn.choice(list(entry) if isinstance(entry, dict) else range(len(entry)))
                inner = entry[key]
                if not inner or not isinstance(inner, dict | list) or drawn.random() < 0.3:
                    entry[key] = value
                    break
                entry = inner
        data = "".join(map(sse, parts)).encode() + b"data: [DONE]\n\n"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        whole = bytearray(head + data)
        at = int(place * len(whole))
        if way == 1:  # cut
            del whole[at:]
        elif way == 2:  # other bytes
            drawn = random.Random(place)
            for _ in range(drawn.randrange(1, 30)):
                whole[drawn.randrange(len(whole))] = drawn.randrange(256)
        elif way == 3:  # a piece twice
            whole[at:at] = whole[at // 2 : at]
        talk.send(bytes(whole))

    return behave


def all_named() -> dict[str, tuple[str, Behaviour]]:
    kinds = {"sound": SOUND, "broken": BROKEN, "final": FINAL, "fatal": FATAL}
    return {name: (kind, how) for kind, group in kinds.items() for name, how in group.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--mutants", type=int, default=60)
    parser.add_argument("--kills", type=int, default=6)
    parser.add_argument("--only", default="", help="behaviours whose name holds this")
    parser.add_argument("-v", "--verbose", action="store_true")
    asked = parser.parse_args()
    checks: dict[str, Callable[[], list[str]]] = {}
    for name, (kind, how) in all_named().items():
        for chat in (False, True):
            label = f"{name}{' (chat)' if chat else ''}"
            checks[label] = lambda kind=kind, how=how, chat=chat: wrong(kind, how, chat)
    for name, (listing, goes_on) in LISTS.items():
        checks[name] = lambda listing=listing, goes_on=goes_on: wrong_list(listing, goes_on)
    rng = random.Random(asked.seed)
    for number in range(asked.mutants):
        how = mutant(rng)
        checks[f"mutant {number}"] = lambda how=how: wrong("any", how)
    for number in range(asked.kills):
        checks[f"kill {number}"] = lambda: wrong_kill(rng)
    checks = {name: check for name, check in checks.items() if asked.only in name}
    bad = 0
    began = time.monotonic()
    for name, check in checks.items():
        at = time.monotonic()
        found = check()
        bad += bool(found)
        if found or asked.verbose:
            print(
                f"{name}: {'; '.join(found) or 'right'} ({time.monotonic() - at:.1f} s)", flush=True
            )
    named = len(all_named()) + len(LISTS)
    print(
        f"{len(checks)} checks (seed {asked.seed}) of {named} behaviours, {asked.mutants} mutants "
        f"and {asked.kills} kills in {time.monotonic() - began:.0f} s: {bad} wrong"
    )
    return bool(bad)


if __name__ == "__main__":
    sys.exit(main())
