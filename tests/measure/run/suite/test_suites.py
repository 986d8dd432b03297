"""The suites as data."""

from pathlib import Path

import pytest

from lengthwise.measure import tasks
from lengthwise.measure.run.suite.suites import ScatteredPasskey, suite
from lengthwise.measure.tasks import NIAH, RULER, DocumentQA, Passkey
from lengthwise.names import SUITES
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


def test_lengths() -> None:
    quick, effective = suite("quick", FILLER), suite("effective", FILLER)
    assert quick.lengths(4096, 512) == [512, 1024, 2048, 4096]
    assert quick.lengths(3000, None) == [512, 1024, 2048, 3000]
    assert quick.lengths(131072, 131072) == [32768, 65536, 131072]
    assert quick.lengths(1024, 131072) == [1024]
    assert effective.lengths(2048, 131072) == [512, 1024, 2048]
    with pytest.raises(ValueError, match="--upto must be at least 512 tokens, got 100"):
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
        ("slow", {}, "there is no suite 'slow'; choose from quick, ruler, effective, full"),
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
