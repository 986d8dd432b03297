"""The drawings of the report that have fields: scores by length, depth and task, and reaches."""

from lengthwise.measure.report import svg
from lengthwise.measure.report.charts import WIDTH, colour, spoken, ticks, whole
from lengthwise.measure.report.readings import told
from lengthwise.measure.report.table import DEPTHS, Cell, Table
from lengthwise.measure.report.words import bounds, cut, share


def _field(x: float, y: float, width: float, height: float, value: float, title: str,
           star: str = "") -> str:  # fmt: skip
    """A coloured field with its score."""
    extra = f'rx="3" fill-opacity="{0.07 + 0.93 * value:.2f}"'
    kind = "share" + (" strong" if value > 0.55 else "")
    return svg.rectangle(x + 1, y + 1, width - 2, height - 2, "heat", extra, title) + svg.text(
        x + width / 2, y + height / 2 + 4.5, f"{value:.0%}{star}", kind, "middle"
    )


def _heat(x: float, y: float, width: float, height: float, cell: Cell | None, title: str) -> str:
    """The field of a cell; empty where it was not asked for."""
    if cell is None:
        return ""
    title = f"{title}: {spoken(cell)}"
    if cell.interval is None:
        field = svg.rectangle(x + 1, y + 1, width - 2, height - 2, "none", 'rx="3"', title)
        return field + svg.text(x + width / 2, y + height / 2 + 4.5, "refused", "axis", "middle")
    return _field(x, y, width, height, cell.interval.value, title, "*" if cell.refused else "")


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
    window = told(table.results, "window")
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
        middle, below = x + cell_w / 2, bottom + gap + cell_h + 15
        parts.append(svg.text(middle, top - 10, f"{length:,}", "axis strong", "middle"))
        cell = table.cell(method, task, length)
        title = f"{method}, {length:,} tokens"
        parts.append(_heat(x, bottom + gap, cell_w, cell_h, cell, title))
        if cell is not None and cell.interval is not None:
            parts.append(svg.text(middle, below, bounds(cell.interval), "note", "middle"))
        if window:
            times = f"{length / window:.3g}×"
            parts.append(svg.text(middle, below + 16, times, "axis", "middle"))
        for i, part in enumerate(table.by_depth(method, task, length)[:rows]):
            where = f"{title}, depth {i / rows:.0%} to {(i + 1) / rows:.0%}"
            parts.append(_heat(x, top + i * cell_h, cell_w, cell_h, part, where))
    words = f"Scores of {method} on {task} by length and depth"
    return svg.picture(width, bottom + gap + cell_h + 38, words, parts)


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
            parts.append(_field(x, y, cell_w, cell_h, overall.value, title))
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


def reach_chart(table: Table) -> str:
    """Effective length of every method on every task, with what is still open."""
    row_h, gap, top = 19, 9, 8
    left = 16 + 7 * max(len(cut(task, 24)) for task in table.tasks)
    bottom = top + (row_h * len(table.methods) + gap) * len(table.tasks)
    low, high = table.lengths[0], table.lengths[-1]
    # Below the shortest length there is room for "less than that".
    x = svg.Scale(low / max((high / low) ** 0.15, 1.3), high * 1.05, left, WIDTH - 270, log=True)
    parts = [svg.line(x(length), top, x(length), bottom, "grid") for length in table.lengths]
    parts += ticks(x, table.lengths, whole, bottom, "length, tokens")
    place = float(top)
    for task in table.tasks:
        middle = place + row_h * len(table.methods) / 2 + 4
        parts.append(svg.text(left - 10, middle, cut(task, 24), "axis", "end"))
        for method in table.methods:
            reach, kind = table.reach(method, task), colour(table.results, method)
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
    return svg.picture(WIDTH, bottom + 46, "Effective length by task and method", parts)
