"""A server on this machine that misbehaves in every way that servers are known for."""

import gzip
import json
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from lengthwise.measure.engines import endpoint
from lengthwise.measure.engines.endpoint import ChatEndpoint, Endpoint
from lengthwise.measure.tasks.base import Item

NAME = "small-model"
FIRST = "a"  # the prompt of the first contact


def item(prompt: str, length: int = 20, allowance: int = 4) -> Item:
    return Item(prompt, "", length, (), allowance=allowance)


class Server:
    """Answers `<PROMPT>` in capitals, letter by letter, after what `bad` says of a prompt."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Any] = []
        self.models: list[dict[str, Any]] | None = [{"id": NAME}]
        self.name: str | None = NAME  # what replies are signed with; None leaves it out
        self.usage: dict[str, Any] | None = None  # of the last chunk
        self.done = True  # whether a stream ends in [DONE]
        # For a prompt: what to do instead, once for each time that it comes.
        self.bad: defaultdict[str, deque[Callable[[Any], None]]] = defaultdict(deque)
        self.always: dict[str, Callable[[Any], None]] = {}
        self.lock = threading.Lock()

    def asked(self, prompt: str) -> int:
        """How often a prompt has come."""
        return sum(body.get("prompt") == prompt for body in self.requests)

    def get(self, handler: "Handler") -> None:
        if self.models is None:
            return status(404, "no list")(handler)
        handler.reply(200, json.dumps({"object": "list", "data": self.models}))

    def post(self, handler: "Handler") -> None:
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        chat = handler.path == "/v1/chat/completions"
        if not chat and handler.path != "/v1/completions":
            return status(404, "Not Found")(handler)
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        with self.lock:
            self.requests.append(body)
            self.headers.append(handler.headers)
            queue = self.bad[prompt]
            behave = queue.popleft() if queue else self.always.get(prompt)
        if behave is not None:
            return behave(handler)
        handler.stream(self.events(prompt.upper()[: body["max_tokens"]], chat))

    def events(self, text: str, chat: bool = False) -> list[str]:
        def event(piece: str, end: str | None, **more: Any) -> str:
            part: dict[str, Any] = {"delta": {"content": piece}} if chat else {"text": piece}
            choice = {"index": 0, "finish_reason": end, **part}
            named = {"model": self.name} if self.name else {}
            return f"data: {json.dumps({**named, 'choices': [choice], **more})}\n\n"

        usage = {} if self.usage is None else {"usage": self.usage}
        events = [event(letter, None) for letter in text] + [event("", "stop", **usage)]
        return events + (["data: [DONE]\n\n"] if self.done else [])


class Handler(BaseHTTPRequestHandler):
    server: Any

    def do_GET(self) -> None:
        self.server.plan.get(self)

    def do_POST(self) -> None:
        self.server.plan.post(self)

    def reply(self, code: int, text: str, kind: str = "application/json", **headers: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(text.encode())

    def stream(self, events: list[str]) -> None:
        self.reply(200, "", "text/event-stream")
        for event in events:
            self.wfile.write(event.encode())
            self.wfile.flush()

    def log_message(self, *_: Any) -> None:
        pass


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """Who asked has hung up."""


def status(code: int, words: str, **headers: str) -> Callable[[Handler], None]:
    body = json.dumps({"error": {"message": words}})
    return lambda handler: handler.reply(code, body, **headers)


def html(handler: Handler) -> None:
    handler.reply(502, "<html>\n<h1>Bad Gateway</h1>\n</html>", "text/html")


def cut(handler: Handler) -> None:
    handler.stream(handler.server.plan.events("HALF")[:2])


def cut_in_a_word(handler: Handler) -> None:
    handler.stream(['data: {"choices": [{"te'])


def no_json(handler: Handler) -> None:
    handler.stream(["data: <oops>\n\n"])


def chunk_promised_and_not_sent(handler: Handler) -> None:
    handler.reply(200, "", "text/event-stream", Transfer_Encoding="chunked")
    handler.wfile.write(b"ffff\r\ndata: ")


def hang_up(handler: Handler) -> None:
    handler.connection.shutdown(socket.SHUT_RDWR)


def error_in_the_stream(handler: Handler) -> None:
    handler.stream(['data: {"error": "out of\\nmemory"}\n\n'])


@contextmanager
def serving(plan: Server) -> Iterator[str]:
    http = Quiet(("127.0.0.1", 0), Handler)
    http.plan = plan  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{http.server_port}"
    finally:
        http.shutdown()
        http.server_close()
        thread.join()


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with serving(server) as url:
        yield url


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which no test waits for."""
    taken: list[float] = []
    monkeypatch.setattr(endpoint, "_wait", lambda stop, seconds: taken.append(seconds))
    return taken


