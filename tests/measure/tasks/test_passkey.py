import random
import re
from dataclasses import replace

import pytest
from tokenizers.pre_tokenizers import ByteLevel

from lengthwise.measure.tasks import Passkey
from lengthwise.measure.tasks.passkey import NEEDLE, QUESTION

FILLER = "\n".join(f"line {i} of the filler, with {i * i % 97} things in it" for i in range(300))
NAMES = ["digits", "merged digits", "words", "letters"]


def tokens(tokenizer, text):
    return len(tokenizer(text)["input_ids"])


@pytest.mark.parametrize("name", NAMES)
def test_length_is_exact(tokenizers, name):
    task = Passkey(FILLER)
    for length in (150, 151, 152, 153, 777, 3000):
        items = task.build(tokenizers[name], length, count=5, seed=1)
        assert [tokens(tokenizers[name], i.prompt) + task.allowance for i in items] == [length] * 5
        assert all(item.length == length for item in items)


def test_length_is_exact_where_every_letter_is_three_tokens(tokenizers):
    filler = "\n".join("語" * 30 for _ in range(50))
    assert "語" not in ByteLevel.alphabet()
    task = Passkey(filler)
    for length in (200, 201, 202):
        for item in task.build(tokenizers["merged digits"], length, count=3, seed=0):
            assert tokens(tokenizers["merged digits"], item.prompt) + task.allowance == length


@pytest.mark.parametrize("name", NAMES)
def test_shortest_length_works_and_one_less_is_refused(tokenizers, name):
    task = Passkey(FILLER)
    with pytest.raises(ValueError, match=r"too short.* take \d+") as error:
        task.build(tokenizers[name], 5, count=4, seed=0)
    shortest = int(re.findall(r"\d+", str(error.value))[-1])
    with pytest.raises(ValueError, match="too short"):
        task.build(tokenizers[name], shortest - 1, count=4, seed=0)
    for length in range(shortest, shortest + 12):
        # Keys that are drawn anew with the length may need a token more.
        try:
            items = task.build(tokenizers[name], length, count=4, seed=0)
        except ValueError as refused:
            assert "too short" in str(refused) and length < shortest + 4
        else:
            assert {tokens(tokenizers[name], i.prompt) + task.allowance for i in items} == {length}


def test_allowance_holds_the_answer(tokenizers):
    for tokenizer in tokenizers.values():
        for key in ("00000", "12345", "98765"):
            answer = tokenizer(f" {key}", add_special_tokens=False)["input_ids"]
            assert len(answer) < Passkey(FILLER).allowance


def test_same_seed_same_items(tokenizer):
    task = Passkey(FILLER)
    first, again = (task.build(tokenizer, 400, count=4, seed=7) for _ in range(2))
    other = task.build(tokenizer, 400, count=4, seed=8)
    assert first == again
    assert not {i.prompt for i in first} & {i.prompt for i in other}
    assert len({item.record["offset"] for item in first}) == 4
    assert len({item.answer for item in first}) == 4


def test_depths_are_spread_evenly(tokenizer):
    items = Passkey(FILLER).build(tokenizer, 3000, count=11, seed=0)
    for i, item in enumerate(items):
        assert item.record["depth"] == i / 10
        assert item.depths[0] == pytest.approx(i / 10, abs=0.01)
        head = item.prompt.split(NEEDLE.format(key=item.answer).strip())[0]
        assert len(head) / len(item.prompt) == pytest.approx(i / 10, abs=0.03)


def test_a_depth_of_its_own(tokenizer):
    items = Passkey(FILLER, depth=0.25).build(tokenizer, 3000, count=3, seed=0)
    assert [item.depths[0] for item in items] == pytest.approx([0.25] * 3, abs=0.01)


def test_needle_is_a_line_of_its_own(tokenizer):
    lines = set(FILLER.split("\n"))
    for item in Passkey(FILLER).build(tokenizer, 1500, count=7, seed=3):
        assert item.prompt.endswith(QUESTION)
        body = [line for line in item.prompt.removesuffix(QUESTION).split("\n") if line]
        needle = NEEDLE.format(key=item.answer).strip()
        assert body.count(needle) == 1
        # All but the last line of the filler are whole.
        assert set(body) - lines - {needle} <= {body[-1], body[-2]}


def test_long_lines_are_cut_between_words(tokenizer):
    filler = " ".join(["alpha", "beta", "gamma"] * 2000)
    item = Passkey(filler, depth=0.5).build(tokenizer, 600, count=1, seed=0)[0]
    head = item.prompt.split(NEEDLE.format(key=item.answer))[0]
    assert head.split()[-1] in ("alpha", "beta", "gamma")
    assert item.depths[0] == pytest.approx(0.5, abs=0.02)


def test_answer_stands_in_the_needle_and_nowhere_else(tokenizer):
    filler = "\n".join(str(i) for i in range(10))  # any passkey of one digit stands in it
    with pytest.raises(ValueError, match="no cut"):
        Passkey(filler, digits=1).build(tokenizer, 300, count=1, seed=0)
    for item in Passkey(FILLER).build(tokenizer, 800, count=10, seed=0):
        assert item.prompt.count(item.answer) == NEEDLE.count("{key}")


def test_a_short_filler_is_repeated(tokenizer):
    item = Passkey("only\nthree\nlines").build(tokenizer, 500, count=1, seed=0)[0]
    assert item.prompt.count("three") > 10


def test_oracle_scores_one_and_chance_none(tokenizer):
    task = Passkey(FILLER)
    items = task.build(tokenizer, 200, count=20, seed=0)
    assert all(task.score(f" {item.record['key']}.", item) == 1 for item in items)
    rng = random.Random(0)
    assert sum(task.score(f" {rng.randrange(100_000):05d}", item) for item in items) == 0


@pytest.mark.parametrize(
    ("text", "score"),
    [
        (" 00042", 1),
        ("00042. Remember 00043", 1),
        (" 42", 0),
        (" 000421", 0),
        ("", 0),
        (" 1 00042", 0),
    ],
)
def test_score_takes_the_first_whole_number(tokenizer, text, score):
    task = Passkey(FILLER)
    item = task.build(tokenizer, 200, count=1, seed=0)[0]
    item = replace(item, answer="00042")
    assert task.score(text, item) == score


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"filler": " \n"}, "filler is empty"),
        ({"filler": "x", "depth": 1.5}, "depth must be from 0 to 1, got 1.5"),
        ({"filler": "x", "depth": float("nan")}, "depth"),
        ({"filler": "x", "digits": 0}, "digits must be from 1 to 20, got 0"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Passkey(**arguments)


def test_count_must_be_positive(tokenizer):
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        Passkey(FILLER).build(tokenizer, 200, count=0, seed=0)
