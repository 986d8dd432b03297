import random

import pytest

from lengthwise.measure.tasks.metrics import (
    LVEVAL_WORDS,
    edit_similarity,
    keyword_f1,
    length_score,
    match_all,
    match_part,
    normalized,
    rouge_l,
    rouge_l_summary,
    rouge_n,
    set_f1,
    token_f1,
)

OURS = "The cat sat on the mat. It was a red mat. Nobody saw the dog."
THEIRS = "A cat sat on a red mat. The dog saw nobody. It was late."


def test_normalized():
    assert normalized("The  Cat, an Owl; a bee's (nest)!") == "cat owl bees nest"
    assert normalized("The Cat.") == "cat"


@pytest.mark.parametrize(
    ("text", "reference", "score"),
    [
        ("the cat", "a cat", 1),
        ("cat cat", "cat", 2 / 3),
        ("red cat", "cat black", 1 / 2),
        ("", "cat", 0),
        ("dog", "cat", 0),
    ],
)
def test_token_f1(text, reference, score):
    assert token_f1(text, reference) == pytest.approx(score)


def test_set_f1():
    assert set_f1({"1", "2"}, {"2", "3", "4"}) == pytest.approx(2 / 5)
    assert set_f1(set(), set()) == 1
    assert set_f1(set(), {"1"}) == 0


def test_rouge_is_that_of_the_packages():
    # Made with rouge-score 0.1.2, rouge 1.0.1 and fuzzywuzzy 0.18.0 on these two texts.
    assert rouge_n(OURS, THEIRS, 1) == pytest.approx(0.8275862068965518, abs=1e-12)
    assert rouge_n(OURS, THEIRS, 2) == pytest.approx(0.4444444444444445, abs=1e-12)
    assert rouge_l(OURS, THEIRS) == pytest.approx(0.5517241379310344, abs=1e-12)
    assert rouge_l_summary(OURS, THEIRS) == pytest.approx(0.7407407357475996, abs=1e-12)
    assert edit_similarity(OURS, THEIRS) == 0.51


def test_rouge_l_equals_the_table_of_the_textbook():
    def common(a, b):
        row = [0] * (len(b) + 1)
        for x in a:
            corner = 0
            for j, y in enumerate(b, 1):
                corner, row[j] = row[j], corner + 1 if x == y else max(row[j], row[j - 1])
        return row[-1]

    rng = random.Random(0)
    for _ in range(50):
        a, b = (" ".join(rng.choices("abcde", k=rng.randint(1, 90))) for _ in range(2))
        expected = 2 * common(a.split(), b.split()) / (len(a.split()) + len(b.split()))
        assert rouge_l(a, b) == pytest.approx(expected)


def test_the_ends_of_rouge():
    for score in (rouge_l, rouge_l_summary, lambda a, b: rouge_n(a, b, 2)):
        assert score(OURS, OURS) == pytest.approx(1, abs=1e-7)
        assert score("", OURS) == 0
        assert score("zzz yyy", OURS) == 0
    assert rouge_n("one", "one", 2) == 0


def test_matching_as_in_ruler():
    assert match_all("ABC and def", ["abc", "DEF", "ghi"]) == pytest.approx(2 / 3)
    assert match_part("it is b", ["a", "b"]) == 0 + 1
    assert match_part("it is c", ["x", "y"]) == 0


def test_keywords_below_a_fifth_count_for_nothing():
    answer = "the red fox of Spain lives in a deep den"
    assert keyword_f1("in the of", answer, "fox Spain") == 0  # blacklisted words recall nothing
    assert keyword_f1("the red fox", answer, "fox Spain") == token_f1("the red fox", answer) > 0
    assert keyword_f1("fox", answer, "fox a1 a2 a3 a4 a5") == 0  # one of six is below a fifth
    assert keyword_f1("fox", answer, "fox a1 a2 a3 a4") > 0
    assert keyword_f1(answer, answer, "") == 1
    assert len(LVEVAL_WORDS) == 38


@pytest.mark.parametrize(
    ("words", "score"), [(100, 1), (200, 2 / 3), (400, 0), (50, 0.5), (1000, 0), (10, 0), (0, 0)]
)
def test_length_score(words, score):
    assert length_score(words, 100) == pytest.approx(score)
