"""The figure of docs/memory.md: peak memory of a training step by length, a line for each way."""

import math
from typing import Any

COLOURS = ("#444444", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#b00020")
RETURNED = ", returned"  # drawn dashed, in the colour of the way itself
LEFT, TOP, WIDTH, HEIGHT = 80.0, 24.0, 480.0, 340.0
TITLE = "Peak memory of a training step above the model's, MiB, by tokens"


def memory_figure(rows: list[dict[str, Any]]) -> str:
    """An SVG of the rows of benchmarks/results/train_memory.json; both axes are logarithmic."""
    rows = [row for row in rows if "peak_bytes" in row]
    lengths = sorted({row["tokens"] for row in rows})
    peaks = [row["peak_bytes"] / 2**20 for row in rows]
    x_low, x_high = math.log2(lengths[0]), math.log2(lengths[-1])
    y_low, y_high = math.floor(math.log2(min(peaks))), math.ceil(math.log2(max(peaks)))

    def at(tokens: float, megabytes: float) -> tuple[float, float]:
        x = (math.log2(tokens) - x_low) / max(x_high - x_low, 1e-9)
        y = (math.log2(megabytes) - y_low) / (y_high - y_low)
        return LEFT + WIDTH * x, TOP + HEIGHT * (1 - y)

    marks = []
    for power in range(y_low, y_high + 1):
        _, y = at(2**x_low, 2.0**power)
        marks.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#ddd"/>')
        marks.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{2**power:,}</text>')
    for tokens in lengths:
        x, y = at(tokens, 2.0**y_low)
        marks.append(f'<text x="{x:.1f}" y="{y + 20:.1f}" text-anchor="middle">{tokens:,}</text>')
    ways = list(dict.fromkeys(row["way"] for row in rows))
    for index, name in enumerate(ways):
        parent = name.removesuffix(RETURNED)
        own = sorted((row["tokens"], row["peak_bytes"]) for row in rows if row["way"] == name)
        points = [at(tokens, peak / 2**20) for tokens, peak in own]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = COLOURS[ways.index(parent)]
        stroke = f'stroke="{colour}" stroke-width="2"'
        stroke += ' stroke-dasharray="4 3"' * (name != parent)
        marks.append(f'<polyline points="{line}" fill="none" {stroke}/>')
        marks += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        y = TOP + 14 + 20 * index
        marks.append(f'<path d="M580 {y - 4}h18" {stroke}/>')
        marks.append(f'<text x="604" y="{y}">{name}</text>')
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 420" font-size="12" '
        f'font-family="sans-serif" role="img" aria-label="{TITLE}">'
        f'<rect width="800" height="420" fill="#fff"/>{"".join(marks)}'
        f'<text x="{LEFT}" y="410">{TITLE}</text></svg>\n'
    )
