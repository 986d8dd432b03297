import random

import pytest

from lengthwise.measure.tasks import LCFO, GoldenThread, HelloBench
from lengthwise.measure.tasks.golden_thread import blocks_of
from lengthwise.measure.tasks.writing import prose, repetition, word_count


def test_words_are_counted():
    assert word_count("It's a well-known fact: 12.5 % of 3 is not 4.") == 11
    assert word_count("") == 0


def test_repetition_is_the_share_of_ngrams_that_came_before():
    words = " ".join(f"w{i}" for i in range(20))
    assert repetition(words) == 0
    assert repetition(" ".join(["a"] * 30)) == pytest.approx(22 / 23)
    assert repetition(f"{words} {words}") == pytest.approx(13 / 33)
    assert repetition("short") == 0


def test_length_repetition_and_things_all_count(tokenizer):
    task = HelloBench(words=100, things=4)
    item = task.build(tokenizer, 1500, 1, 0)[0]
    right = task.oracle(item.record)
    assert task.score(right, item) == 1
    half = " ".join(right.split()[:50])
    assert task.score(half, item) == pytest.approx(0.5)
    missing = right.replace(item.record["things"][0], "cat")
    assert task.score(missing, item) == pytest.approx(0.75)
    assert task.score(" ".join([half, half]), item) < 0.8


def test_word_salad_and_copies_are_no_text(tokenizer):
    """What earned a full score once: any words, as many as asked, with the things among them."""
    task = HelloBench(words=200, things=3)
    salads = []
    for item in task.build(tokenizer, 1500, 5, 0):
        right, things, rng = task.oracle(item.record), item.record["things"], random.Random(0)
        shuffled = right.split()
        rng.shuffle(shuffled)
        vocabulary = sorted({*right.split()})  # the same whatever strings hash to
        for words in (shuffled, rng.choices(vocabulary, k=197)):
            salads.append(task.score(" ".join([*words, *things][-200:]), item))
        copied = " ".join([*item.prompt.split()[:197], *things])
        parts = task.parts(copied, item)
        assert parts["words"] > 150 and parts["prose"] > 0.9 and parts["checklist"] == 1
        assert task.score(copied, item) < 0.1
    assert max(salads) < 0.3 and sum(salads) / len(salads) < 0.1


def test_prose_is_told_from_words():
    tale = (
        "The old man looked at the sea. He had not caught a fish in many weeks, and the boy was no "
        "longer allowed to come with him. In the evening they sat on the terrace and spoke about "
        "the great teams of the past, until the light was gone."
    )
    assert prose(tale) == 1
    words = tale.split()
    random.Random(1).shuffle(words)
    assert prose(" ".join(words)) < 0.3
    assert prose("sea. fish. boy. terrace. light. team. week. man. evening.") == 0
    assert prose(tale.replace(".", "").replace(",", "") * 3) == 0  # without an end
    assert prose("") == 0


@pytest.mark.parametrize("subtask", ["completion", "heuristic", "qa", "chat", "summary"])
def test_subtasks_differ_in_what_is_asked(tokenizer, subtask):
    item = HelloBench(60, subtask=subtask).build(tokenizer, 700, 1, 0)[0]
    order = {
        "completion": "Go on", "heuristic": "Make up", "qa": "Explain", "chat": "letter",
        "summary": "report",
    }[subtask]  # fmt: skip
    assert order in item.prompt.split("\n")[-2] and "Write 60 words" in item.prompt


def test_an_expansion_keeps_the_notes_and_copies_nothing(tokenizer):
    task = LCFO(share=0.2, facts=2, expand=150)
    item = task.build(tokenizer, 1500, 1, 0)[0]
    summary = item.prompt.split("Summary of another text: ")[1].split("\nExpand")[0]
    assert all(fact in summary for fact in item.record["facts"]) and word_count(summary) == 30
    assert task.parts(item.answer, item) == {
        "words": 150, "length": 1, "facts kept": 1, "no repetition": 1, "prose": 1,
    }  # fmt: skip
    copied = f"{summary} {' '.join(item.prompt.split()[:120])}"
    assert task.parts(copied, item)["no repetition"] < 0.3
    lost = item.answer.replace(item.record["values"][0], "1")
    assert task.score(lost, item) == pytest.approx(0.5)


def test_a_summary_of_the_right_length_with_all_notes(tokenizer):
    task = LCFO(share=0.2, facts=3)
    item = task.build(tokenizer, 2500, 1, 0)[0]
    text = " ".join(item.record["lines"])
    assert item.record["words"] == round(word_count(text) * 0.2)
    assert word_count(item.answer) == item.record["words"]
    other = item.answer.replace(item.record["values"][1], "00000")
    assert task.score(other, item) == pytest.approx(2 / 3)
    assert task.score(" ".join(item.answer.split()[:5]), item) == 0  # far too short
    assert task.score(text, item) < 0.1  # the text itself is no summary


def test_events_count_in_their_blocks_only(tokenizer):
    task = GoldenThread(blocks=10, single=1, ranges=1, periodic=1)
    item = task.build(tokenizer, 1500, 1, 0)[0]
    plan = item.record["plan"]
    right = task.oracle(item.record)
    assert task.score(right, item) == task.parts(right, item)["completion"] == 1
    everything = " ".join(event for _, event, _ in plan)
    assert task.score(f"Week 11\n{everything}", item) == 0
    first = f"Week 1\n{everything}"
    hits = [2 * (1 in where) / (1 + len(where)) for _, _, where in plan]
    assert task.score(first, item) == pytest.approx(sum(hits) / 3)
    assert task.parts(first, item)["completion"] == 0.1
    everywhere = task.shortcuts(item)["every event everywhere"]
    f1 = [2 * len(where) / (len(where) + 10) for _, _, where in plan]
    assert task.score(everywhere, item) == pytest.approx(sum(f1) / 3) and sum(f1) / 3 < 0.7
    assert [kind for kind, _, _ in plan] == ["single", "range", "periodic"]


def test_blocks_are_found_in_any_dress():
    text = "intro\n### Floor 1: hall\nred\n**floor 2**\nblue\nFloor 1\nagain\nFloor 30\ngreen"
    assert {i: body.strip() for i, body in blocks_of(text, "Floor").items()} == {
        1: "red",
        2: "blue",
        30: "green",
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HelloBench(words=10), "words must be from 20 to 50000, got 10"),
        (lambda: HelloBench(things=-1), "things must be from 0 to 20"),
        (lambda: LCFO(share=0.9), "share must be from"),
        (
            lambda: HelloBench(subtask="poem"),
            "completion, heuristic, qa, chat, summary, got 'poem'",
        ),
        (lambda: LCFO(expand=5), "expand must be 0 or at least 20 words, got 5"),
        (lambda: LCFO(facts=0), "facts must be from 1 to 20, got 0"),
        (lambda: GoldenThread("opera"), "diary, tower, menu, city, got 'opera'"),
        (lambda: GoldenThread(blocks=3), "blocks must be from 6 to 500"),
        (lambda: GoldenThread(single=51), "single must be from 0 to 50, got 51"),
        (lambda: GoldenThread(single=0, ranges=0, periodic=0), "needs an event"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()
