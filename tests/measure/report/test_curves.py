"""What the report says beside mean scores."""

import io
import math

import pytest
from rich.console import Console
from tests.measure.report.test_report import loss, make, row

from lengthwise.measure.report import print_report
from lengthwise.measure.report.curves import against_base, contours, perplexity
from lengthwise.measure.report.report import html
from lengthwise.measure.report.table import Table


def scores(task, by_length, **more):
    """Items with these scores at each length, four characters a token."""
    return [
        row("plain", task, length, i, score, characters=4 * length, **more)
        for length, known in by_length.items()
        for i, score in enumerate(known)
    ]


def test_the_best_shortcut_stands_beside_the_scores():
    more = {"chance": 0.02, "shortcuts": {"all numbers": 0.18, "the last": 0.05}}
    results = make(scores("longins", {512: [0.5] * 4}, **more))
    assert Table(results).shortcut("longins") == (pytest.approx(0.18), "all numbers")
    file = io.StringIO()
    print_report(results, Console(file=file, width=160))
    assert "18% by all numbers" in file.getvalue()
    assert "Without reading: 18% by all numbers" in html(results, "")
    low = {"chance": 0.3, "shortcuts": {"the last": 0.05}}
    assert Table(make(scores("a", {512: [0.5]}, **low))).shortcut("a") == (0.3, "a guess")


def test_the_contour_by_depth_in_tokens_and_characters():
    def half(length):  # facts of the first half are lost beyond 1,000 tokens
        return [
            row("plain", "needles", length, i, float(length < 1000 or i >= 10),
                characters=3 * length, depths=((i + 0.5) / 20,))
            for i in range(20)
        ]  # fmt: skip

    results = make([one for length in (512, 1024, 2048) for one in half(length)])
    *depths, every = contours(Table(results), "plain", "needles")
    assert [one.whole for one in depths] == [False, False, False, True, True]
    assert depths[0].tokens == pytest.approx(512 * 2**0.25)
    assert depths[4].tokens == 2048 and depths[4].characters == 3 * 2048
    assert str(depths[4]) == "≥ 2,048 (6,144 characters)"
    assert depths[0].characters == pytest.approx(3 * depths[0].tokens)
    assert 512 < every.tokens < 1024
    file = io.StringIO()
    print_report(results, Console(file=file, width=160))
    assert "needles · plain falls below 75% at tokens: depth 10% 609 (1,8" in file.getvalue()


def test_against_the_base_score():
    def some(right, of=40):
        return [1.0] * right + [0.0] * (of - right)

    found = {512: some(32), 1024: some(32), 2048: some(28), 4096: some(12)}
    base = against_base(Table(make(scores("nolima", found))), "plain", "nolima")
    assert (base.base, base.length) == (0.8, 2048)
    # 28 of 32 is above 0.85 of the base, and not clearly.
    assert base.shown == 1024 and "shown up to 1,024" in str(base)
    assert against_base(Table(make(scores("lines", found))), "plain", "lines") is None
    none = against_base(Table(make(scores("nolima", {512: some(0)}))), "plain", "nolima")
    assert (none.length, none.shown) == (0, 0)


def test_perplexity_stands_below_the_scores():
    results = make(scores("flenqa", {512: [1.0], 4096: [0.0]}), [loss("plain", 3.0)])
    table = Table(results)
    inside, beyond = (perplexity(table, "plain", length) for length in (512, 4096))
    assert math.log(inside) == pytest.approx(2.4, abs=0.3)
    assert math.log(beyond) == pytest.approx(2.4 + 3 * 7 / 8, abs=0.3)
    assert perplexity(table, "plain", 10**6) is None
    file = io.StringIO()
    print_report(results, Console(file=file, width=160))
    assert "perplexity" in file.getvalue()


def test_parts_and_facts_of_their_own():
    more = {"parts": {"words": 90.0, "length": 0.5}, "depths": (0.1, 0.9), "found": (0.0, 1.0)}
    results = make(scores("write", {512: [0.5] * 6}, **more))
    table = Table(results)
    assert table.parts("plain", "write", 512) == {"words": 90, "length": 0.5}
    ranges = table.by_depth("plain", "write", 512)
    assert [one and one.interval.value for one in ranges] == [0, None, None, None, 1]
    file = io.StringIO()
    print_report(results, Console(file=file, width=100))
    assert "Parts of write · plain" in " ".join(file.getvalue().split())
    assert "Parts of the score" in html(results, "")


def test_options_of_a_task_do_not_part_its_name():
    results = make(scores("a", {512: [1.0]}))
    results.sessions[0]["suite"] = "quick, lveval:confusing=0/4,replaced=false,loss"
    assert results.suite == "quick, lveval:confusing=0/4,replaced=false, loss"
