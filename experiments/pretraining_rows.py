"""Row of pretraining by replaced tokens: a windowed encoder, beside masked prediction.

    python experiments/pretraining_rows.py objectives/budget_longformer

Texts of 128 tokens are written in pieces of eight, each in one of four dialects, which differ in
the tokens that may follow one another; asked is which dialect wrote most pieces. BERTs of two
layers that see windows of 32 are pretrained on texts without labels: twins by masked prediction,
others by telling replaced tokens for as many steps, and for half as many. Then all are tuned on the
same few labelled texts. Three seeds, minutes.
"""

import random
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main, mean
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification

from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import at_least
from lengthwise.lab.training import learn, one_cycle, side_by_side
from lengthwise.train.objectives.rtd import RTD, MaskTokens
from lengthwise.train.patterns import EncoderWindow, set_encoder_pattern

LENGTH, PIECE, DIALECTS, FILLERS, MOST = 128, 8, 4, 48, 7
CLASS_TOKEN, MASK = FILLERS, FILLERS + 1
WIDTH, WINDOW = 48, 32
MASKED, TUNED, TEXTS, HELD, SEEDS = 600, 80, 16, 256, 3
RUNS = Path("runs/pretraining_rows")
# The objective and its steps.
TWINS = {
    "masked": ("masked", MASKED),
    "replaced": ("replaced", MASKED),
    "replaced, half": ("replaced", MASKED // 2),
    "none": ("none", 0),
}


@cache
def dialects() -> list[list[list[int]]]:
    """For each dialect and token the three that may follow."""
    rng = random.Random(0)
    return [[rng.sample(range(FILLERS), 3) for _ in range(FILLERS)] for _ in range(DIALECTS)]


def texts(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Texts `[count, LENGTH]` that begin with the class token, and their dialects `[count]`."""
    rng, rows, labels = random.Random(seed), [], []
    for _ in range(count):
        label = rng.randrange(DIALECTS)
        others = [one for one in range(DIALECTS) if one != label]
        pieces = [label] * MOST + others * ((LENGTH // PIECE - MOST) // len(others))
        rng.shuffle(pieces)
        row = [CLASS_TOKEN, rng.randrange(FILLERS)]
        while len(row) < LENGTH:
            row.append(rng.choice(dialects()[pieces[len(row) // PIECE]][row[-1]]))
        rows.append(row)
        labels.append(label)
    return torch.tensor(rows), torch.tensor(labels)


def config(width: int) -> BertConfig:
    return BertConfig(
        vocab_size=FILLERS + 2, hidden_size=width, intermediate_size=2 * width,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=LENGTH,
        num_labels=DIALECTS, attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
        initializer_range=0.1,
    )  # fmt: skip


def hidden_batch(seed: int) -> dict[str, Tensor]:
    """Texts without labels, with tokens that are chosen to be guessed."""
    rows, _ = texts(TEXTS, seed)
    choose, generator = MaskTokens(spared=(CLASS_TOKEN,)), torch.Generator().manual_seed(seed)
    made = [choose({"input_ids": row.tolist()}, generator) for row in rows]
    return {name: torch.tensor([one[name] for one in made]) for name in made[0]}


def pretrain(model: Any, objective: str, steps: int, seed: int) -> None:
    """Steps of an objective; what it needs beside the encoder is thrown away."""
    if not steps:
        return
    replaced = RTD(BertForMaskedLM(config(16)), mask=MASK)

    def masked_loss(batch: dict[str, Tensor]) -> Tensor:
        chosen = batch["masked"].bool()
        read = model.bert(input_ids=batch["input_ids"].masked_fill(chosen, MASK))
        embedded = model.bert.embeddings.word_embeddings.weight
        logits = read.last_hidden_state[chosen] @ embedded.T
        return cross_entropy(logits, batch["input_ids"][chosen])

    parameters = [*model.parameters()]
    if objective == "replaced":
        parameters += replaced.modules(model).parameters()
    rates = one_cycle(torch.optim.AdamW(parameters, weight_decay=0.01), steps, 3e-3)
    batches = (hidden_batch(seed * 100_003 + step) for step in range(steps))
    loss = masked_loss if objective == "masked" else lambda batch: replaced(model, batch)
    learn(model, batches, loss, rates, steps, name=f"{objective} {seed}")


def twin(seed: int, name: str) -> dict[str, Any]:
    """A pretrained encoder, tuned on labelled texts: of every held-out text whether it is right."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = BertForSequenceClassification(config(WIDTH))
        set_encoder_pattern(model, EncoderWindow(WINDOW))
        pretrain(model, *TWINS[name], seed)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(model(batch[0]).logits, batch[1])

    rates = one_cycle(torch.optim.AdamW(model.parameters(), weight_decay=0.01), TUNED, 2e-3)
    batches = (texts(TEXTS, 10**8 + seed * 100_003 + step) for step in range(TUNED))
    learn(model, batches, loss, rates, TUNED, name=f"{name} tuned {seed}")
    rows, labels = texts(HELD, 10**9 + seed)
    with torch.no_grad():
        found = torch.cat([model(some).logits.argmax(-1) for some in rows.split(32)])
    right = [float(one) for one in found == labels]
    return {"right": right, "fingerprint": fingerprint(model)}


def budget_longformer() -> Row:
    jobs = {
        f"{name.replace(', ', '-')}-{seed}": partial(twin, seed, name)
        for name in TWINS
        for seed in range(SEEDS)
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    kept = side_by_side(jobs, RUNS)
    runs = {n: [kept[f"{n.replace(', ', '-')}-{s}"] for s in range(SEEDS)] for n in TWINS}
    right = {n: torch.tensor([x for one in some for x in one["right"]]) for n, some in runs.items()}
    return {
        "model": {"name": "BERTs of two layers trained here", "window": LENGTH,
                  "fingerprint": runs["replaced"][0]["fingerprint"]},
        "seeds": range(SEEDS), "trained": True, "items": {"texts": HELD * SEEDS},
        "numbers": {
            name: {"pretraining steps": TWINS[name][1],
                   "right by seed": [round(sum(one["right"]) / HELD, 4) for one in some]}
            for name, some in runs.items()
        },
        "findings": [
            at_least("with half of the steps it is right as often as masked prediction, within .02",
                     mean(right["replaced, half"] - right["masked"]), -0.02, against="masked"),
            at_least("with as many steps it is right more often",
                     mean(right["replaced"] - right["masked"]), 0.0, against="masked"),
        ],
        "control": "twins that predict masked tokens, and twins that are not pretrained",
        "premise": at_least("masked prediction is worth so much to the score",
                            mean(right["masked"] - right["none"]), 0.05),
        "settings": {"steps": [MASKED, TUNED], "texts a step": TEXTS, "window": WINDOW},
    }  # fmt: skip


TABLE = {"objectives/budget_longformer": budget_longformer}

if __name__ == "__main__":
    main(TABLE)
