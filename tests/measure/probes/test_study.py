"""The controlled study: every candidate on the same items, kept as it comes, and correlated."""

import inspect
import json
import textwrap

import pytest

import lengthwise as lw
from lengthwise.measure.probes.study import (
    NEEDLE,
    PERPLEXITY,
    Entry,
    columns,
    correlations,
    study,
)
from lengthwise.measure.run.results import Cell, Results, Row
from lengthwise.testing.models import tiny_model, tiny_tokenizer

TEXT = inspect.getsource(textwrap)
ENTRIES = {
    "plain": Entry(),
    "pi": Entry((lw.PI(factor=2),)),
    "stream": Entry((lw.StreamingLLM(sinks=2, window=32),)),
}
SMALL = {"text": TEXT, "tasks": (NEEDLE, "lines"), "items": 1, "chunk": 64}


@pytest.fixture(scope="module")
def base():
    return tiny_model("llama"), tiny_tokenizer()


def test_every_entry_meets_the_same_texts_and_items(base, tmp_path):
    model, tokenizer = base
    calls = []
    tuned = Entry(checkpoint=lambda: (calls.append(1) or model, tokenizer))
    entries = {**ENTRIES, "tuned": tuned}
    said = []
    results = study(
        model, tokenizer, entries, [240, 200], output=tmp_path / "r.jsonl", progress=said.append,
        **SMALL,
    )  # fmt: skip
    cells = {row.cell for row in results.rows}
    assert cells == {Cell(e, t, n) for e in entries for t in (PERPLEXITY, NEEDLE, "lines")
                     for n in (200, 240)}  # fmt: skip
    assert not [row.refused for row in results.rows if row.refused]
    assert len(said) == len(cells) == 24 and calls == [1]
    by = {row.cell: row.values for row in results.rows}
    # A checkpoint that is the base itself measures what the base does.
    for task in (PERPLEXITY, NEEDLE, "lines"):
        assert by[Cell("plain", task, 200)] == by[Cell("tuned", task, 200)]
    assert by[Cell("plain", PERPLEXITY, 200)] != by[Cell("pi", PERPLEXITY, 200)]
    assert "_lengthwise" not in vars(model)


def test_what_is_there_is_not_measured_again(base, tmp_path):
    model, tokenizer = base
    file = tmp_path / "r.jsonl"
    study(model, tokenizer, {"plain": Entry()}, [200], output=file, **SMALL)
    lines = file.read_bytes().split(b"\n")
    file.write_bytes(b"\n".join(lines[:-2]) + b'\n{"method": "pla')  # killed while writing
    said = []
    results = study(
        model, tokenizer, {"plain": Entry(), "pi": ENTRIES["pi"]}, [200], output=file,
        progress=said.append, **SMALL,
    )  # fmt: skip
    assert len(results.rows) == 6 and len(said) == 4
    assert all(json.loads(line) for line in file.read_text().splitlines())
    with pytest.raises(ValueError, match="its seed is 0, now it is 1"):
        study(model, tokenizer, ENTRIES, [200], output=file, seed=1, **SMALL)


def test_a_cell_that_cannot_be_is_refused_and_the_rest_goes_on(base, tmp_path):
    model, tokenizer = base
    results = study(
        model, tokenizer, {"plain": Entry()}, [30, 200], output=tmp_path / "r.jsonl", **SMALL
    )
    refused = {row.cell: row.refused for row in results.rows if row.refused}
    assert set(refused) == {Cell("plain", NEEDLE, 30), Cell("plain", "lines", 30)}
    assert all("too short" in words for words in refused.values())
    assert columns(results)["- loss"].keys() == {("plain", 30), ("plain", 200)}
    assert columns(results)["tasks"].keys() == {("plain", 200)}


def made(table):
    """Results from {method: [(nats, needle, task), …]} at lengths 100, 200, …"""
    rows = []
    for method, values in table.items():
        for i, (nats, needle, task) in enumerate(values, 1):
            found = {
                PERPLEXITY: {"nats": nats, "perplexity": 1.0},
                NEEDLE: {"score": needle, "answer_nats": 1 - needle},
                "vt": {"score": task, "answer_nats": 1 - task},
            }
            rows += [Row(method, "", t, 100 * i, v, "", 0.0, 0, {}, {}) for t, v in found.items()]
    return Results({}, rows)


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


def test_bad_arguments(base, tmp_path):
    model, tokenizer = base
    with pytest.raises(ValueError, match="unknown task 'nothing': choose from needle"):
        study(model, tokenizer, ENTRIES, [100], text=TEXT, output=tmp_path / "r",
              tasks=["nothing"])  # fmt: skip
    with pytest.raises(ValueError, match="needs entries"):
        study(model, tokenizer, {}, [100], text=TEXT, output=tmp_path / "r")
    with (
        lw.adapted(model),
        pytest.raises(ValueError, match=r"lengthwise\.restore"),
    ):
        study(model, tokenizer, ENTRIES, [100], text=TEXT, output=tmp_path / "r")
