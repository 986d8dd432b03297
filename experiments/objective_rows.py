"""Rows of objectives that are trained here: how much is left to fill in (HLP).

    python experiments/objective_rows.py objectives/hlp

The problem: texts of 20 tokens go up by one, two or three round a ring of 29; a part is taken out
of the middle and is to be filled in, and to stop where the rest begins, or at 20 tokens where
nothing follows. Llamas of two layers learn it, with and without the head that says how much is
left.
"""

import random
from functools import partial
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main, mean
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import at_least, at_most, exact, surely_at_least
from lengthwise.lab.training import learn, one_cycle, side_by_side
from lengthwise.train.objectives import HLP, FillInTheMiddle

RING, LONG = 29, 20
FILL = FillInTheMiddle(prefix=RING, suffix=RING + 1, middle=RING + 2, end=RING + 3)
STEPS, TEXTS, HELD, SEEDS, WEIGHT = 120, 32, 256, 3, 0.1
RUNS = Path("runs/objective_rows")


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts with a gap; nothing is drawn but by the seed."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        first, by = rng.randrange(RING), rng.randrange(1, 4)
        text = [(first + by * place) % RING for place in range(LONG)]
        made.append(FILL({"input_ids": text}, generator))
    return made


def batch_of(some: list[dict[str, Any]]) -> dict[str, Tensor]:
    names = ("input_ids", "labels", "horizon")
    return {name: torch.tensor([one[name] for one in some]) for name in names}


@torch.no_grad()
def fill(model: Any, row: dict[str, Any]) -> list[int]:
    """What a model writes behind the mark of the middle, greedily, to the mark of the end."""
    at = row["input_ids"].index(FILL.middle) + 1
    ids = torch.tensor([row["input_ids"][:at]])
    made = model.generate(
        ids, max_new_tokens=LONG + 2, do_sample=False, eos_token_id=FILL.end, pad_token_id=FILL.end
    )
    found: list[int] = made[0, at:].tolist()
    return found


def twin(seed: int, weight: float) -> dict[str, Any]:
    """A model that is trained with the head at a weight, and what it fills in."""
    config = LlamaConfig(
        vocab_size=RING + 4, hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=2 * LONG,
        initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    objective = HLP(weight=weight)
    parameters = [*model.parameters(), *objective.modules(model).parameters()]
    rates = one_cycle(torch.optim.AdamW(parameters, weight_decay=0.01), STEPS, 4e-3)
    batches = (batch_of(rows(TEXTS, seed * 100_003 + step)) for step in range(STEPS))
    learn(model, batches, lambda b: objective(model, b), rates, STEPS, name=f"weight {weight}")
    held = rows(HELD, 10**9 + seed)
    left, wanted = objective.predict(model, batch := batch_of(held)), batch["horizon"]
    inside = wanted >= 0
    pair = torch.stack([left[inside], wanted[inside]])
    filled = [fill(model, row) for row in held]
    right = [row["input_ids"][row["input_ids"].index(FILL.middle) + 1 :] for row in held]
    return {
        "right": [float(a == b) for a, b in zip(filled, right, strict=True)],
        "stops": [float(len(a) == len(b)) for a, b in zip(filled, right, strict=True)],
        "apart": (left[inside] - wanted[inside]).abs().mean().item(),
        "correlation": torch.corrcoef(pair)[0, 1].item(),
        "weights": sum(one.numel() for one in model.parameters()),
        "fingerprint": fingerprint(model),
    }


def hlp_row() -> Row:
    jobs = {
        f"{weight}-{seed}": partial(twin, seed, weight)
        for weight in (WEIGHT, 0.0)
        for seed in range(SEEDS)
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    found = side_by_side(jobs, RUNS)
    each = {w: [found[f"{w}-{seed}"] for seed in range(SEEDS)] for w in (WEIGHT, 0.0)}
    stops = {w: torch.tensor([x for run in runs for x in run["stops"]]) for w, runs in each.items()}
    gain = mean(stops[WEIGHT] - stops[0.0])
    follows = min(run["correlation"] for run in each[WEIGHT])
    numbers = {
        f"weight {w}": {
            name: [round(sum(run[name]) / HELD, 4) for run in runs] for name in ("stops", "right")
        }
        for w, runs in each.items()
    }
    head = {
        name: [round(run[name], 4) for run in each[WEIGHT]] for name in ("correlation", "apart")
    }
    return {
        "model": {"name": "Llamas of two layers trained here", "window": 2 * LONG,
                  "fingerprint": each[WEIGHT][0]["fingerprint"]},
        "seeds": range(SEEDS), "trained": True, "items": {"texts": HELD * SEEDS},
        "numbers": {**numbers, "what is left, by the head": head,
                    "stops beyond the twin": vars(gain)},
        "findings": [
            exact(at_least("what is left follows the truth: correlation of the worst seed", follows,
                           0.9)),
            surely_at_least("it stops where it should more often than its twin", gain, 0.0),
            exact(at_most("weights that it answers with, beyond the twin's",
                          each[WEIGHT][0]["weights"] - each[0.0][0]["weights"], 0)),
        ],
        "control": "a twin without the head, on the same texts",
        "premise": at_most("the twin does not always stop where it should", mean(stops[0.0]), 0.98),
        "settings": {"steps": STEPS, "texts a step": TEXTS, "weight": WEIGHT},
    }  # fmt: skip


ROWS = {"objectives/hlp": hlp_row}

if __name__ == "__main__":
    main(ROWS)
