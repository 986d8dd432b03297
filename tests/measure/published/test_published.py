"""Small files in the published formats, written by us."""

import json
import sys
import types

import pytest

from lengthwise.measure.published import (
    FABLES,
    CNNSum,
    LEval,
    LongBench,
    LongBenchWrite,
    PublishedLVEval,
    errors_by,
    errors_by_position,
    faithfulness,
    length_bin,
)
from lengthwise.measure.published.base import cut_middle, read_rows
from lengthwise.measure.published.fables import read_claims
from lengthwise.measure.published.longbench_write import written_words
from lengthwise.measure.tasks import Item


def lines(path, *rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), "utf-8")
    return path


@pytest.fixture
def characters(monkeypatch):
    """A stand-in for the segmenter that makes every character a word."""
    module = types.ModuleType("jieba")
    module.cut = lambda text, cut_all: list(text)
    monkeypatch.setitem(sys.modules, "jieba", module)


@pytest.fixture
def no_segmenter(monkeypatch):
    monkeypatch.setitem(sys.modules, "jieba", None)


def bench_row(dataset, answers, classes=None, context="Some text.", length=3000):
    return {
        "input": "What?",
        "context": context,
        "answers": answers,
        "length": length,
        "dataset": dataset,
        "all_classes": classes,
    }


def scored(task, tokenizer, reply, length=2000):
    item = task.build(tokenizer, length, 1, 0)[0]
    return task.score(reply, item)


@pytest.mark.parametrize(
    ("dataset", "answers", "classes", "reply", "score"),
    [
        ("hotpotqa", ["the red cat", "dog"], None, "A dog!", 1),  # the best reference
        ("hotpotqa", ["red cat"], None, "cat", 2 / 3),
        ("hotpotqa_e", ["red cat"], None, "red cat", 1),  # LongBench-E has the same metrics
        ("triviaqa", ["cat"], None, "\ncat\nQuestion: dog", 1),  # only the first line
        ("hotpotqa", ["cat"], None, "\ncat\nQuestion: dog", 1 / 2),
        ("passage_count", ["7"], None, "7 or 8", 1 / 2),
        ("passage_count", ["7"], None, "seven", 0),
        ("passage_retrieval_en", ["Paragraph 12"], None, "Paragraph 12.", 1),
        ("passage_retrieval_en", ["Paragraph 12"], None, "Paragraph 1", 0),
        ("passage_retrieval_zh", ["段落5"], None, "段落5", 1),
        ("trec", ["Food"], ["Food", "City", "Other"], "Food or City", 1 / 2),
        ("trec", ["Food dish"], ["Food", "Food dish"], "Food dish", 1),  # a part of the right one
        ("trec", ["Food"], ["Food", "City"], "Town", 0),
        ("lcc", ["x = 1"], None, "```python\n# set\nx = 1\ny", 1),
        ("lcc", ["x = 1"], None, "x = 2", 0.8),
        ("gov_report", ["a cat sat"], None, "a cat sat", 1),
        ("gov_report", ["a cat sat"], None, "", 0),
    ],
)
def test_longbench_scores(tmp_path, tokenizer, dataset, answers, classes, reply, score):
    file = lines(tmp_path / "set.jsonl", bench_row(dataset, answers, classes))
    assert scored(LongBench(file), tokenizer, reply) == pytest.approx(score, abs=1e-6)


def test_longbench_reads_the_prompts_of_ones_own_copy(tmp_path, tokenizer):
    file = lines(tmp_path / "set.jsonl", bench_row("qasper", ["x"], context="CONTEXT {input}"))
    prompts = tmp_path / "dataset2prompt.json"
    prompts.write_text(json.dumps({"qasper": "Q: {input} T: {context} A:"}), "utf-8")
    item = LongBench(file, prompts).build(tokenizer, 900, 1, 0)[0]
    assert item.prompt == "Q: What? T: CONTEXT {input} A:"
    assert item.allowance == 128
    prompts.write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="holds no prompt for qasper"):
        LongBench(file, prompts)


def test_longbench_bins(tmp_path, tokenizer):
    for length, name in [(3999, "0-4k"), (4000, "4-8k"), (9000, "8k+")]:
        file = lines(tmp_path / "set.jsonl", bench_row("qasper", ["x"], length=length))
        item = LongBench(file).build(tokenizer, 900, 1, 0)[0]
        assert item.record["groups"]["words in the text"] == name == length_bin(length)
        assert item.record["groups"]["ability"] == "questions, one document"


