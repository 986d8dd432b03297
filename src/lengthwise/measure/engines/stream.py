"""What a server says in a stream of completions, and whether that is an answer.

An answer is a text that the server itself declares ended: by the model (`stop`) or by the allowance
(`length`), after the whole prompt was read. Nothing else is graded.
"""

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from lengthwise.measure.engines.wire import Again, Refused, line, sound

# What servers call the end of an answer: OpenAI's two words, and those of TGI, Together, Anthropic.
ENDED = {"stop", "eos", "eos_token", "stop_sequence", "end_turn"}
AT_ALLOWANCE = {"length", "max_tokens"}
# The server gave up; asked again, it may not.
GIVEN_UP = {"abort", "aborted", "cancelled", "error", "insufficient_system_resource"}
# What a chat may give in place of text.
ASIDE = ("reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
CHARACTERS = 256  # of one token, at most; the longest that vocabularies have is about half of it
_MOST = 10**9  # tokens; a count above it is none

Kind = TypeVar("Kind")


class Heard:
    """What has come of one stream.

    Args:
        form: "completions" have `text`, "chat/completions" a `delta`.
        allowance: Tokens that the answer may have.

    Attributes:
        text: The text up to now.
        read: Tokens of the prompt, as the server counts them; None where it does not.
        written: Tokens of the answer, likewise.
        ended: Why the answer ended, in the server's word; "" until it has.
        model: What the server says has answered, or "".
        aside: What came in place of text, as `reasoning`.
        first: Seconds to the first text, None before; `seconds` to the end.
    """

    def __init__(self, form: Literal["completions", "chat/completions"], allowance: int) -> None:
        self._form, self.allowance = form, allowance
        self._pieces: list[str] = []
        self._size = 0
        self.read: int | None = None
        self.written: int | None = None
        self.ended = self.model = self.aside = ""
        self.first: float | None = None
        self.seconds = 0.0

    @property
    def text(self) -> str:
        """The text up to now."""
        return sound("".join(self._pieces))

    def take(self, chunk: Any, elapsed: float) -> None:
        """Take in one chunk.

        Raises:
            Again: An error, or nothing of the protocol.
            Refused: The server writes on past the allowance.
        """
        if not isinstance(chunk, dict):
            raise Again(f"a chunk that is a {type(chunk).__name__}")
        self.model = _get(chunk, "model", str) or self.model
        for choice in _get(chunk, "choices", list) or []:
            if not isinstance(choice, dict):
                raise Again(f"a choice that is a {type(choice).__name__}")
            if _get(choice, "index", int):
                continue  # a second choice, which nobody asked for
            piece = self._piece(choice)
            if piece:
                self._pieces.append(piece)
                self._size += len(piece)
                self.written = None  # a count from before this text is none of the answer
                self.first = elapsed if self.first is None else self.first
            self.ended = _get(choice, "finish_reason", str) or self.ended
        usage = chunk.get("usage")
        if isinstance(usage, dict):  # in the last chunk, or in every one
            self.read = _count(usage, "prompt_tokens", self.read)
            self.written = _count(usage, "completion_tokens", self.written)
        if self._size > CHARACTERS * (self.allowance + 4):
            raise Refused(f"the server writes on past the {self.allowance:,} tokens allowed")

    def finish(self, elapsed: float) -> None:
        """The stream is over.

        Raises:
            Again: The server has not declared the answer ended, or has given it up.
        """
        self.seconds = elapsed
        if not self.ended:
            raise Again(f"the answer broke off after {self._size:,} characters")
        if self.ended in GIVEN_UP:
            raise Again(f"the server gave up after {self._size:,} characters: {line(self.ended)!r}")

    def refusal(self, prompt: int) -> str:
        """Why a finished stream is no answer to a prompt of so many tokens, or ""."""
        if self.ended not in ENDED | AT_ALLOWANCE:
            return f"the server ended it by {line(self.ended)!r}, which is no end of an answer"
        if _far_below(self.read, prompt):
            return (
                f"the server read {self.read:,} of {prompt:,} tokens: it cut the prompt, or "
                "--tokenizer is not its model's"
            )
        if self.ended in AT_ALLOWANCE and _far_below(self.written, self.allowance):
            return f"the server cut the answer after {self.written:,} of {self.allowance:,} tokens"
        if self.aside and not self.text.strip():
            return f"the server gave {self.aside} and no text"
        return ""

    def _piece(self, choice: Mapping[str, Any]) -> str:
        if self._form == "completions":
            return _get(choice, "text", str) or ""
        delta = _get(choice, "delta", dict) or {}
        self.aside = next((name for name in ASIDE if delta.get(name)), self.aside)
        return _get(delta, "content", str) or ""


def _get(entry: Mapping[str, Any], name: str, kind: type[Kind]) -> Kind | None:
    value = entry.get(name)
    if value is not None and not isinstance(value, kind):
        raise Again(f"a chunk whose {name} is a {type(value).__name__}")
    return value


def _count(usage: Mapping[str, Any], name: str, before: int | None) -> int | None:
    """A count of tokens; what is none, or 0 as servers write that do not count, is unknown."""
    value = usage.get(name)
    return value if type(value) is int and 0 < value <= _MOST else before


def _far_below(count: int | None, expected: int) -> bool:
    """By more than special tokens and a blank here and there make."""
    return count is not None and count < expected - 8 - expected // 100
