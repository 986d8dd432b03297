"""Mixes: shares of the tokens as asked, sources that are missing or too small, the sweep."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.train.data.mix import PROLONG_64K, PROLONG_512K, PROLONG_SHORT, Mix, sweep

CORPUS = {
    "books": np.random.default_rng(0).integers(50, 400, 500),
    "code": np.random.default_rng(1).integers(20, 900, 500),
    "web": np.random.default_rng(2).integers(1, 60, 5000),
}


@given(
    shares=st.dictionaries(st.sampled_from(sorted(CORPUS)), st.floats(0.05, 1), min_size=1),
    tokens=st.integers(1, 60_000),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_every_source_gives_its_share_within_one_document(shares, tokens, seed) -> None:
    mix = Mix(shares)
    drawn = mix.draw(CORPUS, tokens, np.random.default_rng(seed))
    assert set(drawn) == set(shares)
    for source, documents in drawn.items():
        assert len(set(documents)) == len(documents)
        held = CORPUS[source][documents]
        wanted = shares[source] / sum(shares.values()) * tokens
        assert held.sum() >= wanted - 1e-3
        assert held[:-1].sum() < wanted


def test_a_source_starts_again_only_when_asked() -> None:
    mix = Mix({"small": 1.0})
    corpus = {"small": [10, 20, 30]}
    with pytest.raises(ValueError, match="'small' has 60 tokens in 1 epochs, the mix needs 100"):
        mix.draw(corpus, 100, np.random.default_rng(0))
    drawn = mix.draw(corpus, 100, np.random.default_rng(0), epochs=2)["small"]
    assert sorted(drawn[:3]) == [0, 1, 2]
    assert max(drawn.count(document) for document in range(3)) == 2
    assert len(mix.draw(corpus, 60, np.random.default_rng(0))["small"]) == 3


def test_the_mixes_of_prolong() -> None:
    assert PROLONG_64K.shares["code"] == pytest.approx(0.30)
    assert PROLONG_64K.shares["textbooks"] == pytest.approx(0.03)
    assert PROLONG_64K.shares["fineweb-edu"] == pytest.approx(0.10)
    assert PROLONG_64K.shares["arxiv"] == pytest.approx(0.03)
    assert PROLONG_512K.shares["books-512k"] == pytest.approx(0.05)
    for mix in (PROLONG_64K, PROLONG_512K, PROLONG_SHORT):
        assert sum(mix.shares.values()) == pytest.approx(1)


def test_the_sweep_goes_from_short_to_long() -> None:
    long, short = Mix({"code": 1, "books": 1}), Mix({"web": 3, "books": 1})
    mixes = sweep(long, short, [0, 0.6, 1])
    assert list(mixes) == [0, 0.6, 1]
    assert mixes[0].shares == {"code": 0, "books": 0.25, "web": 0.75}
    assert mixes[1].shares == {"code": 0.5, "books": 0.5, "web": 0}
    assert mixes[0.6].shares == pytest.approx({"code": 0.3, "books": 0.4, "web": 0.3})
    drawn = mixes[1].draw(
        {name: CORPUS[name] for name in ("code", "books")}, 99, np.random.default_rng(0)
    )
    assert set(drawn) == {"code", "books"}  # nobody asks for a source without a share


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match="share of 'web' must be 0 or more and finite, got -1"):
        Mix({"web": -1})
    with pytest.raises(ValueError, match="shares must not all be 0"):
        Mix({"web": 0.0})
    with pytest.raises(ValueError, match="source 'web' of the mix has no documents"):
        Mix({"web": 1}).draw({"books": [1]}, 5, np.random.default_rng(0))
    with pytest.raises(ValueError, match="tokens must be at least 1"):
        Mix({"web": 1}).draw(CORPUS, 0, np.random.default_rng(0))
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        Mix({"web": 1}).draw(CORPUS, 5, np.random.default_rng(0), epochs=0)
    with pytest.raises(ValueError, match=r"long data must be in 0\.\.1, got 2"):
        sweep(Mix({"a": 1}), Mix({"b": 1}), [2])
