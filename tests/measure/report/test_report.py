import io
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from rich.console import Console

from lengthwise.measure.report import findings, headline, print_report, write_report
from lengthwise.measure.report.charts import cost_chart, score_chart
from lengthwise.measure.report.maps import depth_map, reach_chart, task_map
from lengthwise.measure.report.report import html
from lengthwise.measure.report.table import Table
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE, ItemRow, ReadingRow
from lengthwise.measure.statistics.effective import score_interval, sequential_interval

NASTY = "</pre><script>alert('1')</script>\x00\x1b[31m \u202eright to left 你好 🙂 &amp; \ud800"
WINDOW, LENGTH, BLOCK = 512, 8192, 64


def row(method, task, length, index, score, **more):
    known = dict(
        chance=0.1, depths=(0.5,), prompt="…where is it?", answer="here", reply="there", tokens=11,
        first_token=0.5, seconds=1.5, held=1000 * length, peak=2000 * length,
        refused="" if score is not None else "the server takes 4,096 tokens", session=0,
    )  # fmt: skip
    return ItemRow(method, task, length, index, score, **(known | more))


def loss(method, beyond):
    """The same tokens for every method, read worse by so many nats beyond the window."""
    rng = random.Random(0)
    noise = [2.4 + rng.gauss(0, 0.3) for _ in range(LENGTH // BLOCK)]
    curve = [round(n + (i * BLOCK >= WINDOW) * beyond, 5) for i, n in enumerate(noise)]
    values = {"block": BLOCK, "losses": curve}
    return ReadingRow(method, "loss", LENGTH, 0, values, "", 1.5, 0)


def speed(method, held, peak=10_000_000):
    values = {
        "first_token_seconds": 1.25, "tokens_per_second": 80.4, "cache_bytes": held,
        "peak_bytes": peak,
    }  # fmt: skip
    return ReadingRow(method, "speed", LENGTH, 0, values, "", 1.5, 0)


def make(rows, readings=(), adaptive=False, items=20, **plan):
    rows, readings = list(rows), list(readings)
    tasks = {r.task: f"{r.task}(needles=1)" for r in rows}
    names = dict.fromkeys(r.method for r in (*readings, *rows) if r.method != REFERENCE)
    specs = {name: f"{name}(window=64)" for name in names} | {"plain": ""}
    counts = dict.fromkeys(tasks, items)
    if readings:
        tasks |= {"loss": "Loss()", "speed": "Speed()"}
        counts |= {"loss": 1, "speed": 1}
    session = {
        "command": "lengthwise measure 'a model' --suite quick", "started": "2026-01-02T03:04:05Z",
        "versions": {"torch": "2.13"}, "hardware": {"name": "A Chip", "threads": 2},
        "methods": specs, "lengths": [512], "suite": "quick", "tasks": tasks, "items": counts,
    }  # fmt: skip
    known = {
        "lengthwise_results": 2, "text": "",
        "reader": {"name": "tiny <b>", "window": WINDOW, "parameters": 3_900_000, "chunk": 512},
        "seed": 7, "adaptive": adaptive, "batch": 16, "threshold": 0.85,
    }  # fmt: skip
    return Results(known | plan, [session], rows, readings)


def cells(method, task, right, count=40, **more):
    """`right` of `count` items at each of three lengths, with depths all over the text."""
    return [
        row(
            method, task, length, i, float(i < n),
            **({"reply": NASTY, "depths": ((i + 0.5) / count,)} | more),
        )
        for length, n in zip((512, 1024, 4096), right, strict=True)
        for i in range(count)
    ]  # fmt: skip


@pytest.fixture
def results():
    return make(
        [
            *cells("plain", "needle", (40, 40, 0)),
            *cells("Self<Extend>", "needle", (40, 40, 38)),
            *cells("plain", "no depth & <i>", (40, 20, 8), depths=()),
            *cells("Self<Extend>", "no depth & <i>", (40, 40, 40), depths=()),
            *(row("plain", "too long", 4096, i, None) for i in range(3)),
            *(row("plain", "half", 4096, i, None if i else 1.0) for i in range(3)),
        ]
    )


@pytest.fixture
def readings():
    return make(
        [],
        [
            loss(REFERENCE, 0),
            loss("plain", 4.5),
            loss("StreamingLLM", 0.02),
            loss("A<B>&'\"", 0.5),
            ReadingRow("broken", "loss", LENGTH, 0, {}, "no <i>good</i>", 0.1, 0),
            speed("plain", 50_300_000),
            speed("StreamingLLM", 3_500_000, peak=None),
        ],
    )


class _Balance(HTMLParser):
    """Checks that every element that is opened is closed, in order."""

    VOID = frozenset({"meta", "link", "br", "wbr"})

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open, self.seen, self.words = [], set(), []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def words_of(page):
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert not parser.seen & {"script", "img", "iframe", "object", "i"}
    return " ".join(parser.words)


def test_page_stands_alone(results, tmp_path):
    write_report(results, tmp_path / "new" / "report.html", "lengthwise measure 'a' <b>")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\((?!#)|src=", page)
    assert "default-src 'none'" in page
    words = words_of(page)
    for text in (
        "tiny <b>", "no depth & <i>", "Self<Extend>", "lengthwise measure 'a' <b>",
        "Self<Extend>(window=64)", "A Chip", "torch 2.13", "seed", "threshold", "session 1",
        "the server takes 4,096 tokens", "</pre><script>alert('1')</script>", "你好 🙂",
    ):  # fmt: skip
        assert text in words
    assert "\x1b" not in page and "␛[31m" in words
    for heading in (
        "Score by length", "Effective length", "Score against cost", "Every task",
        "Worst examples", "Refused", "Measure it again",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in page


def test_page_of_readings_stands_alone(readings):
    page = html(readings, "lengthwise measure 'a' <b>")
    words = words_of(page)
    for text in ("A<B>&'\"", "no <i>good</i>", "3.9 million parameters", "+4.50 ↑", "not counted"):
        assert text in words
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "Loss by position, 8,192 tokens", "Speed and memory of reading", "Refused",
        "Measure it again",
    ]  # fmt: skip


def test_every_colour_of_the_page_is_defined_in_both_modes(results):
    page = html(results, "x")
    light, dark = page.split("prefers-color-scheme: dark", 1)
    defined = set(re.findall(r"(--[\w-]+):", light))
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= defined
    assert set(re.findall(r"(--[\w-]+):", dark)) == defined


def test_drawings_are_well_formed_and_stay_in_their_frame(results, readings):
    both = html(results, "x") + html(readings, "x")
    drawings = re.findall(r"<svg.*?</svg>", both, flags=re.DOTALL)
    # overview, legend, 2 maps, effective lengths, 2 costs; of 4 tasks 2 maps and a chart, but
    # that one of which every item was refused has no chart; the loss and its close up
    assert len(drawings) == 1 + 1 + 2 + 1 + 2 + 4 * 3 - 1 + 2
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        close = "clipPath" in drawing  # lines that leave the picture are cut off
        for element in root.iter():
            for names, edge in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "y2"), height)):
                for name in names:
                    place = float(element.get(name, 0))
                    assert math.isfinite(place) and -1 <= place <= edge + 1, (name, close)
    loss, excess = drawings[-2:]
    assert "reference" in loss and "trained window: 512 tokens" in loss
    assert excess.count("↑") == 1 and "plain +4.50 ↑" in excess


def test_cells(results):
    table = Table(results)
    cell = table.cell("plain", "no depth & <i>", 4096)
    assert cell.interval == score_interval([1.0] * 8 + [0.0] * 32) and cell.count == 40
    assert table.cell("Self<Extend>", "half", 4096) is None
    half = table.cell("plain", "half", 4096)
    assert (half.count, half.refused) == (1, {"the server takes 4,096 tokens": 2})
    assert table.cell("plain", "too long", 4096).interval is None
    parts = table.by_depth("plain", "no depth & <i>", 4096)
    assert parts == [None] * 5 and not table.has_depths("no depth & <i>")
    # The two items that were not found are the deepest.
    deep = table.by_depth("Self<Extend>", "needle", 4096)
    assert [part.interval.value for part in deep] == [1, 1, 1, 1, 0.75]
    assert [part.count for part in deep] == [8] * 5


def test_items_with_several_facts_count_at_each():
    rows = [row("plain", "t", 512, 0, 1.0, depths=(0.1, 0.15, 0.9)), row("plain", "t", 512, 1, 0.0)]
    parts = Table(make(rows)).by_depth("plain", "t", 512)
    assert [part and part.interval.value for part in parts] == [1.0, None, 0.0, None, 1.0]


def test_adaptive_intervals_are_the_sequential_ones():
    scores = [1.0] * 7 + [0.0] + [1.0] * 4
    rows = [row("plain", "t", 512, i, score) for i, score in enumerate(scores)]
    fixed, adaptive = (
        Table(make(rows[::-1], adaptive=a)).cell("plain", "t", 512) for a in (False, True)
    )
    assert fixed.interval == score_interval(scores)
    assert adaptive.interval == sequential_interval(scores) != fixed.interval


def test_means_are_over_tasks_that_all_methods_answered(results):
    table = Table(results)
    assert table.common_tasks(4096) == ["needle", "no depth & <i>"]
    one, two = score_interval([0.0] * 40), score_interval([1.0] * 8 + [0.0] * 32)
    overall = table.overall("plain", 4096)
    assert overall.value == pytest.approx(0.1)
    assert overall.high == pytest.approx(0.1 + math.hypot(one.high, two.high - 0.2) / 2)
    assert overall.low == pytest.approx(0.1 - (0.2 - two.low) / 2)


def test_the_interval_of_the_mean_covers():
    import torch

    generator = torch.Generator().manual_seed(0)
    shares = (0.3, 0.6, 0.9)
    covered = 0
    for _ in range(2000):
        drawn = torch.rand(3, 20, generator=generator) < torch.tensor(shares)[:, None]
        rows = [
            row("plain", f"t{t}", 512, i, float(drawn[t, i])) for t in range(3) for i in range(20)
        ]
        overall = Table(make(rows)).overall("plain", 512)
        covered += overall.low <= 0.6 <= overall.high
    assert 0.93 <= covered / 2000 <= 0.97


def test_reach(results):
    table = Table(results)
    reach = table.reach("plain", "needle")
    assert (reach.low, reach.high, reach.words) == (1024, 4096, "1,024 to 4,096")
    reach = table.reach("Self<Extend>", "no depth & <i>")
    assert (reach.low, reach.high, reach.words) == (4096, None, "≥ 4,096")
    assert table.reach("plain", "too long").words == "refused"
    rows = [row("plain", "t", 512, i, 1.0) for i in range(40)]
    assert Table(make(rows)).reach("plain", "t").words == "≥ 512"
    rows.append(row("plain", "t", 512, 40, None))  # the others may be the easier ones
    assert Table(make(rows)).reach("plain", "t").words == "refused"
    few = Table(make(cells("plain", "t", (9, 5, 0), count=10))).reach("plain", "t")
    assert (few.low, few.high, few.words) == (None, 4096, "< 4,096")
    assert table.reach("Self<Extend>", "half").words == "not measured"


def test_too_few_items_are_said():
    few = [row("plain", "t", 512, i, 1.0) for i in range(10)]
    assert Table(make(few, items=10)).too_few == 10 and not Table(make(few, items=40)).too_few
    assert findings(make(few, items=10)) == []
    out = io.StringIO()
    print_report(make(few, items=10), Console(file=out, width=200))
    assert "10 items are too few to show that" in " ".join(out.getvalue().split())
    one = make([row("plain", "t", 512, 0, 1.0)], items=1)
    print_report(one, Console(file=out, width=200))
    assert "1 item is too few to show that" in " ".join(out.getvalue().split())
    assert "Even 1 right answer of 1 is too few" in words_of(html(one, "x"))
    assert "scores on t (1 item): plain 100%" in headline(one)
    assert "Even 10 right answers of 10 are too few" in words_of(html(make(few, items=10), "x"))
    assert "too few" not in html(make(few, items=40), "x")
    assert findings(make(cells("plain", "t", (9, 5, 0)), items=40))[0] == (
        "plain was not shown to be above 85% with 95% confidence at any length on any task."
    )


def test_names_of_suites_stand_apart(results):
    results.sessions[0]["suite"] = "loss,needle"
    results.sessions.append({**results.sessions[0], "suite": "needle, half"})
    assert results.suite == "loss, needle, half"
    page = html(results, "x")
    assert "loss, needle, half by length</title>" in page
    assert "needle(needles=1)" not in page.split("The tasks as they are set")[0]


def test_cost(results):
    cost = Table(results).cost("plain", 1024)
    assert (cost.seconds, cost.first_token, cost.held, cost.peak) == (1.5, 0.5, 1024000, 2048000)
    assert cost.tokens_per_second == pytest.approx(10 / 1.0)
    unknown = make([row("plain", "t", 512, 0, 1.0, first_token=None, held=None, peak=None)])
    table = Table(unknown)
    assert table.cost("plain", 512).tokens_per_second is None
    assert cost_chart(table, "held") == "" and "circle" in cost_chart(table, "seconds")


def test_worst_examples_take_turns(results):
    worst = Table(results).worst(5)
    assert len(worst) == 5 and all(r.score < 1 for r in worst)
    by_method = {(r.task, r.method) for r in worst}
    assert len(by_method) == 3  # SelfExtend failed on no item of the second task
    first = [r for r in worst if r.task == "no depth & <i>"]
    assert {r.length for r in first} == {1024}  # where plain fails first
    assert Table(make([row("plain", "t", 512, 0, 1.0)])).worst(5) == []


def test_headline_and_findings_of_items(results):
    results.plan["reader"]["window"] = None
    assert headline(results) == (
        "At 4,096 tokens, scores on 2 tasks: Self<Extend> 98% and plain 10%."
    )
    costs, refused = findings(results)
    assert "plain 1.5 s, 4.1 MB held, score 10% [" in costs
    assert refused == "Refused: 5 of 486 items, see below."
    results.plan["reader"]["window"] = 512
    assert headline(results).startswith("At 4,096 tokens (8 windows), scores")
    results.sessions[0]["items"] = dict.fromkeys(results.tasks, 40)
    plain, extend, *_ = findings(results)
    assert plain == (
        "plain is above 85% with 95% confidence up to 4,096 tokens on 0 of 4 tasks; on 2 not even "
        "at the shortest."
    )
    assert extend == (
        "Self<Extend> is above 85% with 95% confidence up to 4,096 tokens on 2 of 2 tasks."
    )


def test_headline_and_findings_of_readings(readings):
    assert headline(readings) == (
        "Between 8 and 16 windows of text, StreamingLLM reads as well as inside the window; "
        "the plain model loses 4.5 nats per token."
    )
    close, far, costs, refused = findings(readings)
    assert close == (
        "From position 4,096 to 8,192, StreamingLLM (+0.02) stays within 0.1 nats per token of "
        "the untouched model reading the same tokens inside its window."
    )
    assert far == "There, A<B>&'\" loses 0.50 nats per token and plain 4.50."
    assert "StreamingLLM holds 3.5 MB where the plain model's holds 50.3 MB" in costs
    readings.readings[:] = [one for one in readings.readings if one.task == "speed"]
    readings.readings[0].values["tokens_per_second"] = 17.0
    assert headline(readings) == (
        "After 8,192 tokens StreamingLLM decodes fastest, 80 tokens a second, and plain slowest, "
        "17 tokens a second."
    )
    del readings.readings[1]
    assert headline(readings) == (
        "plain reads 8,192 tokens in 1.25 s and then decodes 17 tokens a second."
    )


def test_readings_and_items_have_one_report(readings):
    both = Results(
        readings.plan,
        [*readings.sessions, *make(cells("plain", "needle", (40, 40, 0))).sessions],
        cells("plain", "needle", (40, 40, 0)),
        readings.readings,
    )
    assert headline(both) == headline(readings)
    assert "At 4,096 tokens (8 windows), scores on needle (20 items): plain 0%." in findings(both)
    assert findings(both)[-1] == "Refused: 1 of 127 items and readings, see below."
    assert re.findall("<h2>(.*?)</h2>", html(both, "x")) == [
        "Loss by position, 8,192 tokens", "needle by length and depth", "Effective length",
        "Score against cost", "Speed and memory of reading", "Worst examples", "Refused",
        "Measure it again",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("excess", "expected"),
    [
        ({}, "tiny <b>, measured."),
        ({"plain": 4.5}, "Between 8 and 16 windows of text, plain loses 4.5 nats per token."),
        (
            {"plain": 0.01, "PI": 2},
            "Between 8 and 16 windows of text, no method reads better than the plain model.",
        ),
        ({"PI": 0.3}, "Between 8 and 16 windows of text, PI loses 0.3 nats per token."),
    ],
)
def test_headline_of_a_part(excess, expected):
    part = make([], [loss(m, e) for m, e in ({REFERENCE: 0} | excess).items()] if excess else [])
    assert headline(part) == expected
    findings(part)
    words_of(html(part, "x"))
    print_report(part, Console(file=io.StringIO()))


def test_without_a_window_or_a_reference_losses_are_shown(readings):
    readings.plan["reader"]["window"] = None
    mean = sum(loss("plain", 4.5).values["losses"]) / (LENGTH // BLOCK)
    assert headline(readings).startswith("Over 8,192 tokens, nats per token: StreamingLLM ")
    assert headline(readings).endswith(f" and plain {mean:.2f}.")
    assert "trained window" not in html(readings, "x")
    readings.readings[:] = [row for row in readings.readings if row.method != REFERENCE]
    assert len(re.findall("<svg", html(readings, "x"))) == 1


def test_intervals_need_blocks_enough():
    values = {"block": 64, "losses": [2.0] * 10}  # 640 tokens: two blocks behind the window
    page = html(
        make([], [ReadingRow(m, "loss", 640, 0, values, "", 1, 0) for m in (REFERENCE, "plain")]),
        "x",
    )
    assert "<small>+0.00 [+0.00, +0.00]</small>" in page  # the window itself: eight blocks
    assert "<small>+0.00</small>" in page


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row("plain", "t", 512, 0, 1.0)],
        [row("plain", "t", 512, 0, 0.25, depths=())],
        [row("plain", "t", 512, 0, None)],
        [row("plain", "t", 512, 0, 1.0), row("other", "t", 512, 0, None)],
        [row("plain", "t", 512, 0, 1.0), row("other", "u", 1024, 0, 0.0)],
        [row(f"method {i}", "t", 512, 0, 1.0) for i in range(12)],
        [row("plain", "t", 512, 0, 0.0, tokens=0, seconds=0.0, first_token=None, held=0)],
    ],
    ids=["none", "one", "fraction", "refused", "one refuses", "apart", "many methods", "free"],
)
@pytest.mark.parametrize("adaptive", [False, True])
def test_reports_of_little(rows, adaptive):
    results = make(rows, adaptive=adaptive)
    page = html(results, "x")
    words_of(page)
    assert "swatch" in page or not rows
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page)
    out = io.StringIO()
    print_report(results, Console(file=out, width=200))
    assert out.getvalue()


