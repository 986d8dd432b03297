"""In which order buckets of sequences are trained on: uniform, or short ones first, in cycles."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Step:
    """One optimizer step: sequences of one length.

    Args:
        length: Tokens of each sequence.
        rows: `[sequences]` indices into the bucket of that length.
        cycle: Which cycle it belongs to, from 0.
    """

    length: int
    rows: NDArray[np.int64]
    cycle: int


@dataclass(frozen=True)
class Plan:
    """All steps in order.

    Args:
        steps: Each has the same number of tokens.
        left_over: From a length to the sequences of its bucket that fill no whole step.
    """

    steps: list[Step]
    left_over: dict[int, NDArray[np.int64]]


@dataclass(frozen=True)
class Curriculum(ABC):
    """Draws the bucket of every step by odds, without replacement, cycle after cycle.

    Every bucket is shuffled and divided over the cycles. Within a cycle, a step takes its
    sequences from a bucket drawn with the odds of those that are not yet empty. So short buckets
    with high odds are used up early and a cycle grows from short to long.

    Source: Dataset Decomposition (2405.13226), appendix B.2, algorithm 1.
    Differs from the source: the authors' code multiplies the odds by the tokens of the bucket.
    The algorithm does not, and the curricula of the paper have equal tokens in all buckets, where
    the two agree.

    Args:
        cycles: How often it goes from short to long, at least 1.

    Raises:
        ValueError: If there are no cycles.
    """

    cycles: int = 8

    def __post_init__(self) -> None:
        if self.cycles < 1:
            raise ValueError(f"cycles must be at least 1, got {self.cycles}")

    @abstractmethod
    def odds(self, buckets: int) -> list[int]:
        """The odds of every bucket, the one with the shortest sequences first."""

    def plan(self, sizes: Mapping[int, int], tokens: int, generator: np.random.Generator) -> Plan:
        """Every sequence once, in steps of `tokens` tokens.

        Args:
            sizes: From the length of a bucket's sequences to how many it has.
            tokens: Tokens of one step, a multiple of every length.
            generator: Where all chance comes from; the same on every rank.

        Raises:
            ValueError: If `tokens` is no multiple of a length or a bucket has a negative size.
        """
        lengths = sorted(sizes)
        for length in lengths:
            if tokens < 1 or tokens % length:
                raise ValueError(
                    f"tokens of a step must be a multiple of every sequence length, got {tokens} "
                    f"for sequences of {length}: take a multiple of {lengths[-1]}"
                )
            if sizes[length] < 0:
                raise ValueError(
                    f"bucket {length} must have 0 or more sequences, has {sizes[length]}"
                )
        left_over = {}
        batches = []  # for every bucket, for every cycle, the rows of its steps
        for length in lengths:
            each = tokens // length
            shuffled = generator.permutation(sizes[length])
            whole = sizes[length] // each
            if sizes[length] % each:
                left_over[length] = np.sort(shuffled[whole * each :])
            batches.append(
                np.array_split(shuffled[: whole * each].reshape(whole, each), self.cycles)
            )
        odds = np.array(self.odds(len(lengths)), dtype=float)
        steps = []
        for cycle in range(self.cycles):
            left = np.array([len(bucket[cycle]) for bucket in batches], dtype=np.int64)
            while left.any():
                edges = np.cumsum(np.where(left > 0, odds, 0.0))
                drawn = int(np.searchsorted(edges, generator.random() * edges[-1], side="right"))
                left[drawn] -= 1
                steps.append(Step(lengths[drawn], batches[drawn][cycle][left[drawn]], cycle))
        return Plan(steps, left_over)


@dataclass(frozen=True)
class Uniform(Curriculum):
    """Every bucket that is not empty is as likely as any other.

    Source: Dataset Decomposition (2405.13226), table 2, with one cycle.
    """

    cycles: int = 1

    def odds(self, buckets: int) -> list[int]:
        return [1] * buckets


@dataclass(frozen=True)
class GrowLinear(Curriculum):
    """Odds fall by one from each bucket to the next longer: 6, 5, 4, 3, 2, 1.

    Source: Dataset Decomposition (2405.13226), table 2.
    """

    def odds(self, buckets: int) -> list[int]:
        return list(range(buckets, 0, -1))


@dataclass(frozen=True)
class GrowP2(Curriculum):
    """Odds halve from each bucket to the next longer: 32, 16, 8, 4, 2, 1.

    Source: Dataset Decomposition (2405.13226), table 2.
    """

    def odds(self, buckets: int) -> list[int]:
        return [1 << exponent for exponent in range(buckets - 1, -1, -1)]
