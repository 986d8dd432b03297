"""What the procedures share: a budget, lines in tags, and searches that are written down."""

import random
import re
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import Endless, haystack
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens


def lines_in(text: str, tag: str) -> list[str]:
    """The lines between `<tag>` and its end; of a text without tags, all lines. No blank ones."""
    found = re.search(rf"<{tag}>(.*?)(?:</{tag}>|\Z)", text, re.DOTALL)
    inner = found.group(1) if found else text.split(f"</{tag}>")[0]
    return [line.strip() for line in inner.split("\n") if line.strip()]


def right_share(found: Sequence[str], wanted: Sequence[str]) -> float:
    """The share of lines before the first wrong one; lines too many count as wrong.

    Source: Ye et al., LongProc (arXiv:2501.05414), section 3, partial accuracy.
    Differs from the source: its code also counts the first wrong line as right.
    """
    right = 0
    for ours, theirs in zip(found, wanted, strict=False):
        if ours != theirs:
            break
        right += 1
    return right / max(len(found), len(wanted))


@dataclass(frozen=True)
class Procedure(Generated):
    """A procedure of so many steps as fit the tokens of its output.

    Args:
        budget: Tokens of output: 512, 2048 and 8192 are the source's levels.

    Raises:
        ValueError: A budget out of range.
    """

    budget: int = 512

    def __post_init__(self) -> None:
        if not 128 <= self.budget <= 65536:
            raise ValueError(
                f"{type(self).__name__}: budget must be from 128 to 65536 output tokens, got "
                f"{self.budget!r}; the source's levels are 512, 2048 and 8192"
            )

    def longest(self, answer: Callable[[int], str], tokens: Tokens) -> int:
        """About the most steps whose answer fits the budget, to a few per cent; at least 1."""
        room, steps, best = self.budget - 4, 16, 1
        for _ in range(6):
            size = tokens(answer(steps))
            if size <= room:
                best = max(best, steps)
            steps = max(1, int(steps * 0.985 * room / size))
            if steps <= best:
                break
        return best

    def chance(self, item: Item) -> float:
        """What `guess` says is never in the prompt."""
        return 0.0


class Search(Procedure):
    """A depth-first search that is written down, then what it found.

    Attributes:
        tag: Around the lines of what was found.
        head: What comes before the sentences that the prompt grows by.
    """

    tag: ClassVar[str]
    head: ClassVar[str]

    @abstractmethod
    def draw(self, rng: random.Random) -> dict[str, Any]:
        """The record of a problem that can be solved."""

    @abstractmethod
    def search(self, record: Mapping[str, Any]) -> Iterator[str | tuple[str, ...]]:
        """Lines of the search; at the goal the lines of what was found, as the last thing."""

    @abstractmethod
    def holds(self, found: Sequence[str], record: Mapping[str, Any]) -> bool:
        """Whether lines solve the problem, by whatever way."""

    @abstractmethod
    def told(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
        """The lines of a problem, and the question."""

    def worth(self, trace: Sequence[str], found: Sequence[str]) -> bool:
        """Whether a search is long enough to be one."""
        return True

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """A problem whose search fits the budget; the haystack grows by sentences."""
        record, answer = self._problem(rng, tokens)
        marks, tail = self.told(record)
        return behind(haystack(None, rng), self.head, marks, tail, answer, record)

    def _problem(self, rng: random.Random, tokens: Tokens) -> tuple[dict[str, Any], str]:
        per_line = 0.0
        while True:
            record = self.draw(rng)
            trace: list[str] = []
            for step in self.search(record):
                if isinstance(step, tuple):
                    found = step
                else:
                    trace.append(step)
                if per_line and len(trace) * per_line > 1.5 * self.budget:
                    break
            else:
                if per_line and len(trace) * per_line < self.budget / 3:
                    continue
                answer = self._written(trace, found)
                size = tokens(answer)
                per_line = size / len(trace)
                if self.worth(trace, found) and self.budget / 2 <= size <= self.budget - 4:
                    return record, answer

    def _written(self, trace: Sequence[str], found: Sequence[str]) -> str:
        parts = ["<Search>", *trace, "</Search>", f"<{self.tag}>", *found, f"</{self.tag}>"]
        return "\n".join(parts)

    def score(self, text: str, item: Item) -> float:
        """1 if what was found holds, else the share of the search that is right."""
        if f"<{self.tag}>" in text and self.holds(lines_in(text, self.tag), item.record):
            return 1.0
        wanted = [line for line in self.search(item.record) if isinstance(line, str)]
        right = 0
        for ours, theirs in zip(lines_in(text, "Search"), wanted, strict=False):
            if ours != theirs.strip():
                break
            right += 1
        return min(right, len(wanted) - 1) / len(wanted)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Searches."""
        *trace, found = self.search(record)
        return self._written([line for line in trace if isinstance(line, str)], found)


def behind(
    sentences: Endless[str],
    head: str,
    lines: Sequence[str],
    tail: str,
    answer: str,
    record: Mapping[str, Any],
) -> Pages:
    """Pages that grow by sentences between their head and the lines that matter."""

    def page(count: int) -> Page:
        before = "".join(line + "\n" for line in sentences.first(count))
        return Page(head, before + "\n".join(lines), tail, answer, record, tuple(lines))

    return page
