"""Tune CLEX's network on the bundled model, and compare it at 1 to 8 windows.

    python experiments/clex.py --out evidence/extend/clex.json --network runs/clex.safetensors

The model's weights stay what they are: only the network of a thousand numbers learns, on texts
inside the window. The paper tunes the whole model with it.
"""

import argparse
import random
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedTokenizerBase

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.extend.scaling.clex_network import CLEXNetwork, tune_clex
from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import Finding, at_most, verdict, write
from lengthwise.measure.engines.reading import first_token
from lengthwise.measure.run.environment import hardware, versions
from lengthwise.measure.tasks.text import held_out_text, read_text, standard_library_files
from lengthwise.search import text_windows

WINDOW = 512
FACTORS = (1, 2, 4, 8)
CLAIM = (
    "A differential equation over the factor, tuned inside the window, extends it to over 4 and "
    "almost 8 times with no deterioration, one checkpoint for all lengths."
)


def batches(
    tokenizer: PreTrainedTokenizerBase, steps: int, rows: int, seed: int
) -> Iterator[Tensor]:
    """`steps` batches `[rows, WINDOW]` of files that the bundled model was trained on."""
    rng = random.Random(seed)
    files = rng.sample(standard_library_files(held_out=False), 60)
    text = "\n".join(read_text(path) for path in files)
    ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    head = torch.full((1,), first_token(tokenizer) or 0)
    for _ in range(steps):
        starts = [rng.randrange(len(ids) - WINDOW) for _ in range(rows)]
        yield torch.stack([torch.cat([head, ids[s : s + WINDOW - 1]]) for s in starts])


def main() -> None:
    """Tune, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--network", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--windows", type=int, default=8, help="of the comparison")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    model.eval()
    data = batches(tokenizer, args.steps, args.rows, args.seed)
    began, trained = time.process_time(), []
    network = CLEXNetwork(model.config.head_dim, model.config.rope_parameters["rope_theta"])
    untuned = network.scaling(max(FACTORS))
    steps = tune_clex(model, data, max_factor=max(FACTORS), network=network, seed=args.seed)
    for _, loss in track(steps, "tuning", args.steps, console=Console(stderr=True)):
        trained.append(round(loss, 4))
    seconds = time.process_time() - began
    args.network.parent.mkdir(parents=True, exist_ok=True)
    network.save(args.network)
    clex = network.scaling(max(FACTORS))
    contenders: dict[str, tuple[Method, ...]] = {
        "plain": (),
        "DynamicNTK": (lw.DynamicNTK(),),
        "DynamicYaRN": (lw.DynamicYaRN(),),
        "CLEX, network untuned": (untuned,),
        "CLEX": (clex,),
        "CLEX under LogTemperature": (lw.LogTemperature(over=clex),),
    }
    held = tokenizer(held_out_text(args.seed), add_special_tokens=False, verbose=False)
    ids, head = torch.tensor(held["input_ids"]), first_token(tokenizer)
    numbers = {}
    for name, methods in contenders.items():
        numbers[name] = {
            str(factor): text_windows(ids, factor * WINDOW, args.windows, head).loss(
                model, *methods
            )
            for factor in FACTORS
        }
        Console(stderr=True).print(name, numbers[name])
    record = {
        "method": "CLEX",
        "spec": f"clex:factors={args.network.with_suffix('.json').as_posix()}",
        "paper": "Chen et al. 2023, arXiv:2310.16450",
        "claim": CLAIM,
        "note": "only the network is tuned; the paper tunes the whole model with it",
        "command": f"python experiments/clex.py --out {args.out.as_posix()} "
        f"--network {args.network.as_posix()}",
        "seed": args.seed,
        "model": {"model": "demo", "fingerprint": fingerprint(model), "window": WINDOW},
        "settings": {"steps": args.steps, "rows": args.rows, "windows": args.windows},
        "cpu_seconds_of_tuning": round(seconds, 1),
        "training_loss": trained,
        "factors": clex.factors,
        "comparison": {"loss at windows": numbers},
        "findings": [asdict(finding) for finding in findings(numbers)],
        "verdict": verdict(findings(numbers)),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "date": date.today().isoformat(),
    }
    write(args.out, record)
    write(args.network.with_suffix(".json"), {"factors": clex.factors})


def findings(numbers: dict[str, dict[str, float]]) -> list[Finding]:
    """The claim, and that tuning is worth its while."""
    clex, inside = numbers["CLEX"], numbers["plain"]["1"]
    rise = [
        at_most(
            f"at {factor} windows the loss is within 0.1 nats of the loss at 1",
            clex[str(factor)] - inside,
            0.1,
        )
        for factor in (4, 8)
    ]
    gain = clex["8"] - numbers["CLEX, network untuned"]["8"]
    return [*rise, at_most("at 8 windows tuning the network lowers the loss", gain, 0.0)]


if __name__ == "__main__":
    main()
