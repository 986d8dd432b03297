"""The drawings of the report."""

from dataclasses import dataclass

from lengthwise.measure.report import svg
from lengthwise.measure.report.numbers import (
    Span,
    depth_cells,
    excess_spans,
    loss_spans,
    signed,
)
from lengthwise.measure.run.results import REFERENCE, Results

WIDTH = 980
LEFT, RIGHT = 58, 200  # room for the axis and for the lines' names
COLOURS = 8


@dataclass(frozen=True)
class _Line:
    name: str
    spans: list[Span]
    kind: str  # the class that gives it its colour

    @property
    def points(self) -> list[tuple[float, float]]:
        return [((span.start + span.end) / 2, span.mean.value) for span in self.spans]


def colour(results: Results, method: str) -> str:
    """The style class of a method: the same in every drawing."""
    if method == REFERENCE:
        return "reference"
    names = list(dict.fromkeys(row.method for row in results.rows if row.method != REFERENCE))
    place = names.index(method)
    return f"c{place % COLOURS}" + (" again" if place >= COLOURS else "")


def _lines(results: Results, length: int, excess: bool) -> list[_Line]:
    spans = excess_spans if excess else loss_spans
    names = [m for m in results.methods("loss") if not (excess and m == REFERENCE)]
    lines = [_Line(m, spans(results, m, length), colour(results, m)) for m in names]
    return [line for line in lines if line.spans]


def _position_axis(results: Results, length: int, x: svg.Scale, top: float, bottom: float) -> list:
    """Ticks at powers of two of the window, and the window itself."""
    window = results.plan["window"]
    parts = []
    if window <= length:
        edge = x(window)
        parts.append(svg.rectangle(LEFT, top, edge - LEFT, bottom - top, "window"))
        parts.append(svg.line(edge, top - 6, edge, bottom, "edge"))
        parts.append(
            svg.text(edge - 8, top - 10, f"trained window: {window:,} tokens", "note", "end")
        )
    tick = float(window)
    while tick / 2 >= x.low:
        tick /= 2
    while tick <= length * 1.001:
        if tick >= x.low:
            parts.append(svg.line(x(tick), bottom, x(tick), bottom + 5, "tick"))
            parts.append(svg.text(x(tick), bottom + 19, f"{tick:,.0f}", "axis", "middle"))
            if tick > window:
                parts.append(svg.text(x(tick), top - 10, f"{tick / window:.0f}×", "note", "middle"))
        tick *= 2
    parts.append(
        svg.text(
            (x.first + x.last) / 2, bottom + 38, "position in the text, tokens", "axis", "middle"
        )
    )
    return parts


def _value_axis(y: svg.Scale, ticks: list[float], label: str, plus: bool = False) -> list[str]:
    parts = []
    for tick in ticks:
        kind = "zero" if plus and abs(tick) < 1e-9 else "grid"
        parts.append(svg.line(LEFT, y(tick), WIDTH - RIGHT, y(tick), kind))
        words = f"{tick:+.3g}" if plus and tick else f"{tick:.3g}"
        parts.append(svg.text(LEFT - 9, y(tick) + 4, words, "axis", "end"))
    parts.append(svg.text(0, y.last - 30, label, "axis strong"))
    return parts


def _names(
    lines: list[_Line], places: list[float], numbers: list[str], top: float, bottom: float
) -> list[str]:
    """The lines' names beside their ends, pushed apart and joined to them."""
    parts = []
    x = WIDTH - RIGHT
    ends = svg.spread(places, 18, top + 4, bottom)
    for line, place, end, number in zip(lines, places, ends, numbers, strict=True):
        name = line.name if len(line.name) <= 18 else line.name[:17] + "…"
        parts.append(svg.path([(x + 2, place), (x + 14, end), (x + 20, end)], f"lead {line.kind}"))
        parts.append(svg.text(x + 25, end + 4, f"{name} {number}", f"name {line.kind}"))
    return parts


def loss_chart(results: Results, length: int) -> str:
    """Loss by position, every method, with the reference inside the window."""
    lines = _lines(results, length, excess=False)
    top, bottom = 52, 380
    values = [value for line in lines for _, value in line.points]
    pad = 0.05 * (max(values) - min(values) or 1)
    y = svg.Scale(min(values) - pad, max(values) + pad, bottom, top)
    ticks = svg.round_steps(y.low, y.high, 6)
    x = svg.Scale(_first(lines), length, LEFT, WIDTH - RIGHT, log=True)
    parts = _position_axis(results, length, x, top, bottom)
    parts += _value_axis(y, ticks, "loss, nats per token (lower is better)")
    for line in sorted(lines, key=lambda line: line.kind == "reference"):  # dashes on top
        parts += _draw(line, x, y)
    ends = [line.points[-1][1] for line in lines]
    parts += _names(lines, [y(end) for end in ends], [f"{end:.2f}" for end in ends], top, bottom)
    return svg.picture(WIDTH, bottom + 46, "Loss by position for every method", parts)


