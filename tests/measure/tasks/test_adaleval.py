import json
import re

import pytest

from lengthwise.measure.tasks import BestAnswer, TSort


@pytest.fixture
def sorted_item(tokenizer):
    return TSort().build(tokenizer, 1200, 1, 0)[0]


def test_the_segments_in_order_are_the_text(sorted_item):
    shown = dict(re.findall(r"^Segment (\d): (.*)$", sorted_item.prompt, re.MULTILINE))
    text = " ".join(shown[str(i)] for i in json.loads(sorted_item.answer))
    days = [int(day) for day in re.findall(r"[dD]ay (\d+)", text)]
    assert len(shown) == 4 and len(days) > 10
    assert days == sorted(days)


def test_the_order_as_shown_is_never_right(tokenizer):
    for item in TSort(segments=2).build(tokenizer, 500, 10, 0):
        assert item.answer == "[2, 1]"


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("Answer: [2, 4, 1, 3]", 1),
        ("[2,4,1,3]", 1),
        ("Not [1, 2, 3, 4]. Answer: [2, 4, 1, 3]", 1),
        ("The order is 2, 4, 1, 3.", 1),
        ("2 4 1 3 or 4 2 1 3", 0),  # two orders can be read
        ("[2, 4, 1]", 0),
        ("[4, 2, 1, 3]", 0),
        ("", 0),
    ],
)
def test_the_whole_order_counts(sorted_item, reply, score):
    item = type(sorted_item)(**{**vars(sorted_item), "record": {"answer": [2, 4, 1, 3]}})
    assert TSort().score(reply, item) == score


def test_a_text_of_ones_own(tokenizer):
    text = " ".join(f"This is sentence {i}." for i in range(300))
    item = TSort(text=text).build(tokenizer, 800, 1, 0)[0]
    assert "This is sentence" in item.prompt
    with pytest.raises(ValueError, match="only 2 sentences"):
        TSort(text="One. Two.").build(tokenizer, 800, 1, 0)
    with pytest.raises(ValueError, match="from 2 to 6, got 7"):
        TSort(segments=7)


def test_only_one_answer_meets_all_conditions(tokenizer):
    for item in BestAnswer().build(tokenizer, 1800, 5, 0):
        record = item.record
        right = [
            text
            for text in record["offers"]
            if f"a {record['trade']} who likes {record['hobby']} and" in text
            and int(re.findall(r"\d+", text)[0]) <= record["fee"]
        ]
        assert len(right) == 1 and f"{item.answer}: {right[0]}" in item.prompt


@pytest.mark.parametrize(
    ("reply", "score"), [("A1", 1), ("(A1).", 1), ("A12", 0), ("A2 or A1", 0), ("1", 0)]
)
def test_a_designation_is_a_whole_word(tokenizer, reply, score):
    item = BestAnswer().build(tokenizer, 700, 1, 0)[0]
    item = type(item)(**{**vars(item), "answer": "A1"})
    assert BestAnswer().score(reply, item) == score
