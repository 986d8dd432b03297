"""The suites as data."""

from pathlib import Path

import pytest

from lengthwise.measure import tasks
from lengthwise.measure.run.options import class_of
from lengthwise.measure.run.rows import REFERENCE, Cell
from lengthwise.measure.run.suites import ScatteredPasskey, suite
from lengthwise.measure.tasks import NIAH, RULER, DocumentQA, Passkey
from lengthwise.names import READINGS, STANDARD, SUITES, TASKS, suite_names
from lengthwise.testing.models import tiny_tokenizer

FILLER = "some words to hide things in\n" * 9


def test_what_the_suites_hold() -> None:
    found = {name: suite(name, FILLER) for name in SUITES}
    assert dict(found["ruler"].tasks) == RULER
    assert set(RULER) < set(found["full"].tasks)
    exported = {
        thing
        for thing in vars(tasks).values()
        if isinstance(thing, type) and hasattr(thing, "build") and thing is not tasks.Task
    }
    # LongSafety needs instructions of a person's own.
    assert {type(task) for task in found["full"].tasks.values()} == exported - {tasks.LongSafety}
    assert not found["ruler"].adaptive and found["effective"].adaptive
    # The test of an effective length needs items that are drawn independently.
    assert not any(type(task) is Passkey for task in found["effective"].tasks.values())
    assert suite("quick", FILLER, items=2).items == 2


def test_suites_and_single_tasks_go_together() -> None:
    assert set(suite("full", FILLER).tasks) == set(TASKS) - set(READINGS)
    standard = suite(STANDARD, FILLER)
    assert list(standard.tasks) == ["loss", "passkey", "speed"]
    assert standard.counts() == {"loss": 1, "passkey": 10, "speed": 1}
    more = suite("quick, loss,quick,passkey", FILLER, items=3)
    assert more.name == "quick,loss,passkey"
    assert list(more.tasks) == [*suite("quick", FILLER).tasks, "loss"]
    assert more.counts() == dict.fromkeys(more.tasks, 3)
    assert suite("ruler,loss", FILLER).counts()["vt"] == 20
    assert suite("effective,loss", FILLER).adaptive and not more.adaptive
    assert suite("loss", FILLER).settings() == {"loss": "Loss(samples=1)"}


def test_cells_go_from_short_to_long_and_begin_with_the_reference() -> None:
    cells = suite("lines,loss,speed", FILLER).cells(["a", "b"], [20, 10, 20])
    assert [(c.task, c.length, c.method) for c in cells] == [
        ("lines", 10, "a"), ("lines", 10, "b"), ("speed", 10, "a"), ("speed", 10, "b"),
        ("lines", 20, "a"), ("lines", 20, "b"),
        ("loss", 20, REFERENCE), ("loss", 20, "a"), ("loss", 20, "b"),
        ("speed", 20, "a"), ("speed", 20, "b"),
    ]  # fmt: skip
    only = {Cell("a", "lines", 10), Cell("b", "loss", 20)}
    kept = suite("lines,loss,speed", FILLER).cells(["a", "b"], [10, 20], only)
    assert set(kept) == only | {Cell(REFERENCE, "loss", 20)}


def test_lengths() -> None:
    quick, effective = suite("quick", FILLER), suite("effective", FILLER)
    assert quick.lengths(4096, 512) == [512, 1024, 2048, 4096]
    assert quick.lengths(3000, None) == [512, 1024, 2048, 3000]
    assert quick.lengths(131072, 131072) == [32768, 65536, 131072]
    assert quick.lengths(1024, 131072) == [1024]
    assert effective.lengths(2048, 131072) == [512, 1024, 2048]
    with pytest.raises(ValueError, match="the longest must be at least 512 tokens, got 100"):
        quick.lengths(100, None)


def test_own_text_and_questions(tmp_path: Path) -> None:
    file = tmp_path / "questions.json"
    file.write_text('[{"question": "?", "answer": "a", "context": [["t", ["a b"]]]}]')
    own = suite("ruler", FILLER, text="Own prose. More of it.", questions={"hotpot": file})
    assert own.tasks["niah_single_2"] == NIAH(text="Own prose. More of it.")
    assert own.tasks["qa_1"] == DocumentQA()
    assert own.tasks["qa_2"] == DocumentQA("hotpot", file)
    assert own.settings()["niah_single_2"] == RULER["niah_single_2"].__repr__()
    # Other contents under the same name are another task.
    before = own.settings()["qa_2"]
    assert before.startswith(repr(own.tasks["qa_2"])) and before == own.settings()["qa_2"]
    file.write_text(file.read_text().replace("a b", "a c"))
    assert own.settings()["qa_2"] != before


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("quick,lins", {}, "no suite or task 'lins'; did you mean lines? There are the suites q"),
        ("effective,loss,lines", {}, "effective spends items where the answer is open, and lines"),
        ("quick,longicl", {}, "longicl sets longicl differently than the names before it"),
        ("quick", {"items": 0}, "--items must be at least 1, got 0"),
        ("quick", {"threshold": 1.0}, "--threshold must be between 0 and 1, got 1.0"),
    ],
)
def test_bad_input(name: str, settings: dict, said: str) -> None:
    with pytest.raises(ValueError) as error:
        suite(name, FILLER, **settings)
    assert said in str(error.value)


