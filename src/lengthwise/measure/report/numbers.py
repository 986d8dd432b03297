"""From rows to the numbers that the report shows."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lengthwise.measure.run.results import REFERENCE, Results
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean, wilson


@dataclass(frozen=True)
class Span:
    """Positions `start` to `end - 1` and the mean found there, over `blocks` blocks."""

    start: int
    end: int
    blocks: int
    mean: Interval

    @property
    def certain(self) -> bool:
        """Whether there are blocks enough for the interval to mean something."""
        return self.blocks >= 8


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


def _losses(values: Mapping[str, Any]) -> Tensor:
    return torch.tensor(values["losses"], dtype=torch.float64)


def loss_spans(results: Results, method: str, length: int, octaves: bool = False) -> list[Span]:
    """The loss of a method by position; empty if it was not measured."""
    return _spans(results, method, length, None, octaves)


def excess_spans(
    results: Results, method: str, length: int, octaves: bool = False, against: str = REFERENCE
) -> list[Span]:
    """The loss of a method above that of the reference, or of another, on the same tokens."""
    return _spans(results, method, length, against, octaves)


def _spans(
    results: Results, method: str, length: int, against: str | None, octaves: bool
) -> list[Span]:
    values = results.values(method, "loss", length)
    base = None if against is None else results.values(against, "loss", length)
    if values is None or (against is not None and base is None):
        return []
    losses = _losses(values) if base is None else _losses(values) - _losses(base)
    edges = (octave_edges if octaves else bucket_edges)(losses.shape[1])
    return [
        Span(
            start * values["block"],
            min(end * values["block"], length),
            losses[:, start:end].numel(),
            bootstrap_mean(losses[:, start:end].flatten(), torch.Generator().manual_seed(0)),
        )
        for start, end in pairwise(edges)
    ]


def far_excess(results: Results, method: str, length: int) -> Span | None:
    """The excess over the last doubling of the text, or None if it was not measured."""
    spans = excess_spans(results, method, length, octaves=True)
    return spans[-1] if spans else None


def plain_name(results: Results) -> str | None:
    """The name under which the model without any method was measured."""
    for row in results.rows:
        if not row.spec and row.method != REFERENCE:
            return row.method
    return None


@dataclass(frozen=True)
class DepthCell:
    """Passkey items of one length and one range of depths."""

    low: float
    high: float
    found: int
    count: int

    @property
    def interval(self) -> Interval:
        return wilson(self.found, self.count)


def depth_cells(values: Mapping[str, Any], rows: int) -> list[DepthCell | None]:
    """The scores of a passkey cell in `rows` ranges of depth, from the start of the text."""
    cells: list[DepthCell | None] = []
    for i in range(rows):
        scores = [
            score
            for score, depth in zip(values["scores"], values["depths"], strict=True)
            if min(int(depth * rows), rows - 1) == i
        ]
        low, high = i / rows, (i + 1) / rows
        cells.append(DepthCell(low, high, int(sum(scores)), len(scores)) if scores else None)
    return cells


def signed(value: float) -> str:
    """A difference with its sign and two decimals; what rounds to zero is +0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"


def size(count: float | None) -> str:
    """Bytes in words: 950 B, 3.1 MB."""
    if count is None:
        return "not counted"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def windows(length: int, window: int) -> str:
    """A length in windows: `half a window`, `1 window`, `8 windows`."""
    ratio = length / window
    if ratio == 0.5:
        return "half a window"
    return "1 window" if ratio == 1 else f"{ratio:.3g} windows"
