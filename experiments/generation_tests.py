"""transformers' own tests of `generate`, on models that lengthwise has adapted.

    python experiments/generation_tests.py --source DIR                    every supported family
    python experiments/generation_tests.py --source DIR --family qwen3 --with yarn:factor=2

DIR is a checkout of the installed release of transformers, for no package holds its tests:
`git clone --depth 1 --branch v5.23.0 https://github.com/huggingface/transformers DIR`. Every test
runs three times: on plain models, under identity (`lengthwise.adapt(model)`), and under a scaling
with a layout. A test that fails on plain models, or makes no model that lengthwise adapts, is not
judged. Adapted models hand out no attention weights: tests that ask for them by the way are told so
by transformers' own switch (`has_attentions`). Under methods other than identity prompts have their
padding on the left, which those ask for by name. The file beside this one, generation_tests.toml,
lists what else fails under lengthwise and why. A failure that it does not list is an error, and so
is a listed one that passes. Half an hour on two quiet cores.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers

from lengthwise.hf.families import FAMILIES

HERE = Path(__file__).resolve()
REASONS = HERE.with_suffix(".toml")
PLAIN, IDENTITY, METHODS = "plain", "identity", "yarn:factor=2+selfextend:group=2,window=4"
MIXIN = "GenerationTesterMixin"
TOLD = "LENGTHWISE_GENERATION"  # to the plugin: its methods, and the file for what came of it
# Tests that are skipped for models without weights, and ask for none.
SKIPPED = (
    "test_(custom_4d_attention_mask|left_padding_compatibility|.*_padding_free_with_position_ids)"
)
NEEDED = ("parameterized", "httpx", "httpcore", "h11")  # by the tests, and by nothing of ours


# The plugin: this file, in a pytest that runs the tests of transformers.


class Adapting:
    """Adapts whatever language model the tests construct, and writes down how they ended."""

    def __init__(self, methods: str, report: Path) -> None:
        self.methods, self.report = methods, report
        self.adapted = 0  # models of the test that runs
        self.ended: dict[str, list[Any]] = {}

    def patch(self) -> None:
        from transformers import PreTrainedModel

        import lengthwise as lw
        from lengthwise.catalogue import parse_many
        from lengthwise.extend.adapt import is_adapted

        made, loaded = PreTrainedModel.post_init, PreTrainedModel.from_pretrained.__func__
        chosen = () if self.methods == IDENTITY else parse_many(self.methods)

        def adapt(model: Any) -> Any:
            on_meta = any(one.is_meta for one in model.parameters())
            known = model.config.model_type in FAMILIES and model.can_generate()
            if known and not on_meta and not is_adapted(model):
                lw.adapt(model, *chosen)
                self.adapted += 1
            return model

        def post_init(model: Any) -> None:
            made(model)
            adapt(model)

        def from_pretrained(kind: Any, *args: Any, **kwargs: Any) -> Any:
            found = loaded(kind, *args, **kwargs)
            adapt(found[0] if isinstance(found, tuple) else found)
            return found

        PreTrainedModel.post_init = post_init
        PreTrainedModel.from_pretrained = classmethod(from_pretrained)

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """The tests of generation alone, also where a family has its own version of one."""
        items[:] = [one for one in items if one.originalname in generation_tests(one.cls)]
        for kind in {one.cls for one in items}:
            if self.methods not in (PLAIN, IDENTITY):
                pad_left(kind)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any) -> Any:
        self.adapted = 0
        if self.methods != PLAIN:  # transformers' own word for models that hand out no weights
            item.cls.has_attentions = bool(re.fullmatch(SKIPPED, item.name))
        yield

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            words = "" if report.outcome != "failed" else last_line(report.longreprtext)
            self.ended[report.nodeid] = [report.outcome, words, self.adapted]

    def pytest_sessionfinish(self) -> None:
        self.report.write_text(json.dumps(self.ended))


def generation_tests(kind: Any) -> set[str]:
    """Names of the tests that a class has of transformers' mixin for generation."""
    bases = [] if kind is None else kind.__mro__
    return {name for base in bases if base.__name__ == MIXIN for name in vars(base)}


def pad_left(kind: Any) -> None:
    """Let the prompts of a class of tests have their padding on the left, as methods want it."""
    before = kind.prepare_config_and_inputs_for_generate

    def prepare(self: Any, *args: Any, **kwargs: Any) -> Any:
        config, inputs = before(self, *args, **kwargs)
        if inputs.get("attention_mask") is not None:
            inputs["attention_mask"] = inputs["attention_mask"].sort(dim=-1).values
        return config, inputs

    kind.prepare_config_and_inputs_for_generate = prepare


def last_line(text: str) -> str:
    """What an error says, in one line."""
    said = [line[1:].strip() for line in text.splitlines() if line.startswith("E ")]
    return " ".join(said)[:300]


def pytest_configure(config: Any) -> None:
    if TOLD in os.environ:
        told = json.loads(os.environ[TOLD])
        plugin = Adapting(told["methods"], Path(told["report"]))
        config.pluginmanager.register(plugin)
        if told["methods"] != PLAIN:
            plugin.patch()


# The command.


@dataclass(frozen=True)
class Reason:
    """Why some tests fail under lengthwise.

    Attributes:
        tests: A pattern of their names, whole.
        families: Whose; empty for all.
        under: What it takes to fail: `identity`, or `methods` alone; empty for both.
        sometimes: Whether masks that the tests draw decide, so that they may pass too.
    """

    tests: str
    why: str
    families: tuple[str, ...] = ()
    under: str = ""
    sometimes: bool = False

    def covers(self, family: str, test: str, methods: str) -> bool:
        """Whether it speaks of a test."""
        named = not self.families or family in self.families
        kind = IDENTITY if methods == IDENTITY else "methods"
        return named and self.under in ("", kind) and bool(re.fullmatch(self.tests, test))


