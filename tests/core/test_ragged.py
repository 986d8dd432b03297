"""Rows of different lengths, their documents, and the padded view."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.core.ragged import Ragged

tokens = st.lists(st.integers(0, 50_000), max_size=6)
batches = st.lists(st.lists(tokens, max_size=4), max_size=5)  # rows of documents
sides = st.sampled_from(["left", "right"])


def same(one: Ragged, other: Ragged) -> bool:
    names = ("tokens", "positions", "segments", "lengths")
    return all(torch.equal(getattr(one, n), getattr(other, n)) for n in names)


@given(rows=st.lists(tokens, max_size=6))
def test_lists_come_back(rows):
    ragged = Ragged.from_lists(rows)
    assert ragged.to_lists() == rows
    assert len(ragged) == len(rows)
    assert ragged.positions.tolist() == [i for row in rows for i in range(len(row))]
    assert ragged.segments.tolist() == [n for n, row in enumerate(rows) for _ in row]


@given(rows=batches, side=sides, pad=st.integers(-100, 5))
def test_the_padded_view_comes_back(rows, side, pad):
    ragged = Ragged.packed(rows)
    assert same(Ragged.from_padded(*ragged.padded(side, pad)), ragged)


@given(rows=batches, side=sides)
def test_the_padded_view_row_by_row(rows, side):
    padded = Ragged.packed(rows).padded(side, pad=-7)
    width = max((sum(map(len, row)) for row in rows), default=0)
    number = 0
    for r, row in enumerate(rows):
        ids, positions, segments = [], [], []
        for document in row:
            ids += document
            positions += range(len(document))
            segments += [number] * len(document)
            number += 1
        gap = width - len(ids)

        def line(real, empty, gap=gap):
            return [empty] * gap + real if side == "left" else real + [empty] * gap

        assert padded.input_ids[r].tolist() == line(ids, -7)
        assert padded.attention_mask[r].tolist() == line([1] * len(ids), 0)
        assert padded.position_ids[r].tolist() == line(positions, 0)
        assert padded.segment_ids[r].tolist() == line(segments, -1)


@st.composite
def rectangles(draw):
    rows, width = draw(st.integers(0, 4)), draw(st.integers(0, 7))
    numbers = st.lists(st.integers(0, 3), min_size=rows * width, max_size=rows * width)

    def rectangle():
        return torch.tensor(draw(numbers), dtype=torch.long).view(rows, width)

    return rectangle(), (rectangle() > 0).long(), rectangle(), rectangle()


@given(given_=rectangles())
def test_masks_with_holes_keep_every_real_token_in_order(given_):
    ids, mask, positions, segments = given_
    ragged = Ragged.from_padded(ids, mask, positions, segments)
    real = mask.bool()
    assert ragged.to_lists() == [row[keep].tolist() for row, keep in zip(ids, real, strict=True)]
    assert torch.equal(ragged.positions, positions[real])
    assert torch.equal(ragged.segments, segments[real])
    assert torch.equal(ragged.rows, real.nonzero()[:, 0])
    again = Ragged.from_padded(*ragged.padded("right"))
    assert same(again, ragged)


@given(given_=rectangles())
def test_positions_count_within_documents_by_default(given_):
    ids, mask, _, segments = given_
    got = Ragged.from_padded(ids, mask, segment_ids=segments).positions.tolist()
    want = []
    for row, keep in zip(segments.tolist(), mask.tolist(), strict=True):
        seen: dict[int, int] = {}
        for segment, real in zip(row, keep, strict=True):
            if real:
                want.append(seen.get(segment, 0))
                seen[segment] = want[-1] + 1
    assert got == want


def test_positions_never_make_documents():
    ids = torch.arange(12).view(2, 6)
    jumps = torch.tensor([[0, 1, 2, 0, 1, 2], [3, 9, 10, 500, 501, 7]])
    ragged = Ragged.from_padded(ids, torch.ones_like(ids), jumps)
    assert ragged.segments.tolist() == [0] * 6 + [1] * 6
    assert ragged.positions.tolist() == jumps.flatten().tolist()
    assert Ragged.from_padded(ids).segments.tolist() == [0] * 6 + [1] * 6


def test_documents_in_a_row_are_not_rows():
    ragged = Ragged.packed([[[5, 6], [], [7]], [], [[8]]])
    assert ragged.lengths.tolist() == [3, 0, 1]
    assert ragged.positions.tolist() == [0, 1, 0, 0]
    assert ragged.segments.tolist() == [0, 0, 2, 3]  # the empty document keeps its number
    assert ragged.offsets.tolist() == [0, 3, 3, 4]
    assert ragged.rows.tolist() == [0, 0, 0, 2]


def test_left_padding_by_default():
    padded = Ragged.from_lists([[5], [6, 7, 8]]).padded()
    assert padded.input_ids.tolist() == [[0, 0, 5], [6, 7, 8]]
    assert padded.attention_mask.tolist() == [[0, 0, 1], [1, 1, 1]]


@pytest.mark.parametrize(
    "changed, words",
    [
        ({"positions": torch.tensor([0, 1])}, "positions must have one number for each of 3"),
        ({"segments": torch.zeros(4, dtype=torch.long)}, "segments must have one number"),
        ({"positions": torch.tensor([0, -1, 1])}, "positions must be at least 0, got -1"),
        ({"segments": torch.tensor([0, 0, -1])}, "segments must be at least 0, got -1"),
        ({"lengths": torch.tensor([2, 2])}, "lengths must sum to the number of tokens, 3, got 4"),
        ({"lengths": torch.tensor([4, -1])}, "lengths must be at least 0, got -1"),
        ({"tokens": torch.zeros(1, 3, dtype=torch.long)}, "tokens must have one dimension"),
    ],
)
def test_what_does_not_fit_is_refused(changed, words):
    good = {
        "tokens": torch.tensor([7, 8, 9]),
        "positions": torch.tensor([0, 1, 0]),
        "segments": torch.tensor([0, 0, 1]),
        "lengths": torch.tensor([2, 1]),
    }
    Ragged(**good)
    with pytest.raises(ValueError, match=words):
        Ragged(**{**good, **changed})


def test_bad_rectangles_are_refused():
    ids = torch.zeros(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match=r"input_ids must be \[rows, width\], got \(3,\)"):
        Ragged.from_padded(ids[0])
    with pytest.raises(ValueError, match=r"attention_mask must have the shape \(2, 3\)"):
        Ragged.from_padded(ids, torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"segment_ids must have the shape \(2, 3\)"):
        Ragged.from_padded(ids, segment_ids=ids[:1])
    with pytest.raises(ValueError, match="side must be 'left' or 'right', got 'top'"):
        Ragged.from_lists([[1]]).padded("top")
