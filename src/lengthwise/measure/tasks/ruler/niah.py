"""RULER's eight needle tasks: numbers for keys, hidden in sentences."""

import random
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lengthwise.measure.tasks.base import Item, picked
from lengthwise.measure.tasks.draws import (
    NOISE,
    Endless,
    depths,
    different,
    haystack,
    new_from,
    number,
    pair_of_words,
    scatter,
    uuid4,
)  # fmt: skip
from lengthwise.measure.tasks.exact import Generated, Page, Pages, Tokens
from lengthwise.measure.tasks.metrics import match_all

_DRAW = {"word": pair_of_words, "number": number, "uuid": uuid4}
_NEEDLE = "The special {kind} of {key} is: {value}."
_WAYS = {"word": 0, "number": 9 * 10**6, "uuid": 2**122}  # values that can be drawn


@dataclass(frozen=True)
class NIAH(Generated):
    """Find the values of keys that stand somewhere in a long text.

    Source: Hsieh et al., RULER (arXiv:2404.06654), section 3.1 and appendix B; structure,
    depths and metric of its public code.
    Differs from the source: sentences and words are ours, the essays are generated (or a person's
    own text), lengths are exact, keys and values never contain each other.

    Args:
        haystack: "noise" repeats five sentences, "essay" is prose, "needles" is made of other
            keys and values only.
        keys: What a key is: "word" (adjective and noun) or "uuid".
        values: What a value is: "number" (7 digits) or "uuid".
        distractors: Keys in the text that are not asked for.
        values_each: Values of every key.
        queries: Keys that are asked for.
        text: A person's own prose for "essay"; None generates it.
        budget: Tokens for the answer at least; 128 in the source.

    Raises:
        ValueError: A count or a name out of range.
    """

    haystack: Literal["noise", "essay", "needles"] = "essay"
    keys: Literal["word", "uuid"] = "word"
    values: Literal["number", "uuid"] = "number"
    distractors: int = 0
    values_each: int = 1
    queries: int = 1
    text: str | None = field(default=None, repr=False)
    budget: int = 128

    def __post_init__(self) -> None:
        for name, value, allowed in [
            ("haystack", self.haystack, ("noise", "essay", "needles")),
            ("keys", self.keys, ("word", "uuid")),
            ("values", self.values, ("number", "uuid")),
        ]:
            if value not in allowed:
                raise ValueError(f"NIAH: {name} must be one of {', '.join(allowed)}, got {value!r}")
        if self.distractors < 0 or self.values_each < 1 or self.queries < 1:
            raise ValueError(
                "NIAH: distractors must be at least 0, values_each and queries at least 1, got "
                f"{self.distractors}, {self.values_each}, {self.queries}"
            )

    @property
    def least(self) -> int:
        """One needle or block more than nothing."""
        return 1

    def drawn(self, index: int, rng: random.Random, tokens: Tokens) -> Pages:
        """Keys, values and their places; the haystack grows by sentences, blocks or needles."""
        draw_key, draw_value = _DRAW[self.keys], _DRAW[self.values]
        keys = different(lambda: draw_key(rng), self.queries + self.distractors)
        values = different(lambda: draw_value(rng), len(keys) * self.values_each)
        rows = [values[i :: len(keys)] for i in range(len(keys))]
        wanted = [value for row in rows[: self.queries] for value in row]
        pairs = [(key, value) for key, row in zip(keys, rows, strict=True) for value in row]
        needles = [self._needle(key, value) for key, value in pairs]
        places = depths(rng, len(needles))
        units = self._units(rng, {*keys}, {*values})
        plural = len(wanted) > 1
        asked = keys[: self.queries]
        listed = ", ".join(asked[:-1]) + " and " + asked[-1] if plural and asked[1:] else asked[0]
        kind = self.values + "s" * plural
        head = (
            f"{'Special' if plural else 'A special'} {kind} will be asked for after this text. "
            "Read it and remember.\n"
        )
        tail = (
            f"\nWhat {'are all' if plural else 'is'} the special {kind} of {listed} that the text "
            f"gives? The special {kind} of {listed} that the text gives {'are' if plural else 'is'}"
        )
        glue = " " if self.haystack == "essay" else "\n"
        record = {
            "keys": asked,
            "values": dict(zip(keys, rows, strict=True)),
            "places": places,
            "answers": wanted,
        }

        def page(count: int) -> Page:
            context = glue.join(scatter(units.first(count), needles, places))
            marks = tuple(needles[: self.queries * self.values_each])
            return Page(head, context, tail, " ".join(wanted), record, marks)

        return page

    def _needle(self, key: str, value: str) -> str:
        return _NEEDLE.format(kind=self.values, key=key, value=value)

    def _units(self, rng: random.Random, keys: set[str], values: set[str]) -> Endless[str]:
        if self.haystack == "essay":
            return haystack(self.text, rng)
        if self.haystack == "noise":
            return Endless(lambda: NOISE)
        own = new_from(rng)

        def other() -> str:
            key, value = "", ""
            while not key or key in keys or value in values:
                key, value = _DRAW[self.keys](own), _DRAW[self.values](own)
            return self._needle(key, value)

        return Endless(other)

    def score(self, text: str, item: Item) -> float:
        """The fraction of the values that stand in the reply."""
        return match_all(text, item.record["answers"])

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The values of the keys that are asked for."""
        return " ".join(value for key in record["keys"] for value in record["values"][key])

    def at_depths(self, text: str, item: Item) -> tuple[float, ...]:
        """Whether each value that is asked for stands in the reply."""
        return tuple(match_all(text, [value]) for value in item.record["answers"])

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """Values of needles, whatever their key."""
        values = re.findall(r"The special \w+ of \S+ is: (\S+)\.", item.prompt)
        return picked(values, len(item.record["answers"]), "needle")

    def guess(self, item: Item, rng: random.Random) -> str:
        """Values drawn anew."""
        return " ".join(_DRAW[self.values](rng) for _ in item.record["answers"])

    def chance(self, item: Item) -> float:
        """A guess of that many values holds a given one with about this probability."""
        return len(item.record["answers"]) / _WAYS[self.values]
