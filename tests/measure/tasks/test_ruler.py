import json
import random
import re
from collections import Counter

import pytest

from lengthwise.measure.tasks import (
    NIAH,
    RULER,
    CommonWords,
    DocumentQA,
    FrequentWords,
    VariableTracking,
)
from lengthwise.measure.tasks.draws import NOISE
from lengthwise.measure.tasks.metrics import match_all, match_part
from lengthwise.measure.tasks.ruler.words import zeta

NEEDLE = re.compile(r"The special (number|uuid) of (\S+) is: (\S+)\.(?=\s)")


def one(task, tokenizer, length=1800, seed=0):
    return task.build(tokenizer, length, 1, seed)[0]


# Needles, keys and values in the text, by the source's synthetic.yaml.
@pytest.mark.parametrize(
    ("name", "needles", "keys", "answers"),
    [
        ("niah_single_1", 1, 1, 1),
        ("niah_single_2", 1, 1, 1),
        ("niah_single_3", 1, 1, 1),
        ("niah_multikey_1", 4, 4, 1),
        ("niah_multivalue", 4, 1, 4),
        ("niah_multiquery", 4, 4, 4),
    ],
)
def test_needles_of_the_source(tokenizer, name, needles, keys, answers):
    item = one(RULER[name], tokenizer)
    found = NEEDLE.findall(item.prompt)
    assert len(found) == needles
    assert len({key for _, key, _ in found}) == keys
    assert len(item.record["answers"]) == answers == len(item.depths)
    given = {(key, value) for _, key, value in found}
    assert {(k, v) for k in item.record["keys"] for v in item.record["values"][k]} <= given


@pytest.mark.parametrize("name", ["niah_multikey_2", "niah_multikey_3"])
def test_a_haystack_of_needles_holds_nothing_else(tokenizer, name):
    item = one(RULER[name], tokenizer)
    lines = [line for line in item.prompt.split("\n")[1:-1] if line.strip(" .")]
    assert all(
        NEEDLE.fullmatch(line + " ", 0, len(line)) or NEEDLE.match(line + "\n") for line in lines
    )
    found = NEEDLE.findall(item.prompt)
    assert len(found) == len(lines) > 15
    key = item.record["keys"][0]
    assert [value for _, k, value in found if k == key] == [item.answer]
    kind = r"[0-9a-f-]{36}" if name.endswith("3") else r"\d{7}"
    assert all(re.fullmatch(kind, value) for _, _, value in found)


def test_noise_is_one_block_a_line(tokenizer):
    item = one(RULER["niah_single_1"], tokenizer)
    assert Counter(item.prompt.split("\n"))[NOISE] == item.record["units"]


def test_depths_are_where_the_needles_went(tokenizer):
    task = NIAH("noise")
    for item in task.build(tokenizer, 3000, 10, seed=3):
        assert item.depths[0] == pytest.approx(item.record["places"][0], abs=0.05)


def test_the_same_needle_at_every_length(tokenizer):
    answers = {one(RULER["niah_multikey_1"], tokenizer, n).answer for n in (900, 1300, 2500)}
    assert len(answers) == 1


def test_a_text_of_ones_own_is_the_haystack(tokenizer):
    text = "Alpha went home. Did beta stay? Gamma did! Nobody saw delta."
    item = one(NIAH(text=text), tokenizer)
    assert item.prompt.count("Did beta stay?") > 10
    with pytest.raises(ValueError, match="haystack is empty"):
        one(NIAH(text=" "), tokenizer)


def test_chains_stand_in_order_and_answer(tokenizer):
    task = VariableTracking(chains=3, hops=4)
    item = one(task, tokenizer, 4000)
    body = item.prompt.split("Follow the chains")[2]
    lines = [line for line in body.split("\n") if line.startswith("VAR ")]
    assert len(lines) == 15
    for chain in item.record["chains"]:
        assert [line for line in lines if line in chain] == chain
    assert len(item.answer.split()) == 5
    assert all(re.fullmatch("[A-Z]{5}", name) for name in item.answer.split())
    solved = item.prompt.split("Follow the chains")[1]
    assert len(re.findall(r"\bVAR [A-Z]{3} = ", solved)) == 5


@pytest.mark.parametrize(
    ("length", "often", "seldom", "shown"), [(4095, 6, 1, 20), (9000, 30, 3, 40)]
)
def test_counts_of_common_words(tokenizer, length, often, seldom, shown):
    item = one(CommonWords(), tokenizer, length)
    example, body = (
        re.findall(r"\d+\. (\w+)", part.split("Question:")[0])
        for part in item.prompt.split("This is a numbered list")[1:]
    )
    counts = Counter(body)
    assert {counts[word] for word in item.record["common"]} == {often}
    assert {n for word, n in counts.items() if word not in item.record["common"]} == {seldom}
    assert counts == item.record["counts"]
    assert len(set(example)) == shown and not set(example) & set(item.record["common"])


