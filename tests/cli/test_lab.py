"""`lengthwise lab`: which claims there are, and how a verdict comes from measured numbers."""

from collections.abc import Callable

import pytest

from lengthwise.lab.evidence import at_least, at_most, verdict, write
from lengthwise.lab.extension import CLAIMS, Numbers, cells, evidence, find, flat, free
from lengthwise.measure.run.results import REFERENCE, Cell, Results, Row

WINDOW = 64
Call = Callable[..., tuple[int, str, str]]


def row(method: str, task: str, length: int, values: dict) -> Row:
    return Row(method, "", task, length, values, "", 1.0, 0, {}, {})


def results(excess: float) -> Results:
    """A method that loses `excess` nats beyond the window and nothing inside."""
    blocks = 16 * 8
    losses = {
        REFERENCE: [2.0] * blocks,
        "plain": [2.0] * 8 + [4.0] * (blocks - 8),
        "PI": [2.0] * 8 + [2.0 + excess] * (blocks - 8),
    }
    rows = [
        row(name, "loss", 16 * WINDOW, {"block": 8, "losses": [values]})
        for name, values in losses.items()
    ]
    rows.append(row("PI", "passkey", 4 * WINDOW, {"score": 0.75}))
    plan = {"window": WINDOW, "seed": 0, "model": "m", "fingerprint": "f"}
    return Results({**plan, "loss_samples": 1, "passkey_count": 4}, rows)


def test_numbers_are_excess_tax_and_passkeys() -> None:
    numbers = Numbers(results(0.5), "PI")
    assert numbers.excess(8) == pytest.approx(0.5)
    assert numbers.tax == pytest.approx(0.0)
    assert numbers.passkeys(4) == 0.75 and numbers.passkeys(8) is None
    assert numbers.of("plain").excess(16) == pytest.approx(2.0)


def test_a_verdict_counts_findings_that_hold() -> None:
    good, bad = at_most("a", 1.0, 2.0), at_least("b", None, 0.5)
    assert good.holds and not bad.holds
    assert verdict([good, good]) == "reproduced"
    assert verdict([good, bad]) == "partly"
    assert verdict([good, bad, bad]) == "not reproduced"
    assert verdict([bad]) == "not reproduced"
    with pytest.raises(ValueError, match="at least one"):
        verdict([])


@pytest.mark.parametrize("excess, holds", [(0.1, True), (0.3, False)])
def test_flat_means_near_the_reference(excess: float, holds: bool) -> None:
    numbers = Numbers(results(excess), "PI")
    assert flat(8)(numbers).holds is holds
    assert free()(numbers).holds


def test_a_record_holds_what_is_needed_to_judge_it_again(tmp_path) -> None:
    claim = find(["pi"])[0]
    record = evidence(claim, results(0.1), "lengthwise lab reproduce pi")
    assert record["verdict"] == "partly"  # 75% of the passkeys are below the 80% that it needs
    assert record["command"] == "lengthwise lab reproduce pi" and record["claim"] == claim.says
    assert [f["holds"] for f in record["findings"]] == [True, False, True]
    write(tmp_path / "new" / "pi.json", record)
    assert (tmp_path / "new" / "pi.json").read_text(encoding="utf-8").endswith("}\n")


def test_every_claim_is_of_a_method_that_exists(call: Call) -> None:
    from lengthwise.catalogue import find as find_method
    from lengthwise.catalogue import parse_many

    for claim in CLAIMS:
        assert type(parse_many(claim.spec)[0]) is find_method(claim.method)
    planned = cells(CLAIMS, WINDOW)
    assert Cell("GALI", "passkey", 16 * WINDOW) in planned
    status, out, _ = call("lab", "list")
    assert status == 0 and len(out.splitlines()) == len(CLAIMS)


def test_a_method_without_a_claim_is_refused(refused: Callable[..., str]) -> None:
    assert "no claim of 'nothing'" in refused("lab", "reproduce", "nothing")
