import random

import pytest

from lengthwise.measure.tasks import BeliefTracking, Countdown, PathTraversal
from lengthwise.measure.tasks.longproc.countdown import search, solves
from lengthwise.measure.tasks.longproc.procedure import lines_in, right_share


@pytest.mark.parametrize("task", [PathTraversal, BeliefTracking, Countdown])
@pytest.mark.parametrize("budget", [512, 2048])
def test_the_answer_fills_the_level(tokenizer, task, budget):
    items = task(budget=budget).build(tokenizer, 4 * budget, 3, 0)
    for item in items:
        size = len(tokenizer(item.answer, add_special_tokens=False)["input_ids"])
        least = 0.5 if task is Countdown else 0.8
        assert least * budget <= size <= budget == item.allowance
    with pytest.raises(ValueError, match="from 128 to 65536 output tokens, got 10"):
        task(budget=10)


@pytest.mark.parametrize("task", [PathTraversal(), BeliefTracking()])
def test_lines_count_up_to_the_first_wrong_one(tokenizer, task):
    item = task.build(tokenizer, 2500, 1, 0)[0]
    lines = item.answer.split("\n")
    steps = len(lines) - 2
    broken = [*lines[:4], "- From nowhere", *lines[5:]]
    assert task.score("\n".join(broken), item) == pytest.approx(3 / steps)
    assert task.score("\n".join(lines[1:4]), item) == pytest.approx(3 / steps)
    more = [*lines[:-1], lines[2], lines[-1]]
    assert task.score("\n".join(more), item) == pytest.approx(steps / (steps + 1))


def test_every_city_has_one_way_out(tokenizer):
    item = PathTraversal().build(tokenizer, 3000, 1, 0)[0]
    sources = [link[0] for link in item.record["links"]]
    assert len(sources) == len(set(sources))
    assert item.prompt.count("is a lively place") == len(sources)


def test_a_belief_changes_only_in_the_same_room(tokenizer):
    item = BeliefTracking(budget=2048).build(tokenizer, 6000, 1, 0)[0]
    belief, unseen = None, 0
    for line in lines_in(item.answer, "Trace"):
        at, thing, sees, believes = (part.rsplit(" is ")[-1] for part in line.split("; "))
        room, spot = at.removeprefix("in the "), thing.removeprefix("on the ")
        now = believes.split("believes: ")[1]
        assert sees.endswith(str(spot.startswith(room)))
        if sees.endswith("True"):
            assert now == spot
        else:
            assert (belief or "None") == now
            unseen += now not in (spot, "None")
        belief = now
    assert unseen > 0  # some beliefs are wrong, or nothing is tested


def test_the_search_finds_what_brute_force_finds():
    rng = random.Random(0)
    for _ in range(30):
        numbers = [rng.randint(1, 20) for _ in range(3)]
        target = rng.randint(1, 60)
        *lines, last = search(numbers, target)
        assert isinstance(last, tuple) == reaches(tuple(numbers), target)
        if isinstance(last, tuple):
            assert solves(last, numbers, target)
            assert lines[-1].endswith(": found")


def reaches(numbers, target):
    if len(numbers) == 1:
        return numbers[0] == target
    for i, a in enumerate(numbers):
        for j, b in enumerate(numbers):
            if i == j:
                continue
            rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
            values = {v for v in (a + b, a - b, a * b) if 0 < v < 2000}
            values |= {a // b} if a >= b and a % b == 0 else set()
            if any(reaches((*rest, value), target) for value in values):
                return True
    return False


def test_the_order_of_the_search():
    lines = [line for line in search([6, 3, 2], 100) if isinstance(line, str)]
    assert lines[:6] == [
        "6 + 3 = 9: go on with 9 2",
        " 9 + 2 = 11: drop",
        " 9 - 2 = 7: drop",
        " 9 * 2 = 18: drop",
        " 9 / 2: drop",
        "6 - 3 = 3: go on with 3 2",
    ]


@pytest.mark.parametrize(
    ("equations", "right"),
    [
        (["21 + 16 = 37", "26 - 17 = 9", "37 + 9 = 46"], True),
        (["21 + 16 = 37", "26 - 17 = 9", "37 + 9 = 47"], False),  # wrong sum
        (["21 + 16 = 37", "37 + 9 = 46"], False),  # 9 from nowhere
        (["21 + 21 = 42", "26 - 17 = 9", "42 + 9 = 51"], False),  # 21 used twice
        (["21 + 16 = 37", "26 - 17 = 9"], False),  # not joined
        (["16 - 21 = 5", "26 - 17 = 9", "5 + 9 = 14"], False),
        (["nonsense"], False),
        ([], False),
    ],
)
def test_equations_are_checked(equations, right):
    assert solves(equations, [21, 16, 17, 26], 46) == right


def test_a_solution_of_another_way_counts(tokenizer):
    task = Countdown()
    item = task.build(tokenizer, 1800, 1, 0)[0]
    item = type(item)(**{**vars(item), "record": {"numbers": [2, 3, 4, 5], "target": 24}})
    other = "<Solution>\n5 - 3 = 2\n2 + 4 = 6\n6 * 4 = 24\n</Solution>"
    right = "<Solution>\n5 - 2 = 3\n3 + 3 = 6\n6 * 4 = 24\n</Solution>"
    assert task.score(right, item) == 1
    assert task.score(other, item) < 1  # 4 used twice
    lines = [line for line in search([2, 3, 4, 5], 24) if isinstance(line, str)]
    half = "<Search>\n" + "\n".join([*lines[:5], "9 + 9 = 18: drop"])
    assert task.score(half, item) == pytest.approx(5 / len(lines))


def test_lines_in_tags():
    assert lines_in("x\n<Route>\na\n\n b \n</Route>\nc", "Route") == ["a", "b"]
    assert lines_in("a\nb", "Route") == ["a", "b"]
    assert lines_in("a\n</Route>\nb", "Route") == ["a"]
    assert lines_in("<Route>\na", "Route") == ["a"]
    assert lines_in("a\u2028b\r\nc", "Route") == ["a\u2028b", "c"]
    assert right_share(["a"], ["a", "b"]) == 0.5
    assert right_share(["a", "b", "c"], ["a", "b"]) == pytest.approx(2 / 3)
