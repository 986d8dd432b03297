"""The controlled study: every candidate on the same items, kept as it comes, and correlated."""

import inspect
import io
import json
import math
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import lengthwise as lw
from lengthwise.measure.probes import study
from lengthwise.measure.probes.study import Checkpoint, StudyReader, study_suite
from lengthwise.measure.report import findings
from lengthwise.measure.report.study import columns, correlations, score_and_nats, sentences
from lengthwise.measure.run.results import Results
from lengthwise.measure.run.rows import Cell, ItemRow, ReadingRow
from lengthwise.measure.run.runner import measure
from lengthwise.names import ANSWER, NEEDLE, PERPLEXITY
from lengthwise.testing.models import tiny_model, tiny_tokenizer

ROOT = Path(__file__).parents[3]
TEXT = inspect.getsource(textwrap)
METHODS: dict[str, Any] = {
    "plain": (),
    "pi": (lw.PI(factor=2),),
    "stream": (lw.StreamingLLM(sinks=2, window=32),),
}


@pytest.fixture(scope="module")
def base():
    return tiny_model("llama"), tiny_tokenizer()


def studied(base, folder, methods, lengths, seed=0) -> Results:
    suite = study_suite(TEXT, (NEEDLE, "lines"), items=1, seed=seed)
    reader, quiet = StudyReader(*base, chunk=64), Console(file=io.StringIO())
    return measure(reader, suite, methods, lengths, folder=folder, seed=seed, console=quiet)


def numbers(results: Results, method: str, length: int) -> list[Any]:
    read = [results.values(method, name, length) for name in (PERPLEXITY, ANSWER + NEEDLE)]
    return [*read, [row.reply for row in results.cell(method, NEEDLE, length)]]


def test_every_candidate_meets_the_same_texts_and_items(base, tmp_path, monkeypatch):
    model, tokenizer = base
    other = tiny_model("llama", seed=1)
    lw.save(other, tokenizer, tmp_path / "tuned")
    loads = []
    monkeypatch.setattr(study, "load", lambda *a, **k: loads.append(a) or lw.load(*a, **k))
    tuned = Checkpoint.of(str(tmp_path / "tuned"))
    results = studied(base, tmp_path / "r", METHODS | {"tuned": (tuned,)}, [240, 200])
    cells = {row.cell for row in (*results.rows, *results.readings)}
    tasks = (PERPLEXITY, NEEDLE, ANSWER + NEEDLE, "lines", ANSWER + "lines")
    names = (*METHODS, "tuned")
    assert cells == {Cell(m, t, n) for m in names for t in tasks for n in (200, 240)}
    assert not [row for row in (*results.rows, *results.readings) if row.refused]
    # Each is read as it is alone, and the checkpoint is loaded once.
    alone = studied(base, tmp_path / "plain", {"plain": ()}, [240])
    theirs = studied((other, tokenizer), tmp_path / "other", {"plain": ()}, [240])
    assert numbers(results, "plain", 240) == numbers(alone, "plain", 240)
    assert numbers(results, "tuned", 240) == numbers(theirs, "plain", 240)
    assert numbers(results, "plain", 240) != numbers(results, "pi", 240)
    assert len(loads) == 1 and "_lengthwise" not in vars(model)
    assert "tuned" in results.specs["tuned"] and tuned.fingerprint in results.specs["tuned"]
    (tmp_path / "tuned" / "config.json").write_text("{ }")
    assert Checkpoint.of(str(tmp_path / "tuned")) != tuned


def test_what_is_there_is_not_measured_again(base, tmp_path):
    studied(base, tmp_path, {"plain": ()}, [200])
    (file,) = tmp_path.glob("*.jsonl")
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join(lines[:-2]) + b'\n{"reading": {"method": "pla')  # killed
    results = studied(base, tmp_path, {"plain": (), "pi": METHODS["pi"]}, [200])
    assert len(results.rows) + len(results.readings) == 10
    assert [row.session for row in (*results.rows, *results.readings)].count(1) == 6
    assert all(json.loads(line) for line in file.read_text().splitlines())
    with pytest.raises(ValueError, match="its seed is 0, now it is 1"):
        studied(base, tmp_path, METHODS, [200], seed=1)


def test_a_length_that_cannot_be_is_refused_and_the_rest_goes_on(base, tmp_path):
    results = studied(base, tmp_path, {"plain": ()}, [30, 200])
    refused = {r.cell: r.refused for r in (*results.rows, *results.readings) if r.refused}
    assert {cell.task for cell in refused} == {NEEDLE, "lines", ANSWER + NEEDLE, ANSWER + "lines"}
    assert {cell.length for cell in refused} == {30}
    assert all("too short" in words for words in refused.values())
    assert columns(results)["- loss"].keys() == {("plain", 30), ("plain", 200)}
    assert columns(results)["tasks"].keys() == {("plain", 200)}
    assert score_and_nats(results, "plain", NEEDLE, 30) is None


