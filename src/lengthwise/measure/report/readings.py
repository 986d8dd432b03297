"""From readings to the numbers that the report shows: loss by position, and cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean

CLOSE, FAR = 0.1, 1.0  # nats per token above the reference that count as no loss, and as much


@dataclass(frozen=True, eq=False)
class Span:
    """Positions `start` to `end - 1` and the losses of the blocks there, `[blocks]`."""

    start: int
    end: int
    blocks: Tensor

    @property
    def value(self) -> float:
        """Their mean."""
        return float(self.blocks.mean())

    @cached_property
    def mean(self) -> Interval:
        """The mean with its interval, which is only drawn where somebody asks."""
        return bootstrap_mean(self.blocks, torch.Generator().manual_seed(0))

    @property
    def certain(self) -> bool:
        """Whether there are blocks enough for the interval to mean something."""
        return len(self.blocks) >= 8


def bucket_edges(blocks: int) -> list[int]:
    """Edges in blocks: single ones inside the window (8 blocks), then four to every octave."""
    edges = [0]
    while edges[-1] < blocks:
        octave = max(0, (edges[-1] // 8).bit_length() - 1)
        step = 1 if edges[-1] < 8 else 2 * 2**octave
        edges.append(min(edges[-1] + step, blocks))
    return edges


def octave_edges(blocks: int) -> list[int]:
    """Edges in blocks: the window, then every doubling."""
    edges = [0, min(8, blocks)]
    while edges[-1] < blocks:
        edges.append(min(2 * edges[-1], blocks))
    return edges


def loss_spans(results: Results, method: str, length: int, octaves: bool = False) -> list[Span]:
    """The loss of a method by position; empty if it was not measured."""
    return _spans(results, length, octaves, method)


def excess_spans(
    results: Results, method: str, length: int, octaves: bool = False, against: str = REFERENCE
) -> list[Span]:
    """The loss of a method above that of the reference, or of another, on the same tokens."""
    return _spans(results, length, octaves, method, against)


def _spans(results: Results, length: int, octaves: bool, *methods: str) -> list[Span]:
    """Of one method, or of the first less the second."""
    read = [results.values(method, "loss", length) for method in methods]
    if not all(read):
        return []
    losses, *less = (
        torch.tensor([values["losses"] for values in samples], dtype=torch.float64)
        for samples in read
    )
    for other in less:
        losses = losses - other
    block = read[0][0]["block"]
    edges = (octave_edges if octaves else bucket_edges)(losses.shape[1])
    return [
        Span(start * block, min(end * block, length), losses[:, start:end].flatten())
        for start, end in pairwise(edges)
    ]


@dataclass(frozen=True)
class LossCell:
    """The loss of a method over the window or a doubling, and that above the reference, if any."""

    loss: Span
    excess: Span | None

    @property
    def grade(self) -> str:
        """`good` if nothing was lost, `bad` if much was."""
        if self.excess is None:
            return ""
        lost = self.excess.value
        return "good" if lost <= CLOSE else "bad" if lost >= FAR else ""


def loss_table(results: Results, length: int) -> dict[str, list[LossCell]]:
    """The loss of every method over the window and every doubling after it."""
    table = {}
    for method in results.read_methods("loss"):
        losses = loss_spans(results, method, length, octaves=True)
        excess: Sequence[Span | None] = excess_spans(results, method, length, octaves=True)
        if method == REFERENCE or not excess:
            excess = [None] * len(losses)
        if losses:
            table[method] = [LossCell(*pair) for pair in zip(losses, excess, strict=True)]
    return table


def speeds(results: Results, length: int) -> dict[str, Mapping[str, Any]]:
    """What reading a text of a length cost every method that read it."""
    found = {m: results.values(m, "speed", length) for m in results.read_methods("speed")}
    return {method: values[0] for method, values in found.items() if values}


def told(results: Results, key: str) -> int | None:
    """A number that the plan tells of the reader, as its `window`; None where it tells none."""
    value = results.plan["reader"].get(key)
    return value if type(value) is int and value > 0 else None


def plain_name(results: Results) -> str | None:
    """The name under which the model without any method was measured."""
    return next((name for name in results.methods if not results.specs.get(name)), None)
