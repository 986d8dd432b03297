"""Write the generated parts of README.md and docs/: numbers, tables, pictures, method pages.

    python docs/generate.py            write
    python docs/generate.py --check    exit 1 if anything is out of date

Everything here comes from evidence/, benchmarks/results/ and the methods' own docstrings.
"""

import dataclasses
import inspect
import json
import re
import sys
from collections import Counter
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from memory_figure import memory_figure
from tuning_page import tuning_pages

from lengthwise import catalogue, rooms
from lengthwise.hf.families import FAMILIES
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import SHOWN, VERDICTS, Evidence
from lengthwise.lab.status import BUNDLED, REAL, Row, rows
from lengthwise.measure import REFERENCE, Results
from lengthwise.measure.report import svg
from lengthwise.measure.report.charts import loss_chart
from lengthwise.measure.report.findings import findings
from lengthwise.measure.report.readings import loss_spans
from lengthwise.measure.report.words import signed

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "evidence" / "demo" / "results.jsonl"
EVIDENCE = ROOT / "evidence"
LAB_LOG = ROOT / "evidence" / "lab_model" / "log.jsonl"
ROOMS = {"scaling": "Scaling", "layout": "Layout", "selector": "Selector", "store": "Store"}
CHOSEN = (
    "YaRN", "DynamicYaRN", "SelfExtend", "ReRoPE", "InfLLM", "StreamingLLM", "LMInfinite"
)  # fmt: skip
QUESTIONS = {
    "scaling": "How does an apparent position become an angle?",
    "layout": "Which keys does a query see, and how far away do they seem?",
    "selector": "Which pages of keys does a query read?",
    "store": "Which keys are kept, in what form and where?",
}


def demo_words() -> str:
    return "\n".join(f"- {sentence}" for sentence in findings(Results.load(DEMO)))


def demo_loss_table() -> str:
    results = Results.load(DEMO)
    length = results.read_lengths("loss")[-1]
    methods = [m for m in results.read_methods("loss") if m != REFERENCE] + [REFERENCE]
    spans = {m: loss_spans(results, m, length, octaves=True) for m in methods}
    first = spans[methods[0]]
    head = ["loss, nats per token", *(f"{s.start:,} – {s.end:,}" for s in first)]
    lines = [" | ".join(head), " | ".join(["---", *("---:" for _ in first)])]
    for method in methods:
        lines.append(" | ".join([method, *(f"{s.mean.value:.2f}" for s in spans[method])]))
    return "\n".join(f"| {line} |" for line in lines)


