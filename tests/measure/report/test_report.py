import io
import math
import random
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
from rich.console import Console

from lengthwise.measure.report import findings, headline, print_report, write_report
from lengthwise.measure.run.results import FORMAT, REFERENCE, Results, Row
from lengthwise.measure.statistics.intervals import wilson

WINDOW, LENGTH, BLOCK = 512, 8192, 64
PLAN = {
    "lengthwise_results": FORMAT, "model": "tiny & <b>bold</b>", "fingerprint": "0123456789ab",
    "parameters": 3_900_000, "dtype": "float32", "window": WINDOW, "text": "ba9876543210",
    "seed": 0, "loss_samples": 1, "passkey_count": 10, "decode_steps": 16, "chunk": 512,
}  # fmt: skip


def row(method, task, length, values, refused="", spec=None):
    spec = ("" if method in ("plain", REFERENCE) else f"{method}()") if spec is None else spec
    hardware = {"device": "cpu", "name": "A Chip", "threads": 2, "cores": 4, "system": "Linux"}
    return Row(method, spec, task, length, values, refused, 1.5, 0, {"torch": "2.13"}, hardware)


def loss(method, excess):
    rng = random.Random(0)  # the same tokens for every method
    noise = [2.4 + rng.gauss(0, 0.3) for _ in range(LENGTH // BLOCK)]
    curve = [round(n + excess(i * BLOCK), 5) for i, n in enumerate(noise)]
    return row(method, "loss", LENGTH, {"block": BLOCK, "losses": [curve]})


def passkey(method, length, found, count=10):
    interval = wilson(found, count)
    return row(
        method, "passkey", length,
        {
            "score": interval.value, "low": interval.low, "high": interval.high,
            "scores": [1.0] * found + [0.0] * (count - found),
            "depths": [i / (count - 1) for i in range(count)],
            "answers": ["12345"] * count, "replies": [" <script>12345"] * count,
        },
    )  # fmt: skip


def speed(method, held, peak=10_000_000):
    return row(
        method, "speed", LENGTH,
        {
            "first_token_seconds": 1.25, "tokens_per_second": 80.4, "cache_bytes": held,
            "peak_bytes": peak,
        },
    )  # fmt: skip


def after_window(worst):
    return lambda p: 0.0 if p < WINDOW else worst


@pytest.fixture
def results():
    rows = [
        loss(REFERENCE, after_window(0)),
        loss("plain", after_window(4.5)),
        loss("StreamingLLM", after_window(0.02)),
        loss("A<B>&'\"", after_window(0.5)),
        row("broken", "loss", LENGTH, {}, refused="no <i>good</i>"),
        *(passkey("plain", n, f) for n, f in ((512, 10), (4096, 0))),
        *(passkey("SelfExtend", n, f) for n, f in ((512, 10), (4096, 9))),
        speed("plain", 50_300_000),
        speed("StreamingLLM", 3_500_000, peak=None),
    ]
    return Results(PLAN, rows)


@pytest.fixture
def page(results, tmp_path):
    write_report(results, tmp_path / "new" / "report.html", "lengthwise measure 'a' <b>")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["report.html"]
    return (tmp_path / "new" / "report.html").read_text(encoding="utf-8")


class _Balance(HTMLParser):
    """Checks that every element that is opened is closed, in order."""

    VOID = frozenset({"meta", "link", "br"})

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


def test_page_stands_alone(page):
    parser = _Balance()
    parser.feed(page)
    assert parser.open == []
    assert not parser.seen & {"script", "img", "iframe", "object", "i"}
    assert not re.search(r"https?://|@import|url\((?!#)|src=", page)
    assert "default-src 'none'" in page
    words = " ".join(parser.words)
    assert "tiny & <b>bold</b>" in words and "A<B>&'\"" in words
    assert "no <i>good</i>" in words and "lengthwise measure 'a' <b>" in words
    assert "A Chip (cpu), 2 of 4 cores" in words
    assert "prefers-color-scheme: dark" in page


def test_every_colour_of_the_page_is_defined_in_both_modes(page):
    light, dark = page.split("prefers-color-scheme: dark", 1)
    defined = set(re.findall(r"(--[\w-]+):", light))
    assert set(re.findall(r"var\((--[\w-]+)\)", page)) <= defined
    assert set(re.findall(r"(--[\w-]+):", dark)) == defined


def test_drawings_are_well_formed_and_stay_in_their_frame(page):
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 4  # loss, close up, two maps
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        for element in root.iter():
            for name in ("x", "x1", "x2", "cx"):
                assert -1 <= float(element.get(name, 0)) <= width + 1
        assert root.attrib["aria-label"]
    loss_chart = ElementTree.fromstring(drawings[0])
    for element in loss_chart.iter():
        for name in ("y", "y1", "y2", "cy"):
            value = float(element.get(name, 0))
            assert math.isfinite(value) and 0 <= value <= height + 200
    assert "reference" in drawings[0] and "trained window: 512 tokens" in drawings[0]
    assert drawings[1].count("↑") == 1 and "plain +4.50 ↑" in drawings[1]


def test_headline_and_findings(results):
    assert headline(results) == (
        "Between 8 and 16 windows of text, StreamingLLM reads as well as inside the window; "
        "the plain model loses 4.5 nats per token."
    )
    close, far, keys, costs, refused = findings(results)
    assert close == (
        "From position 4,096 to 8,192, StreamingLLM (+0.02) stays within 0.1 nats per token of "
        "the untouched model reading the same tokens inside its window."
    )
    assert far == "There, A<B>&'\" loses 0.50 nats per token and plain 4.50."
    assert keys == (
        "Passkeys hidden in 4,096 tokens (8 windows): SelfExtend finds 9 of 10 and plain finds "
        "0 of 10."
    )
    assert "StreamingLLM holds 3.5 MB where the plain model's holds 50.3 MB" in costs
    assert refused == "Refused: 1 of 11 measurements, see below."


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], "tiny & <b>bold</b>, measured."),
        (
            [passkey("plain", 512, 3)],
            "Passkeys hidden in 512 tokens (1 window): plain finds 3 of 10.",
        ),
        (
            [loss(REFERENCE, after_window(0)), loss("plain", after_window(4.5))],
            "Between 8 and 16 windows of text, plain loses 4.5 nats per token.",
        ),
        (
            [
                loss(REFERENCE, after_window(0)),
                loss("plain", after_window(0.01)),
                loss("PI", after_window(2)),
            ],
            "Between 8 and 16 windows of text, no method reads better than the plain model.",
        ),
        (
            [loss(REFERENCE, after_window(0)), loss("PI", after_window(0.3))],
            "Between 8 and 16 windows of text, PI loses 0.3 nats per token.",
        ),
    ],
)
def test_headline_of_a_part(rows, expected, tmp_path):
    part = Results(PLAN, rows)
    assert headline(part) == expected
    findings(part)
    write_report(part, tmp_path / "report.html", "x")
    print_report(part, Console(file=io.StringIO()))


def test_terminal(results):
    out = io.StringIO()
    print_report(results, Console(file=out, width=160))
    text = out.getvalue()
    assert "to 8,192" in text and "90% 60%–98%" in text and "50.3 MB" in text
    assert "not counted" in text
    assert "refused: loss 8,192 · broken: no <i>good</i>" in text
    assert "• Between" not in text and "• From position 4,096 to 8,192" in text


def test_intervals_need_blocks_enough(tmp_path):
    short = {"block": 64, "losses": [[2.0] * 10]}  # 640 tokens: two blocks behind the window
    rows = [row(m, "loss", 640, short) for m in (REFERENCE, "plain")]
    write_report(Results(PLAN, rows), tmp_path / "report.html", "x")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<small>+0.00 [+0.00, +0.00]</small>" in page  # the window itself: eight blocks
    assert "<small>+0.00</small>" in page
