"""What the file of results holds of every item and of every reading: a line of JSON each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# The method of readings of the untouched model with a context inside its window: what others are
# judged against.
REFERENCE = "inside the window"
_HEAD, _TAIL = 300, 900  # characters of a prompt that are kept


class Cell(NamedTuple):
    """What is measured together: a method, a task and a length in tokens."""

    method: str
    task: str
    length: int


@dataclass(frozen=True)
class ItemRow:
    """One item, answered and scored.

    Attributes:
        method: The name of the methods under which it was read; "plain" is none.
        task: The name of the task in its suite, as `niah_single_1`.
        length: Tokens of the prompt and of the allowance for the answer.
        index: Which item of its task and length, from 0; the same items for every method.
        score: From 0 to 1; None where the item was refused.
        chance: The expected score of a guess.
        depths: Where the facts lie, as fractions of the context; may be empty.
        prompt: The start and the end of the prompt, enough to read the question.
        answer: What counts as right.
        reply: What was answered.
        tokens: New tokens.
        first_token: Seconds to the first token, None where not known.
        seconds: Seconds for the whole answer.
        held: Bytes of keys and values, None where not known.
        peak: Bytes at the highest point, None where not known.
        refused: Why there is no answer, or "".
        again: Whether it was refused for now only: the next run of the command asks it again.
        session: Which run of the command measured it, from 0: its versions and hardware stand in
            the file's line of that session.
        groups: What reports tell items apart by, as `level`, and to which of them this belongs; no
            line of the file says that there are none.
        characters: Of the prompt; 0 where they were not counted.
        shortcuts: What readers score who do not do the task, by what they do instead.
        parts: What the score is made of, or goes with.
        found: The score for the fact at each depth; empty where there is only that of the whole.
        read: Tokens of all prompts of a strategy; None where the prompt was read as it is.
    """

    method: str
    task: str
    length: int
    index: int
    score: float | None
    chance: float
    depths: tuple[float, ...]
    prompt: str
    answer: str
    reply: str
    tokens: int
    first_token: float | None
    seconds: float
    held: int | None
    peak: int | None
    refused: str
    session: int
    again: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)
    characters: int = 0
    shortcuts: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)
    found: tuple[float, ...] = ()
    read: int | None = None

    @property
    def cell(self) -> Cell:
        """Where it belongs."""
        return Cell(self.method, self.task, self.length)

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What is measured once only."""
        return *self.cell, self.index


@dataclass(frozen=True)
class ReadingRow:
    """What was measured of the model itself on one stretch of text.

    Attributes:
        method: As for an item; `REFERENCE` is the untouched model inside its window.
        task: The name of the reading in its suite: `loss` or `speed`.
        length: Tokens of the text.
        sample: Which stretch of the text, from 0; the same stretches for every method.
        values: What was measured, by name; empty where it was refused.
        refused: Why nothing could be measured, or "".
        seconds: What it took, in the run that finished it.
        session: As for an item.
    """

    method: str
    task: str
    length: int
    sample: int
    values: Mapping[str, Any]
    refused: str
    seconds: float
    session: int

    @property
    def cell(self) -> Cell:
        """Where it belongs."""
        return Cell(self.method, self.task, self.length)

    @property
    def key(self) -> tuple[str, str, int, int]:
        """What is measured once only."""
        return *self.cell, self.sample


def ends(prompt: str) -> str:
    """The start and the end of a prompt, where the question stands."""
    if len(prompt) <= _HEAD + _TAIL:
        return prompt
    left_out = len(prompt) - _HEAD - _TAIL
    return f"{prompt[:_HEAD]}\n[… {left_out:,} characters …]\n{prompt[-_TAIL:]}"