def test_chinese_needs_the_segmenter(tmp_path, tokenizer, no_segmenter):
    file = lines(tmp_path / "set.jsonl", bench_row("multifieldqa_zh", ["北京"]))
    with pytest.raises(ValueError, match="pip install jieba"):
        scored(LongBench(file), tokenizer, "北京")


def test_chinese_scores(tmp_path, tokenizer, characters):
    file = lines(tmp_path / "set.jsonl", bench_row("multifieldqa_zh", ["北京。"]))
    assert scored(LongBench(file), tokenizer, "北京！") == 1
    assert scored(LongBench(file), tokenizer, "北海") == 0.5
    file = lines(tmp_path / "set.jsonl", bench_row("vcsum", ["北京好"]))
    assert scored(LongBench(file), tokenizer, "北好") == pytest.approx(0.8)


def test_what_is_too_long_loses_its_middle(tmp_path, tokenizers):
    context = "FIRST " + " ".join(f"word {i}" for i in range(2000)) + " LAST"
    file = lines(tmp_path / "set.jsonl", bench_row("hotpotqa", ["x"], context=context))
    for tokenizer in tokenizers.values():
        item = LongBench(file).build(tokenizer, 500, 1, 0)[0]
        tokens = len(tokenizer(item.prompt)["input_ids"])
        assert tokens + item.allowance == item.length <= 500
        assert item.record["cut"] and item.length > 400
        assert "word 1000" not in item.prompt
    full = LongBench(file).build(tokenizers["digits"], 50_000, 1, 0)[0]
    assert not full.record["cut"] and "word 1000" in full.prompt
    with pytest.raises(ValueError, match="too short: the answer alone may take 32"):
        LongBench(file).build(tokenizers["digits"], 33, 1, 0)
    assert cut_middle(tokenizers["digits"], "short", 20) == "short"


def level_row(**change):
    row = {"input": "Q?", "context": "Text.", "answers": ["the red fox of Spain", "x"], "length": 9}
    return row | {"dataset": "loogle_CR_mixup_16k", "answer_keywords": "fox Spain"} | change


@pytest.mark.parametrize(
    ("change", "reply", "score"),
    [
        ({}, "the red fox of Spain", 1),
        ({}, "the red of", 0),  # no keyword
        ({}, "x", 0),  # only the first reference
        ({"answer_keywords": None}, "red", 2 / 5),
        ({"dataset": "factrecall_en_256k", "answers": ["Ben"]}, "Ben", 1),
        ({"dataset": "cmrc_mixup", "answers": ["北京大学"], "answer_keywords": "北京"}, "大学", 0),
        ({"dataset": "cmrc_mixup", "answers": ["北京大学"], "answer_keywords": "北京"}, "北", 0.4),
        ({"dataset": "factrecall_zh", "answers": ["北京"]}, "京", 2 / 3),
    ],
)
def test_lveval_scores(tmp_path, tokenizer, characters, change, reply, score):
    file = lines(tmp_path / "set.jsonl", level_row(**change))
    assert scored(PublishedLVEval(file), tokenizer, reply) == pytest.approx(score)


def test_lveval_refuses_what_it_cannot_score(tmp_path):
    file = lines(tmp_path / "set.jsonl", level_row(dataset="dureader_mixup_16k"))
    with pytest.raises(ValueError, match=r"is scored with the published metrics\.py"):
        PublishedLVEval(file)
    lines(file, level_row(dataset="longbench"))
    with pytest.raises(ValueError, match="unknown set 'longbench'"):
        PublishedLVEval(file)


