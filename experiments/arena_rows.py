"""Long Range Arena at small scale: every mixer of an encoder, trained on every problem and ranked.

    python experiments/arena_rows.py tasks/lra

BERTs of two layers, from scratch and alike but for how their tokens see each other. A twin whose
tokens see their neighbours alone cannot carry anything to the token that is classified.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main, mean
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification

from lengthwise.hf.weights import fingerprint
from lengthwise.lab import arena
from lengthwise.lab.evidence import at_most, surely_at_least
from lengthwise.lab.training import learn, one_cycle, side_by_side
from lengthwise.train.patterns import (
    VCC,
    EncoderBigBird,
    EncoderWindow,
    Nystrom,
    set_encoder_pattern,
)

PROBLEMS: dict[str, arena.Arena] = {
    "listops": arena.ListOps(length=64, shortest=8, depth=3, arguments=4),
    "text": arena.TextClassification(length=256),
    "retrieval": arena.Retrieval(length=512, citations=4),
    "images": arena.Images(size=16),
    "pathfinder": arena.Pathfinder(size=24, dashes=4, short=2),
}
ALONE = "neighbours alone"
MIXERS: dict[str, Any] = {
    "dense": None,
    "window": EncoderWindow(window=16, first=1),
    "bigbird": EncoderBigBird(block=8, random=2),
    "nystrom": Nystrom(landmarks=16),
    "vcc": VCC(vip=1, block=8, fine=4),
    ALONE: EncoderWindow(window=2, first=0),
}
STEPS, TEXTS, HELD, SEEDS, WIDTH = 400, 16, 256, 3, 48
RUNS = Path("runs/arena_rows")


def examples(problem: arena.Arena, count: int, seed: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Sequences behind a class token, two of a pair behind each other, and their classes."""
    drawn = problem.draw(count, seed, start)
    tokens = torch.from_numpy(drawn.inputs.astype("int64")).flatten(1) + 1
    return torch.cat([torch.zeros(count, 1, dtype=torch.long), tokens], 1), torch.from_numpy(
        drawn.labels
    )


def run(seed: int, name: str, mixer: str) -> dict[str, Any]:
    """One training, and whether each held-out sequence is classified rightly."""
    problem, kind = PROBLEMS[name], MIXERS[mixer]
    length = 1 + problem.length * (2 if problem.pair else 1)
    config = BertConfig(
        vocab_size=problem.vocabulary + 1, hidden_size=WIDTH, intermediate_size=2 * WIDTH,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=length,
        num_labels=problem.classes, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
        initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = BertForSequenceClassification(config)
    if kind is not None and not isinstance(kind, VCC):
        set_encoder_pattern(model, kind)
    with kind.compress(model) if isinstance(kind, VCC) else nullcontext():
        rates = one_cycle(torch.optim.AdamW(model.parameters(), weight_decay=0.01), STEPS, 2e-3)
        batches = (examples(problem, TEXTS, seed, step * TEXTS) for step in range(STEPS))
        learn(
            model, batches, lambda b: cross_entropy(model(b[0]).logits, b[1]), rates, STEPS,
            name=f"{name}, {mixer}",
        )  # fmt: skip
        rows, labels = examples(problem, HELD, 1000 + seed)
        with torch.no_grad():
            found = torch.cat([model(some).logits.argmax(-1) for some in rows.split(32)])
    return {"right": (found == labels).float().tolist(), "fingerprint": fingerprint(model)}


def lra_row() -> Row:
    jobs = {
        f"{name} {mixer} {seed}": partial(run, seed, name, mixer)
        for name in PROBLEMS
        for mixer in MIXERS
        for seed in range(SEEDS)
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    found = side_by_side(jobs, RUNS)
    right = {
        name: {
            mixer: torch.tensor(
                [x for seed in range(SEEDS) for x in found[f"{name} {mixer} {seed}"]["right"]]
            )
            for mixer in MIXERS
        }
        for name in PROBLEMS
    }
    shares = {
        name: {mixer: round(float(items.mean()), 4) for mixer, items in of.items()}
        for name, of in right.items()
    }
    means = {m: sum(of[m] for of in shares.values()) / len(shares) for m in MIXERS}
    ranking = sorted(means, key=lambda mixer: -means[mixer])
    console = Console(stderr=True)
    for mixer in ranking:
        each = ", ".join(f"{name} {of[mixer]:.0%}" for name, of in shares.items())
        console.print(f"{means[mixer]:.1%}  {mixer}: {each}")
    alone = torch.cat([of[ALONE] - 1 / PROBLEMS[name].classes for name, of in right.items()])
    more = {
        mixer: mean(torch.cat([of[mixer] - of[ALONE] for of in right.values()]))
        for mixer in MIXERS
        if mixer != ALONE
    }
    return {
        "model": {"name": "BERTs of two layers trained here", "window": 257,
                  "fingerprint": found["listops dense 0"]["fingerprint"]},
        "seeds": range(SEEDS), "trained": True, "items": {"texts": HELD * SEEDS * len(PROBLEMS)},
        "numbers": {"right, by problem": shares, "mean": means, "ranking": ranking},
        "findings": [
            surely_at_least(f"{mixer} beats its twin that mixes nothing", gap, 0.0)
            for mixer, gap in more.items()
        ],
        "control": "a twin whose tokens see their neighbours alone",
        "premise": at_most("it is within 5 in 100 of guessing", mean(alone), 0.05),
        "settings": {"steps": STEPS, "texts a step": TEXTS,
                     "problems": {name: repr(one) for name, one in PROBLEMS.items()},
                     "mixers": {name: repr(one) for name, one in MIXERS.items()}},
    }  # fmt: skip


if __name__ == "__main__":
    main({"tasks/lra": lra_row})
