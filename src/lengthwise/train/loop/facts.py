"""Numbers of a base model that recipes are written in."""

import math
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers import PreTrainedTokenizerBase

from lengthwise.extend.extrapolation import base_for


@dataclass(frozen=True)
class Facts:
    """What names in braces stand for in a recipe; see `numbers`.

    Attributes:
        window: Tokens that the base model was made for.
        target: Tokens that are wanted.
        theta: The base of its rotary frequencies.
        dim: Dimensions of a head that are rotated.
        first: The token that begins a text; None if the model has none.
        ends: Tokens after which a sentence or a line ends.
    """

    window: int
    target: int
    theta: float
    dim: int
    first: int | None
    ends: tuple[int, ...] = (0,)

    @cached_property
    def numbers(self) -> dict[str, Any]:
        """By name.

        `factor` is target / window and `scales` that rounded up; `group` is a quarter of the target
        (LongLoRA), even; `rope_base` is the smallest base whose limit is the target (Liu et al.
        2023), at least `theta`; `bos` and `ends` are tokens.
        """
        reached = base_for(self.target, self.dim, self.window, self.theta)
        return {
            "window": self.window,
            "target": self.target,
            "factor": self.target / self.window,
            "scales": math.ceil(self.target / self.window),
            "group": max(2, self.target // 8 * 2),
            "theta": self.theta,
            "rope_base": round(max(reached, self.theta), 1),
            "bos": self.first,
            "ends": self.ends,
        }

    def fill(self, words: str) -> str:
        """The words with numbers in the place of names in braces.

        Raises:
            ValueError: For another name, or one that this model has no number for.
        """

        def number(found: re.Match[str]) -> str:
            if self.numbers.get(found[1]) is None:
                known = ", ".join(f"{{{k}}}" for k, v in self.numbers.items() if v is not None)
                raise ValueError(f"{words!r}: for this model there are {known}, got {{{found[1]}}}")
            return str(self.numbers[found[1]])

        return re.sub(r"\{([^{}]*)\}", number, words)


def sentence_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens of a vocabulary that are nothing but the end of a sentence or of a line."""
    special = set(tokenizer.all_special_ids)
    texts = tokenizer.batch_decode([[token] for token in range(len(tokenizer))])
    return tuple(
        token
        for token, text in enumerate(texts)
        if token not in special and re.fullmatch(r"\s*[.!?。！？]\n*|\n+", text)
    )
