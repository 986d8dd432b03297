"""Each transform against positions worked out by hand from its paper's rule."""

import pytest
import torch

from lengthwise.train.data.collate import PackedCollator
from lengthwise.train.data.segments import document_attention
from lengthwise.train.tuning import (
    CREAM,
    E2LLM,
    LongRecipe,
    PoSE,
    SegmentedTraining,
    SkipAlign,
    cream,
    e2llm,
    impactful,
    longrecipe,
    pose,
    segmented,
    skipalign,
)


def text(length, **more):
    return {"input_ids": list(range(100, 100 + length)), **more}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def script(monkeypatch, module, *calls, name="draw"):
    """Make a module's draws come out as written; each call's range must be the one expected."""
    left = list(calls)

    def drawn(generator, *given):
        *expected, value = left.pop(0)
        assert list(given) == expected
        return value

    monkeypatch.setattr(module, name, drawn)
    return left


def test_pose(monkeypatch):
    left = script(monkeypatch, pose, (1, 4, 3), (8, 20, 15), (0, 24, 10))
    row = PoSE(window=8, target=32)(text(20), seeded())
    assert row["input_ids"] == [100, 101, 102, 110, 111, 112, 113, 114]
    assert row["position_ids"] == [0, 1, 2, 13, 14, 15, 16, 17]
    assert row["labels"] == [100, 101, 102, -100, 111, 112, 113, 114]
    assert row["segment_ids"] == [0] * 8 and row["seq_lengths"] == [8]
    assert not left


def test_pose_in_place_of_the_text_keeps_its_targets(monkeypatch):
    # The second chunk goes on where the first one stopped: only positions jump.
    script(monkeypatch, pose, (1, 3, 2), (5, 5, 5), (0, 11, 4))
    row = PoSE(window=8, target=16)(text(5), seeded())
    assert row["position_ids"] == [0, 1, 6, 7, 8]
    assert row["labels"] == row["input_ids"]


def test_cream_with_short_and_with_wide_edges(monkeypatch):
    monkeypatch.setattr(CREAM, "middle", lambda self, share: 2.5)
    transform = CREAM(window=60, target=240)
    # Edges of 4 tokens a window of the target: 16; the block has 28 and ends from
    # floor(16 + 27 * 2.5) = 83 to floor(2.5 * 60) - 16 - 1 = 133.
    script(monkeypatch, cream, (0, 1, 1), (83, 133, 100))
    row = transform(text(240), seeded())
    assert row["position_ids"] == [*range(16), *range(73, 101), *range(224, 240)]
    assert row["input_ids"] == [*range(100, 116), *range(173, 201), *range(324, 340)]
    assert [i for i, label in enumerate(row["labels"]) if label == -100] == [16, 44]
    # Edges of a third: 20, a block of 20 that ends from floor(20 + 19 * 2.5) = 67 to 129.
    script(monkeypatch, cream, (0, 1, 0), (67, 129, 120))
    row = transform(text(110), seeded())
    assert row["position_ids"] == [*range(20), *range(101, 121), *range(220, 240)]
    # The text has no tokens 101 to 120 before its tail of 20: the block is what is before it.
    assert row["input_ids"] == [*range(100, 120), *range(170, 190), *range(190, 210)]
    assert [i for i, label in enumerate(row["labels"]) if label == -100] == [20]


def test_creams_gaussian_is_cut_off_and_in_the_middle():
    transform = CREAM(window=512, target=4096)
    assert transform.middle(0.0) == 1.0 and transform.middle(1.0) >= 7.5
    assert transform.middle(0.53) == 4.5  # mean 9 half windows, the code's constant for 8 windows
    values = [transform.middle((i + 0.5) / 1000) for i in range(1000)]
    assert values == sorted(values) and set(values) == {i / 2 for i in range(2, 16)}
    near = sum(3.5 <= value < 5.5 for value in values) / 1000  # 7 to 11 of N(9, 3) cut at 2, 16
    assert abs(near - 0.495 / 0.98) < 0.02
    assert CREAM(window=60, target=60).middle(0.7) == 1.0
    uniform = CREAM(window=512, target=4096, deviation=1000.0)
    assert [uniform.middle(n / 14 + 0.01) for n in range(14)] == [1 + n / 2 for n in range(14)]


def test_cream_of_the_window_itself_is_the_text(monkeypatch):
    for seed in range(4):
        row = CREAM(window=60, target=60)(text(60), seeded(seed))
        assert row["position_ids"] == list(range(60)) and row["labels"] == row["input_ids"]


