"""The drawings of a suite's report."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from lengthwise.measure.report import svg
from lengthwise.measure.report.numbers import size
from lengthwise.measure.report.suite.numbers import DEPTHS, Cell, Table, share
from lengthwise.measure.statistics.intervals import Interval

WIDTH, LEFT, RIGHT = 980, 58, 200  # as in the report of a measurement
COLOURS = 8


def colour(table: Table, method: str) -> str:
    """The style class of a method: the same in every drawing."""
    place = table.methods.index(method)
    return f"c{place % COLOURS}" + (" again" if place >= COLOURS else "")


def cut(words: str, most: int) -> str:
    """A name that fits."""
    return words if len(words) <= most else words[: most - 1] + "…"


def _told(cell: Cell) -> str:
    """What hovering over a cell says."""
    words = "no answer"
    if cell.interval is not None:
        words = f"{share(cell.interval)} of {cell.count} item{'s' if cell.count > 1 else ''}"
    refused = [f"{count} refused: {cut(why, 120)}" for why, count in cell.refused.items()]
    return "; ".join([words, *refused])


def _heat(x: float, y: float, width: float, height: float, cell: Cell | None, title: str) -> str:
    """The field of a cell; empty where it was not asked for."""
    if cell is None:
        return ""
    title = f"{title}: {_told(cell)}"
    if cell.interval is None:
        field = svg.rectangle(x + 1, y + 1, width - 2, height - 2, "none", 'rx="3"', title)
        return field + svg.text(x + width / 2, y + height / 2 + 4.5, "refused", "axis", "middle")
    return _field(x, y, width, height, cell.interval.value, "*" if cell.refused else "", title)


def _field(
    x: float, y: float, width: float, height: float, value: float, star: str, title: str
) -> str:
    """A coloured field with its score."""
    extra = f'rx="3" fill-opacity="{0.07 + 0.93 * value:.2f}"'
    kind = "share" + (" strong" if value > 0.55 else "")
    return svg.rectangle(x + 1, y + 1, width - 2, height - 2, "heat", extra, title) + svg.text(
        x + width / 2, y + height / 2 + 4.5, f"{value:.0%}{star}", kind, "middle"
    )


def legend() -> str:
    """What the colours of a heat map say."""
    parts = [svg.text(0, 17, "score", "axis")]
    for i in range(11):
        extra = f'fill-opacity="{0.07 + 0.93 * i / 10:.2f}"'
        parts.append(svg.rectangle(46 + 24 * i, 4, 24, 18, "heat", extra, f"{i * 10}%"))
    for i in (0, 5, 10):
        parts.append(svg.text(58 + 24 * i, 36, f"{i * 10}%", "axis", "middle"))
    parts.append(svg.rectangle(336, 4, 54, 18, "none", 'rx="3"'))
    parts.append(svg.text(363, 17, "refused", "axis", "middle"))
    parts.append(svg.text(404, 17, "* a part of the items was refused", "axis"))
    return svg.picture(620, 40, "Legend of the heat maps", parts)


def depth_map(table: Table, method: str, task: str) -> str:
    """Scores by length (across) and depth (down), with a row for all depths."""
    lengths = table.task_lengths(task)
    rows = DEPTHS if table.has_depths(task) else 0
    cell_w, cell_h, left, top = 64, 30, 46, 26
    gap = 10 if rows else 0
    width, bottom = left + cell_w * len(lengths) + 4, top + rows * cell_h
    parts = [svg.text(left - 8, top - 10, "depth", "axis", "end")] if rows else []
    for i in range(rows):
        words = f"{(i + 0.5) / rows:.0%}"
        parts.append(svg.text(left - 8, top + (i + 0.5) * cell_h + 4, words, "axis", "end"))
    parts.append(svg.text(left - 8, bottom + gap + cell_h / 2 + 4, "all", "axis strong", "end"))
    for j, length in enumerate(lengths):
        x = left + j * cell_w
        parts.append(svg.text(x + cell_w / 2, top - 10, f"{length:,}", "axis strong", "middle"))
        cell = table.cell(method, task, length)
        title = f"{method}, {length:,} tokens"
        parts.append(_heat(x, bottom + gap, cell_w, cell_h, cell, title))
        if cell is not None and cell.interval is not None:
            bounds = f"{100 * cell.interval.low:.0f}–{cell.interval.high:.0%}"
            below = bottom + gap + cell_h + 15
            parts.append(svg.text(x + cell_w / 2, below, bounds, "note", "middle"))
        for i, part in enumerate(table.by_depth(method, task, length)[:rows]):
            where = f"{title}, depth {i / rows:.0%} to {(i + 1) / rows:.0%}"
            parts.append(_heat(x, top + i * cell_h, cell_w, cell_h, part, where))
    words = f"Scores of {method} on {task} by length and depth"
    return svg.picture(width, bottom + gap + cell_h + 22, words, parts)


def task_map(table: Table, method: str) -> str:
    """Scores by length (across) and task (down), with a row for the mean."""
    cell_w, cell_h, top, gap = 60, 26, 26, 8
    left = 16 + 7 * max(len(cut(task, 24)) for task in [*table.tasks, "mean"])
    width = left + cell_w * len(table.lengths) + 4
    bottom = top + cell_h * len(table.tasks)
    parts = []
    for j, length in enumerate(table.lengths):
        middle = left + (j + 0.5) * cell_w
        parts.append(svg.text(middle, top - 10, f"{length:,}", "axis strong", "middle"))
        overall = table.overall(method, length)
        if overall is not None:
            count = len(table.common_tasks(length))
            title = f"{method}, {length:,} tokens: {share(overall)}, mean of {count} tasks"
            x, y = left + j * cell_w, bottom + gap
            parts.append(_field(x, y, cell_w, cell_h, overall.value, "", title))
    for i, task in enumerate(table.tasks):
        middle = top + (i + 0.5) * cell_h + 4
        parts.append(svg.text(left - 8, middle, cut(task, 24), "axis", "end"))
        for j, length in enumerate(table.lengths):
            title = f"{method}, {task}, {length:,} tokens"
            x, y = left + j * cell_w, top + i * cell_h
            parts.append(_heat(x, y, cell_w, cell_h, table.cell(method, task, length), title))
    middle = bottom + gap + cell_h / 2 + 4
    parts.append(svg.text(left - 8, middle, "mean", "axis strong", "end"))
    return svg.picture(
        width, bottom + gap + cell_h + 4, f"Scores of {method} by task and length", parts
    )


@dataclass(frozen=True)
class _Line:
    method: str
    place: int  # among the methods
    kind: str
    points: list[tuple[float, Interval, str]]  # x, score, what hovering says


def _log_axis(low: float, high: float) -> svg.Scale:
    """Room on both sides; a single value lies in the middle."""
    pad = max((high / low) ** 0.06, 1.15)
    return svg.Scale(low / pad, high * pad, LEFT, WIDTH - RIGHT, log=True)


def _ticks(x: svg.Scale, values: Sequence[float], words: Callable[[float], str], y: float) -> list:
    """Ticks that do not run into each other."""
    parts, last = [], -math.inf
    for value in values:
        text = words(value)
        room = 7.5 * len(text) + 8
        parts.append(svg.line(x(value), y, x(value), y + 5, "tick"))
        if x(value) - room / 2 >= last:
            parts.append(svg.text(x(value), y + 19, text, "axis", "middle"))
            last = x(value) + room / 2
    return parts


def _score_axis(top: float, bottom: float, dashed: dict[str, float]) -> tuple[svg.Scale, list[str]]:
    """The scores from 0 to 1, with dashed lines that the heading explains."""
    y = svg.Scale(0, 1, bottom, top)
    parts = [svg.text(0, top - 16, "score", "axis strong")]
    if dashed:
        words = " and ".join(f"{name} {value:.0%}" for name, value in dashed.items())
        parts.append(svg.text(44, top - 16, f"dashed: {words}", "note"))
    for value in dashed.values():
        parts.append(svg.line(LEFT, y(value), WIDTH - RIGHT, y(value), "edge"))
    for i in range(6):
        parts.append(svg.line(LEFT, y(i / 5), WIDTH - RIGHT, y(i / 5), "grid"))
        parts.append(svg.text(LEFT - 9, y(i / 5) + 4, f"{i / 5:.0%}", "axis", "end"))
    return y, parts


def _draw(lines: Sequence[_Line], x: svg.Scale, y: svg.Scale, apart: float) -> list[str]:
    """Lines with whiskers and the methods' names; `apart` keeps whiskers of methods apart."""
    parts = []
    for i, line in enumerate(lines):
        shift = (i - (len(lines) - 1) / 2) * apart
        points = [(x(at) + shift, y(score.value)) for at, score, _ in line.points]
        if len(points) > 1:
            parts.append(svg.path(points, f"curve {line.kind}"))
        for (px, py), (_, score, title) in zip(points, line.points, strict=True):
            parts.append(svg.line(px, y(score.low), px, y(score.high), f"whisker {line.kind}"))
            parts.append(svg.mark(px, py, line.place, f"mark {line.kind}", title))
    ends = svg.spread([y(line.points[-1][1].value) for line in lines], 18, y.last + 4, y.first)
    for line, end in zip(lines, ends, strict=True):
        at, score, _ = line.points[-1]
        edge = x.last + 14
        start = (x(at) + 8, y(score.value))
        parts.append(svg.path([start, (edge - 6, end), (edge, end)], f"lead {line.kind}"))
        words = f"{cut(line.method, 15)} {score.value:.0%}"
        parts.append(svg.text(edge + 5, end + 4, words, f"name {line.kind}"))
    return parts


