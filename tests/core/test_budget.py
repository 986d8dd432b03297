"""How much may be kept."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.core.budget import Budget

SHAPE = {"seen": 1000, "layers": 2, "kv_heads": 3, "bytes_per_token": 64}


@pytest.mark.parametrize(
    "budget, each",
    [
        (Budget(tokens=100), 100),
        (Budget(tokens=5000), 1000),  # never more than was seen
        (Budget(kept_ratio=0.25), 250),
        (Budget(kept_ratio=1.0), 1000),
        (Budget(kept_ratio=0.29), 290),
        (Budget(kept_ratio=1e-9), 1),  # never nothing
        (Budget(bytes=2 * 3 * 64 * 10), 10),
        (Budget(bytes=2 * 3 * 64 * 10 - 1), 9),
        (Budget(tokens=100, weights=[0.1, 0.1]), 100),  # equal shares in binary fractions
        (Budget(tokens=100, weights=[[0.1] * 3, [0.1] * 3]), 100),
    ],
)
def test_equal_shares(budget, each):
    assert budget.per_head(**SHAPE) == [[each] * 3] * 2


def test_shares_by_layer_and_by_head():
    assert Budget(tokens=100, weights=[1, 3]).per_head(**SHAPE) == [[50] * 3, [150] * 3]
    by_head = Budget(tokens=100, weights=[[1, 2, 3], [0, 0, 0]]).per_head(**SHAPE)
    assert by_head == [[100, 200, 300], [1, 1, 1]]
    ratio = Budget(kept_ratio=0.6, weights=[1, 3]).per_head(**SHAPE)
    assert ratio == [[300] * 3, [900] * 3]


@given(
    tokens=st.integers(1, 300),
    weights=st.lists(st.lists(st.floats(0.01, 10), min_size=3, max_size=3), min_size=2, max_size=2),
)
def test_the_total_is_never_above_the_amount_but_for_heads_lifted_to_one_token(tokens, weights):
    given_ = Budget(tokens=tokens, weights=weights).per_head(**{**SHAPE, "seen": 10**6})
    flat = [n for row in given_ for n in row]
    assert sum(n for n in flat if n > 1) <= 6 * tokens
    assert all(n >= 1 for n in flat)
    mean = sum(map(sum, weights)) / 6
    for row, shares in zip(given_, weights, strict=True):
        for n, share in zip(row, shares, strict=True):
            want = tokens * share / mean
            assert n == 1 if want < 1 else math.floor(want - 1e-6) <= n <= want + 1e-6


@pytest.mark.parametrize(
    "arguments, words",
    [
        ({}, "exactly one of tokens, bytes, kept_ratio; got none"),
        ({"tokens": 3, "bytes": 9}, "got tokens, bytes"),
        ({"tokens": 0}, "tokens must be at least 1, got 0"),
        ({"bytes": -5}, "bytes must be at least 1, got -5"),
        ({"kept_ratio": 0.0}, "kept_ratio must be above 0 and at most 1, got 0.0"),
        ({"kept_ratio": 1.5}, "got 1.5"),
        ({"kept_ratio": math.nan}, "got nan"),
        ({"tokens": 3, "weights": [1, -1]}, "weights must be"),
        ({"tokens": 3, "weights": [[0, 0], [0, 0]]}, "not all 0"),
        ({"tokens": 3, "weights": [1, math.nan]}, "weights must be"),
        ({"tokens": 3, "weights": [1, math.inf]}, "weights must be"),
    ],
)
def test_bad_amounts_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Budget(**arguments)


def test_weights_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="2 layers of 3 heads, got 3 layers"):
        Budget(tokens=3, weights=[1, 1, 1]).per_head(**SHAPE)
    with pytest.raises(ValueError, match=r"got 2 layers of \[2\] heads"):
        Budget(tokens=3, weights=[[1, 1], [1, 1]]).per_head(**SHAPE)


def test_bytes_that_buy_no_token_are_refused():
    with pytest.raises(ValueError, match=r"bytes must be at least 384 \(one token\), got 383"):
        Budget(bytes=383).per_head(**SHAPE)


def test_a_ratio_counts_whole_tokens_as_words_do():
    shape = {**SHAPE, "seen": 100}
    assert Budget(kept_ratio=0.29).per_head(**shape) == [[29] * 3] * 2
