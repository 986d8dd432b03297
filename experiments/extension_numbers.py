"""Measure what a search or a tuning made as `lengthwise lab reproduce` measures the other methods.

    python experiments/extension_numbers.py evidence/extend/longrope.json evidence/extend/clex.json

Adds to each record what the tables and the figure of docs/extension.md show: the loss by position
to 16 windows, the loss inside the window, and passkeys at 1 to 16. The measurements join those of
the other methods, on the same text and items; a run that was stopped goes on.
"""

import argparse
import json
from pathlib import Path

import torch
from rich.console import Console

import lengthwise as lw
from lengthwise.cli.inputs import read_methods
from lengthwise.lab.evidence import write
from lengthwise.lab.extension import CLAIMS, LOSS_WINDOWS, PASSKEY_WINDOWS, PLAIN, Numbers
from lengthwise.measure import Results, run_grid
from lengthwise.measure.run.results import grid
from lengthwise.measure.tasks.text import held_out_text

RESULTS = Path("evidence/extend/results.jsonl")


def main() -> None:
    """Read the records, measure, write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("records", nargs="+", type=Path)
    args = parser.parse_args()
    records = {path: json.loads(path.read_text(encoding="utf-8")) for path in args.records}
    made = {record["method"]: read_methods([record["spec"]]) for record in records.values()}
    known = {claim.method: read_methods([claim.spec]) for claim in CLAIMS}
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    model.eval()
    window = model.config.max_position_embeddings
    asked = grid("loss", [PLAIN, *made], [LOSS_WINDOWS * window])
    asked += grid("passkey", [PLAIN, *made], [times * window for times in PASSKEY_WINDOWS])
    plan = Results.load(RESULTS).plan
    results = run_grid(
        model,
        tokenizer,
        {PLAIN: (), **known, **made},
        asked,
        text=held_out_text(),
        output=RESULTS,
        name=plan["model"],
        loss_samples=plan["loss_samples"],
        passkey_count=plan["passkey_count"],
        console=Console(stderr=True),
    )
    for path, record in records.items():
        found = Numbers(results, record["method"]).record()
        first, then = record["command"].split(" && ")[0], "python experiments/extension_numbers.py"
        command = f"{first} && {then} {path.as_posix()}"
        write(path, {**record, "command": command, "numbers": found})
        print(record["method"], found)


if __name__ == "__main__":
    main()
