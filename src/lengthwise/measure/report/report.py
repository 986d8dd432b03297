"""The report of a measurement as a page."""

from pathlib import Path

from lengthwise.html import page, write_page
from lengthwise.measure.report import charts, curves, maps, words
from lengthwise.measure.report.findings import findings, headline, reader_name
from lengthwise.measure.report.groups import groupings
from lengthwise.measure.report.readings import CLOSE, loss_table, speeds, told
from lengthwise.measure.report.table import DEPTHS, Table, refusals
from lengthwise.measure.run.results import Results

EXAMPLES = 24
OPEN_TASKS = 6  # more tasks than this are folded up


def write_report(results: Results, path: Path, command: str) -> None:
    """Write the report; a file that is there already is replaced as a whole.

    Args:
        command: What to type to measure this again; shown as it is.
    """
    write_page(path, html(results, command))


def html(results: Results, command: str) -> str:
    """The report as text."""
    return page(
        "measure/report/report.html",
        title=f"{reader_name(results)}: {results.suite or 'measured'} by length",
        name=reader_name(results),
        results=results,
        table=Table(results),
        command=command,
        headline=headline(results),
        findings=findings(results),
        refusals=refusals(results),
        groupings=groupings([(method, method, results) for method in results.methods]),
        loss_table=loss_table,
        speeds=speeds,
        told=told,
        charts=charts,
        maps=maps,
        curves=curves,
        depths=DEPTHS,
        words=words,
        close=CLOSE,
        examples=EXAMPLES,
        open_tasks=OPEN_TASKS,
    )
