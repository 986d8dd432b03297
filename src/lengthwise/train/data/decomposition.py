"""Dataset decomposition: documents as sequences of power-of-two lengths, in buckets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


def decompose(length: int, largest: int | None = None) -> list[int]:
    """The lengths of the sequences that one document becomes, longest first.

    The binary digits of its length: 1,300 tokens are sequences of 1,024, 256, 16 and 4 tokens.

    Source: Dataset Decomposition (2405.13226), section 2.1.
    Differs from the source: the authors' code cuts `2^k + 1` tokens, so that a sequence has `2^k`
    targets, and draws the length of a piece at random where a document is longer than the largest
    bucket. This follows the paper, which has neither: `2^k` tokens, and the largest length as
    often as it fits.

    Args:
        length: Tokens of the document, at least 1.
        largest: The longest sequence, a power of two; None for no bound.

    Raises:
        ValueError: If the length is below 1 or `largest` is no power of two.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1 token, got {length}")
    pieces = []
    if largest is not None:
        _check_power("largest", largest)
        pieces = [largest] * (length // largest)
        length %= largest
    digits = range(length.bit_length() - 1, -1, -1)
    return pieces + [1 << digit for digit in digits if length >> digit & 1]


@dataclass(frozen=True)
class Buckets:
    """The sequences of a corpus by their length.

    Args:
        pieces: From a length, a power of two, to its sequences as `[sequences, 2]` rows of
            (document, first token), in the order of the documents. Empty buckets are left out.
        dropped: Tokens in sequences shorter than the smallest bucket.
    """

    pieces: dict[int, NDArray[np.int64]]
    dropped: int

    @property
    def sizes(self) -> dict[int, int]:
        """How many sequences of every length."""
        return {length: len(rows) for length, rows in self.pieces.items()}


def bucket(
    lengths: Sequence[int] | np.ndarray, smallest: int = 1, largest: int | None = None
) -> Buckets:
    """Decompose every document of a corpus; every token is in one sequence or counted as dropped.

    Source: Dataset Decomposition (2405.13226), section 2.1; the paper trains on the buckets of
    256 to 8,192 tokens.

    Args:
        lengths: Tokens of every document, at least 1.
        smallest: The shortest sequence that is kept, a power of two.
        largest: The longest sequence, a power of two; None for no bound.

    Raises:
        ValueError: If a length is below 1 or a bound is no power of two or they cross.
    """
    _check_power("smallest", smallest)
    if largest is not None:
        _check_power("largest", largest)
        if smallest > largest:
            raise ValueError(f"smallest must be at most largest ({largest}), got {smallest}")
    given = np.asarray(lengths, dtype=np.int64)
    if given.size and given.min() < 1:
        at = int(given.argmin())
        raise ValueError(f"length {given[at]} of document {at} must be at least 1 token")
    most = int(given.max(initial=1))
    top = largest or 1 << most.bit_length() - 1
    pieces = {}
    size = top
    while size >= smallest:
        # The largest bucket takes what fits, any other one binary digit of the length.
        each = given // size if size == top else given // size % 2
        documents = np.repeat(np.arange(len(given)), each)
        if len(documents):
            number = np.arange(len(documents)) - np.repeat(np.cumsum(each) - each, each)
            began = np.repeat(np.zeros_like(given) if size == top else given & -2 * size, each)
            pieces[size] = np.stack([documents, began + number * size], axis=1)
        size //= 2
    return Buckets(dict(sorted(pieces.items())), int((given % smallest).sum()))


def _check_power(name: str, value: int) -> None:
    if value < 1 or value & value - 1:
        raise ValueError(f"{name} must be a power of two, at least 1, got {value}")
