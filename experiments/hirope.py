"""HiRoPE on the bundled model, untuned: code up to 16 windows, beside plain attention and ReRoPE.

    python experiments/hirope.py

Each held-out file of the Python standard library is one text, parsed for its functions. Passkeys
are those of `lengthwise lab reproduce`: a passkey is no Python, so units are unindented lines. Six
minutes of computing.
"""

import argparse
import time
import warnings
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import Finding, at_least, at_most, share
from lengthwise.measure.engines.greedy import greedy
from lengthwise.measure.engines.reading import first_token, with_methods
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.tasks.loss import in_window_losses, losses_by_position
from lengthwise.measure.tasks.passkey import Passkey
from lengthwise.measure.tasks.text import held_out_text, read_text, standard_library_files

WINDOW = 512
KEYS = 4  # passkeys of a length
ENDS = (1, 2, 4, 8, 16)  # windows at which a doubling ends
LENGTH = ENDS[-1] * WINDOW


def contenders(model: PreTrainedModel, starts: tuple[int, ...]) -> dict[str, Method]:
    """The methods for one text, by name."""
    return {
        "HiRoPE": lw.HiRoPE.fitted(model, starts),
        "ReRoPE": lw.ReRoPE(window=WINDOW // 2),
    }


def excess(losses: Tensor, reference: Tensor) -> dict[int, Interval]:
    """Nats above the reference in the doubling that ends at so many windows; over texts."""
    above = losses - reference  # [texts, LENGTH - 1]; entry p - 1 is position p
    sooner, out = 0, {}
    for end in ENDS:
        part = above[:, max(0, sooner * WINDOW - 1) : end * WINDOW - 1]
        out[end] = bootstrap_mean(part.double().mean(1), torch.Generator().manual_seed(0))
        sooner = end
    return out


def passkeys(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> dict[int, dict[str, float]]:
    """How many passkeys are found, by windows; every prompt has its own units."""
    task, out = Passkey(held_out_text()), {}
    for times in ENDS:
        scores = []
        for item in task.build(tokenizer, times * WINDOW, KEYS, seed=0):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of what is no Python; that is meant
                units = lw.hirope_positions(item.prompt, tokenizer)
            # Parsing closes the last line; the question does not end there.
            ids = torch.tensor(tokenizer([item.prompt], verbose=False)["input_ids"])
            starts = tuple(start for start in units.starts if start < ids.shape[1])
            with with_methods(model, (lw.HiRoPE.fitted(model, starts),)):
                new = greedy(model, ids, task.allowance)
            scores.append(task.score(tokenizer.decode(new[0]), item))
        out[times] = share(sum(scores), len(scores))
        Console(stderr=True).print(f"{times} windows: {out[times]['share']:.0%} of the passkeys")
    return out


def findings(numbers: dict[str, dict[int, Interval]]) -> list[Finding]:
    """The claim in numbers; bounds are those of the other methods in `lengthwise lab`."""
    mine, plain = numbers["HiRoPE"], numbers["plain"]
    found = [
        at_most(
            f"at {end} windows the loss is within 0.2 nats of the in-window reference",
            mine[end],
            0.2,
        )
        for end in (8, 16)
    ]
    found += [
        at_least(
            f"at {end} windows the plain model's loss is above it, nats",
            plain[end].value - mine[end].value,
            0.0,
        )
        for end in (8, 16)
    ]
    tax = mine[1].value - plain[1].value
    return [*found, at_most("inside the window it costs at most 0.05 nats", tax, 0.05)]


def main() -> None:
    """Parse, read, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--texts", type=int, default=6)
    args = parser.parse_args()
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    model.eval()
    head, began = first_token(tokenizer), time.monotonic()
    files = sorted(standard_library_files(held_out=True), key=lambda path: path.stem)
    losses: dict[str, list[Tensor]] = {}
    read: list[dict[str, object]] = []
    for path in track(files[: args.texts], "reading", console=Console(stderr=True)):
        code = read_text(path)
        units = lw.hirope_positions(code, tokenizer)
        if units.ids.shape[1] < LENGTH:
            read.append({"file": path.stem, "skipped": f"{units.ids.shape[1]} tokens"})
            continue
        ids = units.ids[:, :LENGTH]
        starts = tuple(start for start in units.starts if start < LENGTH)
        read.append({"file": path.stem, "units": len(starts)})
        with torch.no_grad():
            rows = {"plain": losses_by_position(model, ids)}
            rows["reference"] = in_window_losses(model, ids, WINDOW, head)
            for name, method in contenders(model, starts).items():
                with with_methods(model, (method,)):
                    rows[name] = losses_by_position(model, ids)
        for name, row in rows.items():
            losses.setdefault(name, []).append(row)
    reference = torch.cat(losses.pop("reference"))
    numbers = {name: excess(torch.cat(rows), reference) for name, rows in losses.items()}
    spans = {end: f"{0 if end == 1 else end * WINDOW // 2}-{end * WINDOW}" for end in ENDS}
    found, keys = findings(numbers), passkeys(model, tokenizer)
    fitted = lw.HiRoPE.fitted(model, (0,))
    made = evidence.of(
        claims()["extend/hirope"],
        model={"name": "demo", "fingerprint": fingerprint(model), "window": WINDOW},
        items={"texts": len(reference), "passkeys": KEYS},
        numbers={
            "loss_above_reference": {
                spans[end]: round(one.value, 4) for end, one in numbers["HiRoPE"].items()
            },
            "loss_inside_window_above_plain": round(
                numbers["HiRoPE"][1].value - numbers["plain"][1].value, 4
            ),
            "passkeys_found": {str(end): keys[end] for end in ENDS},
            "all, with 95% intervals over texts": {
                name: {
                    spans[end]: [round(x, 4) for x in (one.value, one.low, one.high)]
                    for end, one in by.items()
                }
                for name, by in numbers.items()
            },
        },
        findings=found,
        control="plain attention",
        premise=at_least(
            "at 16 windows plain attention is at least 0.2 nats above the in-window reference",
            numbers["plain"][16],
            0.2,
        ),
        spec=f"hirope:split={fitted.split},window={fitted.window}",
        settings={"texts": len(reference), "length": LENGTH, "pairs": fitted.pairs},
        seconds=round(time.monotonic() - began, 1),
        texts=read,
    )
    evidence.write(args.evidence, made)
    for name, by in numbers.items():
        shown = ", ".join(f"{spans[end]} {one.value:+.3f}" for end, one in by.items())
        Console(stderr=True).print(f"{name}: {shown}")
    Console(stderr=True).print(made.verdict, made.reason)


if __name__ == "__main__":
    main()