def read_reasons() -> list[Reason]:
    """Those of the file beside this one."""
    listed = tomllib.loads(REASONS.read_text(encoding="utf-8"))["reason"]
    return [Reason(**{**one, "families": tuple(one.get("families", ()))}) for one in listed]


def prepare(folder: Path) -> None:
    """See that a folder has the tests, and what they need beside them.

    Raises:
        ValueError: It has not, with the way out.
    """
    if not (folder / "tests" / "generation" / "test_utils.py").is_file():
        raise ValueError(
            f"{folder} is no checkout of transformers; the tests are in no package, get them by: "
            f"git clone --depth 1 --branch v{transformers.__version__} "
            "https://github.com/huggingface/transformers"
        )
    needed = folder / "needed"
    if not needed.is_dir():
        words = ["install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", *words, "--target", str(needed), *NEEDED],
            capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            shutil.rmtree(needed, ignore_errors=True)
            said = [line for line in done.stderr.splitlines() if line.strip()] or ["nothing"]
            raise ValueError(f"{', '.join(NEEDED)} could not be installed: pip says {said[-1]}")


def run(folder: Path, methods: str, families: list[str], words: list[str]) -> dict[str, list[Any]]:
    """How every test ended under some methods: outcome, what it said, models that were adapted."""
    with tempfile.TemporaryDirectory() as place:
        report, empty = Path(place) / "report.json", Path(place) / "pytest.ini"
        empty.write_text("[pytest]\n")
        paths = [str(HERE.parent), str(folder / "needed"), os.environ.get("PYTHONPATH", "")]
        told = {"methods": methods, "report": str(report)}
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), TOLD: json.dumps(told)}
        env |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-c", str(empty), "--rootdir", str(folder)]
        command += [
            "--noconftest",
            "-p",
            "generation_tests",
            "-p",
            "no:cacheprovider",
            "--tb=short",
        ]
        done = subprocess.run(
            [*command, *words, *(str(one) for one in files(folder, families))],
            cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if not report.exists() or done.returncode not in (0, 1, 5):  # 5: there are none
            raise ValueError(f"pytest ended with {done.returncode}: {done.stdout[-2000:]}")
        return json.loads(report.read_text())


def files(folder: Path, families: list[str]) -> list[Path]:
    """The tests of some families.

    Raises:
        ValueError: The source has none for one of them.
    """
    from transformers.models.auto.configuration_auto import model_type_to_module_name

    found = []
    for family in families:
        name = model_type_to_module_name(family)
        found.append(folder / "tests" / "models" / name / f"test_modeling_{name}.py")
        if not found[-1].is_file():
            raise ValueError(
                f"there is no {found[-1]}; name a checkout of transformers by --source"
            )
    return found


def judge(
    family: str, methods: str, plain: dict[str, list[Any]], ours: dict[str, list[Any]],
    reasons: list[Reason],
) -> tuple[Counter[str], list[str], list[tuple[Reason, str]]]:  # fmt: skip
    """How the tests of a family ended, what is wrong with that, and which reasons were met."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []
    met: list[tuple[Reason, str]] = []
    for name, (outcome, said, adapted) in ours.items():
        test = name.rpartition("::")[2]
        reason = next((one for one in reasons if one.covers(family, test, methods)), None)
        if plain.get(name, [""])[0] != "passed" or not adapted:
            counts["not judged"] += 1
        elif outcome == "failed" and reason is not None:
            counts["listed"] += 1
            met.append((reason, test))
        elif outcome == "failed":
            wrong.append(f"{family} {test} fails under {methods} and is not listed: {said}")
        elif outcome == "skipped":
            counts["not judged"] += 1
        else:
            counts["passed"] += 1
            if reason is not None and not reason.sometimes:
                wrong.append(f"{family} {test} passes under {methods}, but is listed: {reason.why}")
    return counts, wrong, met


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--source", type=Path, required=True, metavar="DIR", help="a checkout")
    parser.add_argument("--family", action="append", choices=list(FAMILIES), metavar="NAME")
    parser.add_argument("--with", dest="methods", action="append", metavar="METHODS")
    parser.add_argument("--tests", default="", metavar="WORDS", help="as pytest's -k")
    given = parser.parse_args()
    source, reasons = given.source.resolve(), read_reasons()
    prepare(source)
    wrong, met = [], []
    words = ["-k", given.tests] if given.tests else []
    for family in given.family or FAMILIES:
        plain = run(source, PLAIN, [family], words)
        ended = Counter(outcome for outcome, _, _ in plain.values())
        print(f"{family}: plain {ended['passed']} passed, {ended['failed']} failed", flush=True)
        for methods in given.methods or (IDENTITY, METHODS):
            counts, faults, found = judge(
                family, methods, plain, run(source, methods, [family], words), reasons
            )
            print(f"  {methods}: {counts['passed']} passed, {counts['listed']} fail as listed, "
                  f"{len(faults)} otherwise than listed; {counts['not judged']} not judged",
                  flush=True)  # fmt: skip
            wrong += faults
            met += found
    for reason in reasons:
        names = sorted({test for one, test in met if one is reason})
        if names:
            print(f"\n{', '.join(names)}\n  {reason.why}")
    print("", *wrong, sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        raise SystemExit(f"generation_tests: {error}") from None
