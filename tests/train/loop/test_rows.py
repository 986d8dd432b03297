"""Rows are a function of (seed, step), whoever shares a step; positions are never documents."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from lengthwise.testing.models import VOCABULARY, tiny_model
from lengthwise.train.loop.pairs import pair_batches, refuse_tokens
from lengthwise.train.loop.rows import Plan, Source, Step, micro_batches, open_source
from lengthwise.train.named import room
from lengthwise.train.recipe import Recipe


def plan(recipe: Recipe, count: int = 10) -> Plan:
    return Plan(recipe, np.arange(count), 128, 64, 128)


def test_every_pass_has_each_row_once(recipe: Callable[..., Recipe]) -> None:
    ours = plan(recipe(step_tokens=5 * 128))
    first = [row for step in (0, 1) for row in ours.step(step).rows]
    second = [row for step in (2, 3) for row in ours.step(step).rows]
    assert sorted(first) == sorted(second) == list(range(10)) and first != second
    assert first == [row for step in (0, 1) for row in ours.step(step).rows]


def test_processes_share_a_step(recipe: Callable[..., Recipe]) -> None:
    ours = plan(recipe(step_tokens=6 * 128))
    for processes in (1, 2, 3):
        ours.check(processes)
        shares = [ours.step(1, rank, processes).numbers for rank in range(processes)]
        assert sorted(n for share in shares for n in share) == list(range(6, 12))
        assert len({len(share) for share in shares}) == 1
    with pytest.raises(ValueError, match="6 rows of 128 tokens, which 4 processes cannot share"):
        ours.check(4)


def test_a_step_has_one_kind_of_rows(recipe: Callable[..., Recipe]) -> None:
    ours = plan(recipe(steps=200, short_share=0.3, step_tokens=256))
    steps = [ours.step(number) for number in range(200)]
    assert 30 < sum(step.short for step in steps) < 90
    assert {(step.short, step.length, len(step.rows)) for step in steps} == {
        (True, 64, 4), (False, 128, 2),
    }  # fmt: skip
    for short in (True, False):  # the two kinds are drawn one after another on their own
        numbers = [n for step in steps if step.short == short for n in step.numbers]
        assert numbers == list(range(len(numbers)))


def source(rows: list[dict[str, list[int]]]) -> Source:
    return Source(rows, np.arange(len(rows)), "test")


def test_joined_rows_have_a_mask_of_ones_and_positions_through(
    recipe: Callable[..., Recipe],
) -> None:
    rows = source([{"input_ids": [*range(3, 13)], "seq_lengths": [4, 6]}])
    step = Step((0, 0), (0, 1), 6, short=False)
    batches, tokens = micro_batches(rows, step, recipe(), None, 2.0, VOCABULARY)
    assert tokens == 12 and len(batches) == 1
    batch = batches[0]
    assert "segment_ids" not in batch and batch["attention_mask"].eq(1).all()
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    for row in batch["input_ids"].tolist():
        assert row == list(range(row[0], row[0] + 6))  # a cut of the row
    again, _ = micro_batches(rows, step, recipe(), None, 2.0, VOCABULARY)
    assert torch.equal(batch["input_ids"], again[0]["input_ids"])


def test_documents_apart_keep_their_segments(recipe: Callable[..., Recipe]) -> None:
    rows = source([{"input_ids": [*range(3, 13)], "seq_lengths": [4, 6]}])
    step = Step((0,), (0,), 10, short=False)
    batches, _ = micro_batches(rows, step, recipe(documents="apart"), None, 2.0, VOCABULARY)
    assert batches[0]["segment_ids"].tolist() == [[0] * 4 + [1] * 6]
    assert batches[0]["position_ids"].tolist() == [[*range(4), *range(6)]]


def test_rows_without_lengths_are_no_documents(recipe: Callable[..., Recipe]) -> None:
    """Joined, a row is read as one text; where documents count, it must say them."""
    bare = source([{"input_ids": [*range(3, 13)]}])
    step = Step((0,), (0,), 10, short=False)
    batch = micro_batches(bare, step, recipe(), None, 2.0, VOCABULARY)[0][0]
    assert batch["labels"].tolist() == [[-100, *range(4, 13)]]
    pose = room("transform").parse("pose:window=8,target=40")
    for changes, transform in (
        ({"documents": "apart"}, None), ({"weigh": "documents"}, None),
        ({"weigh": "documents"}, pose),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"without seq_lengths, and .* needs to know"):
            micro_batches(bare, step, recipe(**changes), transform, 2.0, VOCABULARY)
    packed = source([{"input_ids": [*range(3, 13)], "segment_ids": [0] * 4 + [1] * 6}])
    batch = micro_batches(packed, step, recipe(documents="apart"), None, 2.0, VOCABULARY)[0][0]
    assert batch["segment_ids"].tolist() == [[0] * 4 + [1] * 6]
    with pytest.raises(ValueError, match="one document a row, got 2"):
        micro_batches(packed, step, recipe(weigh="documents"), pose, 2.0, VOCABULARY)


def test_data_that_name_no_documents_are_refused_before_training(
    recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    Dataset.from_dict({"input_ids": [[3] * 128]}).save_to_disk(str(tmp_path / "bare"))
    ours = recipe(data=str(tmp_path / "bare"))
    assert len(open_source(ours, 128, 128, 2, tmp_path / "rows", None).usable) == 1
    for change in ({"documents": "apart"}, {"weigh": "documents"}):
        with pytest.raises(ValueError, match="bare has rows without seq_lengths"):
            open_source(replace(ours, **change), 128, 128, 2, tmp_path / "rows", None)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({"labels": [3] * 11}, "labels must hold 10 numbers, got 11"),
        ({"attention_mask": [1] * 9 + [0]}, "attention_mask hides 1 tokens"),
        ({"completion_mask": [0] * 4 + [1] * 6}, "completion_mask hides 4 tokens"),
        ({"position_ids": [*range(5), *range(90, 95)]}, "position_ids that do not count"),
        ({"segment_ids": [0] * 10}, "seq_lengths and segment_ids disagree"),
        ({"seq_lengths": [4, 5]}, "sum to 10 tokens, got 9"),
    ],
)
def test_columns_that_would_be_ignored_are_refused(
    recipe: Callable[..., Recipe], column: dict[str, list[int]], message: str
) -> None:
    row = {"input_ids": [*range(3, 13)], "seq_lengths": [4, 6], **column}
    with pytest.raises(ValueError, match=message):
        micro_batches(
            source([row]), Step((0,), (0,), 6, short=False), recipe(), None, 2.0, VOCABULARY
        )


def test_columns_of_pack_are_not_refused(recipe: Callable[..., Recipe]) -> None:
    counted = [*range(4), *range(6)]
    for positions in (counted, [*range(10)]):
        row = {
            "input_ids": [*range(3, 13)], "seq_lengths": [4, 6], "position_ids": positions,
            "segment_ids": [0] * 4 + [1] * 6, "attention_mask": [1] * 10,
        }  # fmt: skip
        step = Step((0,), (0,), 10, short=False)
        batch = micro_batches(source([row]), step, recipe(), None, 2.0, VOCABULARY)[0][0]
        assert batch["position_ids"].tolist() == [[*range(10)]]


def test_which_tokens_matter_travels_to_the_transform(recipe: Callable[..., Recipe]) -> None:
    ids = [token for sentence in range(20) for token in (10 + sentence, 10 + sentence, 5)]
    matters = [sentence % 2 for sentence in range(20) for _ in range(3)]
    transform = room("transform").parse("longrecipe:window=30,target=64,ends=(5,),drop=1.0")
    step = Step((0,), (0,), 60, short=False)
    rows = source([{"input_ids": ids, "impactful": matters}])
    (batch,), _ = micro_batches(rows, step, recipe(), transform, 2.0, VOCABULARY)
    wanted = [token for token, kept in zip(ids, matters, strict=True) if kept]
    assert batch["input_ids"].tolist() == [wanted]


def test_jumps_of_positions_are_no_documents(recipe: Callable[..., Recipe]) -> None:
    """What a plain model makes of a PoSE row: attention goes across the jump."""
    rows = source([{"input_ids": np.random.default_rng(0).integers(3, 99, 60).tolist()}])
    transform = room("transform").parse("pose:window=32,target=400")
    step = Step((0,), (0,), 60, short=False)
    batches, _ = micro_batches(rows, step, recipe(), transform, 1.0, VOCABULARY)
    batch = batches[0]
    jump = int(batch["position_ids"].diff().argmax()) + 1
    assert batch["position_ids"].diff().max() > 1 and batch["input_ids"].shape == (1, 32)
    model = tiny_model("llama").double()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits
        other = inputs["input_ids"].clone()
        other[0, 0] = 5
        moved = model(**{**inputs, "input_ids": other}, use_cache=False).logits
        apart = model(
            input_ids=inputs["input_ids"], position_ids=inputs["position_ids"], use_cache=False
        ).logits
    assert (logits - moved)[0, jump:].abs().max() > 1e-6  # the first token is seen from beyond
    assert (logits - apart)[0, jump:].abs().max() > 1e-6  # without the mask it would not be


def test_scales_stretch_positions(recipe: Callable[..., Recipe]) -> None:
    """A row under scale g on frequencies divided by f: positions times f / g."""
    rows = source([{"input_ids": list(range(3, 35))}])
    transform = room("transform").parse("e2llm:window=32,max_scale=7")
    for number in range(6):
        step = Step((0,), (number,), 32, short=False)
        batch = micro_batches(rows, step, recipe(), transform, 4.0, VOCABULARY)[0][0]
        told = batch["position_ids"].double()
        steps = told.diff()[0, 8:]  # between neighbours: 4 / g
        assert torch.allclose(steps, steps[0].expand_as(steps), atol=1e-4)
        scale = 4.0 / float(steps[0])
        assert abs(scale - round(scale)) < 1e-3 and 1 <= round(scale) <= 7


def test_short_rows_are_not_transformed(recipe: Callable[..., Recipe]) -> None:
    rows = source([{"input_ids": list(range(3, 67))}])
    transform = room("transform").parse("pose:window=32,target=400")
    step = Step((0,), (0,), 16, short=True)
    batch = micro_batches(rows, step, recipe(), transform, 4.0, VOCABULARY)[0][0]
    assert batch["position_ids"].tolist() == [list(range(16))]


def test_rows_of_different_lengths_are_padded_without_targets(
    recipe: Callable[..., Recipe],
) -> None:
    rows = source([{"input_ids": [3, 4, 5, 6]}, {"input_ids": [7, 8]}])
    step = Step((0, 1), (0, 1), 4, short=False)
    batch = micro_batches(rows, step, recipe(), None, 1.0, VOCABULARY)[0][0]
    assert batch["labels"].tolist() == [[-100, 4, 5, 6], [-100, 8, -100, -100]]
    assert batch["loss_weights"].tolist() == [[0, 1, 1, 1], [0, 1, 0, 0]]
    model = tiny_model("llama").double()
    with torch.no_grad():
        padded = model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
            position_ids=batch["position_ids"],
        ).logits  # fmt: skip
        alone = model(input_ids=torch.tensor([[7, 8]])).logits
    assert cross_entropy(padded[1, :1], torch.tensor([8])) == pytest.approx(
        float(cross_entropy(alone[0, :1], torch.tensor([8]))), abs=1e-9
    )


def test_tokens_of_another_tokenizer(recipe: Callable[..., Recipe]) -> None:
    rows = source([{"input_ids": [3, VOCABULARY]}])
    with pytest.raises(ValueError, match="holds the token 320 and the model has 320"):
        micro_batches(rows, Step((0,), (0,), 2, False), recipe(), None, 1.0, VOCABULARY)


def test_data_of_rows_and_of_text(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    rows = open_source(recipe(), 128, 128, 2, tmp_path / "rows", None)
    assert len(rows.usable) == 24 and not (tmp_path / "rows").exists()
    with pytest.raises(ValueError, match=r"longest row of .* has 128 tokens .* trains on 1,000"):
        open_source(recipe(), 1000, 1000, 2, tmp_path / "rows", None)
    text = tmp_path / "texts"
    text.mkdir()
    (text / "a.txt").write_text("A window is open on the text. " * 40)
    packed = open_source(recipe(data=str(text)), 64, 64, 2, tmp_path / "rows", None)
    assert max(len(row["input_ids"]) for row in packed.rows) == 64
    again = open_source(recipe(data=str(text)), 64, 64, 2, tmp_path / "rows", None)
    assert again.identity == packed.identity


def test_columns_of_an_objective_are_numbers_of_tokens_or_rows(
    recipe: Callable[..., Recipe],
) -> None:
    rows = source([{"input_ids": list(range(3, 35))}, {"input_ids": list(range(3, 20))}])
    transform = room("transform").parse("masktokens:share=0.25")
    step = Step((0, 1), (0, 1), 32, short=False)
    batch = micro_batches(rows, step, recipe(), transform, 1.0, VOCABULARY)[0][0]
    assert batch["noise"].shape == (2,) and batch["masked"].shape == batch["input_ids"].shape
    assert batch["masked"][1, 17:].eq(-1).all() and batch["masked"][0].sum() == 8


@pytest.mark.parametrize("label", [VOCABULARY, -1])
def test_labels_that_the_model_does_not_have(recipe: Callable[..., Recipe], label: int) -> None:
    rows = source([{"input_ids": [3, 4, 5], "labels": [-100, label, 5], "seq_lengths": [3]}])
    with pytest.raises(ValueError, match=rf"holds the token {label} and the model has"):
        micro_batches(rows, Step((0,), (0,), 3, short=False), recipe(), None, 1.0, VOCABULARY)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"input_ids": ["a text"]}, r"input_ids holds string; it must hold lists of whole numbers"),
        ({"input_ids": [[1.5, 2.0]]}, r"input_ids holds list<.*double>"),
        ({"input_ids": [[3, 4], None]}, "input_ids is null in a row"),
        ({"input_ids": [[3, 4]], "labels": [3]}, "labels holds int64"),
        ({"input_ids": [[3, 4]], "seq_lengths": [[[2]]]}, "seq_lengths holds list"),
    ],
)
def test_columns_of_other_types(
    recipe: Callable[..., Recipe], tmp_path: Path, columns: dict[str, list[Any]], message: str
) -> None:
    Dataset.from_dict(columns).save_to_disk(str(tmp_path / "odd"))
    with pytest.raises(ValueError, match=message):
        open_source(recipe(data=str(tmp_path / "odd")), 2, 2, 2, tmp_path / "rows", None)


def test_a_damaged_data_set_is_named(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    Dataset.from_dict({"input_ids": [[3, 4, None]]}).save_to_disk(str(folder))
    rows = open_source(recipe(data=str(folder)), 2, 2, 2, tmp_path / "rows", None)
    with pytest.raises(ValueError, match=r"odd, row 0: input_ids has a null"):
        micro_batches(rows, Step((0,), (0,), 3, short=False), recipe(data=str(folder)), None, 1, 99)
    (folder / "state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"odd is damaged: KeyError"):
        open_source(recipe(data=str(folder)), 2, 2, 2, tmp_path / "rows", None)


def test_pairs_of_another_tokenizer() -> None:
    row = {"long": [3, 4], "short": [3], "chosen": [5], "rejected": [VOCABULARY]}
    batches = list(pair_batches([row], 1, 0))
    refuse_tokens(batches, VOCABULARY + 1, "pairs")
    with pytest.raises(ValueError, match=f"pairs holds the token {VOCABULARY} and the model has"):
        refuse_tokens(batches, VOCABULARY, "pairs")
