"""The report of a suite: one HTML file that needs nothing else."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from lengthwise.measure.report.document import document, figure, section, write_page
from lengthwise.measure.report.numbers import size
from lengthwise.measure.report.suite.charts import (
    colour,
    cost_chart,
    cut,
    depth_map,
    legend,
    reach_chart,
    score_chart,
    seconds,
    task_map,
)
from lengthwise.measure.report.suite.findings import findings, headline, reader_name
from lengthwise.measure.report.suite.numbers import Table, share
from lengthwise.measure.report.suite.style import SUITE_STYLE
from lengthwise.measure.run.suite.file import SuiteResults
from lengthwise.measure.run.suite.rows import ItemRow
from lengthwise.measure.statistics.effective import verdict

EXAMPLES = 24
OPEN_TASKS = 6  # more tasks than this are folded up
LONGEST = 4000  # characters of a reply that are shown


def write_suite_report(results: SuiteResults, path: Path, command: str) -> None:
    """Write the report; a file that is there already is replaced as a whole.

    Args:
        command: What to type to measure this again; shown as it is.
    """
    write_page(path, html(results, command))


def html(results: SuiteResults, command: str) -> str:
    """The report as text."""
    table = Table(results)
    name, suite = escape(reader_name(table)), escape(results.suite)
    lines = "".join(f"<li>{escape(sentence)}</li>" for sentence in findings(table))
    body = [
        f'<p class="eyebrow"><b>{name}</b> · suite {suite} · {len(table.tasks)} tasks · '
        f"{len(results.rows):,} items · measured with lengthwise</p>",
        f"<h1>{escape(headline(table))}</h1>",
        f'<ul class="findings">{lines}</ul>',
    ]
    if results.rows:
        body += [_overview(table), _reach(table), _cost(table), _tasks(table)]
        body += [_examples(table), _refused(table)]
    body.append(_again(table, command))
    title = f"{reader_name(table)}: {results.suite} by length"
    return document(title, "".join(body), SUITE_STYLE)


def _named(table: Table, method: str) -> str:
    """A method with its colour; a long name may break where its settings begin."""
    name = escape(method).replace(":", ":<wbr>").replace(",", ",<wbr>")
    return f'<span class="swatch {colour(table, method)}"></span>{name}'


def _intervals(table: Table) -> str:
    if table.adaptive:
        return (
            "Intervals of 95% allow for items having been added until the answer was clear "
            "(betting confidence sequences)."
        )
    return (
        "Intervals of 95%: Wilson's where every item is right or wrong, the expanded percentile "
        "bootstrap otherwise."
    )


def _overview(table: Table) -> str:
    maps = "".join(
        f"<div><h3>{_named(table, m)}</h3><figure>{task_map(table, m)}</figure></div>"
        for m in table.methods
    )
    chart = score_chart(table)
    return section(
        "Score by length",
        "Lengths are in tokens of the model, prompt and answer together. The mean is over the "
        "tasks that every method answered at a length, each task with the same weight. "
        + _intervals(table),
        figure(chart, "Bars are 95% intervals of the mean over tasks.") if chart else "",
        f"<figure>{legend()}</figure>",
        f'<div class="maps">{maps}</div>',
    )


def _reach(table: Table) -> str:
    rows = "".join(
        f"<tr><td>{escape(task)}</td>"
        + "".join(f"<td>{escape(table.reach(m, task).words)}</td>" for m in table.methods)
        + "</tr>"
        for task in table.tasks
    )
    head = "".join(f"<th>{_named(table, m)}</th>" for m in table.methods)
    return section(
        "Effective length",
        f"The longest length at which, and at all shorter ones, the score is above "
        f"{table.threshold:.0%} with 95% confidence, by a test that holds however many items it "
        "took. Solid: shown to be above. Pale: still open, up to the shortest length that was "
        "shown to be below, or to the end if there was none." + _too_few(table),
        f'<figure class="wide">{reach_chart(table)}</figure>',
        f'<details><summary>As a table</summary><div class="scroll"><table><tr><th>task</th>{head}'
        f"</tr>{rows}</table></div></details>",
    )


def _too_few(table: Table) -> str:
    """A warning where no score could have been good enough."""
    items = max((table.results.counts[task] for task in table.tasks), default=0)
    if verdict([1.0] * items, table.threshold) == "above":
        return ""
    return (
        f" <b>Even {items} right answers of {items} are too few to show it: measure more items, "
        "or the suite <code>effective</code>, which spends them where the answer is open.</b>"
    )


def _cost(table: Table) -> str:
    charts = [
        figure(chart, caption)
        for chart, caption in (
            (cost_chart(table, "held"), "Score against the most bytes of keys and values held."),
            (cost_chart(table, "seconds"), "Score against the median time of an answer."),
        )
        if chart
    ]
    lines = []
    for length in table.lengths:
        costs = {m: cost for m in table.methods if (cost := table.cost(m, length)) is not None}
        if costs:
            lines.append(f'<tr class="group"><td colspan="7">{length:,} tokens</td></tr>')
        for method, cost in costs.items():
            score = table.overall(method, length)
            assert score is not None  # what has a cost was answered
            first = "–" if cost.first_token is None else seconds(cost.first_token)
            rate = "–" if cost.tokens_per_second is None else f"{cost.tokens_per_second:,.1f}"
            lines.append(
                f"<tr><td>{_named(table, method)}</td><td>{share(score)}</td>"
                f"<td>{first}</td><td>{seconds(cost.seconds)}</td><td>{rate}</td>"
                f"<td>{size(cost.held)}</td><td>{size(cost.peak)}</td></tr>"
            )
    if not lines:
        return ""
    return section(
        "Score against cost",
        "One mark for every method and length; a line joins the lengths of a method, short to "
        "long. On the tasks in common: the most bytes of any item, and the median wait for an "
        "answer, which in a batch is that of the whole batch.",
        *charts,
        '<div class="scroll"><table><tr><th>method</th><th>score</th><th>first token</th>'
        "<th>answer</th><th>tokens a second</th><th>held by the cache</th><th>peak memory</th></tr>"
        f"{''.join(lines)}</table></div>",
    )


def _tasks(table: Table) -> str:
    unfolded = " open" if len(table.tasks) <= OPEN_TASKS else ""
    parts = []
    for task in table.tasks:
        maps = "".join(
            f"<div><h3>{_named(table, m)}</h3><figure>{depth_map(table, m, task)}</figure></div>"
            for m in table.methods
        )
        chart = score_chart(table, task)
        setting = escape(str(table.results.settings.get(task, "")))
        parts.append(
            f'<details class="part"{unfolded}><summary><b>{escape(task)}</b> '
            f"<small>{setting}</small></summary>"
            + (f'<figure class="wide">{chart}</figure>' if chart else "")
            + f'<div class="maps">{maps}</div>{_numbers(table, task)}</details>'
        )
    return section(
        "Every task",
        "Across: tokens. Down: where the facts lie, from the start of the text to its end; an "
        "item with several facts counts at each of them. The lowest row counts all items, with "
        "its interval.",
        *parts,
    )


def _numbers(table: Table, task: str) -> str:
    lengths = table.task_lengths(task)
    head = "".join(f"<th>{length:,}</th>" for length in lengths)
    lines = []
    for method in table.methods:
        cells = ""
        for length in lengths:
            cell = table.cell(method, task, length)
            if cell is None:
                cells += "<td>–</td>"
            elif cell.interval is None:
                cells += '<td class="refused">refused</td>'
            else:
                cells += f"<td>{share(cell.interval)}<br><small>{cell.count} items</small></td>"
        lines.append(f"<tr><td>{_named(table, method)}</td>{cells}</tr>")
    return (
        '<details><summary>Numbers</summary><div class="scroll"><table>'
        f"<tr><th>method</th>{head}</tr>{''.join(lines)}</table></div></details>"
    )


def visible(text: str) -> str:
    """Text as HTML, with control characters as pictures of themselves, cut at `LONGEST`."""
    shown = "".join(chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c for c in text)
    if len(shown) > LONGEST:
        shown = f"{shown[:LONGEST]}\n… and {len(shown) - LONGEST:,} more characters"
    return escape(shown)


def _example(row: ItemRow) -> str:
    title = (
        f"{escape(row.task)} · {row.length:,} tokens · {escape(row.method)} · "
        f"<b>{row.score:.0%}</b> <small>item {row.index}, {row.tokens:,} new tokens: "
        f"{visible(cut(row.reply.strip() or '(nothing)', 80))}</small>"
    )
    return (
        f'<details class="part"><summary>{title}</summary>'
        f'<h3>Prompt, its start and its end</h3><pre class="text">{visible(row.prompt)}</pre>'
        f'<h3>Right answer</h3><pre class="text">{visible(row.answer)}</pre>'
        f'<h3>Reply</h3><pre class="text">{visible(row.reply)}</pre></details>'
    )


def _examples(table: Table) -> str:
    rows = table.worst(EXAMPLES)
    if not rows:
        return ""
    return section(
        "Worst examples",
        "The lowest scores of every task and method in turn, short prompts first. The file of "
        "results beside this report has every reply.",
        *(_example(row) for row in rows),
    )


def _refused(table: Table) -> str:
    refusals = table.refusals()
    if not refusals:
        return ""
    lines = "".join(
        f"<tr><td>{escape(method)}</td><td>{escape(task)}</td><td>{length:,}</td><td>{count}</td>"
        f'<td class="words refused">{visible(why)}</td></tr>'
        for (method, task, length, why), count in refusals.items()
    )
    return section(
        "Refused",
        "These items were asked for and got no answer; they count in no score.",
        '<div class="scroll"><table><tr><th>method</th><th>task</th><th>tokens</th><th>items</th>'
        f'<th class="words">reason</th></tr>{lines}</table></div>',
    )


def _flat(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items())


def _again(table: Table, command: str) -> str:
    plan = table.results.plan
    hidden = {"reader", "lengthwise_results"}
    entries = [("reader", _flat(plan["reader"]))]
    entries += [(k.replace("_", " "), str(v)) for k, v in plan.items() if k not in hidden]
    specs = table.results.specs
    entries += [(name, spec or "the plain model") for name, spec in specs.items()]
    for number, session in enumerate(table.results.sessions, start=1):
        entries += [
            (f"session {number}", str(session.get("started", ""))),
            ("", str(session.get("command", ""))),
            ("", _flat(session.get("hardware", {}))),
            ("", _flat(session.get("versions", {}))),
        ]
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{visible(v)}</dd>" for k, v in entries if v)
    tasks = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(str(setting))}</dd>"
        for name, setting in table.results.settings.items()
    )
    return section(
        "Measure it again",
        "The same command, model and seed give the same items.",
        f"<pre>{escape(command)}</pre><dl>{listed}</dl>",
        f"<details><summary>The tasks as they are set</summary><dl>{tasks}</dl></details>",
    )
