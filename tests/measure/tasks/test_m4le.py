import json

import pytest

from lengthwise.measure.tasks import M4LE
from lengthwise.measure.tasks.m4le import ABILITIES


@pytest.fixture
def file(tmp_path):
    rows = [
        {"text": f"Item {i} on {topic}.", "label": ("yes", "no")[i % 2], "topic": topic}
        for topic in ("tea", "rain", "wool", "chess", "snow", "bread", "glass", "salt")
        for i in range(5)
    ]
    path = tmp_path / "short.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.mark.parametrize("ability", ABILITIES)
def test_items_of_ones_own(file, tokenizer, ability):
    task = M4LE(ability, file)
    for item in task.build(tokenizer, 800, 3, 0):
        shorts, chosen = item.record["shorts"], item.record["chosen"]
        assert task.score(task.oracle(item.record), item) == 1
        if "semantic" in ability:
            topics = [short[2] for short in shorts]
            asked = topics[chosen[0]]
            where = [i for i, topic in enumerate(topics) if topic == asked]
            assert where == (chosen[:1] if "single" in ability else chosen)
            assert f"about the {asked}" in item.prompt


def test_scores(tokenizer):
    task = M4LE("explicit multiple")
    item = task.build(tokenizer, 800, 1, 0)[0]
    labels = ("positive", "mixed", "negative")
    record = {**item.record, "shorts": [["", label, ""] for label in labels], "chosen": [0, 1, 2]}
    item = type(item)(**{**vars(item), "answer": ", ".join(labels), "record": record})
    assert task.score("Positive, mixed and negative.", item) == 1
    assert task.score("positive, negative, negative", item) == pytest.approx(2 / 3)
    assert task.score("positive", item) == pytest.approx(1 / 3)


def test_labels_that_begin_each_other_hold_commas_or_end_in_signs(tmp_path, tokenizer):
    labels = ("c", "c++", "c, mostly", "not c")
    rows = [
        {"text": f"Item {i}.", "label": labels[i % 4], "topic": f"topic {i}"} for i in range(12)
    ]
    path = tmp_path / "short.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    task = M4LE("explicit multiple", path)
    seen = set()
    for item in task.build(tokenizer, 800, 12, 0):
        seen |= {item.record["shorts"][i][1] for i in item.record["chosen"]}
        assert task.score(task.oracle(item.record), item) == 1
        assert task.score("c " * 3, item) < 1 or set(item.answer.split(", ")) == {"c"}
    assert seen == set(labels)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "a", "label": "b"}', "text, label and topic"),
        ("[]", "line 1 is no JSON object"),
        ('{"text": "a", "label": 1, "topic": "c"}', "label must be a text, got 1"),
        ('{"text": "a", "label": " ", "topic": "c"}', "must not be empty"),
        ('{"text": "a", "label": "b", "topic": "c"}', "2 labels and 8 topics"),
    ],
)
def test_a_bad_file(tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text(line, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        M4LE(file=path)
    with pytest.raises(ValueError, match="ability must be one of"):
        M4LE("psychic")
