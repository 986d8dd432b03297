"""`lengthwise lab`: which claims there are, how evidence is made again, and how it stands."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lengthwise.lab import extension
from lengthwise.lab import reproduce as making
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import load
from lengthwise.lab.extension import MEASURED, Numbers, cells, flat, free, judged
from lengthwise.measure import REFERENCE, Cell, ItemRow, ReadingRow, Results
from lengthwise.testing.models import tiny_model

WINDOW = 64
ROOT = Path(__file__).resolve().parents[2]
Call = Callable[..., tuple[int, str, str]]


def results(excess: float) -> Results:
    """A method that loses `excess` nats beyond the window and nothing inside."""
    blocks = 16 * 8
    losses = {
        REFERENCE: [2.0] * blocks,
        "plain": [2.0] * 8 + [4.0] * (blocks - 8),
        "PI": [2.0] * 8 + [2.0 + excess] * (blocks - 8),
    }
    readings = [
        ReadingRow(name, "loss", 16 * WINDOW, 0, {"block": 8, "losses": values}, "", 1.0, 0)
        for name, values in losses.items()
    ]
    rows = [
        ItemRow(
            "PI", "passkey", 4 * WINDOW, i, score, 0.0, (0.5,), "…", "1", "1", 2, None, 1.0, None,
            None, "", 0,
        )
        for i, score in enumerate([1.0, 1.0, 0.0, 1.0])
    ]  # fmt: skip
    reader = {"name": "m", "window": WINDOW, "fingerprint": "f"}
    plan = {"reader": reader, "seed": 0, "adaptive": False, "threshold": 0.85}
    session = {"methods": {}, "tasks": {}, "items": {"loss": 1, "passkey": 4}}
    return Results(plan, [session], rows, readings)


def test_numbers_are_excess_tax_and_passkeys() -> None:
    numbers = Numbers(results(0.5), "PI")
    assert numbers.excess(8).value == pytest.approx(0.5)
    assert numbers.excess(8, "plain").value == pytest.approx(-1.5)
    assert numbers.tax.value == pytest.approx(0.0)
    assert numbers.passkeys(4)["share"] == 0.75 and numbers.passkeys(8) is None
    assert numbers.of("plain").excess(16).value == pytest.approx(2.0)


@pytest.mark.parametrize("excess, holds", [(0.1, True), (0.3, False)])
def test_flat_means_near_the_reference(excess: float, holds: bool) -> None:
    numbers = Numbers(results(excess), "PI")
    assert flat(8)(numbers).holds is holds
    assert free()(numbers).holds


def test_evidence_holds_what_is_needed_to_judge_it_again(monkeypatch) -> None:
    claim = claims()["extend/pi"]
    found = judged(claim, results(0.1))
    assert found.verdict == "not tested" and found.reason.startswith("the paper tunes")
    assert [f.holds for f in found.findings] == [True, False, True]  # 75% is below the 80%
    assert found.command == "lengthwise lab reproduce extend/pi" and found.claim == claim.claim
    assert found.premise.value == pytest.approx(2.0) and found.premise.holds
    assert found.numbers["control"]["loss_above_reference"]["512-1024"] == pytest.approx(2.0)
    more = results(0.1)
    more.sessions[0]["items"]["passkey"] = 20
    assert judged(claim, more).command.endswith("extend/pi --passkeys 20 --samples 1")


def test_published_evidence_follows_from_what_was_measured() -> None:
    measured = Results.load(ROOT / "evidence" / "extend")
    for name in MEASURED:
        again, kept = judged(claims()[name], measured), load(ROOT / "evidence" / f"{name}.json")
        assert (again.findings, again.premise) == (kept.findings, kept.premise), name
        assert (again.numbers, again.verdict) == (kept.numbers, kept.verdict), name
        assert (again.model, again.items, again.command) == (kept.model, kept.items, kept.command)


def test_every_claim_has_an_experiment(call: Call) -> None:
    from lengthwise.catalogue import find as find_method
    from lengthwise.catalogue import parse_many

    for name, claim in claims().items():
        if name in MEASURED:
            assert type(parse_many(MEASURED[name].spec)[0]) is find_method(claim.system)
        else:
            assert bool(claim.script) == bool(claim.minutes) or name == making.HEADS
        assert not claim.script or (ROOT / "experiments" / claim.script[0]).is_file()
    assert MEASURED.keys() <= claims().keys()
    assert Cell("GALI", "passkey", 16 * WINDOW) in cells(["GALI"], WINDOW)
    status, out, _ = call("lab", "list")
    held = [claim for claim in claims().values() if claim.minutes]
    assert status == 0 and len(out.splitlines()) == len(held)
    assert "lengthwise lab reproduce tuning/pose" in out and " min " in out


def test_the_status_is_one_line_a_claim(call: Call, refused: Callable[..., str], tmp_path) -> None:
    status, out, _ = call("lab", "status", ROOT / "evidence")
    lines = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert status == 0 and max(map(len, out.splitlines())) <= 100
    assert len(lines) == sum(not claim.of for claim in claims().values())
    assert "not tested" in lines["Giraffe"] and "extend: " in out
    assert "lengthwise lab reproduce extend/infllm" in lines["InfLLM"]
    status, out, _ = call("lab", "status", ROOT / "evidence", "--json")
    table = {row["name"]: row for row in json.loads(out)}
    assert status == 0 and len(table) == len(lines) and out.isascii() is False
    shown = sum(row["state"] == "shown" for row in table.values())
    assert shown == sum("shown" in (row["bundled"], row["real"]) for row in table.values())
    assert table["extend/infllm"]["files"][-1].startswith("extend/infllm")
    assert "there is no evidence in" in refused("lab", "status", tmp_path)
    (tmp_path / "extend").mkdir()
    (tmp_path / "extend" / "pi.json").write_text("{}")
    assert "lengthwise_evidence must be 1" in refused("lab", "status", tmp_path)


def test_what_cannot_be_made_is_refused(refused: Callable[..., str], monkeypatch) -> None:
    assert "no claim of 'nothing'" in refused("lab", "reproduce", "nothing")
    said = refused("lab", "reproduce", "tuning/pi", "--passkeys", 3)
    assert "tuning/pi has numbers of items of its own" in said
    monkeypatch.setattr(making, "SCRIPTS", Path("nowhere"))
    assert "comes with the sources" in refused("lab", "reproduce", "tuning/pi")


def test_a_tiny_model_is_measured_and_judged(tmp_path, monkeypatch) -> None:
    """The whole way; a second call measures nothing and comes to the same."""
    import lengthwise as lw
    from lengthwise.extend import checkpoint

    _, tokenizer = lw.load("demo")
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=128)
    monkeypatch.setattr(checkpoint, "load", lambda name, dtype: (model, tokenizer))
    monkeypatch.setattr(extension, "LOSS_WINDOWS", 4)
    monkeypatch.setattr(extension, "PASSKEY_WINDOWS", (1, 2))
    chosen = [claims()["extend/dynamicntk"]]
    (found,) = making.reproduce(chosen, tmp_path, passkeys=1, samples=2)
    written = (tmp_path / "extend" / "results.jsonl").read_bytes()
    assert load(tmp_path / "extend" / "dynamicntk.json").verdict == found.verdict
    # An untrained model is as bad everywhere, so its control does not fail.
    assert found.verdict == "not tested" and "the control did not" in found.reason
    assert found.items == {"texts": 2, "passkeys": 1} and not found.shown
    (again,) = making.reproduce(chosen, tmp_path, passkeys=1, samples=2)
    assert again.findings == found.findings and again.numbers == found.numbers
    assert (tmp_path / "extend" / "results.jsonl").read_bytes() == written


SCRIPT = """
import shutil, sys
assert sys.argv[1:3] == ["pose", "--evidence"]
shutil.copyfile({!r}, sys.argv[3] + "/tuning/pose.json")
"""


def test_a_script_makes_its_evidence(call: Call, refused, tmp_path, monkeypatch) -> None:
    """A stand-in for the script: what it writes is read, and one that fails is told."""
    script = tmp_path / "tuning_rows.py"
    monkeypatch.setattr(making, "SCRIPTS", tmp_path)
    script.write_text(SCRIPT.format(str(ROOT / "evidence" / "tuning" / "pose.json")))
    (tmp_path / "tuning").mkdir()
    status, out, _ = call("lab", "reproduce", "pose", "-o", tmp_path)
    assert status == 0 and out.startswith("tuning/pose                      partly: not: ")
    script.write_text("")
    assert "wrote no" in refused("lab", "reproduce", "pose", "-o", tmp_path)
    script.write_text("raise SystemExit(3)")
    assert "ended with status 3" in refused("lab", "reproduce", "pose", "-o", tmp_path)
    assert "is a file" in refused("lab", "reproduce", "pose", "-o", script)
