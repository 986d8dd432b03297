"""Logical positions follow from masks, positions given and tokens seen, and from nothing else."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.hf.positions import make_step, read_mask

CPU = torch.device("cpu")


def step(rows=2, count=4, seen=0, lengths=None, mask=None, position_ids=None, segments=None):
    mask = None if mask is None else torch.tensor(mask)
    return make_step(
        rows=rows,
        count=count,
        lengths=None if lengths is None else torch.tensor(lengths),
        real=read_mask(mask, rows, seen, count, CPU),
        position_ids=None if position_ids is None else torch.tensor(position_ids),
        segments=None if segments is None else torch.tensor(segments),
        device=CPU,
    )


def test_nothing_given_counts_from_zero():
    got = step()
    assert got.positions.tolist() == [[0, 1, 2, 3]] * 2
    assert got.start == 0 and got.segments is None and got.lengths.tolist() == [4, 4]


def test_nothing_given_goes_on_from_the_tokens_seen():
    got = step(count=2, seen=5, lengths=[5, 5])
    assert got.positions.tolist() == [[5, 6]] * 2
    assert got.start == 5 and got.lengths.tolist() == [7, 7]


def test_rows_of_different_length_go_on_by_themselves():
    got = step(count=2, seen=5, lengths=[5, 3])
    assert got.positions.tolist() == [[5, 6], [3, 4]]
    assert got.start is None and got.lengths.tolist() == [7, 5]


def test_a_mask_of_ones_is_no_mask():
    got = step(count=2, seen=3, lengths=[3, 3], mask=[[1] * 5] * 2)
    assert got.positions.tolist() == [[3, 4]] * 2 and got.start == 3


def test_padding_on_the_left():
    got = step(mask=[[0, 0, 1, 1], [1, 1, 1, 1]])
    assert got.positions.tolist() == [[-1, -1, 0, 1], [0, 1, 2, 3]]
    assert got.start is None and got.lengths.tolist() == [2, 4]


def test_padding_on_the_right_then_more():
    first = step(mask=[[1, 1, 0, 0], [1, 1, 1, 1]])
    assert first.positions.tolist() == [[0, 1, -1, -1], [0, 1, 2, 3]]
    more = step(
        count=1, seen=4, lengths=first.lengths.tolist(), mask=[[1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]
    )
    assert more.positions.tolist() == [[2], [4]] and more.lengths.tolist() == [3, 5]


def test_a_chunk_of_nothing_but_padding():
    first = step(count=2, mask=[[0, 0], [1, 1]])
    assert first.positions.tolist() == [[-1, -1], [0, 1]] and first.lengths.tolist() == [0, 2]
    more = step(count=2, seen=2, lengths=[0, 2], mask=[[0, 0, 0, 1], [1, 1, 1, 1]])
    assert more.positions.tolist() == [[-1, 0], [2, 3]]


def test_boolean_and_float_masks():
    for kind in (torch.bool, torch.float32):
        mask = torch.tensor([[0, 1, 1]]).to(kind).tolist()
        assert step(rows=1, count=3, mask=mask).positions.tolist() == [[-1, 0, 1]]


def test_positions_given_are_taken_as_they_are():
    got = step(position_ids=[[0, 1, 90, 91], [5, 6, 7, 8]])
    assert got.positions.tolist() == [[0, 1, 90, 91], [5, 6, 7, 8]]
    assert got.start is None and got.lengths.tolist() == [92, 9]


def test_one_row_of_positions_serves_all_rows():
    got = step(position_ids=[[7, 8, 9, 10]])
    assert got.positions.tolist() == [[7, 8, 9, 10]] * 2 and got.start == 7


def test_a_jump_is_no_document():
    assert step(position_ids=[[0, 1, 50, 51]]).segments is None


def test_documents_may_start_again():
    got = step(rows=1, position_ids=[[0, 1, 0, 1]], segments=[[0, 0, 1, 1]])
    assert got.positions.tolist() == [[0, 1, 0, 1]] and got.segments.tolist() == [[0, 0, 1, 1]]
    assert got.start is None and got.lengths.tolist() == [2]
    more = step(rows=1, count=2, seen=4, lengths=[2], position_ids=[[0, 1]], segments=[[2, 2]])
    assert more.positions.tolist() == [[0, 1]]


def test_generate_counts_padding_as_it_likes():
    # transformers gives padding the position 0; a plain loop may count padding in.
    mask = [[0, 0, 1, 1], [1, 1, 1, 1]]
    for given_ids in ([[0, 0, 0, 1], [0, 1, 2, 3]], [[0, 1, 2, 3]]):
        got = step(mask=mask, position_ids=given_ids)
        assert got.positions.tolist() == [[-1, -1, 0, 1], [0, 1, 2, 3]]


def test_a_padded_batch_of_packed_rows():
    got = step(
        mask=[[1, 1, 1, 1], [1, 1, 1, 0]],
        position_ids=[[0, 1, 2, 0], [0, 0, 1, 0]],
        segments=[[0, 0, 0, 1], [2, 3, 3, -1]],
    )
    assert got.positions.tolist() == [[0, 1, 2, 0], [0, 0, 1, -1]]
    assert got.segments.tolist() == [[0, 0, 0, 1], [2, 3, 3, -1]]
    assert got.start is None and got.lengths.tolist() == [3, 2]


def test_one_padding_token_on_the_left_of_packed_rows_is_no_start():
    # -1, 0, 1 looks like counting from -1.
    got = step(rows=1, mask=[[0, 1, 1, 1]], position_ids=[[0, 0, 1, 2]], segments=[[-1, 5, 5, 5]])
    assert got.positions.tolist() == [[-1, 0, 1, 2]]
    assert got.start is None and got.lengths.tolist() == [3]


def test_padding_does_not_make_documents_of_positions_that_start_again():
    with pytest.raises(ValueError, match="position_ids and a padded attention_mask disagree"):
        step(rows=1, mask=[[1, 1, 1, 0]], position_ids=[[0, 1, 0, 0]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask": [[[[1]]]]}, r"2-D attention mask of ones and zeros, got \(1, 1, 1, 1\)"),
        ({"mask": [[1] * 3] * 2}, "cover the 0 tokens seen and the 4 new ones, got 3 columns"),
        ({"mask": [[1] * 4] * 2, "seen": 2, "lengths": [2, 2]}, "the 2 tokens seen .* got 4"),
        ({"position_ids": [[0, 1, 0, 1]]}, "start again.*pass segment_ids"),
        ({"position_ids": [[0, 1, 1, 2]]}, "start again"),
        ({"position_ids": [[0, 1, 2, 3]], "seen": 4, "lengths": [4, 4]}, "below the tokens seen"),
        (
            {"mask": [[0, 1, 1, 1], [1] * 4], "position_ids": [[0, 0, 1, 90], [0, 1, 2, 3]]},
            "position_ids and a padded attention_mask disagree",
        ),
        ({"segments": [[0, 0, 1]]}, r"segment_ids .* 2 x 4 tokens, got shape \(1, 3\)"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(ValueError, match=message) as error:
        step(**arguments)
    assert "\n" not in str(error.value)


def test_a_dictionary_of_masks_is_refused():
    with pytest.raises(ValueError, match="2-D attention mask of ones and zeros, got dict"):
        read_mask({"full_attention": None}, 1, 0, 2, CPU)


@given(st.data())
def test_any_cut_of_a_padded_batch_gives_the_same_positions(data):
    length = data.draw(st.integers(1, 12))
    bits = st.lists(st.integers(0, 1), min_size=length, max_size=length)
    mask = torch.tensor([data.draw(bits), data.draw(bits)])
    whole = step(count=length, mask=mask.tolist())
    cuts = sorted({0, length, *data.draw(st.lists(st.integers(0, length), max_size=4))})
    lengths, pieces = None, []
    for low, high in itertools.pairwise(cuts):
        piece = step(
            count=high - low,
            seen=low,
            lengths=None if lengths is None else lengths.tolist(),
            mask=mask[:, :high].tolist(),
        )
        lengths = piece.lengths
        pieces.append(piece.positions)
    assert torch.equal(torch.cat(pieces, dim=1), whole.positions)
    assert torch.equal(lengths, mask.sum(1))
    for row in range(2):
        real = whole.positions[row][mask[row] == 1]
        assert real.tolist() == list(range(len(real)))
