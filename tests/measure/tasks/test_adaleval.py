import json
import re
from itertools import pairwise

import pytest

from lengthwise.measure.tasks import BestAnswer, TSort


@pytest.fixture
def sorted_item(tokenizer):
    return TSort().build(tokenizer, 1200, 1, 0)[0]


def test_the_segments_in_order_are_the_text(sorted_item):
    shown = dict(re.findall(r"^Segment (\d): (.*)$", sorted_item.prompt, re.MULTILINE))
    text = " ".join(shown[str(i)] for i in json.loads(sorted_item.answer))
    steps = re.findall(r"(?:From|left|Between) (\w+) (?:they went on to|for|and) (\w+)", text)
    assert len(shown) == 4 and len(steps) > 10
    assert all(left[1] == next_[0] for left, next_ in pairwise(steps))
    assert not re.search(r"\d", text)  # nothing to sort by but where the steps begin and end


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
    with pytest.raises(ValueError, match="the text is empty"):
        TSort(text=" ").build(tokenizer, 800, 1, 0)
    with pytest.raises(ValueError, match="from 2 to 6, got 7"):
        TSort(segments=7)


def in_order(item):
    """The segments of a prompt in the order that is called right."""
    shown = dict(re.findall(r"^(?:\. .*\n)?Segment (\d): (.*)$", item.prompt, re.MULTILINE))
    return " ".join(shown[str(i)] for i in json.loads(item.answer))


def test_a_text_of_ones_own_never_wraps(tokenizer):
    """The right order is the text's own, wherever the item begins, up to the whole text."""
    text = " ".join(f"Sentence {i} of {i * i} words." for i in range(120))
    task = TSort(text=text)
    for length in (300, 900, 1500):
        items = task.build(tokenizer, length, 12, 0)
        assert all(in_order(item) in text for item in items)
        assert len({item.prompt for item in items}) == 12
    # The same item grows around the same place.
    short, long = (task.build(tokenizer, length, 4, 0) for length in (300, 900))
    assert all(in_order(a) in in_order(b) for a, b in zip(short, long, strict=True))
    size = len(tokenizer(text)["input_ids"])
    with pytest.raises(ValueError, match="the text has only 120 sentences; give a longer text"):
        task.build(tokenizer, size + 400, 2, 0)


def test_segments_that_are_alike_may_change_places(tokenizer):
    task = TSort(segments=3, text="Yes. Yes. No.")
    found = 0
    for item in task.build(tokenizer, 166, 12, 0):
        alike = item.record["alike"]
        right = json.loads(item.answer)
        twins = [i for i, kind in enumerate(alike, 1) if alike.count(kind) == 2]
        swap = {twins[0]: twins[1], twins[1]: twins[0]}
        other = [swap.get(number, number) for number in right]
        assert other != right
        assert task.score(str(right), item) == task.score(str(other), item) == 1
        assert task.score(str([right[0]] * 3), item) == task.score("[9, 1, 2]", item) == 0
        orders = [[1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]]
        assert task.chance(item) == sum(task.score(str(o), item) for o in orders) / 5
        found += task.chance(item) > 1 / 5
    assert found


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
