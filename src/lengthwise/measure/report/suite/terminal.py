"""The results of a suite as a table in a terminal."""

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

from lengthwise.measure.report.suite.findings import findings, headline, reader_name
from lengthwise.measure.report.suite.numbers import Cell, Table
from lengthwise.measure.run.suite.file import SuiteResults


def print_suite_report(results: SuiteResults, console: Console) -> None:
    """Print scores of every task, method and length, then what was seen."""
    table = Table(results)
    if results.rows:
        wide = _scores(table, narrow=False)
        room = console.options.update(max_width=10_000)  # else no more than is there is measured
        fits = Measurement.get(console, room, wide).maximum <= console.width
        console.print(wide if fits else _scores(table, narrow=True))
    for (method, task, length, why), count in table.refusals().items():
        words = f"refused: {task} {length:,} · {method} · {count} items: {why}"
        console.print(Text(words, style="yellow"))
    for sentence in findings(table) or [headline(table)]:
        console.print(Text("• " + sentence))


def _scores(table: Table, narrow: bool) -> RichTable:
    """The table; where it must be narrow, tasks head their methods and bounds stand below."""
    adaptive = "bounds allow for items added until the answer was clear"
    grid = RichTable(
        title=Text(f"Scores by length, {table.results.suite} ({reader_name(table)})"),
        caption=f"with 95% intervals; {adaptive if table.adaptive else 'items fixed beforehand'}; "
        f"green: at {table.threshold:.0%} or above",
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    if not narrow:
        grid.add_column("task", no_wrap=True)
    grid.add_column("method", no_wrap=not narrow, overflow="fold")
    for length in table.lengths:
        grid.add_column(f"{length:,}", justify="right", no_wrap=True)
    grid.add_column("effective", justify="right", no_wrap=True)
    for task in table.tasks:
        for i, method in enumerate(table.methods):
            between = "\n" if narrow else " "
            cells = [
                _words(table.cell(method, task, n), table.threshold, between) for n in table.lengths
            ]
            last = i == len(table.methods) - 1
            reach = Text(table.reach(method, task).words)
            if narrow and i == 0:
                grid.add_row(Text(task, style="bold"))
            name = [] if narrow else [Text(task if i == 0 else "")]
            grid.add_row(*name, Text(method), *cells, reach, end_section=last)
    return grid


def _words(cell: Cell | None, threshold: float, between: str) -> Text:
    if cell is None:
        return Text("–", style="dim")
    if cell.interval is None:
        return Text("refused", style="yellow")
    found = cell.interval
    bounds = f"{between}{100 * found.low:.0f}–{found.high:.0%}"
    words = Text.assemble(
        (f"{found.value:.0%}", "green" if found.value >= threshold else ""), (bounds, "dim")
    )
    if cell.refused:
        words.append(f"{between}({sum(cell.refused.values())} refused)", style="yellow")
    return words
