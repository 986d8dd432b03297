"""The report as tables in a terminal."""

from collections.abc import Sequence
from itertools import product

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as Grid
from rich.text import Text

from lengthwise.measure.report.curves import (
    CONTOUR,
    against_base,
    contours,
    perplexity,
)  # fmt: skip
from lengthwise.measure.report.findings import findings, headline, reader_name
from lengthwise.measure.report.groups import Entry, groupings
from lengthwise.measure.report.readings import CLOSE, loss_table, speeds
from lengthwise.measure.report.table import DEPTHS, Cell, Table, refusals
from lengthwise.measure.report.words import (
    bounds,
    counted,
    part_words,
    rate,
    seconds,
    share_of,
    size,
)
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE
from lengthwise.measure.statistics.intervals import Interval

FEW_TASKS = 6  # more tasks than this have no contour in a terminal
STYLES = {"good": "green", "bad": "red", "": ""}


def print_report(results: Results, console: Console) -> None:
    """Print a table for everything that was measured, then what was seen."""
    for length in results.read_lengths("loss"):
        console.print(_loss(results, length))
    if results.rows:
        table = Table(results)
        wide = _scores(table, narrow=False)
        room = console.options.update(max_width=10_000)  # else no more than is there is measured
        fits = Measurement.get(console, room, wide).maximum <= console.width
        console.print(wide if fits else _scores(table, narrow=True))
        for task, method in product(table.tasks, table.methods):
            if table.part_names(task):
                console.print(_parts(table, method, task))
            base = against_base(table, method, task)
            for words in (_contour(table, method, task), base and f"{task} · {method}: {base}"):
                if words:
                    console.print(Text(words, style="dim"))
    print_groups([(method, method, results) for method in results.methods], console)
    for length in results.read_lengths("speed"):
        console.print(_speed(results, length))
    for (method, task, length, why), count in refusals(results).items():
        times = f" · {count} times" if count > 1 else ""
        words = f"refused: {task} {length:,} · {method}{times}: {why}"
        console.print(Text(words, style="yellow"))
    for sentence in findings(results) or [headline(results)]:
        console.print(Text("• " + sentence))


def print_groups(entries: Sequence[Entry], console: Console) -> None:
    """Print a table for everything by which items are told apart."""
    for found in groupings(entries):
        table = grid(
            f"By {found.name}, {found.length:,} tokens",
            "mean score with its 95% interval, and the number of items; of several tasks the mean, "
            "each with the same weight",
            "task", "method", *found.groups,
        )  # fmt: skip
        for line in found.lines:
            cells = [_group(cell) for cell in line.cells]
            table.add_row(Text(line.task or "all tasks"), Text(line.label), *cells)
        console.print(table)


def _group(cell: tuple[Interval, int] | None) -> Text:
    if cell is None:
        return Text("–", style="dim")
    found, count = cell
    return Text.assemble(f"{found.value:.0%}", (f" {bounds(found)} ({count})", "dim"))