def made(table):
    """Results from {method: [(nats, needle, task), …]} at lengths 100, 200, …"""
    session = {
        "methods": dict.fromkeys(table, ""), "suite": "study", "lengths": [],
        "tasks": dict.fromkeys((PERPLEXITY, NEEDLE, ANSWER + NEEDLE, "vt", ANSWER + "vt"), ""),
        "items": {PERPLEXITY: 1, NEEDLE: 1, ANSWER + NEEDLE: 1, "vt": 1, ANSWER + "vt": 1},
    }  # fmt: skip
    plan = {"adaptive": False, "threshold": 0.85, "reader": {"name": "made", "window": 100}}
    results = Results(plan, [session])
    for method, values in table.items():
        for i, (nats, *scores) in enumerate(values, 1):
            read = {PERPLEXITY: nats}
            for task, score in zip((NEEDLE, "vt"), scores, strict=True):
                read[ANSWER + task] = 1 - score
                results.rows.append(
                    ItemRow(method, task, 100 * i, 0, score, 0.0, (), "?", "", "", 1, None, 0.1,
                            None, None, "", 0)
                )  # fmt: skip
            results.readings.extend(
                ReadingRow(method, task, 100 * i, 0, {"nats": x}, "", 0.1, 0)
                for task, x in read.items()
            )
    return results


def test_correlations_of_known_columns():
    """The lower the loss, the more needles; tasks go the other way."""
    table = {
        "a": [(1.0, 0.9, 0.1), (1.5, 0.8, 0.2)],
        "b": [(2.0, 0.6, 0.3), (2.5, 0.5, 0.35)],
        "c": [(3.0, 0.2, 0.4), (3.5, 0.1, 0.5)],
    }
    found = {(one.one, one.other): one for one in correlations(made(table))}
    needle = found["- loss", "needle"]
    assert needle.cells == 6 and needle.spearman == pytest.approx(1)
    assert needle.at_length == {100: pytest.approx(1), 200: pytest.approx(1)}
    assert found["- loss", "tasks"].spearman == pytest.approx(-1)
    assert 0.9 < needle.pearson < 1
    assert ("needle", "needle: - answer loss") not in found
    flat = {name: [(row[0], 0.0, row[2]) for row in rows] for name, rows in table.items()}
    none = {(one.one, one.other): one for one in correlations(made(flat))}["- loss", "needle"]
    assert none.pearson is None and none.at_length == {}


def test_findings_say_how_the_loss_goes_with_the_rest():
    table = {"a": [(1.0, 0.9, 0.1)], "b": [(2.0, 0.6, 0.3)], "c": [(3.0, 0.2, 0.4)]}
    said = sentences(made(table))
    assert said == [
        "Where the loss is lower, more needles are found (Spearman +1.00 over 3 methods and "
        "lengths).",
        "Where the loss is lower, less of the tasks is right (Spearman -1.00 over 3 methods and "
        "lengths).",
    ]
    assert set(said) < set(findings(made(table)))


def test_the_published_study_says_what_the_documentation_says():
    results = Results.load(ROOT / "evidence" / "measure" / "study.jsonl")
    found = {(one.one, one.other): one for one in correlations(results)}
    loss, answers = found["- loss", NEEDLE], found["needle: - answer loss", "tasks: - answer loss"]
    words = " ".join((ROOT / "docs" / "probes.md").read_text(encoding="utf-8").split())
    assert f"(Spearman {loss.at_length[2048]:.2f} over the nine candidates)" in words
    assert f"follow those of the needles ({answers.at_length[2048]:.2f})" in words
    for name in results.methods:
        (read,) = results.values(name, PERPLEXITY, 2048)
        score, nats = score_and_nats(results, name, NEEDLE, 2048)
        assert f"| {math.exp(read['nats']):.2f} | {score:.0%} | {nats:.2f} |" in words


def test_bad_arguments(base, tmp_path):
    with pytest.raises(ValueError, match="unknown task 'nothing': choose from needle"):
        study_suite(TEXT, ["nothing"])
    with pytest.raises(ValueError, match="needs samples and items"):
        study_suite(TEXT, items=0)
    with lw.adapted(base[0]), pytest.raises(ValueError, match=r"lengthwise\.restore"):
        studied(base, tmp_path, METHODS, [100])
    with pytest.raises(ValueError, match="tokens, but the plan reads"):
        studied(base, tmp_path, METHODS, [10**6])
