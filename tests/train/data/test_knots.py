"""Untie the Knots: nothing is lost, traces untie the knots, what cannot be known is not learned."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lengthwise.train.data.knots import IGNORED, Tangle, UntieTheKnots

KNOTS, MARKERS = (900, 901), (910, 911, 912, 913, 914)
documents = st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=30), min_size=1, max_size=6)


def knots(**settings) -> UntieTheKnots:
    defaults = {"alphabet": range(100, 140), "chunks": (1, 4), "id_length": 3}
    return UntieTheKnots(KNOTS, MARKERS, **defaults | settings)


def untie(tokens: list[int]) -> list[list[int]]:
    """The documents, from the tokens alone: read the chunks, then follow the traces."""
    begin_id, end_id, begin_trace, between, end_trace = MARKERS
    chunks: dict[tuple[int, ...], list[int]] = {}
    found, at = [], 0
    while at < len(tokens):
        if tokens[at] == begin_id:
            end = tokens.index(end_id, at)
            name = tuple(tokens[at + 1 : end])
            at = end + 1
            chunks[name] = []
            while at < len(tokens) and tokens[at] not in (begin_id, begin_trace):
                if tokens[at] == KNOTS[0]:  # the chunk ends here
                    at += 1
                    break
                if tokens[at] != KNOTS[1]:
                    chunks[name].append(tokens[at])
                at += 1
        elif tokens[at] == begin_trace:
            end = tokens.index(end_trace, at)
            trace, names = tokens[at + 1 : end], [[]]
            for token in trace:
                if token == between:
                    names.append([])
                else:
                    names[-1].append(token)
            found.append([token for name in names for token in chunks[tuple(name)]])
            at = end + 1
        else:
            raise AssertionError("text outside a chunk")
    return found


@given(documents=documents, seed=st.integers(0, 50), keep_order=st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_token_is_lost_or_changed(documents, seed, keep_order) -> None:
    tangle = knots(keep_order=keep_order)(documents, np.random.default_rng(seed))
    assert len(tangle.input_ids) == len(tangle.labels) == len(tangle.sources)
    text = [(source, token) for source, token in zip(tangle.sources, tangle.input_ids, strict=True)]
    kept = {source: token for source, token in text if source != (-1, -1)}
    assert kept == {
        (document, at): token
        for document, tokens in enumerate(documents)
        for at, token in enumerate(tokens)
    }
    added = sum(source == (-1, -1) for source in tangle.sources)
    assert added + len(kept) == len(tangle.input_ids)
    assert added <= knots().added(len(documents))


@given(
    documents=st.lists(
        st.lists(st.integers(0, 99), min_size=4, max_size=30), min_size=1, max_size=6
    ),
    seed=st.integers(0, 50),
    keep_order=st.booleans(),
)
@settings(max_examples=200, deadline=None)
def test_the_traces_untie_every_knot(documents, seed, keep_order) -> None:
    method = knots(chunks=(2, 4), keep_order=keep_order)
    tangle = method(documents, np.random.default_rng(seed))
    assert sorted(untie(tangle.input_ids)) == sorted(documents)


def test_one_chunk_is_concatenation() -> None:
    tangle = knots(chunks=(1, 1))([[1, 2], [3], [4, 5]], np.random.default_rng(0))
    assert tangle.input_ids[-2:] == [4, 5]
    assert sorted(tangle.input_ids) == [1, 2, 3, 4, 5]
    assert tangle.labels == tangle.input_ids
    assert knots(chunks=(1, 1)).added(3) == 0


@given(documents=documents, seed=st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_chunks_keep_their_order_and_the_end_of_the_last_document_is_last(documents, seed) -> None:
    tangle = knots(keep_order=True)(documents, np.random.default_rng(seed))
    for document, tokens in enumerate(documents):
        places = [at for owner, at in tangle.sources if owner == document]
        assert places == list(range(len(tokens)))
    last = next(source for source in reversed(tangle.sources) if source != (-1, -1))
    assert last == (len(documents) - 1, len(documents[-1]) - 1)


def test_without_order_chunks_are_shuffled_within_a_document_too() -> None:
    method = knots(chunks=(4, 4), keep_order=False)
    tangle = method([list(range(40)), [50]], np.random.default_rng(1))
    places = [at for owner, at in tangle.sources if owner == 0]
    assert sorted(places) == list(range(40)) and places != sorted(places)


@given(documents=documents, seed=st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_only_what_can_be_known_is_learned(documents, seed) -> None:
    tangle: Tangle = knots()(documents, np.random.default_rng(seed))
    inside_trace = False
    for at, (token, label) in enumerate(zip(tangle.input_ids, tangle.labels, strict=True)):
        added = tangle.sources[at] == (-1, -1)
        if inside_trace:
            assert added and label == token
        elif added:
            assert label == IGNORED
        else:
            follows_added = at > 0 and tangle.sources[at - 1] == (-1, -1)
            assert label == (IGNORED if follows_added else token)
        if token == MARKERS[2]:
            inside_trace = True
        elif token == MARKERS[4]:
            inside_trace = False


def test_ids_are_never_the_same() -> None:
    """Drawn with 2 letters of 3, 8 ids are possible and all 8 are needed."""
    method = knots(alphabet=[100, 101], chunks=(2, 2), id_length=3)
    tangle = method([[1, 2]] * 4, np.random.default_rng(0))
    assert len(untie(tangle.input_ids)) == 4
    with pytest.raises(ValueError, match="10 chunks need as many ids, 8 are possible"):
        method([[1, 2]] * 5, np.random.default_rng(0))


def test_the_same_seed_gives_the_same_tangle() -> None:
    texts = [list(range(30)), list(range(30, 60))]
    first, same, other = (
        knots(chunks=(3, 3))(texts, np.random.default_rng(seed)).input_ids for seed in (1, 1, 2)
    )
    assert first == same != other


def test_bad_input_is_refused() -> None:
    for chunks in ((0, 2), (3, 2)):
        with pytest.raises(ValueError, match="chunks must be"):
            knots(chunks=chunks)
    with pytest.raises(ValueError, match="id_length must be at least 1"):
        knots(id_length=0)
    with pytest.raises(ValueError, match="7 different tokens"):
        UntieTheKnots((1, 1), MARKERS, alphabet=[5])
    with pytest.raises(ValueError, match="alphabet must have at least one token"):
        knots(alphabet=[])
    with pytest.raises(ValueError, match="alphabet must have at least one token"):
        knots(alphabet=[910])
    with pytest.raises(ValueError, match="at least one document"):
        knots()([], np.random.default_rng(0))
    with pytest.raises(ValueError, match="document 1 is empty"):
        knots()([[1], []], np.random.default_rng(0))
    with pytest.raises(ValueError, match="document 0 contains a knot or a marker"):
        knots()([[1, 900]], np.random.default_rng(0))
