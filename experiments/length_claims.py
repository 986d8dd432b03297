"""What the runs of length_curricula.py say about each paper's claim."""

from typing import Any

import torch
from torch import Tensor

from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import Finding, at_least, at_most, exact
from lengthwise.measure.statistics.intervals import bootstrap_mean

Records = dict[str, list[dict[str, Any]]]  # by run, one of each seed

# (what, run, twin, wanted): how the run's number less the twin's must stand to 0.
COMPARED = {
    "dataset_decomposition": (
        ("flops", "grow_p2", "fixed_1024", at_most),
        ("held_out_loss.1024", "grow_p2", "fixed_1024", at_most),
        ("held_out_loss.256", "grow_p2", "fixed_1024", at_most),
    ),
    "grow_length": (
        ("cpu_seconds", "grow_length", "fixed_1024", at_most),
        ("held_out_loss.1024", "grow_length", "fixed_1024", at_most),
        ("held_out_loss.256", "grow_length", "fixed_1024", at_most),
    ),
    "best_fit_trained": (
        ("fitting_documents_cut", "best_fit", "fixed_1024", at_most),
        ("cuts", "best_fit", "fixed_1024", at_most),
        ("held_out_loss.1024", "best_fit", "fixed_1024", at_most),
        ("held_out_loss.256", "best_fit", "fixed_1024", at_most),
    ),
    "xgen": (
        ("held_out_loss.1024", "xgen", "fixed_256", at_most),
        ("held_out_loss.256", "xgen", "fixed_256", at_most),
        ("held_out_loss.128", "xgen", "fixed_256", at_most),
    ),
    "untie_the_knots": (
        ("recall.2048.answer_loss", "knots", "plain", at_most),
        ("recall.2048.answer_tokens_right", "knots", "plain", at_least),
        ("recall.1024.answer_loss", "knots", "plain", at_most),
        ("recall.1024.answer_tokens_right", "knots", "plain", at_least),
    ),
    "prolong": (
        ("recall.2048.answer_loss", "long_0.6", "long_1.0", at_most),
        ("recall.1024.answer_loss", "long_0.6", "long_1.0", at_most),
        ("held_out_loss.256", "long_0.6", "long_1.0", at_most),
    ),
}
EXACT = ("flops", "cuts", "fitting_documents_cut")  # counts that nothing was drawn for
ALSO = {"prolong": ("long_0.0",)}  # runs whose numbers stand beside the comparison


def runs_of(name: str) -> list[str]:
    """The runs that a claim needs."""
    compared = {run for _, *runs, _ in COMPARED[name] for run in runs}
    return [*ALSO.get(name, ()), *sorted(compared)]


def numbers(records: list[dict[str, Any]], what: str) -> Tensor:
    """A number of every seed, `a.b` inside; of what is kept text by text, those of all texts."""
    found: list[float] = []
    for record in records:
        value: Any = record
        for key in what.split("."):
            value = value[key]
        found += value if isinstance(value, list) else [value]
    return torch.tensor(found, dtype=torch.float64)


def findings(name: str, records: Records) -> list[Finding]:
    """The comparisons of a claim, paired over seeds and over texts or problems."""
    found = []
    for what, run, twin, wanted in COMPARED[name]:
        more = numbers(records[run], what) - numbers(records[twin], what)
        says = f"{what} of {run} less that of {twin}"
        if what in EXACT:
            found.append(exact(wanted(says, float(more.max()), 0.0, twin)))
        else:
            interval = bootstrap_mean(more, torch.Generator().manual_seed(0))
            found.append(wanted(says, interval, 0.0, twin))
    return found


def means(value: Any) -> Any:
    """The record of a run with the mean of every list in its place."""
    if isinstance(value, dict):
        return {key: means(one) for key, one in value.items()}
    return round(sum(value) / len(value), 4) if isinstance(value, list) else value


def judged(name: str, records: Records, items: dict[str, int]) -> evidence.Evidence:
    """The evidence of a claim from the records of all its runs."""
    _, mine, twin, _ = COMPARED[name][0]
    continued = "recall" in records[twin][0]
    own = "Llamas of half a million parameters trained here"
    return evidence.of(
        claims()[f"train_data/{name}"],
        model={
            "name": "the bundled model, tuned here" if continued else own,
            "fingerprint": records[mine][0]["fingerprint"],
            "window": 512 if continued else 1024,
        },
        seeds=[one["seed"] for one in records[twin]],
        trained=True,
        items=items if continued else {"texts": items["texts"]},
        numbers={"runs": {run: [means(one) for one in records[run]] for run in runs_of(name)}},
        findings=findings(name, records),
        control=f"the run {twin}",
    )
