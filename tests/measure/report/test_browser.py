"""Both reports in a real browser: nothing in its console, the headings on the page, a picture."""

import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from lengthwise.measure.report import write_report
from lengthwise.measure.report.suite import write_suite_report
from lengthwise.measure.run.results import FORMAT, REFERENCE, Results, Row
from lengthwise.measure.run.suite.file import SuiteResults
from lengthwise.measure.run.suite.rows import ItemRow

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


def measure_report(path: Path) -> None:
    plan = {
        "lengthwise_results": FORMAT, "model": "tiny", "fingerprint": "0123456789ab",
        "parameters": 3_900_000, "dtype": "float32", "window": 512, "text": "ba9876543210",
        "seed": 0, "loss_samples": 1, "passkey_count": 4, "decode_steps": 16, "chunk": 512,
    }  # fmt: skip
    hardware = {"device": "cpu", "name": "A Chip", "threads": 2, "cores": 4, "system": "Linux"}

    def row(method: str, task: str, length: int, values: dict) -> Row:
        return Row(method, "", task, length, values, "", 1.5, 0, {"torch": "2.13"}, hardware)

    losses = {"block": 64, "losses": [[2.0 + i % 3 for i in range(32)]]}
    keys = {
        "score": 0.5, "low": 0.15, "high": 0.85, "scores": [1.0, 1.0, 0.0, 0.0],
        "depths": [0.1, 0.4, 0.6, 0.9], "answers": ["1"] * 4, "replies": ["<script>1"] * 4,
    }  # fmt: skip
    speed = {
        "first_token_seconds": 1.25, "tokens_per_second": 80.4, "cache_bytes": 1e6,
        "peak_bytes": None,
    }  # fmt: skip
    rows = [row(m, "loss", 2048, losses) for m in (REFERENCE, "plain")]
    rows += [row("plain", "passkey", 512, keys), row("plain", "speed", 2048, speed)]
    write_report(Results(plan, rows), path, "lengthwise measure tiny")


def suite_report(path: Path) -> None:
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
    plan = {"reader": {"name": "tiny"}, "seed": 0, "adaptive": False, "threshold": 0.85}
    session = {
        "suite": "quick", "methods": {"plain": "", "StreamingLLM": "StreamingLLM()"},
        "tasks": {"needle": "Needle()", "long": "Long()"}, "items": {"needle": 10, "long": 10},
    }  # fmt: skip
    results = SuiteResults(plan, [session], rows)
    write_suite_report(results, path, "lengthwise measure tiny --suite quick")


REPORTS = {
    "measure": (
        measure_report,
        ["Loss by position, 2,048 tokens", "Passkey by length and depth", "Cost",
         "Every measurement", "Measure it again"],
    ),
    "suite": (
        suite_report,
        ["Score by length", "Effective length", "Score against cost", "Every task",
         "Worst examples", "Refused", "Measure it again"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REPORTS)
def test_report_opens_without_a_word_in_the_console(name: str, tmp_path: Path) -> None:
    write, headings = REPORTS[name]
    write(tmp_path / "report.html")
    document, console = browse(tmp_path / "report.html", "--dump-dom", tmp_path)
    assert console == []
    assert re.findall(r"<h2>(.*?)</h2>", document) == headings
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
    suite_report(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8").replace("</main>", fault)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    assert browse(tmp_path / "report.html", "--dump-dom", tmp_path)[1]