def excess_chart(results: Results, length: int) -> str:
    """Loss above the reference on the same tokens, close up; what leaves the picture says so."""
    lines = _lines(results, length, excess=True)
    top, bottom = 52, 320
    y = svg.Scale(-0.25, 1.05, bottom, top)
    x = svg.Scale(_first(lines), length, LEFT, WIDTH - RIGHT, log=True)
    parts = _position_axis(results, length, x, top, bottom)
    parts += _value_axis(
        y, [-0.2, 0, 0.2, 0.4, 0.6, 0.8, 1.0], "loss above the same tokens inside the window", True
    )
    frame = svg.rectangle(LEFT, top, WIDTH - RIGHT - LEFT, bottom - top, "")
    drawn = [piece for line in lines for piece in _draw(line, x, y, band=True)]
    parts.append(f'<clipPath id="close{length}">{frame}</clipPath>')
    parts.append(f'<g clip-path="url(#close{length})">{"".join(drawn)}</g>')
    ends = [line.points[-1][1] for line in lines]
    numbers = [signed(end) + (" ↑" if end > y.high else "") for end in ends]
    places = [min(max(y(end), top), bottom) for end in ends]
    parts += _names(lines, places, numbers, top, bottom)
    return svg.picture(WIDTH, bottom + 46, "Loss above the reference inside the window", parts)


def _first(lines: list[_Line]) -> float:
    return min(x for line in lines for x, _ in line.points)


def _draw(line: _Line, x: svg.Scale, y: svg.Scale, band: bool = False) -> list[str]:
    parts = []
    certain = [span for span in line.spans if span.certain] if band else []
    if len(certain) > 1:
        middles = [(span.start + span.end) / 2 for span in certain]
        upper = [(x(m), y(span.mean.high)) for m, span in zip(middles, certain, strict=True)]
        lower = [(x(m), y(span.mean.low)) for m, span in zip(middles, certain, strict=True)]
        parts.append(svg.path(upper + lower[::-1], f"band {line.kind}", close=True))
    # On to the right edge, where the name stands.
    points = [(x(a), y(b)) for a, b in line.points]
    parts.append(svg.path([*points, (x.last, points[-1][1])], f"curve {line.kind}"))
    for span, point in zip(line.spans, points, strict=True):
        title = (
            f"{line.name}: {span.mean.value:.3f} nats at positions {span.start:,} to {span.end:,}"
        )
        parts.append(svg.dot(*point, f"mark {line.kind}", title))
    return parts


def passkey_map(results: Results, method: str, lengths: list[int], rows: int) -> str:
    """Passkeys found by length (across) and depth (down), with a row for all depths."""
    cell_w, cell_h, left, top, gap = 62, 32, 46, 26, 10
    width = left + cell_w * len(lengths) + 4
    bottom = top + rows * cell_h
    parts = [svg.text(left - 8, top - 10, "depth", "axis", "end")]
    for i in range(rows):
        words = f"{(i + 0.5) / rows:.0%}"
        parts.append(svg.text(left - 8, top + (i + 0.5) * cell_h + 4, words, "axis", "end"))
    parts.append(svg.text(left - 8, bottom + gap + cell_h / 2 + 4, "all", "axis strong", "end"))
    for j, length in enumerate(lengths):
        x = left + j * cell_w
        times = f"{length / results.plan['window']:.3g}×"
        parts.append(svg.text(x + cell_w / 2, top - 10, f"{length:,}", "axis strong", "middle"))
        parts.append(svg.text(x + cell_w / 2, bottom + gap + cell_h + 30, times, "axis", "middle"))
        values = results.values(method, "passkey", length)
        if values is None:
            parts.append(svg.text(x + cell_w / 2, (top + bottom) / 2, "refused", "axis", "middle"))
            continue
        for i, cell in enumerate(depth_cells(values, rows)):
            if cell is not None:
                title = (
                    f"{method}, {length:,} tokens, depth {cell.low:.0%} to {cell.high:.0%}: "
                    f"{cell.found} of {cell.count}; 95% interval {cell.interval.low:.0%} to "
                    f"{cell.interval.high:.0%}"
                )
                parts.append(_heat(x, top + i * cell_h, cell_w, cell_h, cell.interval.value, title))
        bounds = f"{100 * values['low']:.0f}–{values['high']:.0%}"
        count = f"{sum(values['scores']):.0f} of {len(values['scores'])}"
        title = f"{method}, {length:,} tokens: {count}; 95% interval {bounds}"
        parts.append(_heat(x, bottom + gap, cell_w, cell_h, values["score"], title))
        parts.append(svg.text(x + cell_w / 2, bottom + gap + cell_h + 15, bounds, "note", "middle"))
    return svg.picture(width, bottom + gap + cell_h + 36, f"Passkeys found by {method}", parts)


def _heat(x: float, y: float, width: float, height: float, share: float, title: str) -> str:
    strong = " strong" if share > 0.55 else ""
    return svg.rectangle(
        x + 1,
        y + 1,
        width - 2,
        height - 2,
        "heat",
        f'rx="3" fill-opacity="{0.07 + 0.93 * share:.2f}"',
        title,
    ) + svg.text(x + width / 2, y + height / 2 + 4.5, f"{share:.0%}", "share" + strong, "middle")
