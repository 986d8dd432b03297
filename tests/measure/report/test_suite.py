import io
import math
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from rich.console import Console

from lengthwise.measure.report.suite import print_suite_report, write_suite_report
from lengthwise.measure.report.suite.charts import (
    cost_chart,
    depth_map,
    reach_chart,
    score_chart,
    seconds,
    task_map,
)
from lengthwise.measure.report.suite.findings import findings, headline
from lengthwise.measure.report.suite.numbers import Table, share
from lengthwise.measure.report.suite.page import LONGEST, html, visible
from lengthwise.measure.run.suite.file import SuiteResults
from lengthwise.measure.run.suite.rows import ItemRow
from lengthwise.measure.statistics.effective import score_interval, sequential_interval
from lengthwise.measure.statistics.intervals import Interval

NASTY = "</pre><script>alert('1')</script>\x00\x1b[31m \u202eright to left 你好 🙂 &amp; \ud800"


def row(method, task, length, index, score, **more):
    known = dict(
        chance=0.1, depths=(0.5,), prompt="…where is it?", answer="here", reply="there", tokens=11,
        first_token=0.5, seconds=1.5, held=1000 * length, peak=2000 * length,
        refused="" if score is not None else "the server takes 4,096 tokens", session=0,
    )  # fmt: skip
    return ItemRow(method, task, length, index, score, **(known | more))


def make(rows, adaptive=False, items=20, **plan):
    tasks = {r.task: f"{r.task}(needles=1)" for r in rows}
    session = {
        "command": "lengthwise measure 'a model' --suite quick", "started": "2026-01-02T03:04:05Z",
        "versions": {"torch": "2.13"}, "hardware": {"name": "A Chip", "threads": 2},
        "methods": {"plain": "", "Self<Extend>": "SelfExtend(window=64)"}, "lengths": [512],
        "suite": "quick", "tasks": tasks, "items": dict.fromkeys(tasks, items),
    }  # fmt: skip
    known = {
        "lengthwise_results": 2, "reader": {"name": "tiny <b>", "window": 512}, "text": "",
        "seed": 7, "adaptive": adaptive, "batch": 16, "threshold": 0.85,
    }  # fmt: skip
    return SuiteResults(known | plan, [session], rows)


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
    write_suite_report(results, tmp_path / "new" / "report.html", "lengthwise measure 'a' <b>")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]
    page = (tmp_path / "new" / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|@import|url\((?!#)|src=", page)
    assert "default-src 'none'" in page
    words = words_of(page)
    for text in (
        "tiny <b>", "no depth & <i>", "Self<Extend>", "lengthwise measure 'a' <b>",
        "SelfExtend(window=64)", "A Chip", "torch 2.13", "seed", "threshold", "session 1",
        "the server takes 4,096 tokens", "</pre><script>alert('1')</script>", "你好 🙂",
    ):  # fmt: skip
        assert text in words
    assert "\x1b" not in page and "␛[31m" in words
    for heading in (
        "Score by length", "Effective length", "Score against cost", "Every task",
        "Worst examples", "Refused", "Measure it again",
    ):  # fmt: skip
        assert f"<h2>{heading}</h2>" in page


def test_page_has_every_colour_that_it_uses(results):
    page = html(results, "x")
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= set(re.findall(r"(--[\w-]+):", page))


def test_drawings_are_well_formed_and_stay_in_their_frame(results):
    drawings = re.findall(r"<svg.*?</svg>", html(results, "x"), flags=re.DOTALL)
    # overview, legend, 2 maps, effective lengths, 2 costs; of 4 tasks 2 maps and a chart, but
    # that one of which every item was refused has no chart
    assert len(drawings) == 1 + 1 + 2 + 1 + 2 + 4 * 3 - 1
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for element in root.iter():
            for names, edge in ((("x", "x1", "x2", "cx"), width), (("y", "y1", "y2"), height)):
                for name in names:
                    place = float(element.get(name, 0))
                    assert math.isfinite(place) and -1 <= place <= edge + 1


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
    fixed, adaptive = (Table(make(rows[::-1], a)).cell("plain", "t", 512) for a in (False, True))
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
    table = Table(make(cells("plain", "t", (9, 5, 0), count=10)))
    assert findings(table)[0] == (
        "plain was not shown to be above 85% with 95% confidence at any length on any task."
    )
    few = [row("plain", "t", 512, i, 1.0) for i in range(10)]
    assert "Even 10 right answers of 10 are too few" in words_of(html(make(few, items=10), "x"))
    assert "too few" not in html(make(few, items=40), "x")


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


def test_long_replies_are_cut():
    assert visible("<" * (LONGEST + 7)).endswith("&lt;\n… and 7 more characters")
    assert visible("a\x07\tb\n") == "a␇\tb\n"


def test_headline_and_findings(results):
    table = Table(results)
    assert headline(table) == "At 4,096 tokens, scores on 2 tasks: Self<Extend> 98% and plain 10%."
    plain, extend, costs, refused = findings(table)
    assert plain == (
        "plain is above 85% with 95% confidence up to 4,096 tokens on 0 of 4 tasks; on 2 not even "
        "at the shortest."
    )
    assert extend == (
        "Self<Extend> is above 85% with 95% confidence up to 4,096 tokens on 2 of 2 tasks."
    )
    assert "plain 1.5 s, 4.1 MB held, score 10% [" in costs
    assert refused == "Refused: 5 of 486 items, see below."


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
    results = make(rows, adaptive)
    page = html(results, "x")
    words_of(page)
    assert "swatch" in page or not rows
    assert "nan" not in re.sub(r"<style>.*?</style>", "", page)
    out = io.StringIO()
    print_suite_report(results, Console(file=out, width=200))
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


def test_terminal(results):
    out = io.StringIO()
    print_suite_report(results, Console(file=out, width=160))
    text = out.getvalue()
    found = score_interval([1.0] * 38 + [0.0] * 2)
    assert f"95% {100 * found.low:.0f}–{found.high:.0%}" in text
    assert "tiny <b>" in text and "1,024 to 4,096" in text
    assert "(2 refused)" in text
    assert "refused: too long 4,096 · plain · 3 items: the server takes 4,096 tokens" in text


def test_a_narrow_terminal_shows_all_of_it():
    names = ("multi-key needles, hard", "a question over documents")
    methods = ("plain", "streamingllm:sinks=4,window=1020")
    rows = [
        row(method, task, length, i, float((length + i) % 2))
        for method in methods for task in names for length in (512, 1024, 2048) for i in range(9)
    ]  # fmt: skip
    out = io.StringIO()
    print_suite_report(make(rows), Console(file=out, width=80))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert all(text.count(task) >= 1 for task in names) and "…" not in text
    assert text.count("streamingllm:sinks=4,window=1020  ") == 2
    assert text.count("  44%") == text.count("19–73%") == 12


def test_words():
    assert share(Interval(0.5, 0.25, 1.0)) == "50% [25–100%]"
    assert [seconds(s) for s in (2e-5, 0.0123, 1.234, 123.4, 5432.1)] == [
        "20 µs", "12.3 ms", "1.23 s", "123 s", "5,432 s",
    ]  # fmt: skip


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
    assert headline(table) == "Above 85% on all 2 tasks: plain up to 512 tokens."
    assert Table(make(rows)).overall("plain", 4096).value == 1.0
    words_of(html(make(rows, adaptive=True), "x"))
