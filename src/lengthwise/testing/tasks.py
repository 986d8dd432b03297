"""The contract of tasks: what every generator of items must satisfy.

    @pytest.mark.parametrize(*lengthwise.testing.tasks.parametrize(CASES))
    def test_contract(case, check, tokenizers):
        check(case, tokenizers)

A case may leave out a check only with a reason.
"""

import contextlib
import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import sqrt
from statistics import fmean
from typing import Any

from lengthwise.hf.prompts import encode_prompt
from lengthwise.measure.tasks.base import Item, Task, by_shortcuts
from lengthwise.measure.tasks.exact import Generated

LENGTHS = (256, 700, 1500)
_GUESSES = 400
_COUNT = 5  # items that most checks look at
_SHORTCUTS = 40  # items on which shortcuts are tried

Tokenizers = Mapping[str, Any]  # the first one makes the golden item


@dataclass(frozen=True)
class TaskCase:
    """One task to check.

    Args:
        name: For test ids.
        task: A `Task`, hashable.
        golden: `fingerprint` of the first item of seed 0 with the first tokenizer.
        length: Where everything but the exact length is checked; raised to the shortest possible.
        shortcut: The most that the best shortcut or a guess may score.
        except_for: Reasons for the checks that do not hold, by name.
    """

    name: str
    task: Any
    golden: str = ""
    length: int = 900
    shortcut: float = 0.45
    except_for: Mapping[str, str] = field(default_factory=dict)