def test_hundreds_of_tasks():
    rows = [
        row("plain", f"task {t}", length, i, float((t + i) % 2))
        for t in range(300) for length in (512, 1024) for i in range(2)
    ]  # fmt: skip
    page = html(make(rows), "x")
    words_of(page)
    assert page.count('<details class="part">') == 300 + 24
    assert '<details class="part" open>' not in page
    assert len(page) < 3_000_000


def test_terminal(results, readings):
    out = io.StringIO()
    print_report(results, Console(file=out, width=160))
    text = out.getvalue()
    found = score_interval([1.0] * 38 + [0.0] * 2)
    assert f"95% {100 * found.low:.0f}–{found.high:.0%}" in text
    assert "tiny <b>" in text and "1,024 to 4,096" in text
    assert "(2 refused)" in text
    assert "refused: too long 4,096 · plain · 3 times: the server takes 4,096 tokens" in text
    out = io.StringIO()
    print_report(readings, Console(file=out, width=160))
    text = out.getvalue()
    assert "to 8,192" in text and "50.3 MB" in text and "not counted" in text
    assert "refused: loss 8,192 · broken: no <i>good</i>" in text
    assert "• Between" not in text and "• From position 4,096 to 8,192" in text


def test_a_narrow_terminal_shows_all_of_it():
    names = ("multi-key needles, hard", "a question over documents")
    methods = ("plain", "streamingllm:sinks=4,window=1020")
    rows = [
        row(method, task, length, i, float((length + i) % 2))
        for method in methods for task in names for length in (512, 1024, 2048) for i in range(9)
    ]  # fmt: skip
    out = io.StringIO()
    print_report(make(rows), Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert all(text.count(task) >= 1 for task in names) and "…" not in text
    assert text.count("streamingllm:sinks=4,window=1020  ") == 2
    assert text.count("  44%") == text.count("19–73%") == 12


def test_every_interval_can_be_hovered(results):
    table = Table(results)
    drawn = depth_map(table, "Self<Extend>", "needle")
    assert "4,096 tokens, depth 80% to 100%: 75% [41–93%] of 8 items" in drawn
    assert "refused: the server takes 4,096 tokens" in depth_map(table, "plain", "too long")
    assert "mean of 2 tasks" in task_map(table, "plain")
    assert "whisker" in score_chart(table) and "dashed: the threshold 85%<" in score_chart(table)
    assert "the threshold 85% and a guess 10%" in score_chart(table, "needle")
    assert "plain on needle: 1,024 to 4,096" in reach_chart(table)


def test_adaptive_suites_have_no_mean_over_what_went_well():
    """Longer lengths were read only where shorter ones had gone well."""
    rows = [*cells("plain", "easy", (40, 40, 40)), *cells("plain", "hard", (40, 8, 0))]
    rows = [r for r in rows if r.task == "easy" or r.length <= 1024]
    table = Table(make(rows, adaptive=True))
    assert [table.overall("plain", n) is not None for n in (512, 1024, 4096)] == [True, True, False]
    assert headline(table.results) == "Above 85% on all 2 tasks: plain up to 512 tokens."
    assert Table(make(rows)).overall("plain", 4096).value == 1.0
    words_of(html(make(rows, adaptive=True), "x"))
