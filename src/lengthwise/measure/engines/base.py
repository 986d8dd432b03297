"""What answers a prompt: a model in this process, or a server behind a URL."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from transformers import PreTrainedTokenizerBase

from lengthwise.measure.tasks.base import Item


@dataclass(frozen=True)
class Reply:
    """What came back for one item.

    Attributes:
        text: The answer, without the prompt and without special tokens.
        tokens: New tokens, as the reader counts them.
        first_token: Seconds to the first token, or None where the reader cannot tell.
        seconds: Seconds until the answer was whole.
        held: Bytes of keys and values at the end, or None where the reader cannot tell.
        peak: Bytes at the highest point, or None where the reader cannot tell.
        refused: Why there is no answer (too long for the server, out of memory), or "".
        again: Whether it is refused for now only, and may be answered when it is asked again.
        read: Tokens of all prompts that it took, where that is not the item's own.
    """

    text: str
    tokens: int
    first_token: float | None
    seconds: float
    held: int | None = None
    peak: int | None = None
    refused: str = ""
    again: bool = False
    read: int | None = None


class Reader(Protocol):
    """Reads prompts and answers them greedily.

    Attributes:
        tokenizer: Makes items of exact length; must be the tokenizer of what answers.
    """

    tokenizer: PreTrainedTokenizerBase

    def describe(self) -> Mapping[str, Any]:
        """What answers, for the plan of a result file: name, fingerprint or URL, window, dtype."""

    def answer(self, items: Sequence[Item]) -> Iterator[Reply]:
        """One reply an item, in the order of the items, each as soon as it and all before it are
        there. A reply that cannot be had is a refused one; a reader that is gone raises.
        """


@runtime_checkable
class Unordered(Protocol):
    """A reader that need not hold back an answer until those before it are there."""

    def as_they_come(self, items: Sequence[Item]) -> Iterator[tuple[int, Reply]]:
        """One reply an item, with the number of its item, each as soon as it is there."""
