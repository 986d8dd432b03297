"""What the runs of length_curricula.py say about each paper's claim."""

from typing import Any

import torch

import lengthwise as lw
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import AT_LEAST, AT_MOST, Finding, exact

Records = dict[str, dict[str, Any]]

# (what, run, twin, wanted): whether the run's number must be at most or at least the twin's.
COMPARED = {
    "dataset_decomposition": (
        ("flops", "grow_p2", "fixed_1024", AT_MOST),
        ("held_out_loss.1024", "grow_p2", "fixed_1024", AT_MOST),
        ("held_out_loss.256", "grow_p2", "fixed_1024", AT_MOST),
    ),
    "grow_length": (
        ("cpu_seconds", "grow_length", "fixed_1024", AT_MOST),
        ("held_out_loss.1024", "grow_length", "fixed_1024", AT_MOST),
        ("held_out_loss.256", "grow_length", "fixed_1024", AT_MOST),
    ),
    "best_fit_trained": (
        ("fitting_documents_cut", "best_fit", "fixed_1024", AT_MOST),
        ("cuts", "best_fit", "fixed_1024", AT_MOST),
        ("held_out_loss.1024", "best_fit", "fixed_1024", AT_MOST),
        ("held_out_loss.256", "best_fit", "fixed_1024", AT_MOST),
    ),
    "xgen": (
        ("held_out_loss.1024", "xgen", "fixed_256", AT_MOST),
        ("held_out_loss.256", "xgen", "fixed_256", AT_MOST),
        ("held_out_loss.128", "xgen", "fixed_256", AT_MOST),
    ),
    "untie_the_knots": (
        ("recall.2048.answer_loss", "knots", "plain", AT_MOST),
        ("recall.2048.answer_tokens_right", "knots", "plain", AT_LEAST),
        ("recall.1024.answer_loss", "knots", "plain", AT_MOST),
        ("recall.1024.answer_tokens_right", "knots", "plain", AT_LEAST),
    ),
    "prolong": (
        ("recall.2048.answer_loss", "long_0.6", "long_1.0", AT_MOST),
        ("recall.1024.answer_loss", "long_0.6", "long_1.0", AT_MOST),
        ("held_out_loss.256", "long_0.6", "long_1.0", AT_MOST),
    ),
}
EXACT = ("flops", "cuts", "fitting_documents_cut")  # counts that nothing was drawn for
ALSO = {"prolong": ("long_0.0",)}  # runs whose numbers stand beside the comparison


def runs_of(name: str) -> list[str]:
    """The runs that a claim needs."""
    compared = {run for _, *runs, _ in COMPARED[name] for run in runs}
    return [*ALSO.get(name, ()), *sorted(compared)]


def number(record: dict[str, Any], what: str) -> float:
    """A number of a run, `a.b` inside."""
    value: Any = record
    for key in what.split("."):
        value = value[key]
    return float(value)


def findings(name: str, records: Records) -> list[Finding]:
    """The comparisons of a claim."""
    found = []
    for what, run, twin, wanted in COMPARED[name]:
        ours, theirs = number(records[run], what), number(records[twin], what)
        finding = Finding(f"{what} of {run}, against {twin}", ours, wanted, theirs)
        found.append(exact(finding) if what in EXACT else finding)
    return found


def judged(name: str, records: Records, items: dict[str, int]) -> evidence.Evidence:
    """The evidence of a claim from the records of all its runs."""
    runs = {run: records[run] for run in runs_of(name)}
    _, _, twin, _ = COMPARED[name][0]
    scratch = {"name": "a Llama of half a million parameters trained here", "fingerprint": ""}
    bundled = {"name": "demo", "fingerprint": fingerprint(lw.load("demo", dtype=torch.float32)[0])}
    continued = "recall" in runs[twin]
    return evidence.of(
        claims()[f"train_data/{name}"],
        model={**bundled, "window": 512} if continued else {**scratch, "window": 1024},
        seeds=(runs[twin]["seed"],),
        trained=True,
        items=items if continued else {"texts": items["texts"]},
        numbers={"runs": runs},
        findings=findings(name, records),
        control=f"the run {twin}",
    )
