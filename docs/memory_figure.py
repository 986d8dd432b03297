"""The figure of docs/memory.md: peak memory of a training step by length, a line for each way."""

import math
from typing import Any

from lengthwise.measure.report import svg

RETURNED = ", returned"  # drawn dashed, in the colour of the way itself
LEFT, RIGHT, TOP, BOTTOM = 80, 560, 24, 364
TITLE = "Peak memory of a training step above the model's, MiB, by tokens"


def memory_figure(rows: list[dict[str, Any]]) -> str:
    """An SVG of the rows of benchmarks/results/train_memory.json; both axes are logarithmic."""
    rows = sorted((row for row in rows if "peak_bytes" in row), key=lambda row: row["tokens"])
    ways = list(dict.fromkeys(row["way"] for row in rows))
    lengths = sorted({row["tokens"] for row in rows})
    powers = [math.log2(row["peak_bytes"] / 2**20) for row in rows]
    low, high = math.floor(min(powers)), math.ceil(max(powers))
    x = svg.Scale(lengths[0], lengths[-1], LEFT, RIGHT, log=True)
    y = svg.Scale(2**low, 2**high, BOTTOM, TOP, log=True)
    parts = [svg.text(LEFT, BOTTOM + 46, TITLE, "axis")]
    for size in (2**power for power in range(low, high + 1)):
        parts.append(svg.line(LEFT, y(size), RIGHT, y(size), "grid"))
        parts.append(svg.text(LEFT - 8, y(size) + 4, f"{size:,}", "axis", "end"))
    for length in lengths:
        parts.append(svg.text(x(length), BOTTOM + 20, f"{length:,}", "axis", "middle"))
    for index, name in enumerate(ways):
        parent = name.removesuffix(RETURNED)
        kind = f"c{ways.index(parent)}" + " again" * (name != parent)
        own = [(x(r["tokens"]), y(r["peak_bytes"] / 2**20)) for r in rows if r["way"] == name]
        key = TOP + 14 + 20 * index
        sample = [(RIGHT + 20.0, key - 4.0), (RIGHT + 38.0, key - 4.0)]
        parts += [svg.path(line, f"curve {kind}") for line in (own, sample)]
        parts += [svg.dot(*point, f"mark {kind}", name) for point in own]
        parts.append(svg.text(604, key, name, "axis"))
    return svg.alone(svg.picture(840, 420, TITLE, parts))