def test_lveval_reads_the_code_of_ones_own_copy_without_running_it(tmp_path, tokenizer, characters):
    code = "raise SystemExit\nimport nothing\nABANDON_WORDS_ZH = ['的', '是']\n"
    words, prompts = tmp_path / "metrics.py", tmp_path / "config.py"
    words.write_text(code, "utf-8")
    forms = {"cmrc_mixup": "读 {context} 问 {input}", "dureader_mixup": "{input} {context}"}
    prompts.write_text(f"DATASET_PROMPT = {forms!r}\n", "utf-8")
    row = level_row(dataset="cmrc_mixup", answers=["的是山"], answer_keywords="的是山")
    file = lines(tmp_path / "cmrc_mixup_32k.jsonl", row)
    assert scored(PublishedLVEval(file), tokenizer, "的是") == pytest.approx(4 / 5)
    task = PublishedLVEval(file, prompts, words)
    assert scored(task, tokenizer, "的是") == 0  # neither counts as a keyword recalled
    assert scored(task, tokenizer, "山") == 0  # one of three
    item = task.build(tokenizer, 900, 1, 0)[0]
    assert item.prompt == "读 Text. 问 Q?" and item.record["groups"] == {"level": "32k"}
    lines(file, level_row(dataset="dureader_mixup", answers=["的山水"], answer_keywords=None))
    task = PublishedLVEval(file, prompts, words)
    assert scored(task, tokenizer, "是山") == pytest.approx(2 / 3, abs=1e-6)  # 山 of 山 and 水
    words.write_text("ABANDON_WORDS_ZH = list(open('x'))\n", "utf-8")
    with pytest.raises(ValueError, match=r"metrics.py cannot be read"):
        PublishedLVEval(file, prompts, words)
    words.write_text("ABANDON = 3\n", "utf-8")
    with pytest.raises(ValueError, match="does not set ABANDON_WORDS_ZH"):
        PublishedLVEval(file, prompts, words)


@pytest.mark.parametrize(
    ("kind", "answer", "reply", "score"),
    [
        ("options", "B", "B. Because", 1),
        ("options", "B", "The answer is (C)", 0),
        ("options", "ABC", "A, C", 0.25),
        ("options", "AC", "AC", 1),
        ("options", "AC", "AD", 0),
        ("options", "AC", "", 0),
        ("options", "AC", "they are A. and C. here", 1),
        ("options", "A", "none of them", 1),  # as published
        ("option", "(D) A boy leaves", "(D) A boy leaves.", 1),
        ("option", "C", "C and D", 1),
        ("option", "C", "", 0),
        ("math", "so it is 4. The answer is 1,250.", "The answer is $1,250.00", 1),
        ("math", "The answer is 12.", "we get 12\n\nQuestion 99", 1),
        ("math", "The answer is 12.", "no idea", 0),
        ("exact", "the blue door", "It was The Blue Door.", 1),
        ("exact", "the blue door", "It was red.", 0),
        ("f1", "a blue door", "the blue", 2 / 3),
        ("truth", "True [fact: False]", "That is true, not false", 1),
        ("truth", "False [fact: True]", "It's True.", 0),
        ("truth", "False [fact: True]", "who knows", 0),
        ("code", "[3, '4']", "so the final output is [3, 4] and no more words", 1),
        ("code", "12.0", "The value of it will be 12", 1),
        ("code", "12", "12 is what one might think at first, but it is 13", 0),
        ("code", "4", "14", 0),  # two numbers, and not the same
        ("rouge", "one two three", "one two three", 1),
        ("rouge", "one two three", "four", 0),
    ],
)
def test_leval_scores(tmp_path, tokenizer, kind, answer, reply, score):
    row = {"input": "Doc.", "instructions": ["Q?"], "outputs": [answer], "evaluation": "exam"}
    file = lines(tmp_path / "set.jsonl", row)
    assert scored(LEval(file, kind), tokenizer, reply) == pytest.approx(score)


def test_leval_tells_the_length_against_its_bias(tmp_path):
    row = {"input": "D", "instructions": ["Q", "R"], "outputs": ["a b c", "d"], "evaluation": "f1"}
    file = lines(tmp_path / "set.jsonl", row)
    assert "Use about 3 words." in LEval(file, "f1").rows()[0].prompt
    assert "words" not in LEval(file, "f1", length_instruction=False).rows()[0].prompt
    assert len(LEval(file, "exact").rows()) == 2
    with pytest.raises(ValueError, match="got 'bleu'"):
        LEval(file, "bleu")


