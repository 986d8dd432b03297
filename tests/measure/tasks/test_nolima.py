import re

import pytest

from lengthwise.measure.tasks import NoLiMa
from lengthwise.measure.tasks.draws import _FRAMES
from lengthwise.measure.tasks.nolima import _OTHERS, _SURELY, ASSOCIATIONS, PEOPLE
from lengthwise.measure.tasks.words import ADJECTIVES, NOUNS

# Words that join others and say nothing; none of them could lead anybody to the needle.
FUNCTION = set(
    """a an and at be by can could every ever for from had has have he her his how in is it of on or
    over so than that the then there they this to was were what when where which who will with
    would""".split()
)


def content(text):
    words = {word for word in re.findall(r"[^\W\d_]+", text.lower()) if word not in FUNCTION}
    return words | {word.removesuffix("s") for word in words}


@pytest.mark.parametrize("needle", ASSOCIATIONS, ids=lambda row: row[0][:40])
def test_needle_and_questions_share_no_word(needle):
    fact, near, far, misleading = needle
    for question in (near, far):
        shared = content(fact.replace("{name}", "")) & content(f"Which person {question}?")
        assert not shared, shared
    # The misleading sentence has what the needle lacks: a word of the question.
    assert content(misleading) & content(near)
    assert not content(misleading) & content(fact.replace("{name}", ""))


def test_the_haystack_has_no_word_of_a_question():
    said = content(" ".join([*_FRAMES, *_OTHERS, *ADJECTIVES, *NOUNS]))
    for _, near, far, _ in ASSOCIATIONS:
        special = content(near) | content(far)
        # "surely", "home" and the like may come up: what counts is the word that is looked for.
        assert not {near.split()[-1].lower(), far.split()[-1].lower()} & said, special & said


def test_no_name_is_a_part_of_another():
    assert len(PEOPLE) > 100
    assert not [(a, b) for a in PEOPLE for b in PEOPLE if a != b and a in b]


def test_the_distractor_is_a_fifth_away(tokenizer):
    for item in NoLiMa(distractor=True).build(tokenizer, 3000, 10, 0):
        needle, other, *_ = item.record["places"]
        assert 0.2 <= other <= 0.8 and abs(needle - other) >= 0.2
        assert round(needle * 25) == pytest.approx(needle * 25)  # one of 26 depths


def test_a_name_of_a_persons_own_text_is_not_hidden(tokenizer):
    text = " ".join(f"{name} was there." for name in PEOPLE[3:])
    task = NoLiMa(text=text)
    assert {item.answer for item in task.build(tokenizer, 700, 6, 0)} <= {*PEOPLE[:3]}
    with pytest.raises(ValueError, match="holds every name"):
        NoLiMa(text=" ".join(PEOPLE)).build(tokenizer, 700, 1, 0)


def test_a_name_alone_is_no_answer(tokenizer):
    for item in NoLiMa().build(tokenizer, 700, 6, 0):
        words = {*re.findall(r"\w+", item.prompt)}
        assert len(words & {*PEOPLE} - {item.answer}) >= _SURELY - 1
        assert item.prompt.count(item.answer) == 1


def test_the_name_counts_with_its_capital(tokenizer):
    task = NoLiMa()
    item = task.build(tokenizer, 700, 1, 0)[0]
    assert task.score(f"It is {item.answer}.", item) == 1
    assert task.score(item.answer.lower(), item) == 0
    other = next(name for name in PEOPLE if name != item.answer)
    assert task.score(f"{other} or {item.answer}", item) == 0  # a list of names is no answer
    with pytest.raises(ValueError, match="1 or 2, got 3"):
        NoLiMa(steps=3)
