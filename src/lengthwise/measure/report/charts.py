"""The drawings of the report that have lines: over positions, lengths and costs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lengthwise.measure.report import svg
from lengthwise.measure.report.readings import Span, excess_spans, loss_spans, told
from lengthwise.measure.report.table import Cell, Table
from lengthwise.measure.report.words import cut, seconds, share, signed, size
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE

WIDTH = 980
LEFT, RIGHT = 58, 212  # room for the axis and for the lines' names
GAP = 18  # between names
COLOURS = 8


@dataclass(frozen=True)
class _Point:
    at: float
    value: float
    title: str  # what hovering over it says
    bounds: tuple[float, float] | None = None


@dataclass(frozen=True)
class _Line:
    name: str
    kind: str  # the class that gives it its colour
    points: list[_Point]


def colour(results: Results, method: str) -> str:
    """The style class of a method: the same in every drawing."""
    if method == REFERENCE:
        return "reference"
    place = results.methods.index(method)
    return f"c{place % COLOURS}" + (" again" if place >= COLOURS else "")


def spoken(cell: Cell) -> str:
    """What hovering over a cell says."""
    words = "no answer"
    if cell.interval is not None:
        words = f"{share(cell.interval)} of {cell.count} item{'s' if cell.count > 1 else ''}"
    refused = [f"{count} refused: {cut(why, 120)}" for why, count in cell.refused.items()]
    return "; ".join([words, *refused])


def _axis(
    y: svg.Scale, ticks: Sequence[float], words: Callable[[float], str], label: str, note: str = ""
) -> list[str]:
    """Lines across at the ticks, the axis of the values and what it is called."""
    parts = [svg.text(0, y.last - 30, label, "axis strong")]
    if note:
        parts.append(svg.text(12 + 7.2 * len(label), y.last - 30, note, "note"))
    for tick in ticks:
        kind = "zero" if y.low < 0 and abs(tick) < 1e-9 else "grid"
        parts.append(svg.line(LEFT, y(tick), WIDTH - RIGHT, y(tick), kind))
        parts.append(svg.text(LEFT - 9, y(tick) + 4, words(tick), "axis", "end"))
    return parts


def ticks(
    x: svg.Scale, values: Sequence[float], words: Callable[[float], str], bottom: float, label: str
) -> list[str]:
    """Ticks below a drawing that do not run into each other, and what the axis is called."""
    parts = [svg.text((x.first + x.last) / 2, bottom + 38, label, "axis", "middle")]
    last = -math.inf
    for value in values:
        text = words(value)
        room = 7.5 * len(text) + 8
        parts.append(svg.line(x(value), bottom, x(value), bottom + 5, "tick"))
        if x(value) - room / 2 >= last:
            parts.append(svg.text(x(value), bottom + 19, text, "axis", "middle"))
            last = x(value) + room / 2
    return parts


def whole(value: float) -> str:
    """A number of tokens."""
    return f"{value:,.0f}"


def _names(
    lines: Sequence[_Line], ends: Sequence[tuple[float, float]], words: Sequence[str], y: svg.Scale
) -> list[str]:
    """The names beside the ends of their lines, pushed apart and joined to them."""
    parts = []
    edge = WIDTH - RIGHT + 20
    places = svg.spread([end[1] for end in ends], GAP, y.last + 4, y.first)
    for line, end, place, more in zip(lines, ends, places, words, strict=True):
        parts.append(svg.path([end, (edge - 6, place), (edge, place)], f"lead {line.kind}"))
        name = f"{cut(line.name, 21 - len(more))} {more}"  # as many as there is room for
        parts.append(svg.text(edge + 5, place + 4, name, f"name {line.kind}"))
    return parts


def loss_chart(results: Results, length: int) -> str:
    """Loss by position, every method, with the reference inside the window."""
    lines = [
        _loss_line(results, method, loss_spans(results, method, length))
        for method in results.read_methods("loss")
    ]
    lines = [line for line in lines if line.points]
    values = [point.value for line in lines for point in line.points]
    pad = 0.05 * (max(values) - min(values) or 1)
    top, bottom = 52, max(380, 52 + GAP * len(lines))
    y = svg.Scale(min(values) - pad, max(values) + pad, bottom, top)
    steps = svg.round_steps(y.low, y.high, 6)
    parts = _axis(y, steps, lambda v: f"{v:.3g}", "loss, nats per token (lower is better)")
    x, around = _positions(results, lines, length, y)
    for line in sorted(lines, key=lambda line: line.kind == "reference"):  # dashes on top
        parts += _curve(line, x, y)
    ends = [line.points[-1].value for line in lines]
    places = [(x.last + 2, y(end)) for end in ends]
    parts += _names(lines, places, [f"{end:.2f}" for end in ends], y)
    return svg.picture(WIDTH, bottom + 46, "Loss by position for every method", around + parts)


def excess_chart(results: Results, length: int) -> str:
    """Loss above the reference on the same tokens, close up; what leaves the picture says so.

    Empty where no method was read beside the reference.
    """
    spans = {m: excess_spans(results, m, length) for m in results.read_methods("loss")}
    spans.pop(REFERENCE, None)
    lines = [_loss_line(results, method, found) for method, found in spans.items() if found]
    if not lines:
        return ""
    top, bottom = 52, max(320, 52 + GAP * len(lines))
    y = svg.Scale(-0.25, 1.05, bottom, top)
    parts = _axis(
        y, [-0.2, 0, 0.2, 0.4, 0.6, 0.8, 1.0], lambda v: f"{v:+.3g}" if v else "0",
        "loss above the same tokens inside the window",
    )  # fmt: skip
    x, around = _positions(results, lines, length, y)
    frame = svg.rectangle(LEFT, top, WIDTH - RIGHT - LEFT, bottom - top, "")
    drawn = "".join(
        piece for line in lines for piece in [*_band(spans[line.name], line.kind, x, y),
                                              *_curve(line, x, y)]
    )  # fmt: skip
    parts.append(f'<clipPath id="close{length}">{frame}</clipPath>')
    parts.append(f'<g clip-path="url(#close{length})">{drawn}</g>')
    ends = [line.points[-1].value for line in lines]
    words = [signed(end) + (" ↑" if end > y.high else "") for end in ends]
    places = [(x.last + 2, min(max(y(end), top), bottom)) for end in ends]
    parts += _names(lines, places, words, y)
    title = "Loss above the reference inside the window"
    return svg.picture(WIDTH, bottom + 46, title, around + parts)


def _loss_line(results: Results, method: str, spans: Sequence[Span]) -> _Line:
    points = [
        _Point(
            (span.start + span.end) / 2,
            span.value,
            f"{method}: {span.value:.3f} nats at positions {span.start:,} to {span.end:,}",
        )
        for span in spans
    ]
    return _Line(method, colour(results, method), points)


def _positions(
    results: Results, lines: Sequence[_Line], length: int, y: svg.Scale
) -> tuple[svg.Scale, list[str]]:
    """The axis of positions, with ticks at powers of two of the window, and the window itself."""
    first = min(line.points[0].at for line in lines)
    x = svg.Scale(first, length, LEFT, WIDTH - RIGHT, log=True)
    window = told(results, "window")
    parts = []
    if window and window <= length:
        edge = x(window)
        parts.append(svg.rectangle(LEFT, y.last, edge - LEFT, y.first - y.last, "window"))
        parts.append(svg.line(edge, y.last - 6, edge, y.first, "edge"))
        words = f"trained window: {window:,} tokens"
        parts.append(svg.text(edge - 8, y.last - 10, words, "note", "end"))
    powers = [(window or length) * 2.0**power for power in range(-40, 41)]
    shown = [at for at in powers if first <= at <= length * 1.001]
    for at in shown:
        if window and at > window:
            parts.append(svg.text(x(at), y.last - 10, f"{at / window:.0f}×", "note", "middle"))
    return x, parts + ticks(x, shown, whole, y.first, "position in the text, tokens")


def _curve(line: _Line, x: svg.Scale, y: svg.Scale) -> list[str]:
    points = [(x(point.at), y(point.value)) for point in line.points]
    # On to the right edge, where the name stands.
    curve = svg.path([*points, (x.last, points[-1][1])], f"curve {line.kind}")
    dots = zip(points, line.points, strict=True)
    return [curve, *(svg.dot(*at, f"mark {line.kind}", point.title) for at, point in dots)]


def _band(spans: Sequence[Span], kind: str, x: svg.Scale, y: svg.Scale) -> list[str]:
    certain = [(x((span.start + span.end) / 2), span.mean) for span in spans if span.certain]
    if len(certain) < 2:
        return []
    upper = [(at, y(mean.high)) for at, mean in certain]
    lower = [(at, y(mean.low)) for at, mean in certain]
    return [svg.path(upper + lower[::-1], f"band {kind}", close=True)]


def score_chart(table: Table, task: str | None = None) -> str:
    """Scores by length of all methods on one task, or on the tasks in common."""
    lines = []
    for method in table.methods:
        points = []
        for length in table.lengths if task is None else table.task_lengths(task):
            cell = None if task is None else table.cell(method, task, length)
            score = table.overall(method, length) if task is None else cell and cell.interval
            if score:
                words = share(score) if cell is None else spoken(cell)
                title = f"{method}, {length:,} tokens: {words}"
                points.append(_Point(length, score.value, title, (score.low, score.high)))
        lines.append(_Line(method, colour(table.results, method), points))
    dashed = {"the threshold": table.threshold}
    if task is not None:
        value, what = table.shortcut(task)
        dashed |= {what: value} if value >= 0.005 else {}
    where = "all tasks" if task is None else task
    height = 266 if task is None else 206
    lengths = sorted({point.at for line in lines for point in line.points})
    title = f"Scores by length on {where}"
    return _scores(lines, lengths, whole, "length, tokens", height, title, dashed, apart=5)


def cost_chart(table: Table, which: Literal["held", "seconds"]) -> str:
    """Scores against `held` bytes or `seconds` an answer, of all methods at all lengths."""
    say = size if which == "held" else seconds
    lines = []
    for method in table.methods:
        points = []
        for length in table.lengths:
            cost, score = table.cost(method, length), table.overall(method, length)
            if cost is not None and score is not None and (value := getattr(cost, which)):
                words = f"{method}, {length:,} tokens: {share(score)} at {say(value)}"
                points.append(_Point(value, score.value, words, (score.low, score.high)))
        lines.append(_Line(method, colour(table.results, method), points))
    label = "keys and values held, bytes" if which == "held" else "seconds an answer, median"
    return _scores(lines, None, say, label, 266, f"Scores against {label}", {}, apart=0)


def _scores(
    lines: Sequence[_Line],
    at: Sequence[float] | None,
    say: Callable[[float], str],
    label: str,
    height: float,
    title: str,
    dashed: dict[str, float],
    apart: float,
) -> str:
    """Scores with whiskers over an axis that is logarithmic; `apart` keeps whiskers of methods
    apart. Empty where there are none.
    """
    shapes = {line.name: number for number, line in enumerate(lines)}
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    values = [point.at for line in lines for point in line.points]
    # Room on both sides; a single value lies in the middle.
    pad = max((max(values) / min(values)) ** 0.06, 1.15)
    x = svg.Scale(min(values) / pad, max(values) * pad, LEFT, WIDTH - RIGHT, log=True)
    top, bottom = 46.0, 46 + max(height, GAP * len(lines))
    y = svg.Scale(0, 1, bottom, top)
    words = " and ".join(f"{name} {value:.0%}" for name, value in dashed.items())
    parts = _axis(y, [i / 5 for i in range(6)], lambda v: f"{v:.0%}", "score",
                  words and f"dashed: {words}")  # fmt: skip
    for value in dashed.values():
        parts.append(svg.line(LEFT, y(value), WIDTH - RIGHT, y(value), "edge"))
    parts += ticks(x, at or _decades(x.low, x.high), say, bottom, label)
    for number, line in enumerate(lines):
        shift = (number - (len(lines) - 1) / 2) * apart
        points = [(x(point.at) + shift, y(point.value)) for point in line.points]
        if len(points) > 1:
            parts.append(svg.path(points, f"curve {line.kind}"))
        for (px, py), point in zip(points, line.points, strict=True):
            low, high = point.bounds or (point.value, point.value)
            parts.append(svg.line(px, y(low), px, y(high), f"whisker {line.kind}"))
            parts.append(svg.mark(px, py, shapes[line.name], f"mark {line.kind}", point.title))
    last = [line.points[-1] for line in lines]
    ends = [(x(point.at) + 8, y(point.value)) for point in last]
    parts += _names(lines, ends, [f"{point.value:.0%}" for point in last], y)
    return svg.picture(WIDTH, bottom + 46, title, parts)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from low to high; even steps where these are too few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [m * 10.0**power for power in range(first, last + 1) for m in (1, 2, 5)]
    inside = [value for value in values if low <= value <= high]
    return inside if len(inside) > 2 else svg.round_steps(low, high, 4)