def test_leval_knows_how_its_tasks_are_scored(tmp_path):
    row = {"input": "D", "instructions": ["Q"], "outputs": ["A b"], "evaluation": "exam"}
    for name, kind in (("coursera", "options"), ("topic_retrieval_longchat", "exact")):
        (only,) = LEval(lines(tmp_path / f"{name}.jsonl", row)).rows()
        assert only.record["kind"] == kind and only.groups == {"questions": "closed"}
    with pytest.raises(ValueError, match="evaluation is 'exam' and the file is named after no"):
        LEval(lines(tmp_path / "mine.jsonl", row))
    judged = [row | {"evaluation": who} for who in ("LLM", "human")]
    (only,) = LEval(
        lines(tmp_path / "news_summ.jsonl", *judged, row | {"evaluation": "rouge"})
    ).rows()
    assert only.record["kind"] == "rouge" and only.groups == {"questions": "open"}
    with pytest.raises(ValueError, match="no row that is scored without a judge"):
        LEval(lines(tmp_path / "news_summ.jsonl", *judged))


def test_leval_refuses_rows_that_do_not_pair(tmp_path):
    row = {"input": "D", "instructions": ["Q", "R"], "outputs": ["a b c", "d"], "evaluation": "f1"}
    file = tmp_path / "set.jsonl"
    lines(file, row | {"outputs": ["a"]})
    with pytest.raises(ValueError, match="as many outputs"):
        LEval(file, "f1")


def test_cnnsum(tmp_path, tokenizer, characters):
    file = lines(tmp_path / "cnnsum.jsonl", {"context": "从前有座山", "summary": "山上有庙"})
    task = CNNSum(file, prompt="读：{} 写：")
    item = task.build(tokenizer, 900, 1, 0)[0]
    assert item.prompt == "读：从前有座山 写："
    assert task.score("山上有庙", item) == pytest.approx(1, abs=1e-6)
    assert task.score("山上", item) == pytest.approx(2 / 3, abs=1e-6)
    assert "从前有座山" in CNNSum(file).rows()[0].prompt
    with pytest.raises(ValueError, match="must hold"):
        CNNSum(file, prompt="读")
    # Every text is asked with every published prompt, and the file's name says its tier.
    (tmp_path / "prompts.json").write_text(json.dumps({"a": "一{}", "b": "二{}三"}), "utf-8")
    tier = lines(tmp_path / "cnnsum_2XL_64k.jsonl", {"context": "山", "summary": "庙"})
    rows = CNNSum(tier, prompts=tmp_path / "prompts.json").rows()
    assert [(row.prompt, row.budget, row.groups) for row in rows] == [
        ("一山", 500, {"tier": "64k"}), ("二山三", 500, {"tier": "64k"}),
    ]  # fmt: skip
    (tmp_path / "prompts.json").write_text("{}", "utf-8")
    with pytest.raises(ValueError, match="must hold"):
        CNNSum(tier, prompts=tmp_path / "prompts.json")


def test_words_of_the_real_segmenter(tmp_path, tokenizer):
    pytest.importorskip("jieba")
    file = lines(tmp_path / "set.jsonl", bench_row("multifieldqa_zh", ["我来到北京清华大学"]))
    # Words are 我, 来到, 北京, 清华大学: two of them are shared.
    assert scored(LongBench(file), tokenizer, "北京的清华大学。") == pytest.approx(4 / 7)
    file = lines(tmp_path / "set.jsonl", {"context": "从前有座山", "summary": "我来到北京"})
    assert scored(CNNSum(file), tokenizer, "我来到北京") == pytest.approx(1, abs=1e-6)


def test_longbench_write(tmp_path, tokenizer):
    row = {"prompt": "Write 100 words.", "type": "Report", "length": 100}
    task = LongBenchWrite(lines(tmp_path / "write.jsonl", row))
    item = task.build(tokenizer, 900, 1, 0)[0]
    assert item.allowance == 300 and item.record["type"] == "Report"
    assert task.score("word " * 100, item) == 1
    assert task.score("word " * 50, item) == 0.5
    assert task.score("", item) == 0
    assert written_words("两个字 and three words, 42") == 6
    with pytest.raises(ValueError, match="from 1 to 10"):
        LongBenchWrite(task.file, tokens_per_word=0)


CLAIMS = {
    "FABLES": {
        "Book": {
            "M1": {
                "summary": "S",
                "general_comment": "",
                "claims": {
                    "0": {"claim": "A", "label": "Yes", "evidence": ["one two"], "reason": []},
                    "1": {"claim": "B", "label": "No", "evidence": ["nine  ten"], "reason": []},
                    "2": {"claim": "C", "label": "PartialSupport", "evidence": "n/a"},
                },
            },
            "M2": {"claims": {"0": {"claim": "D", "label": "No", "evidence": []}}},
        }
    }
}
BOOK = "one two three\nfour five six seven eight nine ten"