def grid(title: str, caption: str, *heads: str) -> Grid:
    """An empty table of plain text: a column of names, then columns of numbers."""
    table = Grid(
        title=Text(title),
        caption=Text(caption),
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for number, head in enumerate(heads):
        table.add_column(Text(head), justify="right" if number else "left", no_wrap=not number)
    return table


def _loss(results: Results, length: int) -> Grid:
    rows = loss_table(results, length)
    ends: Sequence[int] = [cell.loss.end for cell in next(iter(rows.values()), [])]
    table = grid(
        f"Loss by position, nats per token ({reader_name(results)}, {length:,} tokens)",
        f"green: within {CLOSE} nats of the same tokens inside the window; red: 1 or more above",
        "method", *(f"to {end:,}" for end in ends),  # from where the column before it ends
    )  # fmt: skip
    for method, cells in rows.items():
        shown = [Text(f"{cell.loss.value:.2f}", STYLES[cell.grade]) for cell in cells]
        table.add_row(Text(method, style="dim" if method == REFERENCE else ""), *shown)
    return table


def _speed(results: Results, length: int) -> Grid:
    table = grid(
        f"Cost after {length:,} tokens ({reader_name(results)})", "batch 1, weights not counted",
        "method", "first token", "tokens a second", "cache", "peak memory",
    )  # fmt: skip
    for method, values in speeds(results, length).items():
        table.add_row(
            Text(method),
            seconds(values["first_token_seconds"]),
            rate(values["tokens_per_second"]),
            size(values["cache_bytes"]),
            size(values["peak_bytes"]),
        )
    return table


def _scores(table: Table, narrow: bool) -> Grid:
    """The scores; where it must be narrow, tasks head their methods and bounds stand below."""
    are = "is" if table.too_few == 1 else "are"
    few = f"; {counted(table.too_few, 'item')} {are} too few to show that" if table.too_few else ""
    how = "bounds allow for items added until the answer was clear"
    made = grid(
        f"Scores by length, {table.results.suite} ({reader_name(table.results)})",
        f"with 95% intervals; {how if table.adaptive else 'items fixed beforehand'}; "
        f"green: at {table.threshold:.0%} or above{few}",
    )
    if not narrow:
        made.add_column("task", no_wrap=True)
    made.add_column("method", no_wrap=not narrow, overflow="fold")
    for head in (*(f"{length:,}" for length in table.lengths), "effective"):
        made.add_column(head, justify="right", no_wrap=True)
    if not narrow:
        made.add_column("without reading", style="dim")
    between = "\n" if narrow else " "
    for task in table.tasks:
        for i, method in enumerate(table.methods):
            cells = [
                _words(table.cell(method, task, n), table.threshold, between) for n in table.lengths
            ]
            last = i == len(table.methods) - 1
            reach = Text(table.reach(method, task).words)
            floor = Text(floor_words(table, task) if i == 0 else "")
            if narrow and i == 0:
                made.add_row(Text.assemble((task, "bold"), ("\n" + floor.plain, "dim")))
            name = [] if narrow else [Text(task if i == 0 else "")]
            end = [] if narrow else [floor]
            made.add_row(*name, Text(method), *cells, reach, *end, end_section=last)
    for method in table.methods:
        found = [perplexity(table, method, length) for length in table.lengths]
        if any(one is not None for one in found):
            shown = [Text("–" if one is None else f"{one:.4g}", style="dim") for one in found]
            name = [] if narrow else [Text("perplexity")]
            called = f"{'perplexity, ' * narrow}{method}"
            made.add_row(*name, Text(called), *shown, *[Text()] * (1 + (not narrow)))
    return made


def floor_words(table: Table, task: str) -> str:
    """`18% all numbers`: the best score that shows no reading."""
    value, what = table.shortcut(task)
    return share_of(value, what)


def _parts(table: Table, method: str, task: str) -> Grid:
    """What the scores of a task are made of."""
    lengths = table.task_lengths(task)
    made = grid(f"Parts of {task} · {method}", "means over the items",
                "part", *(f"{length:,}" for length in lengths))  # fmt: skip
    found = [table.parts(method, task, length) for length in lengths]
    for part in table.part_names(task):
        made.add_row(part, *(part_words(part, one[part]) if part in one else "–" for one in found))
    return made


def _contour(table: Table, method: str, task: str) -> str:
    """Where the score falls below the contour's, by depth; "" of many tasks or of one length."""
    few = len(table.tasks) <= FEW_TASKS and len(table.task_lengths(task)) > 1
    if not (few and table.has_depths(task)):
        return ""
    depths = [*(f"depth {(i + 0.5) / DEPTHS:.0%}" for i in range(DEPTHS)), "all depths"]
    found = zip(depths, contours(table, method, task), strict=True)
    places = [f"{where} {one}" for where, one in found if one is not None]
    return f"{task} · {method} falls below {CONTOUR:.0%} at tokens: {'; '.join(places)}"


def _words(cell: Cell | None, threshold: float, between: str) -> Text:
    if cell is None:
        return Text("–", style="dim")
    if cell.interval is None:
        return Text("refused", style="yellow")
    found = cell.interval
    words = Text.assemble(
        (f"{found.value:.0%}", "green" if found.value >= threshold else ""),
        (f"{between}{bounds(found)}", "dim"),
    )
    if cell.refused:
        words.append(f"{between}({sum(cell.refused.values())} refused)", style="yellow")
    return words
