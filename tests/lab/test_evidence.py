"""One kind of evidence: its rule, its files, and what may be called shown."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lengthwise.lab.claims import claims, find
from lengthwise.lab.evidence import (
    NOT_REPRODUCED,
    NOT_TESTED,
    PARTLY,
    SHOWN,
    Evidence,
    Finding,
    at_least,
    at_most,
    exact,
    load,
    load_all,
    place,
    share,
    surely_at_least,
    write,
)
from lengthwise.lab.status import rows
from lengthwise.measure.statistics.intervals import Interval, wilson

ROOT = Path(__file__).resolve().parents[2] / "evidence"
GOOD = Finding("a", 1.0, "at most", 2.0, 0.9, 1.1)
SURE = Finding("c", 1.0, "at most", 2.0, 0.9, 1.1, against="plain")
BAD = at_least("b", 0.4, 0.5)
CLAIM = claims()["extend/pi"]


def made(**changes) -> Evidence:
    """Evidence that is shown, but for the changes."""
    model = {"name": "m", "fingerprint": "f", "window": 64}
    whole = Evidence(
        "extend/pi", "PI", "somebody", "it holds", "do it", model, (0, 1, 2), True, {"texts": 2},
        {"loss": 1.0}, (GOOD,), "plain attention", GOOD,
    )  # fmt: skip
    return replace(whole, **changes)


def test_a_finding_holds_and_is_clear():
    assert at_most("", 1.0, 1.0).holds and not at_most("", 1.1, 1.0).holds
    assert at_least("", 1.0, 1.0).holds and not at_least("", None, 0.5).holds
    gap = Interval(0.3, -0.1, 0.7)
    assert at_least("", gap, 0.0).holds and not at_least("", gap, 0.0).clear
    assert not surely_at_least("", gap, 0.0).holds
    assert surely_at_least("", Interval(0.3, 0.1, 0.7), 0.0).clear
    assert not at_most("", 0.3, 1.0).clear and exact(at_most("", 0.3, 1.0)).clear
    assert str(at_most("it is", gap, 1)) == "it is: 0.3 [-0.1, 0.7], wanted at most 1"


def test_four_of_four_is_no_proof():
    found = share(4, 4)
    interval = wilson(4, 4)
    assert found == {"found": 4, "of": 4, "share": 1.0, "low": round(interval.low, 4), "high": 1.0}
    assert found["low"] == 0.5101  # 1 / (1 + 1.96² / 4)
    finding = at_least("", found, 0.8)
    assert finding.holds and not finding.clear and finding.of == 4


def test_the_verdict_follows_from_the_findings():
    for findings, verdict in (
        ((GOOD, GOOD), SHOWN), ((GOOD, BAD), PARTLY), ((GOOD, BAD, BAD), NOT_REPRODUCED),
    ):  # fmt: skip
        one = made(findings=findings)
        assert one.verdict == verdict and ("not: b: 0.4" in one.reason) == (BAD in findings)
    other = made(untested="the paper tunes")
    assert other.verdict == NOT_TESTED and other.reason == "the paper tunes"
    blind = made(premise=BAD, differences=("a small model",))
    assert blind.verdict == NOT_TESTED
    assert blind.reason.startswith("the control did not fail: b: 0.4")
    assert blind.reason.endswith("; differs: a small model")


def test_shown_needs_all_of_the_contract():
    """Without any one of these a claim is not shown, and what is missing is said."""
    assert made().shown and made().verdict == SHOWN and not made().reason
    assert made(premise=None, findings=(GOOD, SURE)).shown
    few = replace(GOOD, of=19)
    for changes, words in (
        ({"claim": ""}, "a claim"),
        ({"control": ""}, "a control that does worse"),
        ({"premise": None}, "a control that does worse"),
        ({"numbers": {}}, "numbers"),
        ({"command": ""}, "a command"),
        ({"model": {"name": "m", "fingerprint": "", "window": 64}}, "the model's fingerprint"),
        ({"findings": (GOOD, at_most("c", 1.0, 2.0))}, "an interval that excludes chance"),
        ({"findings": (GOOD, replace(GOOD, high=2.1))}, "an interval that excludes chance"),
        ({"premise": at_most("c", 1.0, 2.0)}, "an interval that excludes chance"),
        ({"findings": (few,)}, "at least 20 items"),
        ({"items": {"texts": 1}}, "at least 2 texts"),
        ({"seeds": (0, 0, 1)}, "at least 3 seeds"),
    ):
        one = made(**changes)
        assert one.verdict == PARTLY and words in one.lacking
        assert f"lacks {words}" in one.reason
    assert not made(untested="no").shown and not made(findings=(GOOD, BAD)).shown
    assert made(seeds=(0,), trained=False).shown


def test_a_file_is_read_as_it_was_written(tmp_path: Path):
    one = made(findings=(GOOD, BAD), items={"texts": 2, "passkeys": 4},
               numbers={"loss": {512: 1.5}, "found": share(3, 4), "long": [0.125] * 50},
               details={"date": "2026-11-30", "words": ["a, b", 'c "d"'] * 20})  # fmt: skip
    path = write(tmp_path, one)
    assert path == place(tmp_path, "extend/pi") == tmp_path / "extend" / "pi.json"
    back = load(path)
    assert back.findings == one.findings and back.premise == one.premise
    assert back.numbers == {**one.numbers, "loss": {"512": 1.5}}
    assert (back.verdict, back.reason, back.details) == (one.verdict, one.reason, one.details)
    assert max(map(len, path.read_text(encoding="utf-8").splitlines())) < 100
    with pytest.raises(ValueError, match="findings is empty"):
        write(tmp_path, made(findings=()))
    with pytest.raises(ValueError, match="must be a finite number"):
        write(tmp_path, made(findings=(at_most("n", float("nan"), 1.0),)))


def test_a_damaged_file_is_refused_by_name(tmp_path: Path):
    good = made(findings=(GOOD, BAD)).record()
    finding = good["findings"][0]

    def changed(**values: object) -> str:
        return json.dumps({**good, **values})

    for text, words in (
        ("{", "cannot be read as evidence"),
        ("[]", "lengthwise_evidence must be 1, got None"),
        (changed(lengthwise_evidence=2), "lengthwise_evidence must be 1, got 2"),
        (changed(seeds=0), "seeds is missing or of another kind"),
        (json.dumps({k: v for k, v in good.items() if k != "control"}), "control is missing"),
        (changed(claim=""), "claim is empty"),
        (changed(model={"name": "m"}), "model lacks fingerprint, window"),
        (changed(verdict="shown"), "its verdict is 'shown', but 'partly' follows"),
        (changed(reason=""), "its reason is ''"),
        (changed(findings=[{"says": "a"}]), "a finding has"),
        (changed(findings=[{**finding, "holds": False}]), "holds: False is not what follows"),
        (changed(findings=[{**finding, "value": "1"}]), "value must be a finite number"),
        (changed(findings=[{**finding, "low": 1.5}]), "is outside its interval"),
        (changed(findings=[{**finding, "wanted": "above"}]), "wanted must be 'at most' or"),
        (changed(findings=[{**finding, "of": 0}]), "of must be a number of items"),
    ):
        path = tmp_path / "extend" / "pi.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=r"pi\.json") as error:
            load(path)
        assert words in str(error.value), words
    with pytest.raises(ValueError, match="there is no evidence in"):
        load_all(tmp_path / "nowhere")
    (tmp_path / "tuning").mkdir()
    write(tmp_path, made())
    (tmp_path / "extend" / "pi.json").rename(tmp_path / "tuning" / "pi.json")
    with pytest.raises(ValueError, match="holds the evidence of 'extend/pi'"):
        load_all(tmp_path)


def test_every_published_file_is_sound():
    """Each is of a claim in the table and says what the table says."""
    found = {name: one for row in rows(ROOT) for name, one in row.evidence.items()}
    assert len(found) > 50
    for name, one in found.items():
        claim = claims()[name]
        assert (one.system, one.source, one.claim) == (claim.system, claim.source, claim.claim)
        assert (one.untested, tuple(one.differences)) == (claim.untested, claim.differences)
        assert one.command.startswith(claim.command) and one.shown != bool(one.reason)


def test_a_published_file_that_says_shown_needs_all_of_the_contract(tmp_path: Path):
    """Every file that says so is broken in every way, and refused by name each time."""
    shown = [path for path in sorted(ROOT.glob("*/*.json")) if load(path).shown]
    assert shown
    for path in shown:
        good = json.loads(path.read_text(encoding="utf-8"))
        bare = [{**one, "low": None, "high": None} for one in good["findings"]]
        alone = [{**one, "against": ""} for one in good["findings"]]
        for changes in (
            {"claim": ""}, {"command": ""}, {"numbers": {}}, {"control": ""},
            {"items": {"texts": 1}}, {"model": {**good["model"], "fingerprint": ""}},
            {"findings": bare}, {"premise": None, "findings": alone},
            {"trained": True, "seeds": [0, 1]},
            {"findings": [{**one, "of": 19} for one in good["findings"]]},
        ):  # fmt: skip
            broken = tmp_path / path.name
            broken.write_text(json.dumps({**good, **changes}), encoding="utf-8")
            with pytest.raises(ValueError, match=r"but 'partly' follows from it|is empty"):
                load(broken)


def test_a_row_is_as_good_as_its_best_file(tmp_path: Path):
    name, more = "tuning/pi", "extend/pi"
    assert claims()[more].of == name and claims()[more].room == "extend"
    write(tmp_path, made(name=more, findings=(GOOD, BAD)))
    row = next(row for row in rows(tmp_path) if row.claim.name == name)
    assert (row.state, row.on("bundled"), row.on("real")) == (PARTLY, PARTLY, "")
    model = {"name": "smollm2", "fingerprint": "f", "window": 64}
    write(tmp_path, made(name=name, model=model))
    row = next(row for row in rows(tmp_path) if row.claim.name == name)
    assert (row.state, row.on("bundled"), row.on("real")) == (SHOWN, PARTLY, SHOWN)
    assert row.record()["files"] == ["tuning/pi.json", "extend/pi.json"]
    other = next(row for row in rows(tmp_path) if row.claim.name == "tuning/yarn")
    assert (other.state, other.command) == (NOT_TESTED, claims()["tuning/yarn"].command)
    assert other.reason == "nothing is held against it yet"


def test_claims_are_found_by_name_room_and_short_name():
    assert [claim.name for claim in find(["extend/PI", "rerope", "extend/pi"])] == [
        "extend/pi", "extend/rerope",
    ]  # fmt: skip
    assert len(find(["train_data"])) >= 6 and all(claim.minutes for claim in find(["train_data"]))
    with pytest.raises(ValueError, match="'pi' is of several rooms: write extend/pi or tuning/pi"):
        find(["pi"])
    with pytest.raises(ValueError, match="no claim of 'nothing'"):
        find(["nothing"])
    with pytest.raises(ValueError, match="tuning/yi has no experiment yet: tuned as RoPE-ABF only"):
        find(["yi"])


def test_a_further_experiment_has_the_claim_of_the_first():
    table = claims()
    for claim in table.values():
        assert not claim.of or not table[claim.of].of
        assert claim.claim and claim.source and claim.system, claim.name
        assert claim.minutes or not claim.script, claim.name
