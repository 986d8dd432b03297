"""The report in a real browser: nothing in its console, the headings on the page, a picture."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from lengthwise.measure.report import write_report
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import REFERENCE, ItemRow, ReadingRow

NAMES = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, NAMES)), "")
SIZE = (1200, 1600)

pytestmark = pytest.mark.skipif(not BROWSER, reason="needs Chromium or Google Chrome")


def browse(page: Path, what: str, folder: Path) -> tuple[str, list[str]]:
    """What the browser prints when it does one thing with a page, and what its console said."""
    ran = subprocess.run(
        [
            BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--disable-dev-shm-usage", "--hide-scrollbars", f"--user-data-dir={folder / 'profile'}",
            "--enable-logging=stderr", f"--window-size={SIZE[0]},{SIZE[1]}", what, page.as_uri(),
        ],
        capture_output=True, timeout=300, check=True,
    )  # fmt: skip
    said = ran.stderr.decode(errors="replace")
    return ran.stdout.decode(), re.findall(r".*CONSOLE.*", said)


def picture_size(path: Path) -> tuple[int, int]:
    head = path.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", head[16:24])


def write(path: Path) -> None:
    """A report of everything that can be measured."""
    methods = {"plain": "", "StreamingLLM": "StreamingLLM()"}
    rows = [
        ItemRow(
            method, task, length, i, None if task == "long" and length > 2000 else float(i < right),
            0.1, (i / 10,) if task == "needle" else (), "…where?", "here",
            "<script>throw 1</script><img src=x onerror=alert(1)> 你好 \u202e", 3, 0.5, 1.0 + i,
            1000 * length, 2000 * length, "too long" if task == "long" and length > 2000 else "", 0,
        )
        for method, right in (("plain", 3), ("StreamingLLM", 9))
        for task in ("needle", "long")
        for length in (512, 1024, 4096)
        for i in range(10)
    ]  # fmt: skip
    losses = {"block": 64, "losses": [2.0 + i % 3 for i in range(32)]}
    speed = {
        "first_token_seconds": 1.25, "tokens_per_second": 80.4, "cache_bytes": 1e6,
        "peak_bytes": None,
    }  # fmt: skip
    readings = [
        ReadingRow(m, "loss", 2048, 0, losses, "", 1.5, 0) for m in (REFERENCE, *methods)
    ] + [ReadingRow(m, "speed", 2048, 0, speed, "", 1.5, 0) for m in methods]
    plan = {
        "reader": {"name": "tiny", "window": 512, "chunk": 512}, "seed": 0, "adaptive": False,
        "threshold": 0.85,
    }  # fmt: skip
    session = {
        "command": "lengthwise measure tiny", "started": "2026-01-02T03:04:05Z",
        "versions": {"torch": "2.13"}, "hardware": {"name": "A Chip"}, "suite": "quick,loss,speed",
        "methods": methods,
        "tasks": {"needle": "Needle()", "long": "Long()", "loss": "Loss()", "speed": "Speed()"},
        "items": {"needle": 10, "long": 10, "loss": 1, "speed": 1},
    }  # fmt: skip
    write_report(Results(plan, [session], rows, readings), path, "lengthwise measure tiny")


HEADINGS = [
    "Loss by position, 2,048 tokens", "Score by length", "Effective length", "Score against cost",
    "Every task", "Speed and memory of reading", "Worst examples", "Refused", "Measure it again",
]  # fmt: skip


def test_report_opens_without_a_word_in_the_console(tmp_path: Path) -> None:
    write(tmp_path / "report.html")
    document, console = browse(tmp_path / "report.html", "--dump-dom", tmp_path)
    assert console == []
    assert re.findall(r"<h2>(.*?)</h2>", document) == HEADINGS
    assert "<svg" in document and "<script" not in document and "<img" not in document
    picture = tmp_path / "page.png"
    browse(tmp_path / "report.html", f"--screenshot={picture}", tmp_path)
    assert picture_size(picture) == SIZE
    assert picture.stat().st_size > 20_000  # an empty page has 7 kB


@pytest.mark.parametrize(
    "fault",
    ["<script>null.x</script>", '<img src="missing.png">', "<script>console.error(1)</script>"],
)
def test_the_console_is_heard(fault: str, tmp_path: Path) -> None:
    """What the other test relies on: a fault in the page does reach its list."""
    write(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8").replace("</main>", fault)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    assert browse(tmp_path / "report.html", "--dump-dom", tmp_path)[1]
