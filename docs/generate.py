"""Write the generated parts of README.md and docs/: numbers, tables, pictures, method pages.

    python docs/generate.py            write
    python docs/generate.py --check    exit 1 if anything is out of date

Everything here comes from evidence/, benchmarks/results/ and the methods' own docstrings.
"""

import dataclasses
import json
import re
import sys
from pathlib import Path

from lengthwise import catalogue
from lengthwise.measure import Results
from lengthwise.measure.report.charts import loss_chart
from lengthwise.measure.report.findings import findings
from lengthwise.measure.report.numbers import loss_spans
from lengthwise.measure.report.style import STYLE
from lengthwise.measure.results import REFERENCE

ROOT = Path(__file__).parent.parent
DEMO = ROOT / "evidence" / "demo" / "results.jsonl"
LAB_LOG = ROOT / "evidence" / "lab_model" / "log.jsonl"
ROOMS = {"scaling": "Scaling", "layout": "Layout", "selector": "Selector", "store": "Store"}
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
    length = results.lengths("loss")[-1]
    methods = [m for m in results.methods("loss") if m != REFERENCE] + [REFERENCE]
    spans = {m: loss_spans(results, m, length, octaves=True) for m in methods}
    first = spans[methods[0]]
    head = ["loss, nats per token", *(f"{s.start:,} – {s.end:,}" for s in first)]
    lines = [" | ".join(head), " | ".join(["---", *("---:" for _ in first)])]
    for method in methods:
        lines.append(" | ".join([method, *(f"{s.mean.value:.2f}" for s in spans[method])]))
    return "\n".join(f"| {line} |" for line in lines)


def demo_passkey_table() -> str:
    results = Results.load(DEMO)
    lengths = results.lengths("passkey")
    window = results.plan["window"]
    head = ["passkeys found", *(f"{n:,} tokens ({n // window}×)" for n in lengths)]
    lines = [" | ".join(head), " | ".join(["---", *("---:" for _ in lengths)])]
    for method in results.methods("passkey"):
        cells = []
        for length in lengths:
            values = results.values(method, "passkey", length)
            cells.append(
                "refused"
                if values is None
                else f"{sum(values['scores']):.0f} of {len(values['scores'])}"
            )
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


def lab_curve() -> str:
    rows = [json.loads(line) for line in LAB_LOG.read_text("utf-8").splitlines()]
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


def method_table() -> str:
    lines = ["| axis | the question it answers | methods |", "| --- | --- | --- |"]
    for axis, title in ROOMS.items():
        names = [f"`{cls.__name__}`" for cls in catalogue.methods().values() if cls.axis == axis]
        lines.append(f"| {title} | {QUESTIONS[axis]} | {', '.join(names)} |")
    return "\n".join(lines)


def method_pages() -> str:
    pages = ["# Methods", "", "Generated from the docstrings by `docs/generate.py`.", ""]
    for axis, title in ROOMS.items():
        pages += [f"## {title}", "", QUESTIONS[axis], ""]
        for cls in catalogue.methods().values():
            if cls.axis != axis:
                continue
            fields = ", ".join(
                f.name if f.default is dataclasses.MISSING else f"{f.name}={f.default!r}"
                for f in dataclasses.fields(cls)  # type: ignore[arg-type]
            )
            doc = re.sub(r"\n {4}", "\n", cls.__doc__ or "").strip()
            doc = re.sub(
                r"\n(Source|Differs from the source|Reduces to|Args|Raises):", r"\n**\1:**", doc
            )
            doc = re.sub(r"\n {4}(\w+): ", r"\n- `\1`: ", doc)
            pages += [f"### `{cls.__name__}({fields})`", "", doc, ""]
    return "\n".join(pages).rstrip() + "\n"


def loss_figure() -> str:
    results = Results.load(DEMO)
    drawing = loss_chart(results, results.lengths("loss")[-1])
    # The report's rules for light pages, on a card that is legible on any page.
    light = STYLE.split("@media (prefers-color-scheme: dark)")[0].replace("light dark", "light")
    rules = [line for line in STYLE.splitlines() if line.startswith("svg")]
    style = light + "\n".join(rules)
    opening = drawing.index(">") + 1
    head = drawing[:opening].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    card = '<rect width="100%" height="100%" fill="#ffffff" rx="10"/>'
    return f"{head}<style>{style}</style>{card}{drawing[opening:]}\n"


PARTS = {
    "demo": demo_words,
    "demo-loss": demo_loss_table,
    "demo-passkey": demo_passkey_table,
    "lab-curve": lab_curve,
    "methods": method_table,
    "decode": lambda: benchmark_table("decode"),
    "prefill": lambda: benchmark_table("prefill"),
}


def filled(text: str) -> str:
    """The text with every `<!-- generated: NAME -->` … `<!-- end -->` part written anew."""

    def part(match: re.Match[str]) -> str:
        return f"<!-- generated: {match[1]} -->\n{PARTS[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- generated: ([\w-]+) -->\n.*?<!-- end -->", part, text, flags=re.DOTALL)


def pages() -> dict[Path, str]:
    """Every generated file and what it should hold."""
    written = {ROOT / "docs" / "methods.md": method_pages()}
    if DEMO.exists():
        written[ROOT / "docs" / "figures" / "loss.svg"] = loss_figure()
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
