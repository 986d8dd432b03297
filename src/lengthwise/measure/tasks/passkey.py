"""The passkey task: a number hidden in a long text, asked for at its end."""

import random
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from transformers import PreTrainedTokenizerBase

from lengthwise.measure.tasks.base import Beside, Item, picked, token_count
from lengthwise.measure.tasks.fit import fit

NEEDLE = "\nThe passkey is {key}. Remember it: {key} is the passkey.\n"
QUESTION = "\nWhat is the passkey? The passkey is"

_OFFSETS = 50  # places of the filler that are tried before a length counts as out of reach


def _insert(filler: str, needle: str, depth: float) -> tuple[str, float]:
    """The filler with the needle between two lines near `depth`, and the depth it came to.

    Where the lines are too long for that it goes between two words, or else between two letters.
    """
    target = round(depth * len(filler))
    reach = max(20, len(filler) // 20)
    places = [0, len(filler)]
    for mark in ("\n", " "):
        near = [m.start() for m in re.finditer(mark, filler) if abs(m.start() - target) <= reach]
        places += near
        if near:
            break
    places.sort()
    right = bisect_left(places, target)
    cut = min(places[max(right - 1, 0) : right + 1], key=lambda place: abs(place - target))
    if abs(cut - target) > reach:
        cut = target
    # The needle brings its own line breaks: the one at the cut would leave an empty line.
    head, tail = filler[:cut], filler[cut:].removeprefix("\n")
    if not tail:
        needle = needle.removesuffix("\n")
    return head + needle + tail, cut / max(len(filler), 1)


@dataclass(frozen=True)
class Passkey(Beside):
    """Find a number that stands somewhere in a long text.

    Source: Mohtashami and Jaggi, Landmark Attention (arXiv:2305.16300), section 4.2.
    Differs from the source: the filler is a real text instead of one repeated sentence, lengths
    are exact in the model's own tokens, and the needle is cut in between lines.

    Args:
        filler: Text that hides the needle; repeated where it is too short. Every item begins at
            a line of its own.
        depth: Where the needle stands, from 0 (the start) to 1 (right before the question);
            None spreads the items evenly over [0, 1].
        digits: Digits of the passkey, 1 to 20.

    Raises:
        ValueError: An empty filler, or a depth or digits out of range.
    """

    filler: str = field(repr=False)
    depth: float | None = None
    digits: int = 5

    def __post_init__(self) -> None:
        if not self.filler.strip():
            raise ValueError("Passkey: the filler is empty; give a text to hide the passkey in")
        if self.depth is not None and not 0 <= self.depth <= 1:
            raise ValueError(f"Passkey: depth must be from 0 to 1, got {self.depth!r}")
        if not 1 <= self.digits <= 20:
            raise ValueError(f"Passkey: digits must be from 1 to 20, got {self.digits!r}")

    @property
    def allowance(self) -> int:
        """Tokens allowed for the answer: a blank, the digits at one token each, and an end."""
        return self.digits + 2

    def build(
        self, tokenizer: PreTrainedTokenizerBase, length: int, count: int, seed: int
    ) -> list[Item]:
        """`count` items of exactly `length` tokens, answer included.

        Raises:
            ValueError: The length holds no needle and question, or this tokenizer cannot meet it.
        """
        if count < 1:
            raise ValueError(f"Passkey: count must be at least 1, got {count!r}")
        rng = random.Random(f"passkey {seed} {length}")
        keys = ["".join(rng.choices("0123456789", k=self.digits)) for _ in range(count)]
        # With a letter of filler: without any, one token more may be out of reach.
        shortest = max(
            token_count(tokenizer, NEEDLE.format(key=key) + "a" + QUESTION) for key in keys
        )
        if length < shortest + self.allowance:
            raise ValueError(
                f"Passkey: a length of {length} tokens is too short: needle, question and answer "
                f"take {shortest + self.allowance}"
            )
        spread = [i / (count - 1) if count > 1 else 0.5 for i in range(count)]
        depths = spread if self.depth is None else [self.depth] * count
        return [
            self._item(tokenizer, length, *pair, rng) for pair in zip(keys, depths, strict=True)
        ]

    def _item(
        self,
        tokenizer: PreTrainedTokenizerBase,
        length: int,
        key: str,
        depth: float,
        rng: random.Random,
    ) -> Item:
        needle = NEEDLE.format(key=key)

        def prompt(filler: str) -> str:
            return _insert(filler, needle, depth)[0] + QUESTION

        def count(filler: str) -> int:
            return token_count(tokenizer, prompt(filler)) + self.allowance

        for _ in range(_OFFSETS):
            offset = self._line_start(rng)
            filler = partial(self._from, offset)
            found = fit(count, filler, length)
            # A filler that holds the number by chance would give the answer away twice.
            if found is not None and key not in found:
                return Item(
                    prompt=prompt(found),
                    answer=key,
                    length=length,
                    depths=(_insert(found, needle, depth)[1],),
                    record={"key": key, "depth": depth, "offset": offset},
                    allowance=self.allowance,
                )
        raise ValueError(
            f"Passkey: no cut of the filler makes exactly {length} tokens with this tokenizer; "
            f"try {length + 1}"
        )

    def _line_start(self, rng: random.Random) -> int:
        """A random place in the filler, moved on to the start of a line."""
        place = rng.randrange(len(self.filler))
        return (self.filler.find("\n", place) + 1) % len(self.filler)

    def _from(self, offset: int, characters: int) -> str:
        """`characters` of the filler from `offset`, going round at its end."""
        whole = self.filler.removesuffix("\n") + "\n"
        rounds = (offset + characters) // len(whole) + 1
        return (whole * rounds)[offset : offset + characters]

    def score(self, text: str, item: Item) -> float:
        """1 if the first number in the text is the passkey, else 0."""
        number = re.search(r"\d+", text)
        return float(number is not None and number.group() == item.answer)

    def oracle(self, record: Mapping[str, Any]) -> str:
        """The number of the needle."""
        return f" {record['key']}"

    def guess(self, item: Item, rng: random.Random) -> str:
        """A number of as many digits."""
        return "".join(rng.choices("0123456789", k=self.digits))

    def shortcuts(self, item: Item) -> Mapping[str, str]:
        """A number of so many digits, by its place or how often it stands there."""
        return picked(re.findall(rf"\b\d{{{self.digits}}}\b", item.prompt), kind="number")

    def chance(self, item: Item) -> float:
        """Every number is as likely."""
        return 10.0**-self.digits
