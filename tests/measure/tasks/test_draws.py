import random
import re

import pytest

from lengthwise.measure.tasks.draws import (
    Endless,
    depths,
    different,
    invented,
    number,
    scatter,
    sentence,
    sentences,
    uuid4,
)
from lengthwise.measure.tasks.ruler.words import real_words
from lengthwise.measure.tasks.words import ADJECTIVES, NAMES, NOUNS, VERBS


def test_an_endless_list_keeps_its_start():
    rng = random.Random(0)
    numbers = Endless(rng.random)
    first = numbers.first(3)
    assert numbers.first(10)[:3] == first == numbers.first(3)
    assert numbers.first(0) == []


def test_facts_go_to_their_places():
    units = list("abcdefghij")
    assert "".join(scatter(units, ["1", "2", "3"], [1.0, 0.0, 0.5])) == "2abcde3fghij1"
    assert scatter([], ["1", "2"], [0.9, 0.1]) == ["2", "1"]
    assert "".join(scatter(units, ["1", "2"], [0.3, 0.3])) == "abc12defghij"


def test_depths_differ():
    for count in (1, 40, 60):
        found = depths(random.Random(0), count)
        assert len(set(found)) == count and min(found) >= 0 and max(found) <= 1
    assert {round(d * 25, 9) for d in depths(random.Random(1), 26, grid=26)} == {*range(26)}


def test_a_text_becomes_sentences():
    text = 'One here. Two\n there?  "Three!" (Four.) and the rest'
    assert sentences(text) == ["One here.", "Two there?", '"Three!"', "(Four.)", "and the rest"]


def test_sentences_hold_no_number_and_no_name():
    rng = random.Random(0)
    text = " ".join(sentence(rng) for _ in range(500))
    assert not re.search(r"[\d:]", text)
    assert not {*NAMES} & {*re.findall(r"\w+", text)}
    assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text)


def test_drawn_forms():
    rng = random.Random(0)
    assert re.fullmatch(r"[1-9]\d{6}", number(rng))
    assert re.fullmatch(
        r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-\w{12}", uuid4(rng)
    )
    words = different(lambda: invented(rng, 3), 300, taken=["zzz"])
    assert not [(a, b) for a in words for b in words if a != b and a in b]


@pytest.mark.parametrize("words", [ADJECTIVES, NOUNS, VERBS, NAMES])
def test_lists_have_no_word_twice(words):
    assert len(words) == len(set(words)) > 100


def test_real_words_are_enough_and_apart():
    words = real_words()
    assert len(words) > 300
    assert not [(a, b) for a in words for b in words if a != b and a in b]