def test_segmented_training(monkeypatch):
    script(monkeypatch, segmented, (14, 3, [2, 5, 14]), name="cuts")
    row = SegmentedTraining(window=6, target=20, segments=3)(text(25), seeded())
    assert row["position_ids"] == [2, 3, 7, 8, 18, 19]
    assert row["input_ids"] == [102, 103, 107, 108, 118, 119]
    assert row["labels"] == [102, 103, -100, 108, -100, 119]


def test_segmented_training_keeps_short_texts():
    row = SegmentedTraining(window=30, target=60)(text(20), seeded())
    assert row["position_ids"] == list(range(20)) and row["labels"] == row["input_ids"]


CHAT = {"labels": [-100] * 3 + [103, 104, 105] + [-100] * 2 + [108, 109]}


def test_skipalign_at_the_seams_of_messages(monkeypatch):
    script(monkeypatch, skipalign, (0, 30, 20))
    script(monkeypatch, skipalign, (20, 2, [4, 15]), name="cuts")
    row = SkipAlign(target=40, where="outer", plain=0)(text(10, **CHAT), seeded())
    assert row["position_ids"] == [0, 1, 2, 7, 8, 9, 21, 22, 28, 29]
    assert row["labels"] == CHAT["labels"]  # nothing is left out of the text


def test_skipalign_inside_messages(monkeypatch):
    calls = [(1, 2, 1), (4, 5, 5), (7, 7, 7), (9, 9, 9), (0, 30, 12)]
    script(monkeypatch, skipalign, *calls)
    script(monkeypatch, skipalign, (12, 3, [1, 1, 6]), name="cuts")
    row = SkipAlign(target=40, where="inner", plain=0)(text(10, **CHAT), seeded())
    assert row["position_ids"] == [0, 2, 3, 4, 5, 6, 7, 13, 14, 21]


def test_skipalign_leaves_a_share_alone():
    transform, generator = SkipAlign(target=400, where="all", plain=0.5), seeded()
    rows = [transform(text(10, **CHAT), generator)["position_ids"] for _ in range(200)]
    assert 70 <= sum(row == list(range(10)) for row in rows) <= 130
    assert SkipAlign(target=40, plain=1)(text(10), seeded())["position_ids"] == list(range(10))


SENTENCES = {"input_ids": [5, 6, 0, 7, 0, 8, 9, 9, 0]}


def test_longrecipe(monkeypatch):
    # 20 - 9 + 3 = 14 slots; the sentences take 0, 3 and 7: their tokens would stand at 0 1 2,
    # 5 6 and 10 11 12 13. The first four stand at 0 to 3 instead.
    script(monkeypatch, longrecipe, (1, 5, 4))
    monkeypatch.setattr(torch, "randperm", lambda n, generator: torch.tensor([6, 2, 9])[: n - 10])
    row = LongRecipe(window=9, target=20, ends=(0,))(SENTENCES, seeded())
    assert row["position_ids"] == [0, 1, 2, 3, 6, 10, 11, 12, 13]
    assert row["labels"] == SENTENCES["input_ids"]


def test_longrecipe_leaves_out_what_does_not_matter():
    marked = {**SENTENCES, "impactful": [0, 1, 0, 0, 0, 0, 0, 0, 1]}
    row = LongRecipe(window=9, target=20, ends=(0,), drop=1)(marked, seeded())
    assert row["input_ids"] == [5, 6, 0, 8, 9, 9, 0]
    assert row["labels"] == [5, 6, 0, -100, 9, 9, 0]
    with pytest.raises(ValueError, match="need a column impactful"):
        LongRecipe(window=9, target=20, ends=(0,), drop=0.5)(SENTENCES, seeded())
    shift = impactful(torch.tensor([0.0, -1, -2, -3]), torch.tensor([0.1, -3, -2, -2]), share=0.5)
    assert shift.tolist() == [False, True, False, True]


def test_e2llm(monkeypatch):
    script(monkeypatch, e2llm, (1, 5, 3), (0, 18, 11))
    row = E2LLM(window=8, max_scale=5)(text(6), seeded())
    assert row["position_ids"] == [0, 1, 2, 3, 15, 16] and row["rope_scale"] == 3


ALL = [
    PoSE(window=64, target=512),
    CREAM(window=64, target=256),
    SegmentedTraining(window=64, target=512, segments=5),
    SkipAlign(target=512, plain=0.1),
    LongRecipe(window=64, target=512, ends=(100, 117, 130, 131, 160)),
    E2LLM(window=64, max_scale=8),
]


