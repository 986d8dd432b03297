"""Requests to a server that nobody vouches for: each ends at its deadline and within its bytes."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import httpx2

CONNECT = 30.0  # seconds until a connection stands, at most
LARGEST = 64 * 2**20  # bytes of one answer or list, at most


class Again(Exception):
    """This try failed, the next one may not; the pause is what the server asks for, in seconds."""

    def __init__(self, words: str, pause: float | None = None) -> None:
        super().__init__(words)
        self.pause = pause


class Refused(Exception):
    """The server lives and will not answer this prompt."""


def address(url: str) -> str:
    """The address of a server as requests begin with it: with `/v1` if it names no path.

    Raises:
        ValueError: It is none, or holds a password.
    """
    try:
        parts = httpx2.URL(url)
        sound_port = parts.port is None or 0 < parts.port < 2**16
    except (httpx2.InvalidURL, ValueError):
        sound_port = False
    if not (sound_port and re.fullmatch(r"https?://[^/\s]+\S*", url)):
        raise ValueError(f"{url!r} is no address of a server; write http://host:port/v1")
    if "@" in url.split("/")[2]:
        raise ValueError("the address of a server must hold no password; give a key instead")
    url = url.rstrip("/")
    return url + "/v1" if url.count("/") == 2 else url


class Wire:
    """Sends requests; may be used by several threads.

    Args:
        key: Sent as a bearer token.
        timeout: Seconds for one request, from the connection to the last byte.
        connections: At a time.

    Raises:
        ValueError: A key that no header can carry.
    """

    def __init__(self, key: str | None, timeout: float, connections: int) -> None:
        if key and not (key.isascii() and key.isprintable()):
            raise ValueError("the key holds characters that no header can carry; give it as it is")
        # Unpacked by nobody, so a few bytes cannot become gigabytes. And a connection for each
        # request, for only of a new one is the socket known from the start.
        headers = {"Accept-Encoding": "identity", "Connection": "close"}
        try:
            self._client = httpx2.Client(
                headers=headers | ({"Authorization": f"Bearer {key}"} if key else {}),
                timeout=httpx2.Timeout(timeout, connect=min(timeout, CONNECT)),
                limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=0),
            )
        except (ImportError, httpx2.InvalidURL) as error:
            raise ValueError(f"the proxy that the environment names: {line(str(error))}") from None
        self.timeout = timeout

    @contextmanager
    def ask(self, method: str, address: str, body: Any = None) -> Iterator["Answer"]:
        """Send one request; what is read of the answer is read inside.

        Raises:
            Again: Too slow, or broken on the way.
        """
        deadline = _Deadline(self.timeout)
        slow = f"slower than {self.timeout:g} s"
        try:
            with self._client.stream(
                method, address, json=body, extensions={"trace": deadline.trace}
            ) as response:
                yield Answer(response, deadline)
        except (httpx2.RequestError, Again) as error:
            # The end of a connection that we shut down ourselves may look like one of theirs.
            if deadline.over or isinstance(error, (httpx2.ReadTimeout, httpx2.WriteTimeout)):
                raise Again(slow) from None
            if isinstance(error, Again):
                raise
            raise Again(line(f"{type(error).__name__} {error}")) from None
        finally:
            deadline.cancel()
        if deadline.over:
            raise Again(slow)


class Answer:
    """The answer to one request, as far as it has come."""

    def __init__(self, response: httpx2.Response, deadline: "_Deadline") -> None:
        self.status, self.headers = response.status_code, response.headers
        self._response, self._deadline = response, deadline
        response.encoding = "utf-8"  # as JSON and event streams always are

    @property
    def elapsed(self) -> float:
        """Seconds since the request went off; connecting is not counted."""
        return time.perf_counter() - self._deadline.sent

    @property
    def kind(self) -> str:
        """The media type."""
        return self.headers.get("Content-Type", "").partition(";")[0].strip().lower()

    def text(self, most: int = LARGEST) -> str:
        """The body as text; cut after about `most` bytes."""
        pieces, size = [], 0
        for piece in self._response.iter_text():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                break
        return "".join(pieces)

    def events(self) -> Iterator[str]:
        """The data of each event of a stream.

        Raises:
            Again: No stream of events, one that is packed, or a larger one than any answer.
        """
        packed = self.headers.get("Content-Encoding", "identity")
        if self.kind != "text/event-stream" or packed != "identity":
            found = f"{self.kind or 'nothing'}{'' if packed == 'identity' else ', ' + packed}"
            words = message(self.text(2**16)) if packed == "identity" else ""
            raise Again(line(f"no stream of events but {found}: {words}".rstrip(": ")))
        size = 0
        for event in httpx2.EventSource(self._response):
            size += len(event.data)
            if size > LARGEST:
                raise Again(f"more than {LARGEST:,} bytes for one answer")
            if event.event == "error":
                raise Again(message(event.data))
            yield event.data


class _Deadline:
    """Shuts the connection of a request down when its time is over.

    Time limits of sockets hold for a single read, so a byte now and then would never meet them.
    """

    def __init__(self, seconds: float) -> None:
        self.over, self.sent = False, time.perf_counter()
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True
        self._timer.start()

    def trace(self, event: str, about: Mapping[str, Any]) -> None:
        """Called by httpx at every step of a request."""
        if event.endswith("connect_tcp.complete"):
            # A descriptor of our own, for TLS takes the first one over.
            self._socket = about["return_value"].get_extra_info("socket").dup()
            if self.over:
                self._shut()
        elif event.endswith("send_request_headers.started"):
            self.sent = time.perf_counter()

    def cancel(self) -> None:
        """The request has ended."""
        self._timer.cancel()
        if self._socket is not None:
            self._socket.close()

    def _end(self) -> None:
        self.over = True
        if self._socket is not None:
            self._shut()

    def _shut(self) -> None:
        assert self._socket is not None
        with suppress(OSError):  # it may have ended by itself
            self._socket.shutdown(socket.SHUT_RDWR)


def parse(text: str) -> Any:
    """JSON of a stranger.

    Raises:
        ValueError: It is none, or nested too deep.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def message(text: str) -> str:
    """The server's own words in one line, wherever it puts them."""
    try:
        body = parse(text)
    except ValueError:
        return line(text)
    for name in ("error", "detail", "message"):
        while isinstance(body, dict) and name in body:
            body = body[name]
    return line(body if isinstance(body, str) else text)


def line(words: str) -> str:
    """One line of at most 300 characters that any terminal and any file takes."""
    words = " ".join(words[:3000].split())
    words = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)
    return words if len(words) <= 300 else words[:299] + "…"


def sound(text: str) -> str:
    """A text without halves of surrogate pairs, which no file in UTF-8 can hold."""
    if re.search("[\ud800-\udfff]", text) is None:
        return text
    # Halves that two pieces of a stream brought are joined.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
