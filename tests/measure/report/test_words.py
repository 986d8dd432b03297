from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.measure.report.readings import bucket_edges, octave_edges
from lengthwise.measure.report.svg import Scale, round_steps, spread
from lengthwise.measure.report.words import (
    LONGEST,
    flat,
    joined,
    seconds,
    share,
    signed,
    size,
    visible,
    windows,
)
from lengthwise.measure.statistics.intervals import Interval


def test_buckets_and_octaves():
    assert bucket_edges(40) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40]
    assert octave_edges(40) == [0, 8, 16, 32, 40]
    assert octave_edges(5) == bucket_edges(5)[:1] + [5]


@given(st.integers(1, 5000))
def test_edges_cover_everything_once(blocks):
    for edges in (bucket_edges(blocks), octave_edges(blocks)):
        assert edges[0] == 0 and edges[-1] == blocks
        assert edges == sorted(set(edges))


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (3_520_000, "3.52 MB"), (5e12, "5 TB"), (None, "not counted")],
)
def test_size(count, words):
    assert size(count) == words


def test_words():
    assert [windows(n, 512) for n in (256, 512, 4096, 5000)] == [
        "half a window",
        "1 window",
        "8 windows",
        "9.77 windows",
    ]
    assert [signed(x) for x in (-0.001, 0.004, 1.236, -2)] == ["+0.00", "+0.00", "+1.24", "-2.00"]
    assert share(Interval(0.5, 0.25, 1.0)) == "50% [25–100%]"
    assert [seconds(s) for s in (2e-5, 0.0123, 1.234, 123.4, 5432.1)] == [
        "20 µs", "12.3 ms", "1.23 s", "123 s", "5,432 s",
    ]  # fmt: skip
    assert joined(["a"]) == "a" and joined(["a", "b", "c"]) == "a, b and c"
    assert flat({"first_name": 1, "b": "x"}) == "first name 1, b x"
    assert visible("<" * (LONGEST + 7)).endswith("<\n… and 7 more characters")
    assert visible("a\x07\tb\n") == "a␇\tb\n"


@given(st.lists(st.floats(0, 300), min_size=1, max_size=15))
def test_labels_never_overlap(wanted):
    places = spread(wanted, gap=18, low=0, high=300)
    ordered = sorted(places)
    assert all(b - a >= 18 - 1e-6 for a, b in pairwise(ordered))
    assert min(places) >= 0 and max(places) <= 300 + 1e-6
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    assert [places[i] for i in order] == ordered


@given(st.floats(-100, 100), st.floats(0.01, 1000))
def test_round_steps_stay_inside(low, width):
    steps = round_steps(low, low + width, 6)
    assert 1 <= len(steps) <= 8
    assert all(low - width * 1e-6 <= s <= low + width * (1 + 1e-6) for s in steps)


def test_scale():
    assert Scale(0, 10, 100, 0)(2.5) == 75
    assert Scale(64, 1024, 0, 100, log=True)(256) == 50