def fingerprint(item: Item) -> str:
    """A hash of everything in an item; the same on every platform."""
    content = {**vars(item), "depths": [round(depth, 6) for depth in item.depths]}
    text = json.dumps(content, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@lru_cache(maxsize=512)
def shortest(task: Any, tokenizer: Any, count: int) -> int:
    """The smallest length that holds these items, as the task's own refusals say."""
    length = 1
    for _ in range(2 * count + 2):
        try:
            task.build(tokenizer, length, count, seed=0)
        except ValueError as error:
            assert "too short" in str(error), error
            length = int(re.findall(r"\d+", str(error))[-1])
        else:
            return length
    raise AssertionError(f"{task}: following its own refusals does not lead to a length")


@lru_cache(maxsize=8)
def _built(task: Any, tokenizer: Any, length: int, seed: int) -> list[Item]:
    length = max(length, shortest(task, tokenizer, 2) + 61)
    return task.build(tokenizer, length, _COUNT, seed)


def _items(case: TaskCase, tokenizers: Tokenizers, seed: int = 0) -> list[Item]:
    return _built(case.task, next(iter(tokenizers.values())), case.length, seed)


def check_exact_length(case: TaskCase, tokenizers: Tokenizers) -> None:
    """Prompt and allowance make exactly the length, and the allowance holds the answer."""
    for name, tokenizer in tokenizers.items():
        least = shortest(case.task, tokenizer, 2)
        wanted = {least, least + 61, least + 450} | {n for n in LENGTHS if n > least + 30}
        for length in sorted(wanted):
            items = case.task.build(tokenizer, length, count=2, seed=0)
            for item in items:
                tokens = len(encode_prompt(tokenizer, item.prompt))
                assert tokens + item.allowance == item.length == length, (name, length)
                ids = tokenizer(" " + item.answer, add_special_tokens=False, verbose=False)
                assert len(ids["input_ids"]) < item.allowance, f"{name}: no room for the answer"
            assert len({item.allowance for item in items}) == 1


def check_shortest(case: TaskCase, tokenizers: Tokenizers) -> None:
    """One token less than the shortest length is refused, in one line that says what is needed."""
    for tokenizer in tokenizers.values():
        least = shortest(case.task, tokenizer, 2)
        for length in (1, least - 1):
            message = _refused(case.task, tokenizer, length, 2)
            assert "too short" in message and "\n" not in message, message
        message = _refused(case.task, tokenizer, least, 0)
        assert "count must be at least 1, got 0" in message, message


def _refused(task: Task, tokenizer: Any, length: int, count: int) -> str:
    try:
        task.build(tokenizer, length, count, seed=0)
    except ValueError as error:
        return str(error)
    raise AssertionError(f"{task} accepts a length of {length} and a count of {count}")


def check_deterministic(case: TaskCase, tokenizers: Tokenizers) -> None:
    """The same seed gives the same items whatever the global generator; another gives others."""
    first = _items(case, tokenizers)
    random.seed(1)
    again = _built.__wrapped__(case.task, next(iter(tokenizers.values())), case.length, 0)
    other = _items(case, tokenizers, seed=1)
    assert first == again
    assert not {item.prompt for item in first} & {item.prompt for item in other}
    assert len({item.prompt for item in first}) == _COUNT


def check_golden(case: TaskCase, tokenizers: Tokenizers) -> None:
    """The first item is the one that it always was, on every platform."""
    found = fingerprint(_items(case, tokenizers)[0])
    assert found == case.golden, f"{case.name}: the first item is {found}, not {case.golden!r}"


def check_oracle(case: TaskCase, tokenizers: Tokenizers) -> None:
    """Who reads the record, even from a file, scores 1; so does the answer itself."""
    for item in _items(case, tokenizers):
        stored = json.loads(json.dumps(item.record))
        assert case.task.score(case.task.oracle(stored), item) == 1
        assert case.task.score(item.answer, item) == 1


def check_any_answer(case: TaskCase, tokenizers: Tokenizers) -> None:
    """Whatever text is answered has a score; some are what broken models and servers write."""
    item = _items(case, tokenizers)[0]
    for text in (
        "²",
        "٣",
        "9" * 5000,
        "[" * 500 + "]" * 500,
        "\0\x1b\u2028\x85",
        "<a>" * 300,
        "\ufffd",
    ):
        for answer in (text, item.answer + text, text + item.answer):
            assert 0 <= case.task.score(answer, item) <= 1, repr(answer[:50])


def check_wrong_answers(case: TaskCase, tokenizers: Tokenizers) -> None:
    """Nothing scores 0, and another item's answer is not perfect unless it is the same."""
    items = _items(case, tokenizers)
    for item in items:
        assert case.task.score("", item) == 0
        for other in items:
            score = case.task.score(other.answer, item)
            assert 0 <= score <= 1
            assert score < 1 or other.answer == item.answer


def check_chance(case: TaskCase, tokenizers: Tokenizers) -> None:
    """Guesses score what the task says they do, within five standard errors."""
    items = _items(case, tokenizers)
    rng = random.Random(0)
    scores = [
        case.task.score(case.task.guess(item, rng), item) for item in items for _ in range(_GUESSES)
    ]
    expected = sum(case.task.chance(item) for item in items) / len(items)
    mean = sum(scores) / len(scores)
    # A score between 0 and 1 of mean p has at most the variance of a coin, p (1 - p).
    margin = 5 * sqrt(expected * (1 - expected) / len(scores)) + 3 / len(scores)
    assert abs(mean - expected) <= margin, f"guesses score {mean:.4f}, expected {expected:.4f}"


def check_shortcuts(case: TaskCase, tokenizers: Tokenizers) -> None:
    """Who does not do the task scores no more than the case allows, and there is a reader who does
    not: shortcuts are the same for every item, and their replies have a score.
    """
    tokenizer = next(iter(tokenizers.values()))
    length = max(case.length, 2 * shortest(case.task, tokenizer, 2))
    items = case.task.build(tokenizer, length, _SHORTCUTS, seed=0)
    scores = [by_shortcuts(case.task, item) for item in items]
    assert all(one.keys() == scores[0].keys() for one in scores)
    means = {name: fmean(one[name] for one in scores) for name in scores[0]}
    means["a guess"] = fmean(case.task.chance(item) for item in items)
    best = max(means, key=means.__getitem__)
    assert means[best] <= case.shortcut, f"{best} scores {means[best]:.2f} of {means}"


def check_no_leak(case: TaskCase, tokenizers: Tokenizers) -> None:
    """Facts stand in the prompt once; no answer stands outside of the surrounding text."""
    assert isinstance(case.task, Generated)
    tokenizer = next(iter(tokenizers.values()))
    name = type(case.task).__name__

    def tokens(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    task = case.task.sized(case.length)
    for i in range(6):
        page = task.drawn(i, random.Random(f"{name} 0 {i}"), tokens)(task.least + 12)
        outside = (page.head + "\n" + page.tail).lower()
        for answer in page.record.get("answers", [page.answer]):
            assert answer.lower() not in outside, f"{answer!r} stands in the question"
        for mark in page.marks:
            assert page.prompt().count(mark) == 1, f"{mark!r} does not stand in the prompt once"


def check_effort(case: TaskCase, tokenizers: Tokenizers) -> None:
    """Ten items tokenise at most 15 times what they write: no search over whole prompts."""
    tokenizer = next(iter(tokenizers.values()))
    read = 0

    def counting(text: str, **options: Any) -> Any:
        nonlocal read
        read += len(text)
        return tokenizer(text, **options)

    length = 2 * max(case.length, shortest(case.task, tokenizer, 2) + 61)
    items = case.task.build(counting, length, 10, seed=0)
    written = sum(len(item.prompt) + len(item.answer) for item in items)
    assert read <= 15 * written, f"tokenised {read / written:.1f} times what it wrote"


def check_form(case: TaskCase, tokenizers: Tokenizers) -> None:
    """A frozen dataclass; depths are fractions."""
    with contextlib.suppress(dataclasses.FrozenInstanceError):
        setattr(case.task, dataclasses.fields(case.task)[0].name, None)
        raise AssertionError(f"{case.name} can be changed")
    for item in _items(case, tokenizers):
        assert all(0 <= depth <= 1 for depth in item.depths)


CHECKS: dict[str, Callable[[TaskCase, Tokenizers], None]] = {
    "exact length": check_exact_length,
    "shortest": check_shortest,
    "deterministic": check_deterministic,
    "golden": check_golden,
    "oracle": check_oracle,
    "any answer": check_any_answer,
    "wrong answers": check_wrong_answers,
    "chance": check_chance,
    "shortcuts": check_shortcuts,
    "no leak": check_no_leak,
    "effort": check_effort,
    "form": check_form,
}


def parametrize(cases: Sequence[TaskCase]) -> tuple[str, list[Any]]:
    """Arguments for `pytest.mark.parametrize`: every case with every check that it must pass."""
    import pytest

    values = []
    for case in cases:
        unknown = sorted({*case.except_for} - {*CHECKS})
        if unknown:
            raise ValueError(f"{case.name}: unknown checks {', '.join(unknown)}")
        for name, check in CHECKS.items():
            if name not in case.except_for:
                values.append(pytest.param(case, check, id=f"{case.name}-{name}"))
    return "case,check", values
