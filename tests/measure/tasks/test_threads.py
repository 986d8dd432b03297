import json

import pytest

from lengthwise.measure.tasks import Threads, contour


def table(item):
    """The JSON object of the prompt."""
    text = item.prompt[item.prompt.index("{") : item.prompt.rindex("}") + 1]
    return json.loads(text)


def test_the_prompt_holds_a_json_object_that_leads_to_the_answer(tokenizer):
    for task in (Threads(), Threads(3, 4, "random"), Threads(steps=3, branches=4)):
        item = task.build(tokenizer, 3000, 1, 0)[0]
        pairs = table(item)
        assert task.oracle({**item.record, "table": {
            key: value if isinstance(value, list) else [value] for key, value in pairs.items()
        }}) == item.answer  # fmt: skip
        assert len(pairs) == item.record["units"] + task.threads * task.steps


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_directions(tokenizer, direction):
    item = Threads(steps=6, direction=direction).build(tokenizer, 4000, 1, 0)[0]
    order = sorted(item.depths, reverse=direction == "backward")
    assert list(item.depths) == order
    mixed = Threads(steps=6, direction="random").build(tokenizer, 4000, 1, 0)[0]
    assert sorted(mixed.depths) not in (list(mixed.depths), list(mixed.depths)[::-1])


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_clustered_pairs_stand_together(tokenizer, direction):
    item = Threads(steps=5, direction=direction, clustered=True).build(tokenizer, 4000, 1, 0)[0]
    keys = list(table(item))
    places = [keys.index(key) for key in item.record["table"]]
    step = 1 if direction == "forward" else -1
    assert places == list(range(places[0], places[0] + 5 * step, step))


def test_a_branch_ends_at_once(tokenizer):
    item = Threads(steps=4, branches=3).build(tokenizer, 3000, 1, 0)[0]
    pairs = table(item)
    branching = [value for value in pairs.values() if isinstance(value, list)]
    assert len(branching) == 3
    assert all(len(value) == 3 and sum(v in pairs for v in value) == 1 for value in branching)


def test_reciting_everything_is_no_answer(tokenizer):
    task = Threads(threads=2)
    item = task.build(tokenizer, 3000, 1, 0)[0]
    assert task.score(item.prompt, item) < 1
    assert task.score(item.answer.split("\n")[0], item) == 0.5
    assert task.score(item.answer.upper(), item) == 1


def test_the_contour_is_where_the_score_crosses():
    assert contour({1000: 1.0, 2000: 1.0, 4000: 0.5}, 0.75) == pytest.approx(2000 * 2**0.5)
    assert contour({1000: 0.7, 2000: 1.0}) == 0
    assert contour({2000: 0.8, 1000: 0.9}) == 2000
    assert contour({1000: 1.0, 2000: 0.5, 4000: 1.0}, 0.75) < 2000  # the first crossing counts
    with pytest.raises(ValueError, match="threshold above 0 to 1"):
        contour({1000: 1.0}, 0)


def test_bad_arguments():
    with pytest.raises(ValueError, match="steps must be from 1 to 100, got 0"):
        Threads(steps=0)
    with pytest.raises(ValueError, match="got 'sideways'"):
        Threads(direction="sideways")
