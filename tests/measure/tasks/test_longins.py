import random
import re

import pytest

from lengthwise.measure.tasks import LongIns
from lengthwise.measure.tasks.longins import _EXAMS


def test_instructions_stand_once_or_everywhere(tokenizer):
    counts = {}
    for setting in ("GIST", "LIST", "LIMT"):
        item = LongIns(setting).build(tokenizer, 1800, 1, 0)[0]
        counts[setting] = {
            name: item.prompt.count(order) for name, (order, _) in _EXAMS.items()
            if order in item.prompt
        }  # fmt: skip
        counts[setting, "questions"] = item.record["units"]
    assert list(counts["GIST"].values()) == [1]
    assert list(counts["LIST"].values()) == [counts["LIST", "questions"]]
    assert len(counts["LIMT"]) > 2
    assert sum(counts["LIMT"].values()) == counts["LIMT", "questions"]


def test_about_one_in_ten_is_wrong():
    rows = [row for i in range(40) for row in
            LongIns().drawn(0, random.Random(i), len)(50).record["rows"]]  # fmt: skip
    share = sum(given != right for _, given, right in rows) / len(rows)
    assert 0.09 < share < 0.14  # a tenth, and one of every fifty that is always wrong


def test_right_answers_are_right_and_wrong_ones_wrong():
    rng = random.Random(0)
    for _ in range(300):
        text, right, wrong = _EXAMS["sum"][1](rng)
        assert eval(text) == int(right) != int(wrong)
        text, right, wrong = _EXAMS["larger"][1](rng)
        assert int(right) == max(map(int, text.split(" or "))) > int(wrong)
        text, right, wrong = _EXAMS["first"][1](rng)
        assert right == min(text.split(", ")) != wrong
        text, right, wrong = _EXAMS["letters"][1](rng)
        assert len(text) == int(right) != int(wrong)
        text, right, wrong = _EXAMS["backwards"][1](rng)
        assert text[::-1] == right != wrong


def test_f1_of_the_numbers(tokenizer):
    task = LongIns()
    item = task.build(tokenizer, 1800, 1, 0)[0]
    wrong = item.record["wrong"]
    every = ", ".join(str(i + 1) for i in range(item.record["units"]))
    assert task.score(every, item) == pytest.approx(
        2 * len(wrong) / (len(wrong) + item.record["units"])
    )
    assert task.score(re.sub(", .*", "", item.answer), item) == pytest.approx(2 / (len(wrong) + 1))


def test_every_wrong_answer_counts_where_it_stands(tokenizer):
    task = LongIns(wrong=0.4)
    for item in task.build(tokenizer, 1800, 8, 0):
        wrong = item.record["wrong"]
        assert len(item.depths) == len(wrong) and list(item.depths) == sorted(item.depths)
        assert task.at_depths(f"{wrong[0]}, 999", item) == (1.0, *[0.0] * (len(wrong) - 1))
        assert task.parts(f"{wrong[0]}, 999", item) == {"precision": 0.5, "recall": 1 / len(wrong)}


def test_bad_arguments():
    with pytest.raises(ValueError, match="GIST, LIST or LIMT, got 'ALL'"):
        LongIns("ALL")
    with pytest.raises(ValueError, match="above 0 to"):
        LongIns(wrong=0)
