"""Packed rows become rectangles; nothing is guessed and nothing is lost."""

import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from lengthwise.train.data.collate import PackedCollator
from lengthwise.train.data.pipeline import pack

ROW = {"input_ids": [1, 2], "seq_lengths": [2]}


def test_by_hand():
    batch = PackedCollator(pad=9, multiple=4, weights=True)(
        [
            {"input_ids": [5, 6, 7, 8, 3], "seq_lengths": [3, 2]},
            {"input_ids": [4, 4], "seq_lengths": [2]},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 3, 9, 9, 9], [4, 4, 9, 9, 9, 9, 9, 9]]
    none = -100
    assert batch["labels"].tolist() == [
        [none, 6, 7, none, 3, none, none, none],
        [none, 4, none, none, none, none, none, none],
    ]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4, 5]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0, 1, 1, -1, -1, -1], [0, 0] + [-1] * 6]
    assert batch["loss_weights"][0].tolist() == [0.0, 0.5, 0.5, 0.0, 1.0, 0.0, 0.0, 0.0]
    assert set(batch) == {"input_ids", "labels", "position_ids", "segment_ids", "loss_weights"}


def test_columns_given_are_kept():
    row = {
        "input_ids": torch.tensor([5, 6, 7]),
        "seq_lengths": [1, 2],
        "labels": [5, -100, 7],
        "position_ids": [8, 0, 40],
        "segment_ids": [3, 4, 4],
        "loss_weights": [0.0, 0.0, 0.25],
    }
    batch = PackedCollator(weights=True)([row])
    assert batch["labels"].tolist() == [[-100, -100, 7]]
    assert batch["position_ids"].tolist() == [[8, 0, 40]]
    assert batch["segment_ids"].tolist() == [[3, 4, 4]]
    assert batch["loss_weights"].tolist() == [[0.0, 0.0, 0.25]]
    assert row["labels"] == [5, -100, 7]
    assert "loss_weights" not in PackedCollator()([row])


def test_a_row_without_lengths_makes_no_claim():
    rows = [{"input_ids": [5, 6, 7]}]
    with pytest.raises(ValueError, match=r"3 tokens has no seq_lengths .*unpacked=True"):
        PackedCollator()(rows)
    batch = PackedCollator(unpacked=True)(rows)
    assert batch["labels"].tolist() == [[-100, 6, 7]]
    assert batch["segment_ids"].tolist() == [[0, 0, 0]]


def test_segments_say_where_documents_end_too():
    row = {"input_ids": [5, 6, 7, 8], "segment_ids": [4, 4, 9, 9], "labels": [5, 6, 7, 8]}
    for one in (row, {**row, "seq_lengths": torch.tensor([2, 2])}):
        batch = PackedCollator(weights=True)([one])
        assert batch["labels"].tolist() == [[-100, 6, -100, 8]]
        assert batch["position_ids"].tolist() == [[0, 1, 0, 1]]
        assert batch["loss_weights"].tolist() == [[0.0, 1.0, 0.0, 1.0]]


def test_no_document_learns_from_the_one_before():
    batch = PackedCollator()([{"input_ids": [5, 6, 7], "seq_lengths": [2, 1], "labels": [5, 6, 7]}])
    assert batch["labels"].tolist() == [[-100, 6, -100]]


@given(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4))
def test_every_token_is_there_once(lengths):
    rows = [{"input_ids": list(range(3, 3 + sum(row))), "seq_lengths": row} for row in lengths]
    batch = PackedCollator()(rows)
    for n, row in enumerate(rows):
        real = batch["segment_ids"][n] >= 0
        assert batch["input_ids"][n][real].tolist() == row["input_ids"]
        assert batch["segment_ids"][n][real].bincount().tolist() == row["seq_lengths"]
        assert int((batch["labels"][n] != -100).sum()) == sum(row["seq_lengths"]) - len(
            row["seq_lengths"]
        )


def test_through_arrow_and_a_data_loader(tmp_path):
    rows = [{"input_ids": [n] * (n + 2), "seq_lengths": [n, 2]} for n in range(1, 8)]
    Dataset.from_list(rows).save_to_disk(tmp_path / "packed")
    data = Dataset.load_from_disk(tmp_path / "packed")
    seen = []
    for batch in DataLoader(data, batch_size=2, shuffle=True, collate_fn=PackedCollator()):
        assert len(batch["input_ids"]) <= 2
        seen += batch["input_ids"][:, 0].tolist()
    assert sorted(seen) == list(range(1, 8))


def test_what_pack_writes_is_what_the_collator_would_make(tmp_path):
    lengths = (9, 3, 1, 14, 6, 30)
    source = Dataset.from_list(
        [{"input_ids": [3 + n] * length} for n, length in enumerate(lengths)]
    )
    batches = []
    for slim in (False, True):
        pack(source, tmp_path / str(slim), 12, slim=slim)
        rows = Dataset.load_from_disk(tmp_path / str(slim))
        batches.append(PackedCollator(weights=True)(list(rows)))
    assert batches[0].keys() == batches[1].keys()
    for name, full in batches[0].items():
        assert torch.equal(full, batches[1][name]), name


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one row, got none"),
        ([{"labels": [1]}], "must have input_ids, got columns labels"),
        ([{"input_ids": [1, 2], "seq_lengths": [3]}], "sum to 2 tokens, got 3"),
        ([{**ROW, "labels": [1]}], "labels must hold 2 numbers, got 1"),
        ([{**ROW, "labels": [1, 2, 3]}], "labels must hold 2 numbers, got 3"),
        ([{**ROW, "position_ids": [0]}], "position_ids must hold 2 numbers, got 1"),
        ([{**ROW, "loss_weights": [1.0]}], "loss_weights must hold 2 numbers, got 1"),
        ([{**ROW, "segment_ids": [0]}], "segment_ids must hold 2 numbers, got 1"),
        ([{**ROW, "segment_ids": [0, 1]}], "disagree: documents of 2 tokens and of 1, 1"),
        ([{"input_ids": [1, 2], "seq_lengths": [3, -1]}], "at least 1, got -1"),
        ([{**ROW, "attention_mask": [1, 0]}], "attention_mask hides 1 tokens .* leave padding out"),
        ([{**ROW, "completion_mask": [0, 0]}], "completion_mask hides 2 tokens .* write labels"),
        ([{**ROW, "assistant_masks": [0, 1]}], "assistant_masks hides 1 tokens"),
    ],
)
def test_refused_rows(rows, message):
    with pytest.raises(ValueError, match=message):
        PackedCollator(weights=True)(rows)


def test_a_mask_of_ones_hides_nothing():
    assert (
        PackedCollator()([{**ROW, "attention_mask": [1, 1]}]).keys()
        == PackedCollator()([ROW]).keys()
    )


def test_refused_settings():
    with pytest.raises(ValueError, match="pad must be a token id of at least 0, got -1"):
        PackedCollator(pad=-1)
    with pytest.raises(ValueError, match="multiple must be at least 1, got 0"):
        PackedCollator(multiple=0)