@pytest.mark.parametrize("transform", ALL, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("length", [64, 200])
def test_every_row_is_in_order_and_inside_the_target(transform, length):
    target = getattr(transform, "target", 512)
    width = getattr(transform, "window", length)
    words = text(length, labels=[-100] * 20 + list(range(120, 100 + length)))
    generator, reached = seeded(1), 0
    for _ in range(40):
        row = transform(words, generator)
        positions = torch.tensor(row["position_ids"])
        assert (positions.diff() > 0).all() and positions[0] >= 0 and positions[-1] < target
        names = ("input_ids", "labels", "position_ids", "segment_ids")
        assert {len(row[name]) for name in names} == {width} == set(row["seq_lengths"])
        for token, label in zip(row["input_ids"], row["labels"], strict=True):
            assert label in (-100, token) and (token >= 120 or label == -100)
        reached = max(reached, int(positions[-1]))
    limit = length if isinstance(transform, SegmentedTraining) else target
    assert reached > 0.6 * limit
    again = [transform(words, seeded(7))["position_ids"] for _ in range(2)]
    assert again[0] == again[1]


def test_rows_of_a_data_set_are_drawn_by_their_number():
    from datasets import Dataset

    rows = Dataset.from_list([text(100)] * 3)
    made = rows.map(PoSE(window=64, target=512).numbered(3), with_indices=True)
    again = rows.select([0, 1]).map(PoSE(window=64, target=512).numbered(3), with_indices=True)
    assert made["position_ids"][1] == again["position_ids"][1]
    assert made["position_ids"][0] != made["position_ids"][1]


@pytest.mark.parametrize("adapted", [False, True])
def test_a_jump_of_positions_does_not_cut_attention(adapted):
    import lengthwise as lw
    from lengthwise.testing.models import tiny_model

    model = tiny_model("llama").double()
    rows = [PoSE(window=24, target=96)(text(80), seeded(seed)) for seed in (1, 2)]
    assert all(max(torch.tensor(row["position_ids"]).diff().tolist()) > 1 for row in rows)
    batch = PackedCollator()(rows)
    labels = batch.pop("labels")
    assert labels[0, 0] == -100
    moved = batch["input_ids"].clone()
    moved[:, 0] += 1
    # What transformers itself computes when a mask says that the row is one text.
    whole = {**batch, "attention_mask": torch.ones_like(moved)}
    whole.pop("segment_ids")
    expected = model(**whole, use_cache=False).logits
    with lw.adapted(model) if adapted else document_attention(model):
        got = model(**batch, use_cache=False).logits
        changed = model(**{**batch, "input_ids": moved}, use_cache=False).logits
    # transformers rounds sines and cosines to float32, an adapted model does not.
    assert (got - expected).abs().max() < (1e-5 if adapted else 1e-10)
    assert (got - changed)[:, -1].abs().max() > 1e-3  # the last token still sees the first
    # Without either, transformers takes the jump for another document: the fact that this avoids.
    bare = {"input_ids": batch["input_ids"], "position_ids": batch["position_ids"]}
    cut = model(**bare, use_cache=False).logits
    assert (cut - expected)[:, -1].abs().max() > 1e-3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PoSE(window=1, target=8), "window must be a whole number of at least 2"),
        (lambda: PoSE(window=64, target=32), "target must be a whole number of at least 64"),
        (lambda: CREAM(window=64, target=100), "must be a multiple of the window 64"),
        (lambda: CREAM(64, 128, deviation=0.0), "deviation must be above 0 and at most 1000"),
        (lambda: CREAM(window=64, target=640), "window must be above 8 tokens"),
        (lambda: SegmentedTraining(8, 16, segments=9), "segments must be from 1 to the window 8"),
        (lambda: SkipAlign(64, where="middle"), "where must be one of outer, inner, all"),
        (lambda: SkipAlign(64, plain=2), "plain must be from 0 to 1"),
        (lambda: LongRecipe(8, 64, ends=()), "at least one token id"),
        (lambda: E2LLM(window=8, max_scale=0), "max_scale must be a whole number of at least 1"),
        (lambda: CREAM(60, 240)(text(50), seeded()), "at least its window of 60 tokens, got 50"),
        (lambda: SkipAlign(8)(text(9), seeded()), "up to its target of 8 tokens, got 9"),
        (lambda: PoSE(8, 16)({"input_ids": []}, seeded()), "at least one token, got none"),
        (
            lambda: PoSE(8, 16)(text(4, segment_ids=[0, 0, 1, 1]), seeded()),
            "one document a row, got 2",
        ),
        (lambda: PoSE(8, 16)(text(4, labels=[1]), seeded()), "labels must hold 4 numbers"),
    ],
)
def test_refusals(make, words):
    with pytest.raises(ValueError, match=words) as error:
        make()
    assert "\n" not in str(error.value)
