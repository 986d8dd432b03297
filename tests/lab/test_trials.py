"""Trials: methods side by side on a bench, kept item by item, judged from paired differences."""

from pathlib import Path

import pytest
import torch

import lengthwise as lw
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import at_least, at_most, exact, load, write
from lengthwise.lab.trials import PLAIN, Bench, Trial, carry_out
from lengthwise.measure import REFERENCE
from lengthwise.measure.engines.reading import first_token
from lengthwise.measure.tasks.loss import in_window_losses, losses_by_position
from lengthwise.measure.tasks.readings import stretch
from lengthwise.measure.tasks.text import held_out_text
from lengthwise.testing.models import tiny_model

NAME = "extend/streamingllm@smollm2"
EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def trial(bench: str) -> Trial:
    """A window with and without sinks."""
    return Trial(
        bench,
        {PLAIN: "", "sinks": "streamingllm:sinks=2,window=14", "none": "slidingwindow:window=16"},
        "no sinks",
        lambda f: at_least("differs", f.gap("none", "sinks", 48, 96), -9.0, against="none"),
        lambda f: [
            at_most("near plain", f.gap("sinks", PLAIN, 48, 96), 9.0),
            at_most("passkeys", f.found("sinks", 96), 1.0),
            at_most("more of them", f.more("sinks", PLAIN, 96), 1.0),
            exact(at_most("grows by", f.caches["sinks"][1] - f.caches["sinks"][0], 0)),
            at_least("plain grows by", f.caches[PLAIN][1] - f.caches[PLAIN][0], 1),
        ],
        passkeys=(96,),
        caches=True,
    )


@pytest.mark.parametrize("window", [None, 16])
def test_a_trial_is_measured_judged_and_kept(window: int | None, tmp_path: Path) -> None:
    _, tokenizer = lw.load("demo")
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=64).eval()
    text, bench = held_out_text(), Bench("smollm2", texts=3, length=96, items=2, window=window)
    found = carry_out(NAME, trial("b"), bench, (model, tokenizer), text, tmp_path / "b")
    assert found.items == {"texts": 3, "passkeys": 2} and found.real
    assert all(finding.holds for finding in found.findings) and found.premise.holds
    assert found.verdict == "partly"  # two passkeys, and a count without an interval
    assert "at least 20 items" in found.lacking
    read = found.numbers["loss of every eighth of the pieces"]
    head, seen = first_token(tokenizer), window or 64
    pieces = [stretch(tokenizer, text, 96, 3, sample) for sample in range(3)]
    rows = [in_window_losses(model, ids, seen, head) for ids in pieces]
    assert read[REFERENCE][-1] == pytest.approx(float(torch.cat(rows)[:, 79:].mean()), abs=1e-3)
    # The paired difference, from losses that are read here.
    gaps = []
    for sample in range(3):
        ids = stretch(tokenizer, text, 96, 3, sample)
        assert first_token(tokenizer) is None or ids[0, 0] == first_token(tokenizer)
        plain = losses_by_position(model, ids)[0, 47:]
        with lw.adapted(model, lw.StreamingLLM(sinks=2, window=14)):
            gaps.append(float((losses_by_position(model, ids)[0, 47:] - plain).mean()))
    near = found.findings[0]
    assert near.value == pytest.approx(sum(gaps) / 3, abs=1e-4)
    assert near.low < near.value < near.high
    kept = (tmp_path / "b" / "results.jsonl").read_bytes()
    again = carry_out(NAME, trial("b"), bench, (model, tokenizer), text, tmp_path / "b")
    assert again.findings == found.findings
    assert (tmp_path / "b" / "results.jsonl").read_bytes() == kept
    assert load(write(tmp_path, found)).model["dtype"] == str(torch.float32).split(".")[1]


def test_scripts_that_take_a_row_know_it() -> None:
    taking = {
        "trials.py", "exact_rows.py", "probe_rows.py", "memory_rows.py", "task_rows.py",
        "recency_rows.py", "harness_rows.py", "set_rows.py",
    }  # fmt: skip
    for claim in claims().values():
        if claim.script and claim.script[0] in taking:
            assert claim.script[1:] == (claim.name,)
            assert f'"{claim.name}": ' in (EXPERIMENTS / claim.script[0]).read_text("utf-8")
