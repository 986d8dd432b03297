"""The report: one HTML file that needs nothing else."""

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from lengthwise.measure.report.charts import colour, excess_chart, loss_chart, passkey_map
from lengthwise.measure.report.document import document, figure, section, write_page
from lengthwise.measure.report.findings import CLOSE, findings, headline
from lengthwise.measure.report.numbers import excess_spans, loss_spans, signed, size
from lengthwise.measure.run.results import REFERENCE, Results, Row


def write_report(results: Results, path: Path, command: str) -> None:
    """Write the report; a file that is there already is replaced as a whole.

    Args:
        command: What to type to measure this again; shown as it is.
    """
    write_page(path, html(results, command))


def html(results: Results, command: str) -> str:
    """The report as text."""
    plan = results.plan
    model = escape(plan["model"])
    body = [
        f'<p class="eyebrow"><b>{model}</b> · {plan["parameters"] / 1e6:,.1f} million parameters · '
        f"trained window {plan['window']:,} tokens · measured with lengthwise</p>",
        f"<h1>{escape(headline(results))}</h1>",
        '<ul class="findings">',
        *(f"<li>{escape(sentence)}</li>" for sentence in findings(results)),
        "</ul>",
        *(_loss(results, length) for length in reversed(results.lengths("loss"))),
        _passkey(results),
        _cost(results),
        _refused(results),
        _everything(results),
        _again(results, command),
    ]
    return document(f"{plan['model']} by length", "".join(body))


def _loss(results: Results, length: int) -> str:
    samples = results.plan["loss_samples"]
    texts = "one text" if samples == 1 else f"{samples} texts"
    window = results.plan["window"]
    close = ""
    if any(excess_spans(results, m, length) for m in results.methods("loss") if m != REFERENCE):
        close = figure(
            excess_chart(results, length),
            f"Close up. Zero is the untouched model with a context inside its window, token for "
            f"token; within {CLOSE} nats counts as no loss here. Bands are 95% bootstrap intervals "
            f"over blocks of {max(2, min(length, window) // 8)} tokens, shown where a point has "
            "eight blocks or more. An arrow marks a line that leaves the picture.",
        )
    return section(
        f"Loss by position, {length:,} tokens",
        f"How well every method predicts the next token as a text goes on. Mean of {texts}.",
        figure(
            loss_chart(results, length),
            "Dashed: the same tokens, each read by the untouched model with a context of half a "
            "window to one window. It is what a method has to keep up with.",
        ),
        close,
        _loss_table(results, length),
    )


def _loss_table(results: Results, length: int) -> str:
    """Means over the window and every doubling after it, coloured by what was lost."""
    methods = [m for m in results.methods("loss") if results.values(m, "loss", length)]
    spans = loss_spans(results, methods[0], length, octaves=True)
    head = "".join(f"<th>{s.start:,} to {s.end:,}</th>" for s in spans)
    lines = []
    for method in methods:
        cells = ""
        excess = excess_spans(results, method, length, octaves=True)
        for i, span in enumerate(loss_spans(results, method, length, octaves=True)):
            kind, more = "", ""
            if excess and method != REFERENCE:
                mean = excess[i].mean
                kind = "good" if mean.value <= CLOSE else "bad" if mean.value >= 1 else ""
                more = f"<br><small>{signed(mean.value)}"
                more += f" [{signed(mean.low)}, {signed(mean.high)}]" if excess[i].certain else ""
                more += "</small>"
            cells += f'<td class="{kind}">{span.mean.value:.2f}{more}</td>'
        lines.append(f"<tr><td>{_swatch(results, method)}{escape(method)}</td>{cells}</tr>")
    return (
        f'<div class="scroll"><table><tr><th>nats per token at positions</th>{head}</tr>'
        f"{''.join(lines)}</table></div>"
    )


def _passkey(results: Results) -> str:
    methods, lengths = results.methods("passkey"), results.lengths("passkey")
    if not methods:
        return ""
    rows = min(5, results.plan["passkey_count"])
    maps = [
        f"<div><h3>{_swatch(results, m)}{escape(m)}</h3>"
        f"<figure>{passkey_map(results, m, lengths, rows)}</figure></div>"
        for m in methods
    ]
    return section(
        "Passkey by length and depth",
        "A number of five digits stands somewhere in the text and is asked for at its end. Across: "
        "tokens of the whole prompt. Down: where the number stands, from the start of the text to "
        f"its end. {results.plan['passkey_count']} items a length, the same for every method; the "
        "lowest row counts all of them, with its 95% Wilson interval.",
        f'<div class="maps">{"".join(maps)}</div>',
    )


def _swatch(results: Results, method: str) -> str:
    return f'<span class="swatch {colour(results, method)}"></span>'


