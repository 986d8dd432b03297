"""Tune CLEX's network on the bundled model, and compare it at 1 to 8 windows.

    python experiments/clex.py

The model's weights stay what they are: only the network of a thousand numbers learns, on texts
inside the window. The paper tunes the whole model with it.
"""

import argparse
import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedTokenizerBase

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.extend.scaling.clex_network import CLEXNetwork, tune_clex
from lengthwise.files import write_text
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import Finding, at_most
from lengthwise.lab.extension import PLAIN, Numbers, described, lost, measure
from lengthwise.measure.engines.reading import first_token
from lengthwise.measure.tasks.text import held_out_text, read_text, standard_library_files
from lengthwise.search import text_windows

WINDOW = 512
FACTORS = (1, 2, 4, 8)


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
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--network", type=Path, default=Path("runs/clex.safetensors"))
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
    write_text(args.network.with_suffix(".json"), json.dumps({"factors": clex.factors}) + "\n")
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
    results = measure(["CLEX"], args.evidence, others={"CLEX": (clex,)})
    made = evidence.of(
        claims()["extend/clex"],
        model=described(results),
        seeds=(args.seed,),
        trained=True,
        items={"texts": args.windows, "passkeys": results.counts["passkey"]},
        numbers={
            **Numbers(results, "CLEX").record(),
            "control": Numbers(results, PLAIN).record(),
            "loss at windows": numbers,
        },
        findings=findings(numbers),
        control="plain attention; the network before its tuning",
        premise=lost(8)(Numbers(results, "CLEX")),
        spec=f"clex:factors={args.network.with_suffix('.json').as_posix()}",
        settings={"steps": args.steps, "rows": args.rows, "windows": args.windows},
        cpu_seconds_of_tuning=round(seconds, 1),
        training_loss=trained,
        factors=clex.factors,
    )
    evidence.write(args.evidence, made)


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
