"""Rows of encoders that are trained here: random blocks, landmarks, compressed contexts.

    python experiments/encoder_rows.py patterns/bigbird

The problem: of four kinds of marks that lie scattered over a text of 128 tokens, which is there
most often? Five are of one kind and one of each other, so its first 32 tokens tell it for some
texts only. BERTs of two layers learn it within seconds; twins see the same texts in the same order.
"""

import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main, mean
from torch import Tensor
from torch.nn.functional import cross_entropy, scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification

from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import at_least, at_most, exact, surely_at_least
from lengthwise.lab.training import learn, one_cycle, side_by_side
from lengthwise.train.patterns import (
    VCC,
    EncoderBigBird,
    EncoderPattern,
    Nystrom,
    nystrom_attention,
    set_encoder_pattern,
)

LENGTH, SHORT, WIDTH = 128, 32, 32
KINDS, MOST, LEAST = 4, 5, 1
VOCABULARY, CLASS_TOKEN = 64, 1
STEPS, TEXTS, HELD, SEEDS = 250, 16, 256, 3
RUNS = Path("runs/encoder_rows")
PROBLEM = "the kind of mark that is most frequent in 128 tokens"


def texts(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Texts `[count, LENGTH]` that begin with the class token, and the kinds `[count]`."""
    rng = random.Random(seed)
    rows, labels = [], []
    for _ in range(count):
        label = rng.randrange(KINDS)
        marks = [k for k in range(KINDS) for _ in range(MOST if k == label else LEAST)]
        row = [CLASS_TOKEN] + [rng.randrange(8, VOCABULARY) for _ in range(LENGTH - 1)]
        for mark, at in zip(marks, rng.sample(range(1, LENGTH), len(marks)), strict=True):
            row[at] = 2 + mark
        rows.append(row)
        labels.append(label)
    return torch.tensor(rows), torch.tensor(labels)


def encoder(seed: int, pattern: EncoderPattern | None = None) -> Any:
    """A BERT of two layers, with a pattern in both."""
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LENGTH, num_labels=KINDS,
        attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0, initializer_range=0.1,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertForSequenceClassification(config)
    return model if pattern is None else set_encoder_pattern(model, pattern)


def trained(seed: int, pattern: EncoderPattern | None, length: int) -> Any:
    """An encoder that has read the first `length` tokens of the seed's texts."""
    model = encoder(seed, pattern)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        rows, labels = batch
        return cross_entropy(model(rows[:, :length]).logits, labels)

    rates = one_cycle(torch.optim.AdamW(model.parameters(), weight_decay=0.01), STEPS, 4e-3)
    batches = (texts(TEXTS, seed * 100_003 + step) for step in range(STEPS))
    learn(model, batches, loss, rates, STEPS, name=f"{pattern or 'dense'}, {length}")
    return model


@torch.no_grad()
def right(model: Any, length: int, seed: int) -> list[float]:
    """Of every text that is held out whether its kind is found."""
    rows, labels = texts(HELD, 10**9 + seed)
    found = [model(some[:, :length]).logits.argmax(-1) for some in rows.split(32)]
    return [float(one) for one in torch.cat(found) == labels]


def twin(seed: int, pattern: EncoderPattern | None, length: int) -> dict[str, Any]:
    """What one training gives."""
    model = trained(seed, pattern, length)
    return {"right": right(model, length, seed), "fingerprint": fingerprint(model)}


TWINS: dict[str, tuple[EncoderPattern | None, int]] = {
    "dense": (None, LENGTH),
    "truncated": (None, SHORT),
    "bigbird": (EncoderBigBird(block=8, random=2), LENGTH),
    "nystrom": (Nystrom(landmarks=16), LENGTH),
}


def twins(*names: str) -> dict[str, dict[str, Any]]:
    """Twins over all seeds: items one by one, and shares."""
    jobs = {
        f"{name}-{seed}": partial(twin, seed, *TWINS[name])
        for name in names
        for seed in range(SEEDS)
    }
    RUNS.mkdir(parents=True, exist_ok=True)
    found = side_by_side(jobs, RUNS)
    made = {}
    for name in names:
        each = [found[f"{name}-{seed}"] for seed in range(SEEDS)]
        made[name] = {
            "right": [one for run in each for one in run["right"]],
            "shares": [round(sum(run["right"]) / HELD, 4) for run in each],
            "fingerprint": each[0]["fingerprint"],
        }
    return made


def paired(one: dict[str, Any], other: dict[str, Any]) -> Any:
    """The share that is found beyond the other's, over the same texts."""
    return mean(torch.tensor(one["right"]) - torch.tensor(other["right"]))


def row(found: dict[str, dict[str, Any]], mine: str, **more: Any) -> Row:
    """What the rows of this file have in common."""
    about = {"name": "BERTs of two layers trained here", "window": LENGTH}
    numbers = {name: one["shares"] for name, one in found.items()}
    return {
        "model": {**about, "fingerprint": found[mine]["fingerprint"]},
        "seeds": range(SEEDS), "trained": True, "items": {"texts": HELD * SEEDS},
        **more, "numbers": {"found, by seed": numbers, **more["numbers"]},
        "settings": {"problem": PROBLEM, "steps": STEPS, "texts a step": TEXTS, "length": LENGTH},
    }  # fmt: skip


def operations(attend: Callable[[Tensor], Any], length: int) -> float:
    """Of one attention over `[1, 2, length, 16]`."""
    q = torch.randn(1, 2, length, 16, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        attend(q)
    return float(counted.get_total_flops())


def growth(attend: Callable[[Tensor], Any]) -> float:
    """How many times the operations of 1,024 tokens those of 4,096 are."""
    return operations(attend, 4096) / operations(attend, 1024)


def seen_by(pattern: EncoderPattern, length: int) -> Tensor:
    """Which pairs a pattern shows: where a value of one that is put there comes out."""
    zeros, eye = torch.zeros(1, 1, length, length).double(), torch.eye(length).double()[None, None]
    real = torch.ones(1, length, dtype=torch.bool)
    return pattern.attend(zeros, zeros, eye, real, 1.0)[0, 0] > 0


def random_tensors(length: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 2, length, 16, generator=generator).double() for _ in range(3)]


def bigbird_row() -> Row:
    pattern = EncoderBigBird(block=8, random=2)
    q, k, v = random_tensors(LENGTH)
    real = torch.ones(1, LENGTH, dtype=torch.bool)
    mask = seen_by(pattern, LENGTH)
    dense = scaled_dot_product_attention(q, k, v, attn_mask=mask)
    apart = (pattern.attend(q, k, v, real, 0.25) - dense).abs().max().item()
    times = (seen_by(pattern, 1024).sum() / seen_by(pattern, 256).sum()).item()
    found = twins("truncated", "bigbird", "dense")
    gain = paired(found["bigbird"], found["truncated"])
    return row(
        found, "bigbird",
        numbers={"largest difference": apart, "pairs seen, 4 times the text": times,
                 "pairs seen": mask.double().mean().item(), "found beyond truncated": vars(gain)},
        findings=[
            exact(at_most("it is dense attention under its mask, in float64", apart, 1e-12)),
            exact(at_most("operations for 4 times the text grow at most 4.5 times", times, 4.5)),
            surely_at_least("it finds at least 10 in 100 more than the twin", gain, 0.1),
        ],
        control="a twin that reads the first 32 tokens",
        premise=at_most(
            "the twin of 32 tokens misses at least 10 in 100",
            mean(found["truncated"]["right"]), 0.9,
        ),
    )  # fmt: skip


def nystrom_row() -> Row:
    q, k, v = random_tensors(128)
    whole = scaled_dot_product_attention(q, k, v)
    errors = {
        m: (nystrom_attention(q, k, v, m, iterations=30) - whole).abs().max().item()
        for m in (8, 32, 64, 128)
    }
    times = growth(lambda x: nystrom_attention(x, x, x, 16))
    found = twins("truncated", "nystrom", "dense")
    near = paired(found["dense"], found["nystrom"])
    gain = paired(found["nystrom"], found["truncated"])
    return row(
        found, "nystrom",
        numbers={"largest error by landmarks of 128 tokens": errors,
                 "operations, 4 times the text": times, "dense beyond it": vars(near),
                 "found beyond truncated": vars(gain)},
        findings=[
            exact(at_most("with a landmark for every token the error is 0", errors[128], 1e-8)),
            exact(at_most("operations for 4 times the text grow at most 4.5 times", times, 4.5)),
            at_most("with 16 landmarks dense finds at most 5 in 100 more", near, 0.05),
            surely_at_least("and finds more than the twin of 32 tokens", gain, 0.0),
        ],
        control="8 landmarks of 128 tokens, whose error must be there",
        premise=exact(at_least("with 8 landmarks it errs", errors[8], 0.01)),
    )  # fmt: skip


def vcc_seed(seed: int) -> dict[str, Any]:
    """A dense encoder read with fewer and fewer blocks kept whole."""
    return compressed_reading(trained(seed, None, LENGTH), seed)


@torch.no_grad()
def compressed_reading(model: Any, seed: int) -> dict[str, Any]:
    """How far its outputs are from the dense ones, and what is found, by blocks kept."""
    rows, labels = texts(HELD, 10**9 + seed)
    whole = torch.cat([model(some).logits for some in rows.split(32)])
    found: dict[str, Any] = {"fingerprint": fingerprint(model), "far": {}, "right": {}}
    for fine in KEPT:
        with VCC(vip=1, block=8, fine=fine).compress(model):
            logits = torch.cat([model(some).logits for some in rows.split(32)])
        apart = (logits - whole).norm(dim=-1) / whole.norm(dim=-1)
        found["far"][str(fine)] = apart.tolist()
        found["right"][str(fine)] = [float(x) for x in logits.argmax(-1) == labels]
    found["right"]["dense"] = [float(x) for x in whole.argmax(-1) == labels]
    return found


KEPT = (0, 2, 4, 8, 16)


def vcc_row() -> Row:
    jobs = {f"vcc-{seed}": partial(vcc_seed, seed) for seed in range(SEEDS)}
    RUNS.mkdir(parents=True, exist_ok=True)
    runs = list(side_by_side(jobs, RUNS).values())

    def joined(what: str, fine: str) -> list[float]:
        return [one for run in runs for one in run[what][fine]]

    far = {fine: mean(joined("far", str(fine))) for fine in KEPT}
    nearer = mean(torch.tensor(joined("far", "0")) - torch.tensor(joined("far", "8")))
    lost = mean(torch.tensor(joined("right", "dense")) - torch.tensor(joined("right", "8")))
    dense_one, compressed = encoder(0), encoder(0)
    for one in (dense_one, compressed):
        one.set_attn_implementation("eager")  # whose products are counted
    x = torch.zeros(1, 4096, WIDTH)
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        dense_one.bert.encoder(x)
        dense = counted.get_total_flops()
        with VCC(vip=1, block=32, fine=4).compress(compressed):
            compressed.bert.encoder(x)
    part = (counted.get_total_flops() - dense) / dense
    found = {
        f"{fine} blocks": {
            "shares": [round(sum(run["right"][str(fine)]) / HELD, 4) for run in runs],
            "fingerprint": runs[0]["fingerprint"],
        }
        for fine in ("dense", *KEPT)
    }
    return row(
        found, "dense blocks",
        numbers={
            "relative distance of the outputs by blocks kept": {k: vars(v) for k, v in far.items()},
            "operations over 4,096 tokens, 4 of 128 blocks kept": part,
            "right answers lost with 8 kept": vars(lost),
        },
        findings=[
            exact(at_most("with all 16 blocks kept the outputs are the dense ones", far[16].value,
                          1e-5)),
            exact(at_most("over 4,096 tokens it takes at most a twentieth of the operations", part,
                          0.05)),
            surely_at_least("with 8 of 16 kept they are nearer than with none", nearer, 0.0),
            at_most("and at most 5 in 100 right answers are lost", lost, 0.05),
        ],
        control="no block kept whole: all tokens but the first as means",
        premise=at_least("without a block the outputs differ", far[0], 0.05),
    )  # fmt: skip


ROWS = {
    "patterns/bigbird": bigbird_row,
    "patterns/nystromformer": nystrom_row,
    "patterns/vcc": vcc_row,
}

if __name__ == "__main__":
    main(ROWS)