def _cost(results: Results) -> str:
    lengths = results.lengths("speed")
    if not lengths:
        return ""
    columns = (
        ("first_token_seconds", "first token, s", lambda v: f"{v:.2f}"),
        ("tokens_per_second", "tokens a second", lambda v: f"{v:,.0f}" if v >= 10 else f"{v:.1f}"),
        ("cache_bytes", "held by the cache", size),
        ("peak_bytes", "peak memory", size),
    )
    head = "".join(f"<th>{title}</th>" for _, title, _ in columns)
    lines = []
    for length in lengths:
        cells = {m: results.values(m, "speed", length) for m in results.methods("speed")}
        found = {m: values for m, values in cells.items() if values is not None}
        lines.append(f'<tr class="group"><td colspan="5">{length:,} tokens read</td></tr>')
        for method, values in found.items():
            row = f"<td>{_swatch(results, method)}{escape(method)}</td>"
            for key, _, words in columns:
                most = max((v[key] or 0 for v in found.values()), default=0)
                share = 100 * (values[key] or 0) / most if most else 0
                row += (
                    f'<td>{words(values[key])}<span class="track"><span class="bar '
                    f'{colour(results, method)}" style="width:{share:.1f}%"></span></span></td>'
                )
            lines.append(f"<tr>{row}</tr>")
    return section(
        "Cost",
        "Batch 1. First token: reading the text in chunks of "
        f"{results.plan['chunk']:,} until the first new token is chosen. Tokens a second: median "
        f"of {results.plan['decode_steps']} decoding steps after that. Peak memory: most bytes of "
        "tensors alive at once, without the weights.",
        f'<div class="scroll"><table><tr><th>method</th>{head}</tr>{"".join(lines)}</table></div>',
    )


def _refused(results: Results) -> str:
    rows = [row for row in results.rows if row.refused]
    if not rows:
        return ""
    lines = "".join(
        f"<tr><td>{escape(r.method)}</td><td>{escape(r.task)}</td><td>{r.length:,}</td>"
        f'<td class="words refused">{escape(r.refused)}</td></tr>'
        for r in rows
    )
    return section(
        "Refused",
        "These were asked for and could not be measured.",
        '<div class="scroll"><table><tr><th>method</th><th>task</th><th>tokens</th>'
        f'<th class="words">reason</th></tr>{lines}</table></div>',
    )


def _everything(results: Results) -> str:
    lines = "".join(
        f"<tr><td>{escape(r.method)}</td><td>{escape(r.task)}</td><td>{r.length:,}</td>"
        f'<td class="words">{escape(_words(results, r))}</td><td>{r.seconds:,.1f}</td></tr>'
        for r in sorted(results.rows, key=lambda r: (r.task, r.length))
    )
    return section(
        "Every measurement",
        "One line for each; the file of results beside this report has all digits, every reply of "
        "the model and every block of losses.",
        '<div class="scroll"><table><tr><th>method</th><th>task</th><th>tokens</th>'
        f'<th class="words">result</th><th>took, s</th></tr>{lines}</table></div>',
    )


def _words(results: Results, row: Row) -> str:
    values: Mapping[str, Any] = row.values
    if row.refused:
        return f"refused: {row.refused}"
    if row.task == "loss":
        spans = loss_spans(results, row.method, row.length, octaves=True)
        return "nats: " + ", ".join(f"{s.mean.value:.2f} to {s.end:,}" for s in spans)
    if row.task == "passkey":
        count = len(values["scores"])
        return (
            f"{sum(values['scores']):.0f} of {count} [{values['low']:.0%} to {values['high']:.0%}]"
        )
    if row.task != "speed":
        return "of another kind, see the file"
    return (
        f"first token {values['first_token_seconds']:.3g} s, "
        f"{values['tokens_per_second']:.3g} tokens a second, "
        f"cache {size(values['cache_bytes'])}, peak {size(values['peak_bytes'])}"
    )


def _again(results: Results, command: str) -> str:
    plan = results.plan
    specs = {row.method: row.spec for row in results.rows if row.method != REFERENCE}
    machines = list(dict.fromkeys(_machine(row) for row in results.rows))
    software = list(
        dict.fromkeys(
            ", ".join(f"{k} {v}" for k, v in row.versions.items()) for row in results.rows
        )
    )
    entries = [
        ("model", f"{plan['model']}, fingerprint {plan['fingerprint']}, {plan['dtype']}"),
        ("text", f"SHA-256 {plan['text']}…"),
        ("seed", str(plan["seed"])),
        *((name, spec or "the plain model") for name, spec in specs.items()),
        *(("machine", machine) for machine in machines),
        *(("versions", words) for words in software),
        ("took", f"{sum(row.seconds for row in results.rows):,.0f} s in all"),
    ]
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in entries)
    return section(
        "Measure it again",
        "The same command, model and seed give the same losses and items.",
        f"<pre>{escape(command)}</pre><dl>{listed}</dl>",
    )


def _machine(row: Row) -> str:
    names = ("name", "device", "threads", "cores", "system")
    h = {name: row.hardware.get(name, "unknown") for name in names}
    return f"{h['name']} ({h['device']}), {h['threads']} of {h['cores']} cores, {h['system']}"