def test_scattered_passkeys_do_not_depend_on_their_number() -> None:
    task, tokenizer = ScatteredPasskey(FILLER), tiny_tokenizer()
    many = task.build(tokenizer, 400, 40, seed=0)
    assert task.build(tokenizer, 400, 3, seed=0) == many[:3]
    assert len({item.answer for item in many}) == 40
    assert {item.length for item in many} == {400}
    depths = sorted(item.depths[0] for item in many)
    assert depths[4] < 0.3 and depths[-4] > 0.7
    assert all(task.score(task.oracle(item.record), item) == 1 for item in many)


def test_options_behind_a_name_and_values_behind_a_slash() -> None:
    names = suite_names("lveval:confusing=0/4,replaced=false,nolima, longicl_grouped:position=0.5")
    assert names == [
        "lveval:confusing=0/4,replaced=false", "nolima", "longicl_grouped:position=0.5",
    ]  # fmt: skip
    found = suite(",".join(names), FILLER, items=3).tasks
    assert found == {
        "lveval:confusing=0,replaced=false": tasks.LVEval(confusing=0, replaced=False),
        "lveval:confusing=4,replaced=false": tasks.LVEval(replaced=False),
        "nolima": tasks.NoLiMa(),
        "longicl_grouped:position=0.5": tasks.LongICL(grouped=True, position=0.5),
    }
    levels = suite("path:budget=128/256", FILLER).tasks
    assert list(levels.values()) == [tasks.PathTraversal(128), tasks.PathTraversal(256)]
    # The options of a task that has others than its class by its name stay.
    assert suite("flenqa_rooms:place=first", FILLER).tasks == {
        "flenqa_rooms:place=first": tasks.FLenQA("rooms", "similar", "first")
    }
    assert suite("passkey:depth=0.5", FILLER).tasks["passkey:depth=0.5"].depth == 0.5


def test_flenqa_is_a_grid_of_36() -> None:
    found = suite("flenqa", FILLER).tasks
    assert len({(t.problem, t.padding, t.place) for t in found.values()}) == len(found) == 36
    assert len(suite("flenqa:place=first/last", FILLER).tasks) == 18
    assert "flenqa:problem=rules,padding=similar,place=middle" in found


def test_files_of_a_persons_own(tmp_path: Path) -> None:
    file = tmp_path / "risky.jsonl"
    file.write_text('{"instruction": "[one]", "category": "c"}')
    found = suite(f"longsafety:file={file},place=start/end,related=true", FILLER)
    assert [task.place for task in found.tasks.values()] == ["start", "end"]
    assert found.counts() == dict.fromkeys(found.tasks, 1)
    items = [f'{{"text": "t{i}", "label": "{i % 2}", "topic": "p{i}"}}' for i in range(9)]
    file.write_text("\n".join(items))
    assert suite(f"m4le_global:file={file}", FILLER).tasks[f"m4le_global:file={file}"].file == file


def test_every_name_is_of_the_class_that_it_says() -> None:
    for name, task in suite("full", FILLER).tasks.items():
        assert type(task).__name__ == class_of(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lveval:confusing=99", "LVEval: confusing must be from 0 to 16, got 99"),
        ("lveval:confusng=1", "lveval has no option 'confusng'; did you mean confusing?"),
        ("lveval:confusing=", "'confusing=' is no option; write lveval:option=value"),
        ("lveval:confusing=many", "confusing must be a whole number, got 'many'"),
        ("lveval:text=mine", "lveval has no option 'text'"),
        ("lveval:confusing=1,confusing=2", "confusing is given twice"),
        ("quick:items=2", "quick has no options; only single tasks have"),
        ("loss:samples=2", "loss has no options"),
        ("longsafety", "write longsafety:file=FILE"),
        ("m4le_global:file=/nowhere/x", "/nowhere/x cannot be read"),
        ("pathh:budget=128", "did you mean path?"),
    ],
)
def test_bad_options(name: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        suite(name, FILLER)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_the_version_of_a_task_stands_in_its_settings() -> None:
    found = suite("longicl,lines", FILLER).settings()
    assert found["longicl"].endswith(" version 2") and found["lines"] == repr(tasks.Lines())
