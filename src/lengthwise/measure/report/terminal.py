"""The report as tables in a terminal."""

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lengthwise.measure.report.findings import CLOSE, findings
from lengthwise.measure.report.numbers import excess_spans, loss_spans, size
from lengthwise.measure.run.results import REFERENCE, Results


def print_report(results: Results, console: Console) -> None:
    """Print a table for every task, then what was seen."""
    for length in results.lengths("loss"):
        console.print(_loss(results, length))
    if results.lengths("passkey"):
        console.print(_passkey(results))
    for length in results.lengths("speed"):
        console.print(_cost(results, length))
    for row in results.rows:
        if row.refused:
            words = f"refused: {row.task} {row.length:,} · {row.method}: {row.refused}"
            console.print(Text(words, style="yellow"))
    for sentence in findings(results):
        console.print(Text("• " + sentence))


def _table(title: str, heads: list[str], caption: str) -> Table:
    table = Table(
        title=escape(title),
        caption=caption,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("method", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right")
    return table


def _loss(results: Results, length: int) -> Table:
    methods = results.methods("loss")
    measured = [m for m in methods if results.values(m, "loss", length) is not None]
    spans = loss_spans(results, measured[0], length, octaves=True)
    table = _table(
        f"Loss by position, nats per token ({results.plan['model']}, {length:,} tokens)",
        [f"to {span.end:,}" for span in spans],  # from where the column before it ends
        f"green: within {CLOSE} nats of the same tokens inside the window; red: 1 or more above",
    )
    for method in measured:
        excess = [s.mean.value for s in excess_spans(results, method, length, octaves=True)]
        cells = []
        for i, span in enumerate(loss_spans(results, method, length, octaves=True)):
            style = ""
            if excess and method != REFERENCE:
                style = "green" if excess[i] <= CLOSE else "red" if excess[i] >= 1 else ""
            cells.append(Text(f"{span.mean.value:.2f}", style=style))
        table.add_row(Text(method, style="dim" if method == REFERENCE else ""), *cells)
    return table


def _passkey(results: Results) -> Table:
    lengths = results.lengths("passkey")
    table = _table(
        f"Passkeys found ({results.plan['model']}, {results.plan['passkey_count']} a length)",
        [f"{length:,}" for length in lengths],
        "with 95% Wilson intervals",
    )
    for method in results.methods("passkey"):
        cells = []
        for length in lengths:
            values = results.values(method, "passkey", length)
            if values is None:
                cells.append(Text("–"))
                continue
            style = "green" if values["score"] >= 0.9 else "red" if values["score"] <= 0.1 else ""
            bounds = f" {values['low']:.0%}–{values['high']:.0%}"
            cells.append(Text.assemble((f"{values['score']:.0%}", style), (bounds, "dim")))
        table.add_row(Text(method), *cells)
    return table


def _cost(results: Results, length: int) -> Table:
    heads = ["first token", "tokens a second", "cache", "peak memory"]
    table = _table(
        f"Cost after {length:,} tokens ({results.plan['model']})",
        heads,
        "batch 1, weights not counted",
    )
    for method in results.methods("speed"):
        values = results.values(method, "speed", length)
        if values is not None:
            table.add_row(
                Text(method),
                f"{values['first_token_seconds']:.2f} s",
                f"{values['tokens_per_second']:,.0f}",
                size(values["cache_bytes"]),
                size(values["peak_bytes"]),
            )
    return table
