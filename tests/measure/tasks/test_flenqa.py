import itertools

import pytest

from lengthwise.measure.tasks import FLenQA
from lengthwise.measure.tasks.flenqa import _content

PADDINGS, PLACES = ("repeated", "similar", "different"), ("first", "middle", "last", "random")


@pytest.mark.parametrize("problem", ["relations", "rooms", "rules"])
def test_the_same_problem_whatever_is_around_it(tokenizer, problem):
    seen = set()
    for padding, place in itertools.product(PADDINGS, PLACES):
        for length in (300, 600):
            for item in FLenQA(problem, padding, place).build(tokenizer, length, 3, 0):
                seen.add((tuple(item.record["facts"]), item.record["question"], item.answer))
    assert len(seen) == 3


def test_places(tokenizer):
    for place, depth in [("first", 0.05), ("middle", 0.5), ("last", 0.95)]:
        item = FLenQA(place=place).build(tokenizer, 2000, 1, 0)[0]
        assert item.depths == pytest.approx((depth, depth), abs=0.06)
    for item in FLenQA(place="random").build(tokenizer, 2000, 5, 0):
        assert item.depths[0] < item.depths[1]


@pytest.mark.parametrize("problem", ["relations", "rooms", "rules"])
def test_similar_facts_are_about_others(tokenizer, problem):
    for item in FLenQA(problem, "similar").build(tokenizer, 900, 5, 0):
        body = item.prompt.split("\n")[-2]
        for fact in item.record["facts"]:
            assert body.count(fact) == 1
            body = body.replace(fact, "")
        assert not _content(body) & _content(" ".join(item.record["facts"]))


def test_both_answers_come_up_about_equally():
    import random

    for problem in ("relations", "rooms", "rules"):
        pages = [FLenQA(problem).drawn(0, random.Random(i), len)(3) for i in range(400)]
        assert 160 < sum(page.answer == "True" for page in pages) < 240


def test_bad_arguments():
    with pytest.raises(ValueError, match="place must be one of first, middle, last, random"):
        FLenQA(place="end")
