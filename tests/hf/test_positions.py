"""Logical positions follow from masks, positions given and tokens seen, and from nothing else."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lengthwise.hf.positions import Past, make_step, read_mask

CPU = torch.device("cpu")


def both(rows=2, count=4, past=None, mask=None, position_ids=None, segments=None):
    """The step and what rows hold after it."""
    mask = None if mask is None else torch.tensor(mask)
    past = past or Past()
    return make_step(
        rows=rows,
        count=count,
        past=past,
        real=read_mask(mask, rows, past.seen, count, CPU),
        position_ids=None if position_ids is None else torch.tensor(position_ids),
        segments=None if segments is None else torch.tensor(segments),
        device=CPU,
    )


def step(seen=0, lengths=None, places=None, **given):
    lengths, places = (None if x is None else torch.tensor(x) for x in (lengths, places))
    return both(past=Past(seen, lengths, places), **given)[0]


def test_nothing_given_counts_from_zero():
    got = step()
    assert got.positions.tolist() == [[0, 1, 2, 3]] * 2
    assert got.start == 0 and got.segments is None and got.lengths.tolist() == [4, 4]


def test_nothing_given_goes_on_from_the_tokens_seen():
    got = step(count=2, seen=5, lengths=[5, 5])
    assert got.positions.tolist() == [[5, 6]] * 2
    assert got.start == 5 and got.lengths.tolist() == [7, 7]


def test_rows_of_different_length_go_on_by_themselves():
    places = [[0, 1, 2, 3, 4], [-1, -1, 0, 1, 2]]
    got = step(count=2, seen=5, lengths=[5, 3], places=places)
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
    first, held = both(mask=[[1, 1, 0, 0], [1, 1, 1, 1]])
    assert first.positions.tolist() == [[0, 1, -1, -1], [0, 1, 2, 3]]
    assert first.order.queries.tolist() == [[0, 1, 2, 3]] * 2  # padding behind a token asks
    assert torch.equal(first.order.keys, first.positions)
    longer = [[1, 1, 0, 0, 1], [1, 1, 1, 1, 1]]
    with pytest.raises(
        ValueError, match=r"hides token 2 of row 0 between others.*pass position_ids"
    ):
        both(count=1, past=held, mask=longer)
    for ids, rises in (([[2], [4]], True), ([[4], [4]], True), ([[1], [4]], False)):
        more, _ = both(count=1, past=held, mask=longer, position_ids=ids)
        assert more.positions.tolist() == ids and more.rises is rises
        assert more.lengths.tolist() == [ids[0][0] + 1, 5]
        columns = more.positions if more.order is None else more.order.keys
        assert columns.tolist() == [[4], [4]]
    unmasked, _ = both(count=1, past=held)  # the cache knows what was padding
    assert unmasked.positions.tolist() == [[2], [4]]


def test_a_chunk_of_nothing_but_padding():
    first, held = both(count=2, mask=[[0, 0], [1, 1]])
    assert first.positions.tolist() == [[-1, -1], [0, 1]] and first.lengths.tolist() == [0, 2]
    more, _ = both(count=2, past=held, mask=[[0, 0, 0, 1], [1, 1, 1, 1]])
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


def test_gaps_are_kept_where_rows_are_padded_and_where_they_are_not():
    mask = [[0, 1, 1, 1], [1] * 4]
    for shift in (0, 1):  # a plain loop may count padding in
        ids = [[0, shift, 1 + shift, 9 + shift], [0, 1, 2, 9]]
        got, held = both(mask=mask, position_ids=ids)
        assert got.positions.tolist() == [[-1, 0, 1, 9], [0, 1, 2, 9]]
        assert got.lengths.tolist() == [10, 10]
        assert got.order.keys.tolist() == [[-1, 0, 1, 2], [0, 1, 2, 3]]
        more, _ = both(
            count=1, past=held, mask=[[*row, 1] for row in mask], position_ids=[[12 + shift], [10]]
        )
        assert more.positions.tolist() == [[12], [10]]
        assert more.order.keys.tolist() == [[3], [4]]
    unpadded, held = both(position_ids=[[5, 6, 7, 20]] * 2)
    assert unpadded.positions.tolist() == [[5, 6, 7, 20]] * 2
    assert unpadded.order.keys.tolist() == [[5, 6, 7, 8]] * 2
    assert both(count=1, past=held)[0].positions.tolist() == [[21]] * 2
    assert step(position_ids=[[5, 6, 7, 8]]).order is None


def test_positions_of_a_hole_are_those_given():
    mask = [[1, 0, 0, 1], [1] * 4]
    with pytest.raises(ValueError, match="hides token 1 of row 0"):
        step(mask=mask)
    for ids in ([0, 0, 0, 1], [0, 1, 2, 3]):
        got = step(mask=mask, position_ids=[ids, [0, 1, 2, 3]])
        assert got.positions.tolist()[0] == [0, -1, -1, ids[-1]]
        assert got.order.keys.tolist()[0] == [0, -1, -1, 3]
        assert got.order.queries.tolist()[0] == [0, 1, 2, 3]
        assert got.order.angles.tolist()[0] == ids


def test_a_row_that_goes_on_with_other_positions_than_it_began_with():
    """Read without positions, its padding may be counted in by those that come, or not."""
    mask = [[0, 0, 1, 1], [1] * 4]
    _, held = both(mask=mask)
    longer = [[*row, 1] for row in mask]
    for ids in (2, 4):
        more, _ = both(count=1, past=held, mask=longer, position_ids=[[ids], [4]])
        assert more.positions.tolist() == [[2], [4]] and more.order is None


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
            {"mask": [[0, 1, 1, 1], [1] * 4], "position_ids": [[0, 0, 9, 9], [0, 1, 2, 3]]},
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
    """Padding on the left, anywhere with positions as `generate` has them, and gaps."""
    length = data.draw(st.integers(1, 12))
    bits = st.lists(st.integers(0, 1), min_size=length, max_size=length)
    mask = torch.tensor([data.draw(bits), data.draw(bits)])
    left = data.draw(st.booleans())
    mask = mask.sort(dim=1).values if left else mask
    gaps = torch.tensor(data.draw(st.lists(st.integers(1, 3), min_size=length, max_size=length)))
    ids = (mask * gaps).cumsum(1)
    ids = None if left and data.draw(st.booleans()) else ids.masked_fill(mask == 0, 0)
    cuts = sorted({0, length, *data.draw(st.lists(st.integers(0, length), max_size=4))})

    def read(cuts):
        held, steps = Past(), []
        for low, high in itertools.pairwise(cuts):
            here = None if ids is None else ids[:, low:high].tolist()
            step, held = both(
                count=high - low, past=held, mask=mask[:, :high].tolist(), position_ids=here
            )
            steps.append(step)
        return torch.cat([step.positions for step in steps], dim=1), held

    (whole, end), (pieces, held) = read([0, length]), read(cuts)
    assert torch.equal(pieces, whole) and torch.equal(held.lengths, end.lengths)
    device = torch.device("cpu")
    assert torch.equal(held.all_places(2, device), end.all_places(2, device))
    for row in range(2):
        real, place = mask[row] == 1, whole[row][mask[row] == 1]
        wanted = torch.arange(len(place)) if ids is None else ids[row][real]
        leading = int(real.int().argmax())
        if ids is not None and len(place) and wanted[0] == leading:  # padding is counted in
            wanted = wanted - leading
        assert torch.equal(place, wanted)