@pytest.fixture
def fables(tmp_path):
    (tmp_path / "FABLES.json").write_text(json.dumps(CLAIMS), "utf-8")
    (tmp_path / "Book.txt").write_text(BOOK, "utf-8")
    return tmp_path


def test_fables_shares_and_places(fables):
    claims = read_claims(fables / "FABLES.json")
    shares = faithfulness(claims)
    assert shares["M1"] == pytest.approx(
        {"Yes": 1 / 3, "No": 1 / 3, "PartialSupport": 1 / 3, "Inapplicable": 0}
    )
    assert shares["M2"]["No"] == 1
    assert errors_by_position(claims, BOOK, parts=3) == [(1, 0.0), (0, None), (1, 1.0)]
    assert errors_by(claims, lambda claim: claim.support) == {
        "nothing quoted": (2, 0.5), "one passage": (2, 0.5),
    }  # fmt: skip
    assert errors_by(claims, lambda claim: claim.kind) == {}  # the published file says none
    with pytest.raises(ValueError, match="parts must be at least 1, got 0"):
        errors_by_position(claims, BOOK, parts=0)


def test_fables_rates_a_rater(fables, tokenizer):
    task = FABLES(fables / "FABLES.json", fables)
    items = task.build(tokenizer, 900, 10, 0)
    assert sorted(item.answer for item in items) == ["No", "No", "Yes"]
    for item in items:
        assert BOOK in item.prompt
        assert task.score(f"{item.answer.upper()}, because", item) == 1
        assert task.score("Maybe", item) == task.score("", item) == 0
    by_answer = {item.prompt.split("Claim: ")[1][0]: item for item in items}
    assert by_answer["B"].record["groups"] == {
        "people said": "No", "evidence": "one passage", "part of the book": "80-100%",
    }  # fmt: skip
    assert by_answer["B"].depths == (BOOK.index("nine") / len(BOOK),)
    assert "part of the book" not in by_answer["D"].record["groups"]
    said = task.facts()
    assert said[0].startswith("FABLES: 1 of 1 books are there")
    assert "  by who wrote the summary: M1 33% of 3, M2 100% of 1" in said
    assert "  by part of the book: 0-20% 0% of 1, 80-100% 100% of 1" in said
    assert not any("kind of claim" in line for line in said)
    typed = json.loads(json.dumps(CLAIMS))
    typed["FABLES"]["Book"]["M1"]["claims"]["1"]["type"] = "event"
    typed["FABLES"]["Absent"] = {"M1": {"claims": {"0": {"claim": "E", "label": "Yes"}}}}
    (fables / "FABLES.json").write_text(json.dumps(typed), "utf-8")
    assert "  by kind of claim: event 100% of 1" in task.facts()
    assert len(task.rows()) == 3  # claims on a book that is not there are left out
    (fables / "Book.txt").unlink()
    with pytest.raises(ValueError, match="the text of 'Book' is missing"):
        FABLES(fables / "FABLES.json", fables)


@pytest.mark.parametrize("content", ["{", "[]", '{"FABLES": {"B": {"M": {"claims": {}}}}}'])
def test_fables_bad_files(tmp_path, content):
    path = tmp_path / "bad.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=r"no file of FABLES|labels must be"):
        read_claims(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no row"),
        ('{"a": 1}\n{', "line 2 is no JSON"),
        ('{"b": 1}', "line 1 lacks a; expected a"),
        ("[1]", "line 1 is no JSON object"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_bad_rows(tmp_path, content, message):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        list(read_rows(path, ["a"]))
    with pytest.raises(ValueError, match="cannot be read"):
        list(read_rows(tmp_path / "missing", ["a"]))


def test_rows_are_drawn_by_the_seed(tmp_path, tokenizer):
    rows = [bench_row("qasper", [str(i)]) for i in range(30)]
    task = LongBench(lines(tmp_path / "set.jsonl", *rows))
    first, again, other = (task.build(tokenizer, 900, 5, seed) for seed in (1, 1, 2))
    assert first == again != other
    assert len({item.answer for item in first}) == 5
    assert len(task.build(tokenizer, 900, 99, 0)) == 30
    assert all(isinstance(item, Item) for item in first)
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        task.build(tokenizer, 900, 0, 0)
