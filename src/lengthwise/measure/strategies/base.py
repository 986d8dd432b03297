"""What a strategy is, and what it works with: somebody who answers, a window, and an account."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.whole import steady
from lengthwise.hf.prompts import encode_prompt
from lengthwise.measure.engines.base import Reader, Reply
from lengthwise.measure.engines.greedy import greedy
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.engines.reading import read
from lengthwise.measure.tasks.base import Item, token_count

_UNIT = re.compile(r".+?(?:[.!?][\"')]*\s+|\n+|$)", re.DOTALL)  # a sentence or a line


class Unanswered(ValueError):
    """The reader refused a prompt of a strategy; `reply` says why, and whether for now only."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.refused)
        self.reply = reply


class Asking:
    """One question under way: who answers, how much may stand in a prompt, and what it has cost.

    Attributes:
        tokenizer: Of the reader.
        window: Tokens of a prompt and its answer, at most.
        read: Tokens of all prompts so far.
        written: Tokens of all answers so far.
    """

    def __init__(self, reader: Reader, window: int) -> None:
        self.reader, self.tokenizer, self.window = reader, reader.tokenizer, window
        self.read = self.written = 0

    @property
    def model(self) -> PreTrainedModel:
        """The model itself, for strategies that look inside."""
        assert isinstance(self.reader, LocalReader)
        return self.reader.model

    def tokens(self, text: str) -> int:
        """Of a prompt, with what is put around it."""
        return token_count(self.tokenizer, text)

    def ask(self, prompt: str, new: int) -> str:
        """The reader's answer of up to `new` tokens.

        Raises:
            ValueError: The prompt is too long for the window, or the reader refuses it.
        """
        if isinstance(self.reader, LocalReader):
            return self.answer_to(encode_prompt(self.tokenizer, prompt), new)
        length = self.tokens(prompt)
        self._check(length, new)
        reply = next(iter(self.reader.answer([Item(prompt, "", length + new, (), allowance=new)])))
        if reply.refused:
            raise Unanswered(reply)
        self.read, self.written = self.read + length, self.written + reply.tokens
        return reply.text

    def answer_to(self, ids: Sequence[int], new: int) -> str:
        """The same of tokens, by a model in this process."""
        assert isinstance(self.reader, LocalReader)
        self._check(len(ids), new)
        written = greedy(self.model, torch.tensor([ids]), new, self.reader.chunk)[0]
        self.read, self.written = self.read + len(ids), self.written + len(written)
        return str(self.tokenizer.decode(written, skip_special_tokens=True))

    @torch.no_grad()
    def last_logits(self, ids: Sequence[int], count: int) -> Tensor:
        """Logits `[count, vocabulary]` after the last tokens of a prompt, in float32."""
        assert isinstance(self.reader, LocalReader)
        self._check(len(ids), 0)
        self.read += len(ids)
        skip, parts = max(len(ids) - count, 0), []
        with steady(self.model):
            for logits, _ in read(
                self.model, torch.tensor([ids]), self.reader.chunk, every_logit=True, skip=skip
            ):
                parts.append(logits[0])
        return torch.cat(parts)[-count:].float()

    def _check(self, length: int, new: int) -> None:
        if length + new > self.window:
            raise ValueError(
                f"a prompt of {length:,} tokens and an answer of {new:,} do not fit into the "
                f"window of {self.window:,}; give a greater window, or smaller parts"
            )


@dataclass(frozen=True)
class Strategy(ABC):
    """How a document and a question about it become prompts, and their answers one answer.

    Args:
        window: Tokens of a prompt and its answer, at least 16; 0 is the model's own.

    Attributes:
        inside: Whether it looks into the model, which must then be in this process.

    Raises:
        ValueError: A number out of range.
    """

    window: int = 0

    inside: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.within("window", self.window, 16, or_zero=True)

    def within(self, name: str, value: float, least: float, or_zero: bool = False) -> None:
        """Refuse a number below the least."""
        if not (value >= least or (or_zero and value == 0)):
            zero = "0 or " if or_zero else ""
            raise ValueError(
                f"{type(self).__name__}: {name} must be {zero}at least {least}, got {value!r}"
            )

    @abstractmethod
    def answer(self, asking: Asking, document: str, question: str, new: int) -> str:
        """What is answered, in up to `new` tokens.

        Raises:
            ValueError: The window is too small, or the reader refuses.
        """


def parted(prompt: str) -> tuple[str, str]:
    """The document and the question of a prompt: what stands before its last line, and that line.

    Raises:
        ValueError: It has one line only.
    """
    document, _, question = prompt.rstrip().rpartition("\n")
    if not document.strip():
        raise ValueError(
            "a strategy needs a document and, on a line of its own behind it, a question; this "
            "prompt is one line"
        )
    return document, question


def room_for(what: str, window: int, taken: int, least: int = 16) -> int:
    """Tokens of a window that are left.

    Raises:
        ValueError: Fewer than `least`.
    """
    if window - taken < least:
        raise ValueError(
            f"a window of {window:,} tokens leaves {max(window - taken, 0):,} for {what} beside "
            f"{taken:,} for question, answer and instructions, and it takes {least} at least"
        )
    return window - taken


def pieces(tokenizer: PreTrainedTokenizerBase, text: str, most: int) -> list[str]:
    """The text in parts of at most `most` tokens that follow each other, cut behind sentences and
    lines, or within one that is longer.
    """

    def size(part: str) -> int:
        return len(tokenizer(part, add_special_tokens=False, verbose=False)["input_ids"])

    found, held, count = [], "", 0
    todo = _UNIT.findall(text)[::-1]
    while todo:
        unit = todo.pop()
        length = size(unit)
        if length > most and len(unit) > 1:
            half = unit.rfind(" ", 1, len(unit) // 2 + 1)
            half = half if half > 0 else len(unit) // 2
            todo += [unit[half:], unit[:half]]
            continue
        if count + length > most and held:
            found.append(held)
            held, count = "", 0
        held, count = held + unit, count + length
    return [*found, held] if held.strip() else found
