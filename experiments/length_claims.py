"""What the runs of length_curricula.py say about each paper's claim, as evidence with a verdict."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EVIDENCE = Path(__file__).parents[1] / "evidence" / "train_data"

Records = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Claim:
    """One sentence of a paper, and the comparisons that decide about it.

    Every comparison is (what, run, baseline, better): `better` says whether the run's number must
    be lower or higher; equal is good enough.
    """

    name: str
    paper: str
    claim: str
    comparisons: tuple[tuple[str, str, str, str], ...]
    notes: str


CLAIMS = (
    Claim(
        "dataset_decomposition",
        "Dataset Decomposition (arXiv:2405.13226)",
        "A length curriculum over power-of-two buckets reaches the baseline's loss in less "
        "compute.",
        (
            ("flops", "grow_p2", "fixed_1024", "lower"),
            ("held_out_loss.1024", "grow_p2", "fixed_1024", "lower"),
            ("held_out_loss.256", "grow_p2", "fixed_1024", "lower"),
        ),
        "Equal documents, one pass. The tails of documents below 32 tokens and sequences that fill "
        "no step are not trained on. So early in training short sequences alone learn faster: "
        "see xgen.json, where the twin of 256 tokens beats the baseline at 1,024 too.",
    ),
    Claim(
        "grow_length",
        "GrowLength (arXiv:2310.00576)",
        "Growing the training length step by step reaches the loss of fixed-length training in "
        "less time on the same tokens.",
        (
            ("cpu_seconds", "grow_length", "fixed_1024", "lower"),
            ("held_out_loss.1024", "grow_length", "fixed_1024", "lower"),
            ("held_out_loss.256", "grow_length", "fixed_1024", "lower"),
        ),
        "Time is processor seconds of one thread, which other work on the machine disturbs less "
        "than the clock. So early in training short sequences alone learn faster: see xgen.json.",
    ),
    Claim(
        "best_fit",
        "Fewer Truncations Improve Language Modeling (arXiv:2404.10830)",
        "Best-fit packing cuts fewer documents than concatenation, at equal loss or better.",
        (
            ("fitting_documents_cut", "best_fit", "fixed_1024", "lower"),
            ("cuts", "best_fit", "fixed_1024", "lower"),
            ("held_out_loss.1024", "best_fit", "fixed_1024", "lower"),
            ("held_out_loss.256", "best_fit", "fixed_1024", "lower"),
        ),
        "Packed rows do not attend across documents, concatenated ones do, as in common practice.",
    ),
    Claim(
        "xgen",
        "XGen-7B Technical Report (arXiv:2309.03450)",
        "Training in stages of growing length gives a lower loss at the longest length than a twin "
        "trained on short sequences only, and no higher loss on short ones.",
        (
            ("held_out_loss.1024", "xgen", "fixed_256", "lower"),
            ("held_out_loss.256", "xgen", "fixed_256", "lower"),
            ("held_out_loss.128", "xgen", "fixed_256", "lower"),
        ),
        "Equal tokens.",
    ),
    Claim(
        "untie_the_knots",
        "Untie the Knots (arXiv:2409.04774)",
        "Continued training on tangled documents recalls better from long contexts than on plain "
        "concatenated ones.",
        (
            ("recall.2048.answer_loss", "knots", "plain", "lower"),
            ("recall.2048.answer_tokens_right", "knots", "plain", "higher"),
            ("recall.1024.answer_loss", "knots", "plain", "lower"),
            ("recall.1024.answer_tokens_right", "knots", "plain", "higher"),
        ),
        "The bundled model, stretched from 512 to 2,048 tokens by the base of its rotary "
        "embedding, goes on for 20 steps; both runs see the same pieces of documents in "
        "the same windows. Recall is of 12 problems at each length.",
    ),
    Claim(
        "prolong",
        "How to Train Long-Context Language Models (Effectively) (arXiv:2410.02660)",
        "Long data mixed with short (60% long) beats long data alone, in long recall and in the "
        "loss on short texts.",
        (
            ("recall.2048.answer_loss", "long_0.6", "long_1.0", "lower"),
            ("recall.1024.answer_loss", "long_0.6", "long_1.0", "lower"),
            ("held_out_loss.256", "long_0.6", "long_1.0", "lower"),
        ),
        "The same stretched model. Long: windows of files of 4,096 tokens and more; short: files "
        "of up to 512 tokens, packed best-fit. Recall is of 12 problems at each length. The share "
        "0.0 is in the numbers.",
    ),
)


def number(record: dict[str, Any], what: str) -> float:
    value: Any = record
    for key in what.split("."):
        value = value[key]
    return value


def judge(claim: Claim, records: Records) -> dict[str, Any]:
    """All comparisons good is `reproduced`, at least half `partly`, fewer `not reproduced`."""
    rows = []
    for what, run, baseline, better in claim.comparisons:
        ours, theirs = number(records[run], what), number(records[baseline], what)
        good = ours <= theirs if better == "lower" else ours >= theirs
        rows.append(
            {"what": what, run: ours, baseline: theirs, "wanted": better, "holds": good}
        )  # fmt: skip
    held = [row["holds"] for row in rows]
    some = "partly" if 2 * sum(held) >= len(held) else "not reproduced"
    verdict = "reproduced" if all(held) else some
    # A saving without the quality that it must keep is no part of the claim.
    quality = [row["holds"] for row in rows if "loss" in row["what"] or "recall" in row["what"]]
    return {"comparisons": rows, "verdict": verdict if any(quality) else "not reproduced"}


def write_evidence(records: Records) -> None:
    """One file a claim whose runs are there."""
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    for claim in CLAIMS:
        names = sorted({name for _, run, base, _ in claim.comparisons for name in (run, base)})
        if claim.name == "prolong":
            names = ["long_0.0", *names]
        if not all(name in records for name in names):
            print(f"{claim.name}: runs are missing")
            continue
        judged = judge(claim, records)
        record = {
            "paper": claim.paper,
            "claim": claim.claim,
            "command": "python experiments/length_curricula.py --out runs/lengths",
            "seeds": [records[names[0]]["seed"]],
            "scale": "one seed, models of 0.5 or 4 million parameters, 20 to 440 steps: "
            "differences of 0.02 nats and less may be chance",
            "notes": claim.notes,
            "verdict": judged["verdict"],
            "comparisons": judged["comparisons"],
            "runs": {name: records[name] for name in names},
        }
        temporary = EVIDENCE / f".{claim.name}.tmp"
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, EVIDENCE / f"{claim.name}.json")
        print(f"{claim.name}: {judged['verdict']}")