@pytest.fixture
def open_endpoint(url: str, tokenizer: Any) -> Callable[..., Endpoint]:
    def make(kind: type[Endpoint] = Endpoint, **options: Any) -> Endpoint:
        return kind(url, tokenizer=tokenizer, **options)

    return make


def refusal(make: Callable[[], Any]) -> str:
    with pytest.raises(ValueError) as caught:
        make()
    words = str(caught.value)
    assert "\n" not in words
    return words


def test_answers_in_order_whichever_comes_first(server, open_endpoint):
    others = threading.Event()

    def wait_for_the_others(handler):
        assert others.wait(10)
        handler.stream(server.events("FIRST"))

    def last(handler):
        others.set()
        handler.stream(server.events("LAST"))

    server.bad["first"].append(wait_for_the_others)
    server.bad["last"].append(last)
    replies = open_endpoint(parallel=2).answer([item("first"), item("mid"), item("last")])
    assert [reply.text for reply in replies] == ["FIRST", "MID", "LAST"]


def test_no_more_requests_at_a_time_than_asked_for(server, open_endpoint):
    under_way, most, lock = 0, 0, threading.Lock()
    three = threading.Barrier(3)  # breaks where three requests never meet

    def counted(handler):
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        three.wait(10)
        with lock:
            under_way -= 1
        handler.stream(server.events("X"))

    prompts = [f"p{i}" for i in range(6)]
    server.always = dict.fromkeys(prompts, counted)
    replies = list(open_endpoint(parallel=3).answer([item(prompt) for prompt in prompts]))
    assert [reply.text for reply in replies] == ["X"] * 6
    assert most == 3


def test_the_request_is_greedy_streamed_and_as_long_as_allowed(server, open_endpoint):
    reply = next(open_endpoint().answer([item("hello you", allowance=5)]))
    assert server.requests[-1] == {
        "model": NAME, "prompt": "hello you", "max_tokens": 5, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert reply.text == "HELLO" and not reply.refused
    assert 0 < reply.first_token <= reply.seconds
    assert reply.held is None and reply.peak is None


def test_tokens_are_the_servers_count_or_our_own(server, open_endpoint, tokenizer):
    reader = open_endpoint()
    own = next(reader.answer([item("hello")])).tokens
    assert own == len(tokenizer("HELL", add_special_tokens=False)["input_ids"]) > 0
    server.usage = {"completion_tokens": 77}
    assert next(reader.answer([item("hello")])).tokens == 77
    for nonsense in (None, "7", 10**30, -1, True, float("nan"), 2.5, [7], 0):
        server.usage = {"completion_tokens": nonsense, "prompt_tokens": nonsense}
        (reply,) = reader.answer([item("hello")])
        assert (reply.tokens, reply.refused) == (own, ""), nonsense


def test_a_stream_may_end_without_done(server, open_endpoint):
    server.done = False
    assert next(open_endpoint().answer([item("abc")])).text == "ABC"


FAILURES = {
    "429": status(429, "slow down"),
    "500": status(500, "oops"),
    "502": html,
    "503": status(503, "loading"),
    "half an answer": cut,
    "half a line": cut_in_a_word,
    "half a chunk": chunk_promised_and_not_sent,
    "no JSON": no_json,
    "hung up": hang_up,
    "error in the stream": error_in_the_stream,
}


@pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)
def test_what_fails_is_tried_again(server, open_endpoint, pauses, failure):
    reader = open_endpoint()
    server.bad["two"].extend([failure, failure])
    replies = list(reader.answer([item("one"), item("two"), item("six")]))
    assert [reply.text for reply in replies] == ["ONE", "TWO", "SIX"]
    assert server.asked("two") == 3 and server.asked("one") == 1
    assert len(pauses) == 2