def score_chart(table: Table, task: str | None = None) -> str:
    """Scores by length of all methods on one task, or on the tasks in common."""
    lines = []
    for place, method in enumerate(table.methods):
        points = []
        for length in table.lengths if task is None else table.task_lengths(task):
            cell = None if task is None else table.cell(method, task, length)
            score = table.overall(method, length) if task is None else cell and cell.interval
            if score:
                told = f"{share(score)}" if cell is None else _told(cell)
                points.append((float(length), score, f"{method}, {length:,} tokens: {told}"))
        if points:
            lines.append(_Line(method, place, colour(table, method), points))
    if not lines:
        return ""
    lengths = sorted({at for line in lines for at, _, _ in line.points})
    top, bottom = 34, 300 if task is None else 240
    x = _log_axis(lengths[0], lengths[-1])
    dashed = {"the threshold": table.threshold}
    if task is not None and (chance := table.chance(task)) > 0:
        dashed["a guess"] = chance
    y, parts = _score_axis(top, bottom, dashed)
    parts += _ticks(x, lengths, lambda n: f"{n:,.0f}", bottom)
    below = bottom + 38
    parts.append(svg.text((x.first + x.last) / 2, below, "length, tokens", "axis", "middle"))
    parts += _draw(lines, x, y, apart=5)
    where = "all tasks" if task is None else task
    return svg.picture(WIDTH, bottom + 46, f"Scores by length on {where}", parts)


