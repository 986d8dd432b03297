"""ALiBi-PI and HeadScale on small models trained here, with windows of 128 tokens.

    python experiments/nonrotary.py alibipi --out evidence/extend/alibipi.json
    python experiments/nonrotary.py headscale --out evidence/extend/headscale.json

A Bloom, or a model without positions, is trained on the Python standard library with the bundled
tokenizer, and read at up to 8 windows on files that it never saw: plain, and with the method.
"""

import argparse
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import Finding, at_least, at_most, verdict, write
from lengthwise.measure.run.environment import hardware, versions
from lengthwise.measure.statistics.intervals import bootstrap_mean
from lengthwise.measure.tasks.text import held_out_text, read_text, standard_library_files

WINDOW = 128
FACTORS = (1, 2, 4, 8)
SIZE = {"num_attention_heads": 4, "num_hidden_layers": 4, "hidden_size": 128}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "alibipi": ("bloom", {"seq_length": WINDOW, "n_layer": 4, "n_head": 4, "hidden_size": 128}),
    "headscale": (
        "smollm3",
        {
            **SIZE,
            "num_key_value_heads": 4,
            "intermediate_size": 384,
            "max_position_embeddings": 8 * WINDOW,
            "no_rope_layers": [0] * 4,
            "use_sliding_window": False,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
        },
    ),
}
PAPERS = {
    "alibipi": (
        "ALiBiPI",
        "Al-Khateeb et al. 2023, arXiv:2310.13017",
        "position interpolation lets an ALiBi model read up to twice its window untuned, where it "
        "gets worse without",
    ),
    "headscale": (
        "HeadScale",
        "Wang et al. 2024, arXiv:2404.12224",
        "a tuned number for every head lets a model without positions read several windows, where "
        "it fails without",
    ),
}


def tokens_of(text: str, characters: int) -> Tensor:
    """Token ids of the first characters of a text, in pieces (one long one takes much longer)."""
    _, tokenizer = lw.load("demo")
    pieces = [text[at : at + 20_000] for at in range(0, min(characters, len(text)), 20_000)]
    return torch.cat(
        [torch.tensor(tokenizer(p, add_special_tokens=False).input_ids) for p in pieces]
    )


def rows(ids: Tensor, length: int, count: int, generator: torch.Generator) -> Tensor:
    """Pieces of a text at random places, `[count, length]`."""
    starts = torch.randint(len(ids) - length, (count,), generator=generator)
    return torch.stack([ids[start : start + length] for start in starts.tolist()])