def test_pauses_double_with_jitter_that_is_the_same_every_time(server, open_endpoint, pauses):
    reader = open_endpoint(retries=9)
    for _ in range(2):
        server.bad["two"].extend([status(500, "oops")] * 9)
        assert next(reader.answer([item("two")])).text == "TWO"
    first, second = pauses[:9], pauses[9:]
    assert first == second
    for attempt, pause in enumerate(first):
        usual = min(endpoint.FIRST_PAUSE * 2**attempt, endpoint.LONGEST_PAUSE)
        assert 0.5 * usual <= pause <= 1.5 * usual
    assert len({round(pause / 2**attempt, 6) for attempt, pause in enumerate(first[:5])}) == 5


def test_retry_after_is_honoured(server, open_endpoint, pauses):
    reader = open_endpoint()
    server.bad["two"].append(status(429, "later", Retry_After="7"))
    server.bad["two"].append(status(503, "later", Retry_After="0"))
    assert next(reader.answer([item("two")])).text == "TWO"
    assert pauses == [7, 0]


def test_retry_after_may_be_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 95 < endpoint._asked_pause(soon) <= 100
    assert endpoint._asked_pause("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert endpoint._asked_pause("in a while") is None
    assert endpoint._asked_pause("Wed, 21 Oct 2015 07:28:00 +9999999999") is None
    assert endpoint._asked_pause(None) is None
    assert endpoint._asked_pause("nan") == endpoint._asked_pause("-1") == 0


def test_a_pause_longer_than_an_answer_may_take_ends_the_waiting(server, open_endpoint, pauses):
    reader = open_endpoint(timeout=30)
    server.bad["two"].append(status(429, "come back tomorrow", Retry_After="86400"))
    reply = next(reader.answer([item("two")]))
    assert "come back tomorrow" in reply.refused and not pauses


def test_a_prompt_that_always_fails_is_refused_and_the_rest_goes_on(server, open_endpoint):
    reader = open_endpoint(retries=2)
    server.always["two"] = status(500, "CUDA out\nof memory")
    one, two, six = reader.answer([item("one"), item("two"), item("six")])
    assert (one.text, six.text) == ("ONE", "SIX") and not one.refused + six.refused
    assert two.refused == "no answer in 3 tries; the last: 500: CUDA out of memory"
    assert two.text == "" and two.tokens == 0 and two.first_token is None
    assert server.asked("two") == 3


def test_nothing_that_a_server_sends_holds_off_the_deadline(server, open_endpoint):
    over = threading.Event()

    def dripping(head: bytes, drop: bytes) -> Callable[[Handler], None]:
        def behave(handler: Handler) -> None:
            handler.wfile.write(head)
            until = time.perf_counter() + 10
            while time.perf_counter() < until and not over.wait(0.02):
                handler.wfile.write(drop)

        return behave

    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
    server.always = {
        "silence": lambda handler: over.wait(10),
        "events": dripping(head, server.events("Z")[0].encode()),
        "comments": dripping(head, b": ping\n\n"),
        "bytes": dripping(head + b"data: ", b"x"),
        "headers": dripping(head[:17], b"X-A: b\r\n"),
        "status line": dripping(b"", b"H"),
        "error": dripping(b"HTTP/1.1 500 Oops\r\n\r\n", b"x"),
        "after the end": dripping(head + server.events("")[0].encode(), b": ping\n\n"),
    }
    reader = open_endpoint(retries=0, timeout=0.5, parallel=9)
    began = time.perf_counter()
    replies = list(reader.answer([item(prompt) for prompt in [*server.always, "one"]]))
    assert time.perf_counter() - began < 5
    over.set()
    assert replies.pop().text == "ONE"
    for reply in replies:
        assert reply.refused == "no answer in 1 tries; the last: slower than 0.5 s"
        assert reply.again and 0.4 < reply.seconds < 4


def test_what_is_open_and_what_is_final(server, open_endpoint):
    """A server's bad day may be over when the prompt is asked again; its word about it is not."""
    server.always = {
        "down": status(503, "busy"),
        "long": status(400, "too long"),
        "filtered": lambda handler: handler.stream(
            ['data: {"choices": [{"text": "x", "finish_reason": "content_filter"}]}\n\n']
        ),
    }
    down, long, filtered, over = open_endpoint(retries=1).answer(
        [item("down"), item("long"), item("filtered"), item("over", 10**7)]
    )
    assert down.refused and down.again
    assert long.refused and not long.again
    assert "'content_filter', which is no end" in filtered.refused and not filtered.again
    assert [server.asked(prompt) for prompt in ("down", "long", "filtered")] == [2, 1, 1]
    assert over.text == "OVER"  # no window is listed


def test_a_prompt_that_the_server_cut_is_refused(server, open_endpoint):
    reader = open_endpoint()
    assert not reader.counts
    server.usage = {"prompt_tokens": 1}
    assert open_endpoint().counts
    for read, cut in ((1000, False), (982, False), (981, True), (50, True), (1400, False)):
        server.usage = {"prompt_tokens": read}
        (reply,) = reader.answer([item("x", length=1004)])
        assert bool(reply.refused) == cut, read
    (reply,) = reader.answer([item("x", length=9004)])
    assert reply.refused.startswith("the server read 1,400 of 9,000 tokens: it cut the prompt")
    assert server.asked("x") == 6


def test_a_server_that_will_not_count(server, open_endpoint):
    """Some refuse a request with fields that they do not know."""
    server.bad[FIRST].append(status(422, "stream_options: Extra inputs are not permitted"))
    reader = open_endpoint()
    assert next(reader.answer([item("one")])).text == "ONE"
    assert ["stream_options" in body for body in server.requests] == [True, False, False]
    server.always[FIRST] = status(422, "no")
    assert "does not answer: 422: no" in refusal(open_endpoint)


def test_answers_come_before_those_that_are_waited_for(server, open_endpoint):
    over = threading.Event()
    server.always["one"] = lambda handler: (over.wait(10), handler.stream(server.events("ONE")))
    replies = open_endpoint(parallel=2).as_they_come([item(p) for p in ("one", "two", "six")])
    assert [(i, reply.text) for i, reply in (next(replies), next(replies))] == [
        (1, "TWO"), (2, "SIX"),
    ]  # fmt: skip
    over.set()
    assert [(i, reply.text) for i, reply in replies] == [(0, "ONE")]


def test_what_is_under_way_when_a_server_goes_is_still_had(server, open_endpoint):
    gone = threading.Event()

    def slow(handler):
        gone.wait(10)
        handler.stream(server.events("SLOW"))

    def go(handler):
        status(401, "expired")(handler)
        gone.set()

    server.always = {"slow": slow, "go": go}
    replies = open_endpoint(parallel=2).as_they_come([item(p) for p in ("slow", "go")])
    assert next(replies)[1].text == "SLOW"
    assert "401: expired" in refusal(lambda: next(replies))


def test_a_redirect_is_not_followed(server, open_endpoint):
    reader = open_endpoint(key="secret-3")
    moved = status(307, "moved", Location="https://other.example/v1\x1b[2J")
    server.always["one"] = moved
    words = refusal(lambda: list(reader.answer([item("one")])))
    assert "sends us on to https://other.example/v1\ufffd[2J (307); give that address" in words
    server.always[FIRST] = moved
    assert "sends us on" in refusal(open_endpoint)


def test_nothing_is_unpacked(server, open_endpoint):
    body = gzip.compress(b"".join(event.encode() for event in server.events("ONE")))

    def packed(handler):
        handler.reply(200, "", "text/event-stream", Content_Encoding="gzip")
        handler.wfile.write(body)

    server.always["one"] = packed
    (reply,) = open_endpoint(retries=0).answer([item("one")])
    assert reply.refused.endswith("no stream of events but text/event-stream, gzip")
    assert server.headers[-1]["Accept-Encoding"] == "identity"


def test_other_lists_of_models(server, open_endpoint):
    for models in (7, None, {"id": NAME}, [7], [{}], [{"id": 7}], [{"id": [NAME]}], [[]]):
        server.models = models
        assert open_endpoint(model=NAME).window is None
    for window in (None, "9", -1, 0, True, 2.5, 10**9, [], float("nan")):
        server.models = [{"id": 7}, {"id": "\ud800"}, {"id": NAME, "max_model_len": window}]
        assert open_endpoint().window is None


def test_too_long_a_prompt_is_refused_and_the_rest_goes_on(server, open_endpoint):
    words = "This model's maximum context length is 4096 tokens. However, you requested 5000."
    server.always["long"] = status(400, words)
    long, one = open_endpoint().answer([item("long"), item("one")])
    assert long.refused == f"400: {words}" and long.text == ""
    assert one.text == "ONE"
    assert server.asked("long") == 1


def test_the_listed_window_is_known_beforehand(server, open_endpoint):
    server.models = [{"id": NAME, "max_model_len": 100}]
    reader = open_endpoint()
    assert reader.describe()["window"] == 100
    fits, over = reader.answer([item("fits", 100), item("over", 101)])
    assert fits.text == "FITS"
    assert over.refused == "101 tokens, and the server takes 100"
    assert server.asked("over") == 0


def test_an_endpoint_that_is_down(tokenizer):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = refusal(lambda: Endpoint(f"http://127.0.0.1:{port}", tokenizer=tokenizer))
    assert f"cannot reach http://127.0.0.1:{port}/v1: " in words


def test_an_endpoint_that_goes_down_in_between(server, tokenizer):
    with serving(server) as url:
        reader = Endpoint(url, tokenizer=tokenizer, parallel=1, retries=1)
        replies = reader.answer([item("one"), item("two"), item("six")])
        server.always["two"] = hang_up
        server.always[FIRST] = hang_up
        assert next(replies).text == "ONE"
        words = refusal(lambda: next(replies))
    assert "is gone: no answer in 2 tries" in words
    assert server.asked("six") == 0


def test_a_server_that_only_limits_rates(server, open_endpoint):
    reader = open_endpoint(retries=1)
    server.always = dict.fromkeys(["one", FIRST], status(429, "no quota left"))
    assert "429: no quota left" in refusal(lambda: list(reader.answer([item("one")])))


def test_another_model_in_the_reply(server, open_endpoint):
    reader = open_endpoint()
    server.name = "tiny-model"
    words = refusal(lambda: list(reader.answer([item("one")])))
    assert "answers as 'tiny-model' when asked for 'small-model'" in words


@pytest.mark.parametrize("name", [f"{NAME}@main", f"{NAME}-2025-01-31", f"{NAME}-0613", None])
def test_revisions_and_dates_are_the_same_model(server, open_endpoint, name):
    server.name = name
    assert next(open_endpoint().answer([item("one")])).text == "ONE"


@pytest.mark.parametrize("name", [f"{NAME}-large", "small", "Small-Model"])
def test_a_longer_name_is_another_model(server, open_endpoint, name):
    server.name = name
    assert f"answers as {name!r}" in refusal(open_endpoint)


def test_the_only_model_is_taken_and_of_several_one_is_named(server, open_endpoint):
    assert open_endpoint().model == NAME
    server.models = [{"id": NAME}, {"id": "b"}]
    assert "name one (--served-model): b, small-model" in refusal(open_endpoint)
    assert open_endpoint(model=NAME).model == NAME
    server.models = None
    assert "name one (--served-model): no list of them" in refusal(open_endpoint)
    assert open_endpoint(model=NAME).model == NAME


def test_a_model_that_is_not_listed(server, open_endpoint):
    # A server that repeats whatever name it is asked for has given no proof.
    server.name = "mine"
    words = refusal(lambda: open_endpoint(model="mine"))
    assert "does not serve 'mine'; it has small-model" in words
    # transformers lists its cache alone, and signs with the revision of what it has loaded.
    server.name = "mine@main"
    assert open_endpoint(model="mine").model == "mine"


def test_a_missing_key(server, open_endpoint):
    server.always[FIRST] = status(401, "Incorrect API key provided")
    words = refusal(lambda: open_endpoint(key="secret-1"))
    assert "401: Incorrect API key provided" in words and "secret-1" not in words


def test_the_key_is_sent_and_not_told(server, open_endpoint):
    reader = open_endpoint(key="secret-1")
    list(reader.answer([item("one")]))
    assert {headers["Authorization"] for headers in server.headers} == {"Bearer secret-1"}
    assert "secret-1" not in json.dumps(reader.describe())
    assert open_endpoint() and server.headers[-1]["Authorization"] is None
    for broken in ("secret-2\n", "secret-2\u00e9"):
        words = refusal(lambda broken=broken: open_endpoint(key=broken))
        assert "characters that no header can carry" in words and "secret" not in words


def test_a_server_without_completions(server, open_endpoint):
    server.always[FIRST] = status(404, "Not Found")
    assert "Endpoint completes, ChatEndpoint chats" in refusal(open_endpoint)


def test_chat(server, open_endpoint):
    reader = open_endpoint(ChatEndpoint)
    reply = next(reader.answer([item("hello", allowance=9)]))
    assert reply.text == "HELLO" and reply.first_token is not None
    assert server.requests[-1] == {
        "model": NAME, "messages": [{"role": "user", "content": "hello"}],
        "max_tokens": 9, "temperature": 0, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    assert reader.describe()["request"] == "chat/completions"


def test_the_address_with_and_without_its_end(server, url, tokenizer):
    for written in (url, url + "/", url + "/v1", url + "/v1/"):
        assert Endpoint(written, tokenizer=tokenizer).url == url + "/v1"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": "localhost:8000"}, "write http://host:port/v1"),
        ({"url": "ftp://host"}, "write http://host:port/v1"),
        ({"url": "http://host:99999"}, "write http://host:port/v1"),
        ({"url": "http://[::1"}, "write http://host:port/v1"),
        ({"url": "http://me:secret-2@host"}, "must hold no password; give a key instead"),
        ({"parallel": 0}, "parallel must be at least 1, got 0"),
        ({"retries": -1}, "retries must be at least 0, got -1"),
        ({"timeout": 0}, "timeout must be above 0 seconds, got 0"),
    ],
)
def test_bad_arguments(options, words, tokenizer):
    arguments = {"url": "http://127.0.0.1:1", "tokenizer": tokenizer} | options
    assert words in refusal(lambda: Endpoint(**arguments))


def test_who_stops_listening_asks_no_more(server, open_endpoint):
    replies = open_endpoint(parallel=1).answer([item(f"p{i}") for i in range(500)])
    next(replies)
    replies.close()
    # One may be under way, and one more may have begun before the close.
    assert len(server.requests) < 400
