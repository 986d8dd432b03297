import random

import pytest

from lengthwise.measure.tasks import NIAH
from lengthwise.measure.tasks.exact import Page, fill

WORDS = [f"word{i}" for i in range(5000)]


def pages(count):
    return Page("Read:\n", " ".join(WORDS[:count]), "\nWhat was the last word?", "word")


@pytest.mark.parametrize("name", ["digits", "merged digits", "words", "letters"])
def test_every_length_from_the_shortest_on(tokenizers, name):
    tokenizer = tokenizers[name]
    shortest = len(tokenizer(pages(1).prompt())["input_ids"]) + 4
    for length in range(shortest, shortest + 40):
        page, padding, units = fill(tokenizer, pages, length, 4, 1, 10)
        tokens = len(tokenizer(page.prompt(padding))["input_ids"])
        assert tokens + 4 == length
        assert page == pages(units)


def test_the_guess_changes_nothing_but_time(tokenizer):
    found = {fill(tokenizer, pages, 900, 10, 1, guess)[2] for guess in (2, 50, 200, 4000)}
    assert max(found) - min(found) <= 2  # what is missing is padded


def test_as_many_units_as_fit(tokenizer):
    _, _, units = fill(tokenizer, pages, 1200, 10, 1, 30)
    more = len(tokenizer(pages(units + 2).prompt())["input_ids"]) + 10
    assert more > 1200


def test_too_short_says_what_is_needed(tokenizer):
    needed = len(tokenizer(pages(1).prompt())["input_ids"]) + 10
    with pytest.raises(ValueError, match=f"too short: .* take {needed}$"):
        fill(tokenizer, pages, needed - 1, 10, 1, 5)


def test_depths_count_the_padding():
    page = Page("head", "abcd fact efgh", "tail", "x", marks=("fact",))
    assert page.depths("") == (5 / 14,)
    assert page.depths("..\n") == (8 / 17,)
    assert page.prompt("..\n") == "head..\nabcd fact efghtail"


def test_an_item_does_not_depend_on_those_before_it(tokenizer):
    few = NIAH().build(tokenizer, 900, 2, 0)
    many = NIAH().build(tokenizer, 900, 5, 0)
    assert [item.record["places"] for item in few] == [i.record["places"] for i in many[:2]]
    assert [item.answer for item in few] == [item.answer for item in many[:2]]


def test_a_greater_length_only_adds_text():
    drawn = NIAH().drawn(0, random.Random(0), len)
    short, long = drawn(20), drawn(60)
    removed = [s for s in short.context.split(". ") if s not in long.context]
    assert removed == []
