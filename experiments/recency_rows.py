"""Rows of generated tasks on SmolLM2: what a real model shows of what a benchmark is made to show.

    python experiments/recency_rows.py tasks/longicl

The model comes from `experiments/real_models.py`; results are kept under runs/tasks, so that a run
that was interrupted goes on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main
from reader_rows import PLAIN, mean, read, right, scores_of, shares
from real_models import get

import lengthwise as lw
from lengthwise.lab.evidence import at_least, at_most, exact
from lengthwise.measure import LocalReader, Suite, measure, suite
from lengthwise.measure.report.table import Table
from lengthwise.measure.tasks.text import held_out_text

RUNS = Path("runs/tasks")


def smollm2(chat: bool | None = None) -> LocalReader:
    """The model, asked in its chat template unless told otherwise."""
    model, tokenizer = lw.load(get("smollm2"), dtype=torch.float32)
    return LocalReader(model.eval(), tokenizer, name="smollm2", chat=chat)


def told(reader: LocalReader) -> Mapping[str, Any]:
    """What the evidence says of it."""
    known = reader.describe()
    keys = ("name", "fingerprint", "window", "dtype", "chat")
    return {key: known[key] for key in keys if key in known}


def asked(reader: LocalReader, of: Suite, lengths: Sequence[int], folder: str) -> Table:
    """Its answers, those of an earlier run among them."""
    return Table(measure(reader, of, {PLAIN: ()}, lengths, folder=RUNS / folder))


def longicl_row() -> Row:
    """Eight labels, two to four demonstrations of each, the right label's first or last."""
    lengths, items, places = (320, 512), 20, (0.0, 0.5, 1.0)
    spec = "longicl_grouped:labels=8,position=0/0.5/1"
    reader = smollm2(chat=False)  # demonstrations are continued, not talked about
    table = asked(reader, suite(spec, held_out_text(), items=items), lengths, "longicl")
    knowing = read(spec, lengths, items, right)
    names = dict(zip(places, table.tasks, strict=True))
    first, middle, last = names.values()
    by_place = {
        str(n): {str(p): shares(scores_of(table, one, n)) for p, one in names.items()}
        for n in lengths
    }

    def favour(of: Table, length: int) -> Any:
        pairs = zip(scores_of(of, last, length), scores_of(of, first, length), strict=True)
        return mean([a - b for a, b in pairs])

    return {
        "model": told(reader),
        "items": {"items": items, "lengths": len(lengths), "places": len(places)},
        "numbers": {"right, by length and by the label's place": by_place,
                    "chance": table.chance(last)},
        "control": "the same questions with the right label's demonstrations first",
        "premise": at_most(f"right where they stand first, {lengths[1]} tokens",
                           by_place[str(lengths[1])]["0.0"], 0.5),
        "findings": [
            *(at_least(f"more right where they stand last, {n} tokens, paired over the questions",
                       favour(table, n), 0.1) for n in lengths),
            exact(at_most("a right reader's favour, which the benchmark would have put there",
                          abs(favour(knowing, lengths[1]).value), 0)),
        ],
    }  # fmt: skip


if __name__ == "__main__":
    main({
        "tasks/longicl": longicl_row,
    })  # fmt: skip
