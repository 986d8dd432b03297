import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import lengthwise
from lengthwise.measure import published, tasks
from lengthwise.measure.tasks.axes import AXES
from lengthwise.measure.tasks.m4le import ABILITIES
from lengthwise.testing.tasks import TaskCase, parametrize

FILLER = "\n".join(f"line {i} of the filler, with {i * i % 97} things in it" for i in range(300))
# A hash that differs from these means that published results can no longer be made again.
GOLDEN = json.loads(Path(__file__).with_name("golden.json").read_text())

# What the design of a task gives away; the report prints it beside the scores.
ONE_NEEDLE = {"shortcuts": "the needle is the only one of its kind: to find it is the task"}
ALL_ASKED = {"shortcuts": "as in the source, nothing of the kind misleads: all of it is asked for"}
EARLY_WORDS = {"shortcuts": "as in the source, frequent words come early in the list as well"}
PASSKEY_EXCEPTIONS = {
    "no leak": "its own tests check it; it cuts its haystack itself",
    "shortest": "its keys are drawn anew with the length; its own tests check it",
    "effort": "a baseline whose items must stay what they were; it fits over whole prompts",
    **ONE_NEEDLE,
}
FEW_LEFT_OUT = {"shortcuts": "a short page has few entries that are left out; see `every entry`"}
LABELS = {"no leak": "the labels stand in the question, to choose from"}
LANGUAGES = {
    "no leak": "the answer is one letter of the alphabet",
    "wrong answers": "several letters are right",
}
RULER = {
    **{f"niah_single_{i}": ONE_NEEDLE for i in (1, 2, 3)},
    **{name: ALL_ASKED for name in ("niah_multivalue", "niah_multiquery", "vt")},
    **{name: EARLY_WORDS for name in ("cwe", "fwe")},
}
ALL_RISKY = {"shortcuts": "all of this file is to be declined; harmless instructions tell"}
ANY_TEXT = {"no leak": "what must be written is asked for in so many words"}


LEVELS = ("low", "high")
INSTRUCTIONS = Path(__file__).with_name("instructions.jsonl")


def case(name, task, **options):
    return TaskCase(name, task, GOLDEN.get(name, ""), **options)


CASES = [
    case("passkey", tasks.Passkey(FILLER), except_for=PASSKEY_EXCEPTIONS),
    *(case(name, task, except_for=RULER.get(name, {})) for name, task in tasks.RULER.items()),
    case("lines", tasks.Lines()),
    case("nolima", tasks.NoLiMa()),
    case("nolima-two-steps", tasks.NoLiMa(steps=2, distractor=True)),
    case("lveval", tasks.LVEval()),
    case("tsort", tasks.TSort()),
    case("best-answer", tasks.BestAnswer()),
    case("needles", tasks.Threads(threads=3, clustered=True)),
    case("thread", tasks.Threads(steps=4, direction="backward"), length=3000),
    case("threads", tasks.Threads(threads=2, steps=2, direction="random")),
    case("branched-thread", tasks.Threads(steps=3, branches=3)),
    case("conditional", tasks.ConditionalNeedles()),
    case("conditional-clustered", tasks.ConditionalNeedles(6, "&", clustered=True)),
    *(
        case(
            f"flenqa-{problem}-{padding}-{place}",
            tasks.FLenQA(problem, padding, place),
            shortcut=0.8,  # a coin; one of two links of a chain makes it three in four
            except_for={"no leak": "the question names both answers"},
        )
        for problem, padding, place in [
            ("relations", "different", "random"),
            ("rooms", "similar", "first"),
            ("rules", "similar", "middle"),
            ("rooms", "repeated", "last"),
        ]
    ),
    *(case(f"longins-{setting}", tasks.LongIns(setting)) for setting in ("GIST", "LIST", "LIMT")),
    case("longicl", tasks.LongICL()),
    case("longicl-grouped", tasks.LongICL(labels=8, grouped=True, position=0.25)),
    case("path", tasks.PathTraversal()),
    case("belief", tasks.BeliefTracking()),
    case("countdown", tasks.Countdown()),
    case("travel", tasks.TravelPlanning(), length=2600),
    case("html", tasks.HtmlToTable(), except_for=FEW_LEFT_OUT),
    case("pseudocode", tasks.PseudoToCode()),
    *(
        case(f"m4le-{ability}", tasks.M4LE(ability), shortcut=0.5, except_for=LABELS)
        for ability in ABILITIES
    ),
    *(
        case(f"diffusion-{name}", tasks.DiffusionScope(diffusion=name))
        for name in ("together", "scattered", "worded", "linked")
    ),
    case("languages", tasks.InContextLanguage(), shortcut=0.7, except_for=LANGUAGES),
    case("hellobench", tasks.HelloBench(), except_for=ANY_TEXT),
    case("hellobench-chat", tasks.HelloBench(60, subtask="chat"), except_for=ANY_TEXT),
    case("golden-thread", tasks.GoldenThread(), except_for=ANY_TEXT),
    case("lcfo", tasks.LCFO()),
    case("lcfo-expansion", tasks.LCFO(expand=120)),
    case("longsafety", tasks.LongSafety(INSTRUCTIONS), except_for=ALL_RISKY),
]


def exported():
    return {
        thing
        for thing in vars(tasks).values()
        if isinstance(thing, type) and hasattr(thing, "build") and thing is not tasks.Task
    }


def test_every_exported_task_has_a_case():
    assert exported() == {type(case.task) for case in CASES}


def test_every_benchmark_is_tagged():
    sets = {name for name in published.__all__ if hasattr(getattr(published, name), "rows")}
    assert AXES.keys() == {cls.__name__ for cls in exported()} | sets
    assert {one[:2] for one in AXES.values()} == {(a, b) for a in LEVELS for b in LEVELS}


@pytest.fixture(scope="session")
def several(tokenizers):
    lab = Path(lengthwise.__file__).parent / "assets" / "lab"
    bundled = AutoTokenizer.from_pretrained(lab)
    return {"bundled": bundled} | {name: tokenizers[name] for name in ("merged digits", "words")}


@pytest.mark.parametrize(*parametrize(CASES))
def test_contract(case, check, several):
    check(case, several)
