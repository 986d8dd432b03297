import itertools
import re

import pytest

from lengthwise.measure.tasks import LongICL


def demonstrations(item):
    lines = [line for line in item.prompt.split("\n") if " => " in line]
    return [line.split(" => ")[1] for line in lines]


def words_of(text, words):
    return [word for word in words if word in re.findall(r"\w+", text)]


@pytest.mark.parametrize("grouped", [False, True])
def test_every_label_is_shown_and_the_word_of_the_right_one(tokenizer, grouped):
    item = LongICL(labels=10, grouped=grouped).build(tokenizer, 2400, 1, 0)[0]
    shown = demonstrations(item)
    assert {*shown} == {*item.record["labels"]} and len(shown) == item.record["units"]
    counts = sorted(shown.count(label) for label in {*shown})
    assert counts[-1] - counts[0] <= 1 and counts[0] >= 2
    # No demonstration has both words of the asked text; both were shown, also by other labels.
    nouns, adjectives = item.record["words"][item.answer]
    noun, adjective = (
        words_of(item.record["asked"], nouns),
        words_of(item.record["asked"], adjectives),
    )
    lines = [line for line in item.prompt.split("\n") if " => " in line]
    have = {
        word: {line for line in lines if words_of(line, [word])} for word in (*noun, *adjective)
    }
    assert len(have) == 2 and not set.intersection(*have.values())
    for rows in have.values():
        labels = {line.split(" => ")[1] for line in rows}
        assert item.answer in labels and len(labels) >= 2
    changes = sum(a != b for a, b in itertools.pairwise(shown))
    assert (changes == 9) == grouped


@pytest.mark.parametrize("position", [0.0, 0.5, 1.0])
def test_the_position_of_the_right_label(tokenizer, position):
    item = LongICL(labels=11, grouped=True, position=position).build(tokenizer, 2000, 1, 0)[0]
    assert item.record["labels"].index(item.answer) == round(10 * position)
    assert item.depths[0] == pytest.approx(position * 10 / 11, abs=0.08)


def test_the_first_label_named_counts(tokenizer):
    task = LongICL(labels=5)
    item = task.build(tokenizer, 900, 1, 0)[0]
    other = next(label for label in item.record["labels"] if label != item.answer)
    assert task.score(f"{item.answer}, not {other}", item) == 1
    assert task.score(f"{other}, not {item.answer}", item) == 0


def test_bad_arguments():
    with pytest.raises(ValueError, match="from 4 to 200, got 1"):
        LongICL(labels=1)
    with pytest.raises(ValueError, match="needs grouped"):
        LongICL(position=0.5)
