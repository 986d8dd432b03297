"""A model behind a URL that speaks OpenAI's protocol, as vLLM or transformers serve."""

import queue
import random
import re
import threading
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from transformers import PreTrainedTokenizerBase

from lengthwise.measure.engines.base import Reply
from lengthwise.measure.engines.stream import Heard
from lengthwise.measure.engines.wire import (
    Again,
    Answer,
    Refused,
    Wire,
    address,
    line,
    message,
    parse,
    sound,
)
from lengthwise.measure.tasks.base import Item

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0  # seconds before the second try, and before any
_ONCE_MORE = {408, 409, 425, 429}  # and everything from 500 on: the same request may do later
_LONGEST = 10**8  # tokens; a listed window above it is taken for a mistake


class Endpoint:
    """Greedy text completions of a server; the prompt is sent as it is.

    The answer is streamed, so the time to the first token is known. What is an answer is said in
    `lengthwise.measure.engines.stream`. A try that fails (429, 500 and above, no connection, half
    an answer, one that the server gives up, too slow) is repeated after a pause that doubles, or as
    long as the server's Retry-After says. A prompt that fails every time while the server answers
    others becomes a refused reply that another run may ask again. Where the server's word is final
    (too long, cut, filtered), the reply is refused for good.

    Args:
        url: The address of the server, with or without `/v1`.
        tokenizer: The tokenizer of the model behind it, by which items have their exact length.
        model: As the server names it; None takes the only one that it lists.
        key: Sent as a bearer token, and never written anywhere.
        parallel: Requests under way at a time, at least 1. With more than one, the seconds of a
            reply hold its waiting for the others in the server.
        retries: Tries after the first, at least 0.
        timeout: Seconds for one try, to the last byte of its answer; above 0.

    Attributes:
        counts: Whether the server counts the tokens of prompts; where it does not, a prompt that it
            cut cannot be told from one that it read.

    Raises:
        ValueError: A bad argument, a server that is down, wants another key, has no completions,
            does not know the model or answers with another.
    """

    path: Literal["completions", "chat/completions"] = "completions"

    def __init__(
        self,
        url: str,
        *,
        tokenizer: PreTrainedTokenizerBase,
        model: str | None = None,
        key: str | None = None,
        parallel: int = 8,
        retries: int = 5,
        timeout: float = 600.0,
    ) -> None:
        for name, value, least in (("parallel", parallel, 1), ("retries", retries, 0)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value!r}")
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, got {timeout!r}")
        self.url, self.tokenizer = address(url), tokenizer
        self.parallel, self.retries, self.timeout = parallel, retries, timeout
        self._wire = Wire(key, timeout, parallel + 1)
        listed = self._listed()
        self.model = model or _only(self.url, listed)
        self.window = _window(listed.get(self.model, {}))
        self._usage: Mapping[str, Any] = {"stream_options": {"include_usage": True}}
        heard = self._first_contact()
        self.counts = heard.read is not None
        # A server that does not look at the name repeats it, whatever it runs.
        if listed and self.model not in listed and heard.model in ("", self.model):
            raise ValueError(f"{self.url} does not serve {self.model!r}; it has {_names(listed)}")

    def describe(self) -> Mapping[str, Any]:
        """The address, the model, the kind of request, and the window."""
        return {
            "name": self.model,
            "url": self.url,
            "request": self.path,
            "window": self.window,
        }

    def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
        """One reply an item, in order; `parallel` of them are under way at a time.

        Raises:
            ValueError: The server is gone, or answers with another model.
        """
        early: dict[int, Reply] = {}
        wanted = 0
        with closing(self.as_they_come(items)) as replies:
            for index, reply in replies:
                early[index] = reply
                while wanted in early:
                    yield early.pop(wanted)
                    wanted += 1

    def as_they_come(self, items: Sequence[Item]) -> Generator[tuple[int, Reply], None, None]:
        """The replies with the numbers of their items, each as soon as it is there.

        Raises:
            ValueError: As `answer`, once everything under way has come.
        """
        todo: queue.SimpleQueue[tuple[int, Item]] = queue.SimpleQueue()
        for work in enumerate(items):
            todo.put(work)
        done: queue.SimpleQueue[tuple[int, Heard | Reply] | BaseException | None]
        done = queue.SimpleQueue()
        stop = threading.Event()

        def ask() -> None:
            while not stop.is_set():
                try:
                    index, item = todo.get_nowait()
                except queue.Empty:
                    break
                try:
                    done.put((index, self._reply(index, item, stop)))
                except BaseException as error:
                    done.put(error)
                    stop.set()  # the others finish what is under way
            done.put(None)

        # Daemons: after Ctrl-C nobody waits for answers that are under way.
        under_way = min(self.parallel, len(items))
        for _ in range(under_way):
            threading.Thread(target=ask, daemon=True).start()
        failed: BaseException | None = None
        try:
            while under_way:
                came = done.get()
                if came is None:
                    under_way -= 1
                elif isinstance(came, BaseException):
                    failed = failed or came
                else:
                    yield came[0], self._counted(came[1])
        finally:
            stop.set()
        if failed is not None:
            raise failed

    def _counted(self, heard: Heard | Reply) -> Reply:
        # In the thread of the caller, for a tokenizer must not be used by two at a time.
        if isinstance(heard, Reply):
            return heard
        tokens = heard.written
        if tokens is None:
            ids = self.tokenizer(heard.text, add_special_tokens=False, verbose=False)
            tokens = len(ids["input_ids"])
        return Reply(heard.text, tokens, heard.first, heard.seconds)

    def _reply(self, index: int, item: Item, stop: threading.Event) -> Heard | Reply:
        """Ask until there is an answer, or until it is clear that there will be none."""
        began = time.perf_counter()
        if self.window is not None and item.length > self.window:
            why = f"{item.length:,} tokens, and the server takes {self.window:,}"
            return Reply("", 0, None, 0.0, refused=why)
        again = False
        try:
            heard = self._tries(item.prompt, item.allowance, random.Random(index), stop)
            why = heard.refusal(item.length - item.allowance)
            if not why:
                return heard
        except Refused as error:
            why = str(error)
        except Again as error:
            if stop.is_set():
                raise  # nobody waits for it any more
            why, again = str(error), True
            try:
                self._once("a", 1)
            except (Again, Refused):
                raise ValueError(f"{self.url} is gone: {why}; run the same command later") from None
        return Reply("", 0, None, time.perf_counter() - began, refused=why, again=again)

    def _tries(
        self, prompt: str, allowance: int, rng: random.Random, stop: threading.Event
    ) -> Heard:
        for attempt in range(self.retries + 1):
            try:
                return self._once(prompt, allowance)
            except Again as error:
                failed = error
            pause = failed.pause
            if pause is None:
                # Jittered, or all requests that failed together would come back together.
                pause = min(FIRST_PAUSE * 2**attempt, LONGEST_PAUSE) * rng.uniform(0.5, 1.5)
            if attempt == self.retries or pause > self.timeout or stop.is_set():
                break
            _wait(stop, pause)
        raise Again(f"no answer in {attempt + 1} tries; the last: {failed}")

    def _once(self, prompt: str, allowance: int) -> Heard:
        """One request, to the end of its stream."""
        body = {"model": self.model, "max_tokens": allowance, "temperature": 0, "stream": True}
        body |= {**self._usage, **self._prompt(prompt)}
        heard = Heard(self.path, allowance)
        with self._wire.ask("POST", f"{self.url}/{self.path}", body) as answer:
            if answer.status != 200:
                raise self._failure(answer)
            for data in answer.events():
                if data.strip() == "[DONE]":
                    break
                try:
                    chunk = parse(data)
                except ValueError:
                    raise Again(f"not JSON: {line(data)}") from None
                if isinstance(chunk, dict) and (
                    chunk.get("error") or chunk.get("object") == "error"
                ):
                    raise Again(message(data))
                heard.take(chunk, answer.elapsed)
                self._check_model(heard.model)
            heard.finish(answer.elapsed)
        return heard

    def _prompt(self, prompt: str) -> dict[str, Any]:
        return {"prompt": prompt}

    def _check_model(self, named: str) -> None:
        # Servers add a revision (name@main) or a date (name-2025-01-31).
        same = re.escape(self.model) + r"(@.+|-\d{4}(-?\d\d-?\d\d)?)?"
        if named and not re.fullmatch(same, named):
            raise ValueError(
                f"{self.url} answers as {line(named)!r} when asked for {self.model!r}; name the "
                "model that it serves (--served-model)"
            )

    def _failure(self, answer: Answer) -> Exception:
        """What an answer other than 200 means."""
        status, words = answer.status, message(answer.text(2**16))
        if status in (401, 402, 403):
            return ValueError(
                f"{self.url} wants a key, or another one (--key-env; {status}: {words})"
            )
        if 300 <= status < 400:
            place = line(answer.headers.get("Location", "nowhere"))
            return ValueError(f"{self.url} sends us on to {place} ({status}); give that address")
        if status == 404:
            return ValueError(
                f"{self.url} has no {self.path} of {self.model!r} (404: {words}); check the name "
                "of the model, or ask it the other way: Endpoint completes, ChatEndpoint chats"
            )
        if status in _ONCE_MORE or status >= 500:
            return Again(f"{status}: {words}", _asked_pause(answer.headers.get("Retry-After")))
        return Refused(f"{status}: {words}")

    def _listed(self) -> dict[str, Any]:
        """The models that the server lists, by name; empty where it has no list."""
        try:
            with self._wire.ask("GET", f"{self.url}/models") as answer:
                if answer.status in (401, 402, 403) or 300 <= answer.status < 400:
                    raise self._failure(answer)
                text = answer.text()
        except Again as error:
            raise ValueError(
                f"cannot reach {self.url}: {error}; is the server running there?"
            ) from None
        try:
            entries = [entry for entry in parse(text)["data"] if isinstance(entry["id"], str)]
        except (ValueError, KeyError, TypeError):
            return {}
        return {entry["id"]: entry for entry in entries if entry["id"] == sound(entry["id"])}

    def _first_contact(self) -> Heard:
        """Ask for one token, and so learn of a wrong key, path or model before the first item."""
        try:
            try:
                return self._tries("a", 1, random.Random(0), threading.Event())
            except Refused:
                # Some servers refuse what they do not know, and to count is one such thing.
                self._usage = {}
                return self._tries("a", 1, random.Random(0), threading.Event())
        except (Again, Refused) as error:
            raise ValueError(f"{self.url} does not answer: {error}") from None


class ChatEndpoint(Endpoint):
    """The same by chat completions: the prompt is one message of the user.

    The server puts its template around it, which counts towards its window and not towards the
    length of the item.
    """

    path = "chat/completions"

    def _prompt(self, prompt: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": prompt}]}


def _only(url: str, listed: Mapping[str, Any]) -> str:
    if len(listed) != 1:
        raise ValueError(
            f"{url} has several models or does not say; name one (--served-model): {_names(listed)}"
        )
    return next(iter(listed))


def _names(listed: Mapping[str, Any]) -> str:
    return line(", ".join(sorted(listed))) or "no list of them"


def _window(entry: Mapping[str, Any]) -> int | None:
    """Tokens of prompt and answer together, as vLLM and SGLang list them."""
    window = entry.get("max_model_len")
    return window if type(window) is int and 0 < window <= _LONGEST else None


def _asked_pause(words: str | None) -> float | None:
    """Seconds of a Retry-After header: a number, or a date."""
    if words is None:
        return None
    try:
        return max(0.0, float(words))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(words) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError, LookupError, ArithmeticError):
        return None


def _wait(stop: threading.Event, seconds: float) -> None:
    stop.wait(seconds)
