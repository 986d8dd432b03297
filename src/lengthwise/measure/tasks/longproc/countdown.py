"""LongProc's countdown: search for the sums that make a target, and write the search down."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.draws import haystack
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.longproc.trace import check_level, lines_in

_MOST = 2000  # of results on the way
_OPERATIONS = "+-*/"
_EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


def _value(a: int, sign: str, b: int) -> int | None:
    """The result with the larger number first, or None if it is no whole number in the range."""
    a, b = max(a, b), min(a, b)
    if sign == "/":
        return a // b if a % b == 0 else None
    value = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return value if 0 < value < _MOST else None


def search(numbers: Sequence[int], target: int) -> Iterator[str | tuple[str, ...]]:
    """Lines of a depth-first search; at the goal the equations, as the last thing.

    Pairs come in the order of the numbers, operations in the order + - * /; the result stands
    before the numbers that are left.
    """
    yield from _search(tuple(numbers), target, ())


def _search(
    numbers: tuple[int, ...], target: int, done: tuple[str, ...]
) -> Iterator[str | tuple[str, ...]]:
    for i, j in combinations(range(len(numbers)), 2):
        left = tuple(n for k, n in enumerate(numbers) if k not in (i, j))
        for sign in _OPERATIONS:
            a, b = max(numbers[i], numbers[j]), min(numbers[i], numbers[j])
            value, indent = _value(a, sign, b), " " * len(done)
            if value is None:
                yield f"{indent}{a} {sign} {b}: drop"
                continue
            equation = f"{a} {sign} {b} = {value}"
            if not left:
                yield f"{indent}{equation}: {'found' if value == target else 'drop'}"
                if value == target:
                    yield (*done, equation)
                    return
                continue
            yield f"{indent}{equation}: go on with {' '.join(map(str, (value, *left)))}"
            for step in _search((value, *left), target, (*done, equation)):
                yield step
                if isinstance(step, tuple):
                    return


def solves(equations: Sequence[str], numbers: Sequence[int], target: int) -> bool:
    """Whether the equations use every number once, are right, and end at the target."""
    left, value = list(numbers), None
    for equation in equations:
        found = _EQUATION.fullmatch(equation)
        if found is None:
            return False
        a, sign, b, value = int(found[1]), found[2], int(found[3]), int(found[4])
        for number in (a, b):
            if number not in left:
                return False
            left.remove(number)
        if (a < b and sign in "-/") or _value(a, sign, b) != value:
            return False
        left.append(value)
    return left == [target]


@dataclass(frozen=True)
class Countdown(Generated):
    """Combine four numbers to a target, and write the whole search down.

    Source: Ye et al., LongProc (arXiv:2501.05414), section 2 and its public code: depth-first
    search, larger number first, + - * /, whole positive results below 2,000; 1 for equations that
    reach the target, otherwise the share of the search before the first wrong line.
    Differs from the source: wording is ours; problems are drawn until the search fills half of the
    budget at least in the model's own tokens; more length means more sentences before.

    Args:
        budget: Tokens of output: 512, 2048 and 8192 are the source's levels.

    Raises:
        ValueError: A budget out of range.
    """

    budget: int = 512

    def __post_init__(self) -> None:
        check_level("Countdown", self.budget)

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """A problem whose search fits the budget; the haystack grows by sentences."""
        numbers, target, trace, equations = self._problem(rng, tokens)
        units = haystack(None, rng)
        shown = " ".join(map(str, numbers))
        context = (
            f"The numbers are {shown}. The target is {target}. Join two numbers by + - * or /, the "
            "larger one first, put the result before the numbers that are left, and go on until "
            "one is left. Results must be whole, above 0 and below 2000."
        )
        tail = (
            "\nSearch depth first: pairs in the order of the numbers, operations in the order + - "
            "* /. Write a line for each try between <Search> and </Search>, one more blank in "
            'front of each deeper one: "7 + 2 = 9: go on with 9 4 1", "7 / 2: drop", "9 - 1 = 8: '
            'drop" or "9 + 1 = 10: found". Then write the three equations between <Solution> and '
            "</Solution>.\n"
        )
        answer = _written(trace, equations)
        record = {"numbers": numbers, "target": target}

        def page(count: int) -> Page:
            before = "".join(line + "\n" for line in units.first(count))
            return Page(
                "Notes, and a puzzle.\n", before + context, tail, answer, record, (context,)
            )

        return page

    def _problem(
        self, rng: random.Random, tokens: Tokens
    ) -> tuple[list[int], int, list[str], tuple[str, ...]]:
        per_line = 0.0
        while True:
            numbers = [rng.randint(1, 50) for _ in range(4)]
            target = _reachable(numbers, rng)
            trace: list[str] = []
            for step in search(numbers, target):
                if isinstance(step, tuple):
                    equations = step
                else:
                    trace.append(step)
                if per_line and len(trace) * per_line > 1.5 * self.budget:
                    break
            else:
                if per_line and len(trace) * per_line < self.budget / 3:
                    continue
                size = tokens(_written(trace, equations))
                per_line = size / len(trace)
                if self.budget / 2 <= size <= self.budget - 4:
                    return numbers, target, trace, equations

    def score(self, text: str, item: Item) -> float:
        """1 if the equations reach the target, else the share of the search that is right."""
        numbers, target = item.record["numbers"], item.record["target"]
        if "<Solution>" in text and solves(lines_in(text, "Solution"), numbers, target):
            return 1.0
        wanted = [line for line in search(numbers, target) if isinstance(line, str)]
        right = 0
        for ours, theirs in zip(lines_in(text, "Search"), wanted, strict=False):
            if ours != theirs.strip():
                break
            right += 1
        return min(right, len(wanted) - 1) / len(wanted)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Searches."""
        steps = list(search(record["numbers"], record["target"]))
        return _written([s for s in steps if isinstance(s, str)], steps[-1])

    def guess(self, item: Item, rng: random.Random) -> str:
        """An equation of numbers that were not read."""
        a, b = rng.randint(100, 999), rng.randint(1, 99)
        return f"{a} + {b} = {a + b}: drop"

    def chance(self, item: Item) -> float:
        """The numbers of a guess are above all that can be given."""
        return 0.0


def _reachable(numbers: Sequence[int], rng: random.Random) -> int:
    """A target that some order of operations reaches."""
    while True:
        left = list(numbers)
        while len(left) > 1:
            rng.shuffle(left)
            value = _value(left[0], rng.choice(_OPERATIONS), left[1])
            if value is None:
                break
            left[:2] = [value]
        else:
            if left[0] not in numbers:
                return left[0]


def _written(trace: Sequence[str], equations: Sequence[str]) -> str:
    parts = ["<Search>", *trace, "</Search>", "<Solution>", *equations, "</Solution>"]
    return "\n".join(parts)