def demo_passkey_table() -> str:
    results = Results.load(DEMO)
    lengths, window = results.lengths, results.plan["reader"]["window"]
    head = ["passkeys found", *(f"{n:,} tokens ({n // window}×)" for n in lengths)]
    lines = [" | ".join(head), " | ".join(["---", *("---:" for _ in lengths)])]
    for method in results.methods:
        found = [results.scores(method, "passkey", length) for length in lengths]
        cells = [f"{sum(scores):.0f} of {len(scores)}" if scores else "refused" for scores in found]
        lines.append(" | ".join([method, *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def benchmark_table(name: str) -> str:
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text("utf-8"))
    lines = ["| who | tokens | median | spread |", "| --- | ---: | ---: | ---: |"]
    for row in record["rows"]:
        s = row["seconds"]
        unit, by = ("ms", 1e3) if s["median"] < 1 else ("s", 1)
        tokens = row.get("cached", row.get("tokens"))
        lines.append(
            f"| {row['who']} | {tokens:,} | {s['median'] * by:.1f} {unit} | "
            f"{s['low'] * by:.1f} – {s['high'] * by:.1f} |"
        )
    hardware, versions = record["hardware"], record["versions"]
    lines += [
        "",
        f"`{record['command']}`, {hardware['processor']}, {hardware['threads']} threads, torch "
        f"{versions['torch']}, transformers {versions['transformers']}, commit {record['commit']}, "
        f"{record['date']}.",
    ]
    return "\n".join(lines)


def rows_table(name: str, columns: dict[str, str]) -> str:
    """A benchmark's rows that have all of the columns: from a heading to a key, `a.b` inside."""
    file = ROOT / "benchmarks" / "results" / f"{name}.json"
    if not file.exists():
        return f"Not measured yet: `python benchmarks/{name}.py`."
    record = json.loads(file.read_text("utf-8"))
    lines = [
        " | ".join(columns),
        " | ".join("---" if k in ("who", "way", "task") else "---:" for k in columns),
    ]
    for row in record["rows"]:
        cells = [_value(row, key) for key in columns.values()]
        if all(cell is not None for cell in cells):
            lines.append(" | ".join(_written(cell) for cell in cells))
    return "\n".join([*(f"| {line} |" for line in lines), "", _source(record)])


def _source(record: dict) -> str:
    hardware = record["hardware"]
    threads = f"{hardware['threads']} thread{'s' * (hardware['threads'] > 1)}"
    return (
        f"`{record['command']}`, {hardware['processor']}, {threads}, commit {record['commit']}, "
        f"{record['date']}."
    )


def _value(row: dict, key: str) -> object:
    value: object = row
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _written(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def lab_curve() -> str:
    rows = [json.loads(line) for line in LAB_LOG.read_text("utf-8").strip().split("\n")]
    lines = [
        "| tokens read | text, nats per token | answers, nats per token |",
        "| ---: | ---: | ---: |",
    ]
    # Steps draw different texts and lengths: show means over a tenth of the run.
    size = -(-len(rows) // 10)
    for part in (rows[i : i + size] for i in range(0, len(rows), size)):
        text = sum(row["text_loss"] for row in part) / len(part)
        answer = sum(row["answer_loss"] for row in part) / len(part)
        lines.append(f"| to {part[-1]['tokens']:,} | {text:.2f} | {answer:.3f} |")
    return "\n".join(lines)


@cache
def all_rows() -> list[Row]:
    """Every claim with its evidence, in the order of the claims."""
    return rows(EVIDENCE)


def room(name: str) -> list[Evidence]:
    """The evidence of a room on the bundled model or on small ones, by name."""
    found = {key: one for row in all_rows() for key, one in row.evidence.items()}
    return [found[key] for key in claims() if key in found and key.startswith(f"{name}/")
            and not found[key].real]  # fmt: skip


def extension_records() -> list[Evidence]:
    """The evidence on extension with a loss at every length."""
    return [one for one in room("extend") if "loss_above_reference" in one.numbers]


def _spans(record: Evidence) -> dict[int, float]:
    """From a number of windows to the loss above the reference in the doubling that ends there."""
    window = record.model["window"]
    by_end = record.numbers["loss_above_reference"]
    return {int(span.split("-")[1]) // window: value for span, value in by_end.items()}


def _found(record: Evidence) -> dict[str, float | None]:
    """From a number of windows to the share of passkeys found, None where that was refused."""
    found = record.numbers["passkeys_found"]
    return {n: None if one is None else one["share"] for n, one in found.items()}


def extension_table() -> str:
    records = extension_records()
    ends, keys = (2, 4, 8, 16), ("1", "2", "4", "8", "16")
    head = ["method", "inside", *(f"loss {n}×" for n in ends), *(f"key {n}×" for n in keys)]
    lines = [" | ".join(head), " | ".join(["---", *("---:" for _ in head[1:])])]
    for record in records:
        spans, tax = _spans(record), record.numbers["loss_inside_window_above_plain"]
        cells = [signed(tax) if tax is not None else "–"]
        cells += [signed(spans[n]) if n in spans else "–" for n in ends]
        cells += ["–" if (one := _found(record)[n]) is None else f"{one:.0%}" for n in keys]
        # Long factors stand in the evidence.
        spec = re.sub(r"factors=[\d./]{20,}", "factors=…", record.details["spec"])
        lines.append(" | ".join([f"`{spec}`", *cells]))
    return "\n".join(f"| {line} |" for line in lines)


def choose_table() -> str:
    """The methods that docs/choose.md names, in its order: four windows past, and one inside."""
    by_name = {record.system: record for record in extension_records()}
    lines = ["| method | inside | loss 4× | passkeys 4× | loss 16× | passkeys 16× |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in CHOSEN:
        one = by_name[name]
        spans, found = _spans(one), _found(one)
        cells = [signed(one.numbers["loss_inside_window_above_plain"])]
        cells += [x for n in (4, 16) for x in (signed(spans[n]), f"{found[str(n)]:.0%}")]
        lines.append(f"| `{one.details['spec']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


ROOM_INTRODUCTIONS = {
    "extend": "Methods that extend the window of a model, untuned unless a row says otherwise: see "
    "[the numbers at every length](extension.md).",
    "tuning": "The bundled model tuned by every recipe at equal tokens: see "
    "[the losses side by side](tuning.md).",
    "train_data": "Lengths in training: packing, curricula and mixtures, see "
    "[training data](data.md).",
    "patterns": "Sparse attention that trains, see [training](training.md).",
    "objectives": "What training minimises, see [training](training.md).",
    "memory": "Exact gradients in less memory, see [memory](memory.md).",
    "measure": "What probes, plans and judges say of a model: see [probes](probes.md).",
    "tasks": "What models are asked, generated or published: see [measuring](measure.md).",
    "prompts": "Ways to put a prompt that is longer than the window: see [measuring](measure.md).",
    "attention": "How attention is computed: see [the architecture](architecture.md).",
}
EVIDENCE_INTRODUCTION = """\
# Evidence: what the papers claim, and what came out here

One row a claim, from the files in `evidence/`; written by `docs/generate.py`, printed by
`lengthwise lab status`. The command of a row makes its file anew. Intervals are of 95%: of shares
Wilson's, of losses over texts or over blocks of 64 tokens.

The state of a row follows from its files by one rule, and nobody writes it by hand:

- `shown`: all that the claim says came out, and the file has what is needed to believe it: a
  control that does worse in the same run, an interval that excludes chance behind every number, 20
  items where something is found or failed, two texts, three seeds where something is trained, the
  model, and the command.
- `partly`: at least half came out, or something of that is lacking.
- `not reproduced`: less than half came out.
- `not tested`: what was run is not what the paper claims, or the control did not fail, so that
  nothing could be seen; or nothing was run yet.

There are two columns of verdicts: on the bundled model, of 4 million parameters with a window of
512 tokens, or a smaller one made for the purpose; and on real ones (SmolLM2-135M, Gemma 3 270M,
all-MiniLM-L6-v2: `python experiments/real_models.py` gets them). The state is the better of the
two, since a model that cannot show an effect says nothing about it. {shown} of {count} rows are
shown.

{table}
"""


def evidence_page() -> str:
    """All claims, room by room, after a count of the states."""
    found = all_rows()
    states = Counter(row.state for row in found)
    counts = ["| state | claims |", "| --- | ---: |"]
    counts += [f"| {state} | {states[state]} |" for state in VERDICTS]
    table = "\n".join(counts)
    page = [EVIDENCE_INTRODUCTION.format(shown=states[SHOWN], count=len(found), table=table)]
    for name in dict.fromkeys(row.claim.room for row in found):
        page += [f"## {name}", "", ROOM_INTRODUCTIONS[name], ""]
        page.append("| claim | state | bundled | real | numbers | why not | command |")
        page.append("| --- " * 7 + "|")
        page += [_evidence_row(row) for row in found if row.claim.room == name]
        page.append("")
    return "\n".join(page)


def _evidence_row(row: Row) -> str:
    claim, numbers = row.claim, ""
    if row.best is not None:
        numbers = "; ".join(str(finding) for finding in row.best.findings if finding.holds)
    cells = [
        f"**{claim.system}** ({linked(claim.source)}): {claim.claim}", f"**{row.state}**",
        row.on(BUNDLED), row.on(REAL), numbers, row.reason, row.command and f"`{row.command}`",
    ]  # fmt: skip
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def extension_figure() -> str:
    """Two maps side by side: loss above the reference, and passkeys found."""
    records = extension_records()
    ends = (1, 2, 4, 8, 16)
    cell, row, left, top = 58, 24, 150, 62
    gap = left + len(ends) * cell + 30

    def square(x: float, y: float, share: float, words: str) -> str:
        return svg.rectangle(
            x, y, cell - 2, row - 2, "heat", f'fill-opacity="{0.07 + 0.93 * share:.2f}"'
        ) + svg.text(x + cell / 2, y + 15, words, "share strong" * (share > 0.55), "middle")

    parts = [svg.text(left, 22, "loss above the reference (dark is low)")]
    parts.append(svg.text(gap, 22, "passkeys found (dark is many)"))
    for at in (left, gap):
        parts += [
            svg.text(at + (column + 0.5) * cell, 48, f"{n}×", "axis", "middle")
            for column, n in enumerate(ends)
        ]
    for line, record in enumerate(records):
        y = top + line * row
        parts.append(svg.text(left - 10, y + 15, record.system, "", "end"))
        spans, found = _spans(record), _found(record)
        for column, n in enumerate(ends):
            if n in spans:
                share = max(0.0, 1 - max(0.0, spans[n]) / 1.5)
                parts.append(square(left + column * cell, y, share, signed(spans[n])))
            if found[str(n)] is not None:
                words = f"{found[str(n)]:.0%}"
                parts.append(square(gap + column * cell, y, found[str(n)], words))
    width, height = gap + len(ends) * cell + 16, top + row * len(records) + 16
    return svg.alone(svg.picture(width, height, "Losses and passkeys of every method", parts))


def memory_record() -> dict:
    return json.loads((ROOT / "benchmarks/results/train_memory.json").read_text("utf-8"))


def memory_table() -> str:
    """Peaks by way and length, what was predicted of them, the processor's seconds, the source."""
    found = {(row["way"], row["tokens"]): row for row in memory_record()["rows"]}
    lengths = sorted({tokens for _, tokens in found})
    tables = []
    for title, cell in MEMORY_CELLS.items():
        head = [title, *(f"{tokens:,}" for tokens in lengths)]
        lines = [" | ".join(head), " | ".join(["---", *("---:" for _ in lengths)])]
        for way in dict.fromkeys(way for way, _ in found):
            rows = [found.get((way, tokens), {}) for tokens in lengths]
            lines.append(" | ".join([way, *(cell(row) or "–" for row in rows)]))
        tables.append("\n".join(f"| {line} |" for line in lines))
    return "\n\n".join([*tables, _source(memory_record())])


def _peak_cell(row: dict) -> str:
    if "least_bytes" in row:
        return f"over {row['free_bytes'] / 1e6:,.0f}"
    return f"{row['peak_bytes'] / 1e6:,.0f}" if "peak_bytes" in row else ""


MEMORY_CELLS = {
    "peak, MB": _peak_cell,
    "predicted, MB": lambda r: f"{r['predicted_bytes'] / 1e6:,.0f}" if "way" in r else "",
    "seconds of one core": lambda r: f"{r['processor_seconds']:,.0f}" if "peak_bytes" in r else "",
}


def train_plan_table() -> str:
    """What was predicted of a step beside what was measured, in MB."""
    record = json.loads((ROOT / "benchmarks/results/train_plan.json").read_text("utf-8"))
    sizes = {
        "predicted": "predicted", "handed out by torch": "tensors",
        "process, blocks returned": "returned", "process": "resident",
    }  # fmt: skip
    head = ["shape", "levers", "numbers", "trained", "tokens", *(f"{name}, MB" for name in sizes)]
    lines = [" | ".join(head), " | ".join([*["---"] * 4, *["---:"] * (1 + len(sizes))])]
    for row in record["rows"]:
        trained = f"LoRA {row['lora']}" if row["lora"] else "all"
        numbers = [f"{row[key] / 1e6:,.1f}" for key in sizes.values()]
        cells = [row["shape"], row["lever"], row["dtype"], trained, f"{row['tokens']:,}", *numbers]
        lines.append(" | ".join(cells))
    return "\n".join([*(f"| {line} |" for line in lines), "", _source(record)])


def method_table() -> str:
    lines = ["| axis | the question it answers | methods |", "| --- | --- | --- |"]
    for axis, title in ROOMS.items():
        names = [
            f"`{cls.__name__}`"
            for cls in catalogue.methods().values()
            if cls.axis == axis and cls.__name__ not in catalogue.INTERNAL
        ]
        lines.append(f"| {title} | {QUESTIONS[axis]} | {', '.join(names)} |")
    return "\n".join(lines)


def family_table() -> str:
    windows = {"none": "none", "everywhere": "every layer", "by type": "by `layer_types`"}
    lines = [
        "| `model_type` | models | windows of its own | rotated layers | turned together |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, one in sorted(FAMILIES.items()):
        pairs = {"half": "halves of a head", "interleaved": "neighbours"}[one.pairing]
        own = windows[one.windows] if name != "llama4_text" else "chunks, in rotated layers"
        rotated = one.rotates.__doc__ or ""
        lines.append(f"| `{name}` | {one.models} | {own} | {rotated} | {pairs} |")
    return "\n".join(lines)


def method_pages() -> str:
    pages = ["# Methods", "", "Generated from the docstrings by `docs/generate.py`.", ""]
    for axis, title in ROOMS.items():
        pages += [f"## {title}", "", QUESTIONS[axis], ""]
        for cls in catalogue.methods().values():
            if cls.axis == axis and cls.__name__ not in catalogue.INTERNAL:
                pages += described(cls.__name__, cls)
    return "\n".join(pages).rstrip() + "\n"


def room_pages() -> str:
    """What is exported besides methods, room by room."""
    pages = ["# Everything else that has a name", ""]
    pages += [
        "Generated from the docstrings by `docs/generate.py`; `lengthwise list` shows it in short.",
        "",
    ]
    for room, module in rooms.ROOMS.items():
        pages += [
            f"## {room.capitalize()}",
            "",
            rooms.about(room),
            "",
            f"`from {module} import …`",
            "",
        ]
        for item in rooms.items(room):
            if room == "recipes":
                pages += [f"### `{item.name}`", "", f"{item.summary} {linked(item.source)}.", ""]
            else:
                pages += described(item.name, getattr(import_module(module), item.name))
    return "\n".join(pages).rstrip() + "\n"


AXES_INTRODUCTION = """\
# What each benchmark asks for

Generated from `lengthwise.measure.tasks.axes` by `docs/generate.py`.

A long prompt can be hard because what is needed is hard to find (*diffusion*) or because much of it
is needed (*scope*); length alone says neither. Every benchmark that `lengthwise measure` has is
tagged by both, after Goldman et al. (arXiv:2407.00402). The levels are our judgement.

`DiffusionScope` varies one of them at a time, at a fixed length:

<!-- not run: minutes -->
```sh
lengthwise measure MODEL --lengths 2048 -o scope --suite diffusion_scattered:scope=1/4/16
lengthwise measure MODEL --lengths 2048 -o hidden --suite diffusion_together,diffusion_linked
```

`scope` is how many gifts the sum needs; `together`, `scattered`, `worded` and `linked` hide the
same gifts ever better.
"""


def axes_page() -> str:
    """Every benchmark by diffusion and scope."""
    from lengthwise.measure.tasks.axes import AXES

    rows = ["| | few facts (scope low) | much of the text (scope high) |", "| --- | --- | --- |"]
    for diffusion, words in (("low", "easy to find"), ("high", "hard to find")):
        cells = [
            ", ".join(f"`{n}`" for n, one in AXES.items() if one[:2] == (diffusion, scope))
            for scope in ("low", "high")
        ]
        rows.append(f"| **{words}** (diffusion {diffusion}) | {' | '.join(cells)} |")
    rows += ["", "| benchmark | diffusion | scope | what is needed | source |"]
    rows.append("| --- " * 5 + "|")
    for room in ("tasks", "published"):
        for item in rooms.items(room):
            if item.name in AXES:
                paper = re.match(r".*?\(arXiv:[\d.]+\)", item.source)
                source = linked(paper[0] if paper else item.source)
                cells = [f"`{item.name}`", *AXES[item.name], source]
                rows.append(f"| {' | '.join(cells)} |")
    return linked(AXES_INTRODUCTION) + "\n" + "\n".join(rows) + "\n"


def described(name: str, thing: Any) -> list[str]:
    """A class or function from its docstring, with links to its paper and its source."""
    if dataclasses.is_dataclass(thing):
        fields = [f for f in dataclasses.fields(thing) if f.init and not f.name.startswith("_")]
        written = ", ".join(
            f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default!r}"
            for f in fields
        )
    else:
        empty = inspect.Parameter.empty
        parameters = inspect.signature(thing).parameters.values()
        written = ", ".join(
            str(p.replace(annotation=empty)) for p in parameters if p.name != "self"
        )
    doc = inspect.getdoc(thing) or ""
    doc = re.sub(r"\n(Source|Differs from the source|Reduces to|\w+):( |\n)", r"\n\n**\1:**\2", doc)
    doc = re.sub(r"\n {4}([\w, ]+): ", r"\n- `\1`: ", doc)
    doc = re.sub(r"\n{3,}", "\n\n", doc)
    file = Path(inspect.getsourcefile(inspect.unwrap(thing)) or "").relative_to(ROOT)
    source = f"[{file.relative_to('src')}](../{file})"
    return [f"### `{name}({written})`", "", linked(doc), "", source, ""]


def linked(text: str) -> str:
    """The text, with every arXiv number a link."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def loss_figure() -> str:
    results = Results.load(DEMO)
    return svg.alone(loss_chart(results, results.read_lengths("loss")[-1]))


BESIDE_PLAIN = {
    "task": "task", "who": "who", "ms": "milliseconds", "of plain": "ratio", "cache": "bytes",
}  # fmt: skip
PARTS = {
    "demo": demo_words,
    "demo-loss": demo_loss_table,
    "demo-passkey": demo_passkey_table,
    "lab-curve": lab_curve,
    "methods": method_table,
    "generate": lambda: rows_table("generate", BESIDE_PLAIN),
    "generate_smollm2": lambda: rows_table("generate_smollm2", BESIDE_PLAIN),
    "packers": lambda: rows_table(
        "packers",
        {
            "who": "who",
            "documents": "documents",
            "bins": "bins",
            "utilisation": "utilisation",
            "seconds": "seconds.median",
        },
    ),
    "pack": lambda: rows_table(
        "pack",
        {
            "who": "who",
            "documents": "documents",
            "rows": "rows",
            "seconds": "seconds.median",
            "times faster": "times_faster",
        },
    ),
    "packed-training": lambda: rows_table(
        "packed_training",
        {
            "who": "who",
            "tokens a second": "tokens a second.median",
            "utilisation": "utilisation",
            "times padded": "times padded",
        },
    ),
    "train-memory": memory_table,
    "train-plan": train_plan_table,
    "plan": lambda: rows_table(
        "plan",
        {
            "model": "model",
            "method": "method",
            "tokens": "tokens",
            "read, s": "read_seconds",
            "predicted / measured": "read_ratio",
            "second / first": "read_again",
            "a token, s": "step_seconds",
            "predicted / measured ": "step_ratio",
            "second / first ": "step_again",
        },
    ),
    "auto": lambda: rows_table(
        "auto",
        {
            "who": "who",
            "loss on text": "text_loss",
            "loss on answers": "needle_loss",
            "mean of both": "score",
        },
    ),
    "auto-race": lambda: rows_table(
        "auto",
        {
            "who": "who",
            "tokens": "tokens",
            "budget, s": "budget",
            "seconds": "seconds",
            "methods in the table": "methods",
            "behind the best, nats": "behind_best",
        },
    ),
    "edit": lambda: rows_table("edit", {"who": "who", "seconds": "seconds.median"}),
    "edit-quality": lambda: rows_table(
        "edit",
        {
            "task": "task",
            "who": "who",
            "next tokens right, %": "accuracy_percent",
            "loss, nats": "loss_nats",
            "KL from reading again": "kl_nats",
            "exact match lost in the paper, points": "paper_exact_match_lost_points",
        },
    ),
    "layouts": lambda: rows_table(
        "layouts",
        {
            "who": "who",
            "regions": "regions",
            "prefill, s": "prefill.median",
            "times FlexAttention": "prefill_over_flex",
            "one token, s": "decode.median",
        },
    ),
    "choose": choose_table,
    "extension": extension_table,
    "families": family_table,
    "decode": lambda: benchmark_table("decode"),
    "prefill": lambda: benchmark_table("prefill"),
    "pages": lambda: benchmark_table("pages"),
    "quantised": lambda: rows_table(
        "quantised",
        {
            "who": "who",
            "seconds": "seconds.median",
            "times FullStore's": "times_full",
            "bytes": "bytes",
            "of FullStore's": "bytes_of_full",
        },
    ),
}


def filled(text: str) -> str:
    """The text with every `<!-- generated: NAME -->` … `<!-- end -->` part written anew."""

    def part(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n{PARTS[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: ([\w-]+) -->\n.*?<!-- end -->", part, text, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    written = {
        ROOT / "docs" / "methods.md": method_pages(),
        ROOT / "docs" / "rooms.md": room_pages(),
        ROOT / "docs" / "axes.md": axes_page(),
        ROOT / "docs" / "evidence.md": evidence_page(),
        **tuning_pages(ROOT / "docs", room("tuning")),
    }
    if DEMO.exists():
        written[ROOT / "docs" / "figures" / "loss.svg"] = loss_figure()
    if extension_records():
        written[ROOT / "docs" / "figures" / "extension.svg"] = extension_figure()
    written[ROOT / "docs" / "figures" / "memory.svg"] = memory_figure(memory_record()["rows"])
    hand = [
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        ROOT / "src/lengthwise/assets/lab/MODEL_CARD.md",
    ]
    for path in hand:
        if path.exists() and path not in written:
            written[path] = filled(path.read_text("utf-8"))
    return written


def main() -> None:
    stale = []
    for path, text in pages().items():
        if not path.exists() or path.read_text("utf-8") != text:
            stale.append(str(path.relative_to(ROOT)))
            if "--check" not in sys.argv:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, "utf-8")
    if stale:
        print(("out of date: " if "--check" in sys.argv else "written: ") + ", ".join(stale))
    if stale and "--check" in sys.argv:
        sys.exit("run: python docs/generate.py")


if __name__ == "__main__":
    main()