def cost_chart(table: Table, which: Literal["held", "seconds"]) -> str:
    """Scores against `held` bytes or `seconds` an answer, of all methods at all lengths."""
    lines = []
    for place, method in enumerate(table.methods):
        points = []
        for length in table.lengths:
            cost, score = table.cost(method, length), table.overall(method, length)
            if cost is None or score is None:
                continue
            value = cost.held if which == "held" else cost.seconds
            if value:
                words = size(value) if which == "held" else seconds(value)
                title = f"{method}, {length:,} tokens: {share(score)} at {words}"
                points.append((float(value), score, title))
        if points:
            lines.append(_Line(method, place, colour(table, method), points))
    if not lines:
        return ""
    values = [at for line in lines for at, _, _ in line.points]
    top, bottom = 34, 300
    x = _log_axis(min(values), max(values))
    y, parts = _score_axis(top, bottom, {})
    ticks = _decades(x.low, x.high)
    parts += _ticks(x, ticks, size if which == "held" else seconds, bottom)
    label = "keys and values held, bytes" if which == "held" else "seconds an answer, median"
    parts.append(svg.text((x.first + x.last) / 2, bottom + 38, label, "axis", "middle"))
    parts += _draw(lines, x, y, apart=0)
    return svg.picture(WIDTH, bottom + 46, f"Scores against {label}", parts)


def _decades(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten from low to high; even steps where these are too few."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    values = [m * 10.0**power for power in range(first, last + 1) for m in (1, 2, 5)]
    inside = [value for value in values if low <= value <= high]
    return inside if len(inside) > 2 else svg.round_steps(low, high, 4)


def seconds(value: float) -> str:
    """Seconds in words: 350 µs, 25 ms, 1.2 s, 90 s."""
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def reach_chart(table: Table) -> str:
    """Effective length of every method on every task, with what is still open."""
    rows = [(task, method) for task in table.tasks for method in table.methods]
    row_h, gap, top = 19, 9, 8
    left = 16 + 7 * max(len(cut(task, 24)) for task in table.tasks)
    bottom = top + row_h * len(rows) + gap * len(table.tasks)
    low, high = table.lengths[0], table.lengths[-1]
    # Below the shortest length there is room for "less than that".
    x = svg.Scale(low / max((high / low) ** 0.15, 1.3), high * 1.05, left, WIDTH - 270, log=True)
    parts = []
    for length in table.lengths:
        parts.append(svg.line(x(length), top, x(length), bottom, "grid"))
    parts += _ticks(x, table.lengths, lambda n: f"{n:,.0f}", bottom)
    place = float(top)
    for task in table.tasks:
        middle = place + row_h * len(table.methods) / 2 + 4
        parts.append(svg.text(left - 10, middle, cut(task, 24), "axis", "end"))
        for method in table.methods:
            reach, kind = table.reach(method, task), colour(table, method)
            y = place + row_h / 2
            title = f"{method} on {task}: {reach.words}"
            end = x(reach.low) if reach.low is not None else x.first
            if reach.low is not None:
                parts.append(
                    svg.rectangle(left, y - 5, end - left, 10, f"band solid {kind}", "", title)
                )
            upto = x(reach.high) if reach.high is not None else x.last
            if upto > end and not reach.found.whole and reach.read:
                parts.append(svg.rectangle(end, y - 5, upto - end, 10, f"band {kind}", "", title))
            words = f"{cut(method, 28 - len(reach.words))} {reach.words}"
            parts.append(svg.text(x.last + 12, y + 4, words, f"name {kind}"))
            place += row_h
        place += gap
    below = bottom + 38
    parts.append(svg.text((x.first + x.last) / 2, below, "length, tokens", "axis", "middle"))
    return svg.picture(WIDTH, bottom + 46, "Effective length by task and method", parts)
