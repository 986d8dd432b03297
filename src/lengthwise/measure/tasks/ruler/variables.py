"""RULER's variable tracking: which names hold a value after a chain of assignments?"""

import random
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from lengthwise.measure.tasks.base import Item, picked
from lengthwise.measure.tasks.draws import NOISE, different, number
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import match_all

_HEAD = "Follow the chains of assignments that are hidden in this text.\n\n"
_TAIL = (
    "\nQuestion: Which variables hold the value {value} in the text above? Answer: By the chains "
    "of assignments in the text above, {count} variables hold the value {value}, they are:"
)


def _names(rng: random.Random, count: int, letters: int) -> list[str]:
    return different(lambda: "".join(rng.choices(string.ascii_uppercase, k=letters)), count)


def _chain(names: list[str], value: str) -> list[str]:
    hops = [f"VAR {name} = VAR {former}" for former, name in pairwise(names)]
    return [f"VAR {names[0]} = {value}", *hops]


@dataclass(frozen=True)
class VariableTracking(Generated):
    """Name all variables that hold a value, some only through other variables.

    Source: Hsieh et al., RULER (arXiv:2404.06654), section 3.2 and appendix B; structure and
    metric of its public code: sorted random lines between blocks of noise, five-letter names, one
    solved example of three-letter names before the question.
    Differs from the source: sentences are ours, and lengths are exact.

    Args:
        chains: Chains in the text; only the first is asked for.
        hops: Assignments from variable to variable in each chain.
        example: Whether a solved example comes first, as in the source.
        budget: Tokens for the answer at least; 30 in the source.

    Raises:
        ValueError: A count out of range.
    """

    chains: int = 1
    hops: int = 4
    example: bool = True
    budget: int = 30

    def __post_init__(self) -> None:
        if not 1 <= self.chains <= 100 or not 1 <= self.hops <= 100:
            raise ValueError(
                "VariableTracking: chains and hops must be from 1 to 100, got "
                f"{self.chains}, {self.hops}"
            )

    @property
    def least(self) -> int:
        """A block of noise for each assignment, so that all stand on lines of their own."""
        return self.hops + 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Chains and their places among the noise; the haystack grows by blocks of noise."""
        size = self.hops + 1
        names = _names(rng, self.chains * size, 5)
        values = different(lambda: number(rng, 5), self.chains)
        chains = [_chain(names[i * size : (i + 1) * size], v) for i, v in enumerate(values)]
        places = [sorted(rng.random() for _ in range(size)) for _ in chains]
        head = _HEAD
        if self.example:
            head = self._solved(rng, values) + head
        tail = _TAIL.format(value=values[0], count=size)
        record = {"chains": chains, "value": values[0], "places": places, "answers": names[:size]}

        def page(count: int) -> Page:
            # Stable sorting keeps the order within a chain where places fall on one line.
            facts = sorted((int(p * count), i, j) for i, row in enumerate(places)
                           for j, p in enumerate(row))  # fmt: skip
            lines, begun = [], 0
            for at, i, j in facts:
                lines += [NOISE] * (at - begun) + [chains[i][j]]
                begun = at
            context = "\n".join(lines + [NOISE] * (count - begun))
            return Page(head, context, tail, " ".join(names[:size]), record, tuple(chains[0]))

        return page

    def _solved(self, rng: random.Random, taken: list[str]) -> str:
        names = _names(rng, self.hops + 1, 3)
        value = different(lambda: number(rng, 5), 1, taken)[0]
        lines = [line for row in _chain(names, value) for line in (NOISE, row)]
        tail = _TAIL.format(value=value, count=len(names))
        return _HEAD + "\n".join(lines) + tail + " " + " ".join(names) + "\n\n"

    def score(self, text: str, item: Item) -> float:
        """The fraction of the variables that stand in the reply."""
        return match_all(text, item.record["answers"])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """Follows the assignments of all chains from the value on."""
        held = [record["value"]]
        for line in [line for chain in record["chains"] for line in chain]:
            name, source = line.removeprefix("VAR ").split(" = ")
            if source.removeprefix("VAR ") in held:
                held.append(name)
        return " ".join(held[1:])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Variables, whatever their value; of one chain these are all."""
        names = re.findall(r"VAR ([A-Z]{5}) =", item.prompt)
        return picked(names, len(item.record["answers"]), "variable")

    def guess(self, item: Item, rng: random.Random) -> str:
        """Names drawn anew."""
        return " ".join(_names(rng, len(item.record["answers"]), 5))

    def chance(self, item: Item) -> float:
        """A guess of that many names holds a given one with about this probability."""
        return len(item.record["answers"]) / 26**5