def train(model: PreTrainedModel, batches: Iterator[Tensor], steps: int) -> float:
    """AdamW, warm-up and cosine; the loss of the last step in nats."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 2e-3, total_steps=steps, pct_start=0.1
    )
    model.train()
    for _ in track(range(steps), "training", console=Console(stderr=True)):
        ids = next(batches)
        loss = model(input_ids=ids, labels=ids).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    model.eval()
    return float(loss.item())


@torch.no_grad()
def tail_losses(model: PreTrainedModel, texts: Tensor, *methods: Method) -> Tensor:
    """Mean loss of the last half window of every text, `[n]`: what a whole context is worth."""
    with lw.adapted(model, *methods):
        out = []
        for ids in texts.split(4):
            logits = model(input_ids=ids).logits[:, -1 - WINDOW // 2 : -1]
            wanted = ids[:, -(WINDOW // 2) :]
            each = torch.nn.functional.cross_entropy(
                logits.transpose(1, 2).double(), wanted, reduction="none"
            )
            out.append(each.mean(1))
    return torch.cat(out)


def contenders(
    name: str, model: PreTrainedModel, seen: Tensor, args: argparse.Namespace
) -> dict[str, tuple[Method, ...]]:
    """What is compared, by name."""
    if name == "alibipi":
        scaled = {f"ALiBiPI({factor})": (lw.ALiBiPI(factor),) for factor in FACTORS[1:]}
        return {"plain": (), **scaled, "DynamicALiBiPI": (lw.DynamicALiBiPI(),)}
    generator = torch.Generator().manual_seed(args.seed + 2)
    target = 4 * WINDOW
    batches = [rows(seen, target, 4, generator) for _ in range(args.tuning)]
    tuned = lw.tune_head_scale(model, batches, steps=args.tuning)
    uniform = {
        f"uniform {scale:g}": (lw.HeadScale(((scale,) * 4,) * 4),) for scale in (1.1, 1.2, 1.4, 1.6)
    }
    return {"plain": (), **uniform, "HeadScale": (tuned,)}


def findings_of(name: str, losses: dict[str, dict[int, Tensor]]) -> list[Finding]:
    """The claim in numbers; the intervals are of differences between the same texts."""
    plain = losses["plain"]
    mean = {method: {f: x.mean().item() for f, x in by.items()} for method, by in losses.items()}

    def gain(method: str, factor: int) -> float:
        each = plain[factor] - losses[method][factor]
        return bootstrap_mean(each, torch.Generator().manual_seed(0)).low

    far = 2 if name == "alibipi" else 4
    method = "ALiBiPI(2)" if name == "alibipi" else "HeadScale"
    inside = mean["plain"][1]
    found = [
        at_least(
            f"the plain model is worse at {far} windows than inside its window, nats",
            mean["plain"][far] - inside,
            0.05,
        ),
        at_least(
            f"{method} is better than it at {far} windows, low end of 95%, nats",
            gain(method, far),
            0.0,
        ),
        at_most(
            f"{method} at {far} windows is as good as the plain model inside its window, nats",
            mean[method][far] - inside,
            0.05,
        ),
    ]
    if name == "headscale":
        best = min(mean[one][4] for one in mean if one.startswith("uniform"))
        says = "one number for all heads is worse at 4 windows than one for each, nats"
        found.append(at_least(says, best - mean[method][4], 0.0))
    return found


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=sorted(MODELS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--tuning", type=int, default=60, help="steps of HeadScale's tuning")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(2)
    files = standard_library_files(held_out=False)[::3]
    seen = tokens_of("\n".join(map(read_text, files)), 3_000_000)
    unseen = tokens_of(held_out_text(), 1_000_000)
    kind, settings = MODELS[args.method]
    torch.manual_seed(args.seed)  # transformers draws weights from the global generator
    config = AutoConfig.for_model(kind, vocab_size=1536, bos_token_id=1, eos_token_id=2, **settings)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    generator = torch.Generator().manual_seed(args.seed)
    began = time.monotonic()
    batches = iter(lambda: rows(seen, WINDOW, 16, generator), None)
    last = train(model, batches, args.steps)  # type: ignore[arg-type]
    seconds = time.monotonic() - began
    compared = contenders(args.method, model, seen, args)
    draw = torch.Generator().manual_seed(args.seed + 1)
    # The same last tokens at every length: a longer text only adds context before them.
    texts = rows(unseen, FACTORS[-1] * WINDOW, args.texts, draw)
    losses = {
        name: {f: tail_losses(model, texts[:, -f * WINDOW :], *methods) for f in FACTORS}
        for name, methods in compared.items()
    }
    findings = findings_of(args.method, losses)
    named, paper, claim = PAPERS[args.method]
    record = {
        "method": named,
        "paper": paper,
        "claim": claim,
        "note": "loss of the same last 64 tokens of each text, with 1 to 8 windows of context",
        "command": f"python experiments/nonrotary.py {args.method} --out {args.out.as_posix()}",
        "seed": args.seed,
        "model": {"model": kind, "fingerprint": fingerprint(model), "window": WINDOW, **settings},
        "settings": {key: value for key, value in vars(args).items() if key != "out"},
        "training": {"seconds": round(seconds, 1), "loss of the last batch": last},
        "tuned": [list(row) for row in compared["HeadScale"][0].scales]  # type: ignore[attr-defined]
        if "HeadScale" in compared
        else None,
        "numbers": [
            {"method": name, **{f"loss at {f} windows": x.mean().item() for f, x in by.items()}}
            for name, by in losses.items()
        ],
        "findings": [asdict(finding) for finding in findings],
        "verdict": verdict(findings),
        "hardware": hardware(torch.device("cpu")),
        "versions": versions(),
        "date": date.today().isoformat(),
    }
    write(args.out, record)
    for row in record["numbers"]:  # type: ignore[attr-defined]
        Console(stderr=True).print(row)
    Console(stderr=True).print([asdict(finding) for finding in findings], record["verdict"])


if __name__ == "__main__":
    main()
