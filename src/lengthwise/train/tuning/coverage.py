"""Which relative distances a position synthesis trains, as numbers and as a picture."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lengthwise.measure.report import svg
from lengthwise.train.tuning.rows import PositionSynthesis

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 380, 64, 210, 44, 46
BINS = 64
MOST = 8  # colours


def coverage(
    transform: PositionSynthesis,
    target: int,
    *,
    length: int,
    draws: int,
    generator: torch.Generator,
    labels: Sequence[int] | None = None,
) -> Tensor:
    """How many pairs of a row stand at each relative distance, on average over rows, `[target]`.

    Args:
        transform: Of the rows.
        target: Distances from 0 to `target - 1` are counted.
        length: Tokens of the text that goes in, at least 1.
        draws: Rows, at least 1.
        generator: For the transform.
        labels: Of the text, where the transform looks at them; its tokens are 0, 1, ….

    Raises:
        ValueError: If a row has a distance of `target` or more.
    """
    row = {"input_ids": list(range(length)), "labels": list(labels or range(length))}
    counts = torch.zeros(target, dtype=torch.float64)
    for _ in range(draws):
        positions = torch.tensor(transform(row, generator)["position_ids"])
        distance = positions[:, None] - positions
        distance = distance[distance >= 0]
        if int(distance.max()) >= target:
            raise ValueError(
                f"{type(transform).__name__} gives a distance of {int(distance.max())}, beyond the "
                f"target of {target}"
            )
        counts += torch.bincount(distance, minlength=target)
    return counts / draws


def coverage_picture(curves: Mapping[str, Tensor], window: int) -> str:
    """A drawing (SVG) of coverages: pairs per row by distance, on a logarithmic scale.

    A line that breaks off is a distance that never came up. Beside each name stands the share of
    all distances that did.

    Args:
        curves: Results of `coverage` with one target, by name; at most eight.
        window: The trained window in tokens.

    Raises:
        ValueError: For no curve, more than eight, or curves of different targets.
    """
    if not 1 <= len(curves) <= MOST:
        raise ValueError(f"a picture takes 1 to {MOST} coverages, got {len(curves)}")
    targets = {len(counts) for counts in curves.values()}
    if len(targets) > 1:
        raise ValueError(f"coverages must be of one target, got {sorted(targets)}")
    target = targets.pop()
    means = {name: _binned(counts) for name, counts in curves.items()}
    seen = torch.cat([mean[mean > 0] for mean in means.values()])
    low = 10.0 ** math.floor(math.log10(float(seen.min())))
    high = 10.0 ** math.ceil(math.log10(float(seen.max())) + 1e-9)
    x = svg.Scale(0, target, LEFT, WIDTH - RIGHT)
    y = svg.Scale(low, high, HEIGHT - BOTTOM, TOP, log=True)
    parts = _axes(x, y, window, target)
    for number, (name, mean) in enumerate(means.items()):
        parts += _curve(mean, x, y, f"curve c{number}")
        share = float((curves[name] > 0).double().mean())
        place = TOP + 14 + 20 * number
        parts.append(svg.rectangle(WIDTH - RIGHT + 14, place - 9, 10, 10, f"mark c{number}"))
        parts.append(svg.text(WIDTH - RIGHT + 30, place, f"{name} {share:.0%}"))
    return svg.alone(svg.picture(WIDTH, HEIGHT, "Pairs per row by relative distance", parts))


def _binned(counts: Tensor) -> Tensor:
    """Means over about `BINS` runs of distances."""
    bins = min(BINS, len(counts))
    edges = [len(counts) * i // bins for i in range(bins + 1)]
    return torch.stack([counts[a:b].mean() for a, b in pairwise(edges)])


def _axes(x: svg.Scale, y: svg.Scale, window: int, target: int) -> list[str]:
    parts = [svg.text(LEFT, 18, "pairs per row at a distance, mean", "strong")]
    power = round(math.log10(y.low))
    while 10.0**power <= y.high * 1.001:
        value = 10.0**power
        parts.append(svg.line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"))
        parts.append(svg.text(LEFT - 8, y(value) + 4, f"{value:g}", "axis", "end"))
        power += 1
    for value in svg.round_steps(0, target, 6):
        parts.append(svg.text(x(value), HEIGHT - BOTTOM + 18, f"{value:,.0f}", "axis", "middle"))
    parts.append(svg.line(x(window), TOP - 8, x(window), HEIGHT - BOTTOM, "edge"))
    parts.append(svg.text(x(window) + 5, TOP - 8, f"trained window: {window:,}"))
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(svg.text(middle, HEIGHT - 8, "relative distance, tokens", "axis", "middle"))
    return parts


def _curve(mean: Tensor, x: svg.Scale, y: svg.Scale, kind: str) -> list[str]:
    runs: list[list[tuple[float, float]]] = [[]]
    for i, value in enumerate(mean.tolist()):
        if value > 0:
            runs[-1].append((x((i + 0.5) * x.high / len(mean)), y(value)))
        elif runs[-1]:
            runs.append([])
    return [svg.path(run, kind) for run in runs if len(run) > 1]
