import re

import pytest

from lengthwise.measure.tasks import Lines


def test_every_line_has_a_name_of_its_own(tokenizer):
    item = Lines().build(tokenizer, 4000, 1, 0)[0]
    names = re.findall(r"line (\S+): the register holds", item.prompt)
    assert len(names) == len(set(names)) == item.record["units"] + 1 > 100
    assert names.count(item.record["name"]) == 1


def test_a_depth_of_its_own(tokenizer):
    for depth in (0.0, 0.5, 1.0):
        item = Lines(depth=depth).build(tokenizer, 4000, 1, 0)[0]
        assert item.depths[0] == pytest.approx(depth, abs=0.03)
    with pytest.raises(ValueError, match="from 0 to 1, got"):
        Lines(depth=1.5)


def test_the_first_number_counts(tokenizer):
    task = Lines()
    item = task.build(tokenizer, 800, 1, 0)[0]
    assert task.score(f"<{item.answer}> and not 7", item) == 1
    assert task.score(f"7, no, {item.answer}", item) == 0
    assert task.score(item.answer + "0", item) == 0
