"""ALiBi-PI and HeadScale on small models trained here, with windows of 128 tokens.

    python experiments/nonrotary.py alibipi
    python experiments/nonrotary.py headscale

A Bloom, or a model without positions, is trained on the Python standard library with the bundled
tokenizer, and read at up to 8 windows on files that it never saw: plain, and with the method.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import Finding, at_least, at_most, surely_at_least
from lengthwise.lab.training import Learned, learn, one_cycle
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
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


def train(
    model: PreTrainedModel, seen: Tensor, steps: int, seed: int, folder: Path | None
) -> Learned:
    """Warm-up and cosine, 16 windows a step."""
    generator = torch.Generator().manual_seed(seed)
    batches = (rows(seen, WINDOW, 16, generator) for _ in range(steps))
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    return learn(
        model, batches, lambda ids: model(input_ids=ids, labels=ids).loss,
        one_cycle(optimizer, steps, 2e-3), steps, folder, about={"seed": seed},
    )  # fmt: skip


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


def findings_of(name: str, losses: dict[str, dict[int, Tensor]]) -> tuple[Finding, list[Finding]]:
    """The premise and the claim; the intervals are of differences between the same texts."""
    plain = losses["plain"]

    def gap(one: Tensor, other: Tensor) -> Interval:
        return bootstrap_mean(one - other, torch.Generator().manual_seed(0))

    far = 2 if name == "alibipi" else 4
    method = "ALiBiPI(2)" if name == "alibipi" else "HeadScale"
    premise = at_least(
        f"the plain model is worse at {far} windows than inside its window, nats",
        gap(plain[far], plain[1]),
        0.05,
    )
    found = [
        surely_at_least(
            f"{method} is better than plain at {far} windows, low end of 95%, nats",
            gap(plain[far], losses[method][far]),
            0.0,
        ),
        at_most(
            f"{method} at {far} windows is as good as the plain model inside its window, nats",
            gap(losses[method][far], plain[1]),
            0.05,
        ),
    ]
    if name == "headscale":
        mean = {one: by[4].mean().item() for one, by in losses.items() if "uniform" in one}
        best = losses[min(mean, key=mean.__getitem__)][4]
        says = "one number for all heads is worse at 4 windows than one for each, nats"
        found.append(at_least(says, gap(best, losses[method][4]), 0.0))
    return premise, found


def main() -> None:
    """Train, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("method", choices=sorted(MODELS))
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--runs", type=Path, help="keeps the training, which goes on after a kill")
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
    folder = args.runs and args.runs / args.method
    learned = train(model, seen, args.steps, args.seed, folder)
    compared = contenders(args.method, model, seen, args)
    draw = torch.Generator().manual_seed(args.seed + 1)
    # The same last tokens at every length: a longer text only adds context before them.
    texts = rows(unseen, FACTORS[-1] * WINDOW, args.texts, draw)
    losses = {
        name: {f: tail_losses(model, texts[:, -f * WINDOW :], *methods) for f in FACTORS}
        for name, methods in compared.items()
    }
    premise, findings = findings_of(args.method, losses)
    rows_of_losses = [
        {"method": name, **{f"loss at {f} windows": x.mean().item() for f, x in by.items()}}
        for name, by in losses.items()
    ]
    scales = getattr(compared.get("HeadScale", (None,))[0], "scales", ())
    made = evidence.of(
        claims()[f"extend/{args.method}"],
        model={"name": kind, "fingerprint": fingerprint(model), "window": WINDOW, **settings},
        seeds=(args.seed,),
        trained=True,
        items={"texts": args.texts},
        # Of the same last 64 tokens of each text, with 1 to 8 windows of context.
        numbers={"losses": rows_of_losses},
        findings=findings,
        control="the same model without the method",
        premise=premise,
        settings={k: v for k, v in vars(args).items() if k not in ("evidence", "runs")},
        training={"seconds": round(learned.seconds, 1),
                  "loss of the last batch": learned.losses[-1]},
        tuned=[list(row) for row in scales],
    )  # fmt: skip
    evidence.write(args.evidence, made)
    for row in rows_of_losses:
        Console(stderr=True).print(row)
    Console(stderr=True).print(made.verdict, made.reason)


if __name__ == "__main__":
    main()