def test_words_do_not_run_out(tokenizer):
    pages = CommonWords(repeats=(6, 1)).drawn(0, random.Random(0), len)
    words = pages(3000).record["counts"]
    assert len(words) == 3010


def test_frequencies_are_those_of_the_source():
    assert zeta(2.0) == pytest.approx(1.6449340668482264, abs=1e-9)
    assert zeta(3.5) == pytest.approx(1.1267338673, abs=1e-9)
    pages = FrequentWords().drawn(0, random.Random(0), len)
    page = pages(1000)
    expected = [int(1000 * k**-2.0 / 1.6449340668482264) for k in range(1, 25)]
    assert list(page.record["counts"].values()) == expected
    assert Counter(page.context.split()) == page.record["counts"]
    assert page.context.split().count("...") == 607


@pytest.mark.parametrize("alpha", [1.5, 2.0, 3.5])
def test_the_three_most_frequent_words_are_no_tie(alpha):
    task = FrequentWords(alpha)
    for words in range(task.least, 3000):
        counts = [*task._counts(words)[:5], 0]
        assert counts[1] > counts[2] > counts[3] > counts[4]


SQUAD = {
    "data": [
        {
            "paragraphs": [
                {
                    "context": f"{name} is a river. It flows into lake {name}water.",
                    "qas": [
                        {
                            "question": f"Into which lake does {name} flow?",
                            "is_impossible": False,
                            "answers": [{"text": f"{name}water"}, {"text": f"lake {name}water"}],
                        },
                        {"question": "Why?", "is_impossible": True, "answers": []},
                    ],
                }
                for name in names
            ]
        }
        for names in [("Abra", "Brod", "Cest"), ("Dunn", "Elk", "Fint")]
    ]
}
HOTPOT = [
    {
        "question": f"Which country is the town of {name} in?",
        "answer": f"{name}land",
        "context": [[name, [f"{name} is a town.", f" It lies in {name}land."]], ["Else", ["No."]]],
    }
    for name in ("Osk", "Pim", "Qua")
]


@pytest.fixture
def files(tmp_path):
    for name, data in [("squad", SQUAD), ("hotpot", HOTPOT)]:
        (tmp_path / f"{name}.json").write_text(json.dumps(data), encoding="utf-8")
    return tmp_path


def test_a_squad_file_of_ones_own(files, tokenizer):
    task = DocumentQA("squad", files / "squad.json")
    items = task.build(tokenizer, 700, 8, seed=0)
    assert [item.answer for item in items[:3]] == ["Abrawater", "Brodwater", "Cestwater"]
    assert items[6].answer == "Abrawater"  # six questions, then round again
    documents = re.findall(r"Document \d+:\n(\w+)", items[0].prompt)
    assert documents.count("Abra") == 1 and {"Brod", "Cest"} <= {*documents[:3]}
    assert task.score("the lake Abrawater.", items[0]) == 1
    assert task.chance(items[0]) == 1 / 6


def test_a_hotpot_file_of_ones_own(files, tokenizer):
    task = DocumentQA("hotpot", files / "hotpot.json")
    item = one(task, tokenizer, 500)
    assert item.answer == "Oskland" and "Osk is a town. It lies in Oskland." in item.prompt
    assert task.score(task.oracle(item.record), item) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "is no squad file"), ('{"data": []}', "holds no question"), ("[1]", "is no squad")],
)
def test_a_bad_file(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        DocumentQA("squad", path)
    with pytest.raises(ValueError, match="is no squad file"):
        DocumentQA("squad", tmp_path / "missing.json")


def test_generated_documents_answer_in_two_steps(tokenizer):
    item = one(DocumentQA("hotpot"), tokenizer)
    person, work = item.record["documents"]
    name = person.split("\n")[0]
    assert name in work and name not in item.record["question"]
    assert item.answer in person and item.answer not in work


def test_the_metrics_are_the_published_ones():
    assert match_all("7, and 12", ["7", "12", "9"]) == pytest.approx(2 / 3)
    assert match_part("In PARIS.", ["paris", "city of light"]) == 1
    assert match_part("x", ["paris"]) == 0
    assert match_all("a\x07bc", ["a\nb"]) == 1  # control characters count as line breaks


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NIAH("hay"), "haystack must be one of noise, essay, needles, got 'hay'"),
        (lambda: NIAH(queries=0), "queries at least 1"),
        (lambda: VariableTracking(hops=0), "from 1 to 100"),
        (lambda: CommonWords(common=20), "from 1 to 19, got 20"),
        (lambda: CommonWords(repeats=(3, 3)), "repeats must fall"),
        (lambda: FrequentWords(alpha=1.0), "from 1.5 to 3.5, got 1.0"),
        (lambda: DocumentQA("trivia"), "squad or hotpot, got 'trivia'"),
    ],
)
def test_bad_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_bad_budget(tokenizer):
    with pytest.raises(ValueError, match="budget must be at least 1 token, got 0"):
        NIAH(budget=0).build(tokenizer, 900, 1, 0)
