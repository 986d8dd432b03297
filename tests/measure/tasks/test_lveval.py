import pytest

from lengthwise.measure.tasks import LVEval
from lengthwise.measure.tasks.lveval import _KINDS


def test_what_everybody_knows_is_wrong_here(tokenizer):
    task = LVEval()
    for item in task.build(tokenizer, 900, 10, 0):
        kind = _KINDS[item.record["kind"]]
        known = kind.answer.format(value=item.record["true"])
        assert item.record["keyword"] != item.record["true"]
        assert task.score(known, item) == 0  # though all its other words are right
        assert item.record["true"] not in item.prompt.replace(item.record["subject"], "")


def test_without_replacement_the_truth_is_right(tokenizer):
    task = LVEval(replaced=False)
    for item in task.build(tokenizer, 900, 5, 0):
        assert item.record["keyword"] == item.record["true"]


@pytest.mark.parametrize("count", [0, 4, 16])
def test_confusing_facts_have_other_values(tokenizer, count):
    item = LVEval(confusing=count).build(tokenizer, 1800, 1, 0)[0]
    confusing = item.record["confusing"]
    assert len(confusing) == count
    assert all(item.prompt.count(fact) == 1 for fact in confusing)
    assert not any(item.record["keyword"] in fact for fact in confusing)
    with pytest.raises(ValueError, match="from 0 to 16, got 17"):
        LVEval(confusing=17)
