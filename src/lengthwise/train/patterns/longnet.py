"""LongNet: near keys all, far keys thinned out, by segments of growing length."""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lengthwise.core.regions import Region
from lengthwise.extend.method import Layout, whole
from lengthwise.extend.plan import Groups as HeadGroups
from lengthwise.train.patterns.blocks import InGroup
from lengthwise.train.patterns.pattern import Pattern, whole_layers


@dataclass(frozen=True)
class SameResidue:
    """Queries and keys whose position is `offset` modulo `rate`, None for their head's number
    (a MaskMod).
    """

    rate: int
    offset: int | None

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        at = h % self.rate if self.offset is None else self.offset
        return torch.as_tensor((q % self.rate == at) & (k % self.rate == at))


@dataclass(frozen=True)
class Dilated(Layout):
    """For each (segment, rate): tokens at `head` modulo rate see each other within their segment.

    The attentions of the pairs are merged by their log-sum-exps, so a key that a query meets under
    several pairs counts that many times: its regions overlap on purpose.

    Source: Ding et al. 2023, arXiv:2307.02486, section 2.2, equations 2 to 10, of one head.
    Differs from the source: the public code merges with weights that have no gradient; here they
        have their own.
    Reduces to: plain causal attention with one segment that holds the text, at rate 1.

    Args:
        segments: Tokens of the segments, rising; the first has rate 1, so that every query sees
            itself.
        rates: One token in so many, one rate for each segment, rising from 1.
        head: Which of the tokens: those at `head` modulo the rate, at least 0; None is another one
            for every head, its own number.

    Raises:
        ValueError: If the numbers are out of their range or order.
    """

    segments: tuple[int, ...]
    rates: tuple[int, ...]
    head: int | None = 0

    def __post_init__(self) -> None:
        check_dilation("Dilated", self.segments, self.rates)
        if self.head is not None:
            whole("Dilated", "head", self.head, 0)

    @property
    def by_head(self) -> bool:  # type: ignore[override]
        return self.head is None

    def regions(self) -> tuple[Region, ...]:
        return tuple(
            Region(
                range_of=InGroup(segment),
                also=None if rate == 1 else SameResidue(rate, self._offset(rate)),
            )
            for segment, rate in zip(self.segments, self.rates, strict=True)
        )

    def _offset(self, rate: int) -> int | None:
        return None if self.head is None else self.head % rate

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        return self.times(q, k) > 0, q - k

    def times(self, q: Tensor, k: Tensor) -> Tensor:
        """Under how many (segment, rate) a query meets a key."""
        if self.head is None:
            raise ValueError("heads meet keys of their own: ask each, as Dilated(…, head=0)")
        met = torch.zeros_like(q - k)
        for segment, rate in zip(self.segments, self.rates, strict=True):
            chosen = (q % rate == self.head % rate) & (k % rate == self.head % rate)
            met = met + ((q // segment == k // segment) & chosen)
        return met


@dataclass(frozen=True)
class LongNet(Pattern):
    """Dilated attention in which head h takes the tokens at h modulo the rate.

    Source: Ding et al. 2023, arXiv:2307.02486, section 2.3, equations 11 and 12.

    Args:
        segments, rates: As of `Dilated`.

    Raises:
        ValueError: If the numbers are out of their range or order.
    """

    segments: tuple[int, ...] = (2048, 4096, 8192, 16384, 32768)
    rates: tuple[int, ...] = (1, 2, 4, 6, 12)

    def __post_init__(self) -> None:
        check_dilation("LongNet", self.segments, self.rates)

    def parts(self, layers: int, heads: int) -> list[HeadGroups]:
        # One layout for all heads, so that a layer holds every key once.
        return whole_layers([Dilated(self.segments, self.rates, None)] * layers, heads)


def check_dilation(owner: str, segments: tuple[int, ...], rates: tuple[int, ...]) -> None:
    """Raise ValueError unless segments and rates rise together from a rate of 1."""
    if not segments or len(segments) != len(rates):
        raise ValueError(
            f"{owner}: segments and rates must be as many, at least one; got {segments} and {rates}"
        )
    for name, values in (("segments", segments), ("rates", rates)):
        for value in values:
            whole(owner, name, value, 1)
        if any(b <= a for a, b in pairwise(values)):
            raise ValueError(f"{owner}: {name} must rise, got {values}")
    if rates[0] != 1:
        raise ValueError(
            f"{owner}: the first of the rates must be 1, so that every query sees itself; got "
            f"{rates}"
        )
