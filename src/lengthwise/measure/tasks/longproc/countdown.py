"""LongProc's countdown: search for the sums that make a target, and write the search down."""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from lengthwise.measure.tasks.base import Item
from lengthwise.measure.tasks.longproc.procedure import Search

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
class Countdown(Search):
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

    tag = "Solution"
    head = "Notes, and a puzzle.\n"

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Four numbers, and a target that they reach."""
        numbers = [rng.randint(1, 50) for _ in range(4)]
        return {"numbers": numbers, "target": _reachable(numbers, rng)}

    def search(self, record: Mapping[str, Any]) -> Iterator[str | tuple[str, ...]]:
        """Pair by pair."""
        return search(record["numbers"], record["target"])

    def holds(self, found: Sequence[str], record: Mapping[str, Any]) -> bool:
        """Whether the equations reach the target."""
        return solves(found, record["numbers"], record["target"])

    def told(self, record: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
        """The numbers and the rules."""
        shown, target = " ".join(map(str, record["numbers"])), record["target"]
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
        return (context,), tail

    def guess(self, item: Item, rng: random.Random) -> str:
        """An equation of numbers above all that can be given."""
        a, b = rng.randint(100, 999), rng.randint(1, 99)
        return f"{a} + {b} = {a + b}: drop"


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
