"""Does `lengthwise extend --auto` end in time, and is its choice the best of the full table?

python benchmarks/auto.py              the bundled model, to 4 windows, in four minutes; then every
                                       candidate on other pieces of the text and other needles

The race reads the text in pieces and needles of its own seed. The full table is every candidate,
and what the search of factors found, on as many pieces and needles as its last round has.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from shape import write

import lengthwise as lw
from lengthwise.cli.auto import choose
from lengthwise.measure.engines.reading import first_token, trained_window
from lengthwise.measure.tasks import Passkey
from lengthwise.measure.tasks.text import held_out_text
from lengthwise.search.candidates import candidates
from lengthwise.search.race import name_of
from lengthwise.search.windows import needle_windows, text_windows

TEXTS, NEEDLES, SEED = 4, 8, 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--windows", type=int, default=4)
    parser.add_argument("--budget", type=float, default=240, help="seconds")
    asked = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    model.eval()
    window = trained_window(model)
    length = asked.windows * window
    words = held_out_text()
    half = len(words) // 2
    with tempfile.TemporaryDirectory() as folder:
        began, state = time.perf_counter(), Path(folder) / "race.json"
        winner, record = choose("demo", length, asked.budget, words[:half], None, state)
        seconds = time.perf_counter() - began
    tried = len({run["methods"] for run in record["runs"]})
    print(f"{name_of(winner)} after {seconds:.0f} s of {asked.budget:.0f}, {tried} methods tried")

    head, other = first_token(tokenizer), words[half:]
    ids = torch.tensor(tokenizer(other, add_special_tokens=False, verbose=False)["input_ids"])
    texts = text_windows(ids, length, TEXTS, head)
    needles = needle_windows(tokenizer, Passkey(other).build(tokenizer, length, NEEDLES, SEED))
    rows: list[dict[str, Any]] = []
    field = {name_of(methods): methods for methods in [winner, *candidates(window, length)]}
    for name, methods in field.items():
        chosen = name == name_of(winner)
        row: dict[str, Any] = {"who": f"{name} (chosen)" if chosen else name}
        try:
            row |= {"text_loss": texts.loss(model, *methods),
                    "needle_loss": needles.loss(model, *methods)}  # fmt: skip
            row["score"] = (row["text_loss"] + row["needle_loss"]) / 2
        except ValueError as error:
            row["refused"] = str(error)
        rows.append(row)
        print(row, flush=True)
    ran = sorted((row for row in rows if "score" in row), key=lambda row: row["score"])
    gap = rows[0]["score"] - ran[0]["score"]
    print(f"the choice is {gap:.3f} nats from the best of {len(ran)}, {ran[0]['who']}")
    summary = {"who": "the race", "tokens": length, "budget": asked.budget, "seconds": seconds,
               "behind_best": gap, "methods": len(ran)}  # fmt: skip
    write("auto", "Does --auto end in time, and is its choice the best?", [summary, *ran])


if __name__ == "__main__":
    main()
