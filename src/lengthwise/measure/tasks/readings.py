"""Readings: loss by position, and what reading costs, as tasks of a suite."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lengthwise.measure.cost.speed import reading_cost
from lengthwise.measure.engines.reading import first_token
from lengthwise.measure.tasks.loss import block_size, blocks, in_window_pieces, loss_pieces

if TYPE_CHECKING:
    from lengthwise.measure.engines.local import LocalReader


@lru_cache(maxsize=4)
def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """The tokens of a text `[n]`, without special ones."""
    return torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def check_text(tokenizer: PreTrainedTokenizerBase, text: str, length: int, count: int) -> None:
    """Refuse a length below 2, and a text too short for `count` stretches of it.

    Raises:
        ValueError: With both numbers.
    """
    if length < 2:
        raise ValueError(f"a length must be at least 2 tokens, got {length}")
    there = len(_tokens(tokenizer, text))
    if count * length > there:
        raise ValueError(
            f"the text has {there:,} tokens, but the plan reads {count} times {length:,}: give a "
            f"longer text, or lengths up to {there // count:,}"
        )


def stretch(
    tokenizer: PreTrainedTokenizerBase, text: str, length: int, count: int, sample: int
) -> Tensor:
    """One of `count` stretches `[1, length]` of a text that do not overlap, headed by `<s>`."""
    ids, head = _tokens(tokenizer, text), first_token(tokenizer)
    lead = torch.tensor([] if head is None else [head], dtype=torch.long)
    start = sample * (len(ids) // count)
    return torch.cat([lead, ids[start : start + length - len(lead)]])[None]


@dataclass(frozen=True)
class Loss:
    """Loss by position, in blocks of an eighth of the window: `block` and `losses`.

    Args:
        text: What is read.
        samples: Stretches of it, at least 1.
        inside: Whether every token is read with a context inside the trained window, as the
            reference is.
        compared: Whether that reference is read beside it.

    Raises:
        ValueError: Fewer than one sample.
    """

    text: str = field(repr=False)
    samples: int = 1
    inside: bool = field(default=False, repr=False)
    compared: bool = field(default=True, repr=False)
    longest: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"Loss: samples must be at least 1, got {self.samples!r}")

    @property
    def reference(self) -> "Loss | None":
        """The same tokens inside the window."""
        return replace(self, inside=True) if self.compared else None

    def check(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        """See `check_text`."""
        check_text(tokenizer, self.text, length, self.samples)

    def measure(
        self,
        reader: "LocalReader",
        length: int,
        sample: int,
        known: Sequence[float],
        keep: Callable[[Sequence[float]], None],
    ) -> Mapping[str, Any]:
        """Mean nats per token of every block of a stretch.

        Raises:
            ValueError: A loss that is not a number.
        """
        ids = stretch(reader.tokenizer, self.text, length, self.samples, sample)
        block = block_size(length, reader.window)
        losses = list(known)
        skip = max(len(losses) * block - 1, 0)  # position 0 has no loss
        if self.inside:
            head = first_token(reader.tokenizer)
            pieces = in_window_pieces(reader.model, ids, reader.window, head, reader.chunk, skip)
        else:
            pieces = loss_pieces(reader.model, ids, reader.chunk, skip)
        if len(losses) * block < length:
            for fresh in blocks(pieces, block, len(losses)):
                fresh = [round(loss, 5) for loss in fresh]
                keep(fresh)
                losses += fresh
        return {"block": block, "losses": losses}


@dataclass(frozen=True)
class Speed:
    """What reading a text and decoding after it cost: the fields of `cost.speed.Cost`.

    Args:
        text: What is read.
        steps: Tokens that are decoded.
    """

    text: str = field(repr=False)
    steps: int = 16
    samples: ClassVar[int] = 1
    longest: ClassVar[bool] = False
    reference: ClassVar[None] = None

    def check(self, tokenizer: PreTrainedTokenizerBase, length: int) -> None:
        """See `check_text`."""
        check_text(tokenizer, self.text, length, 1)

    def measure(
        self,
        reader: "LocalReader",
        length: int,
        sample: int,
        known: Sequence[float],
        keep: Callable[[Sequence[float]], None],
    ) -> Mapping[str, Any]:
        """Seconds and bytes."""
        ids = stretch(reader.tokenizer, self.text, length, 1, sample)
        return vars(reading_cost(reader.model, ids, self.steps, reader.chunk))
