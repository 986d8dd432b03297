"""Rows of decoders that are trained with a pattern here: LongGen, MASFormer, LongNet.

    python experiments/pattern_rows.py patterns/longgen

The problem: a text of tokens that each have four likely successors, with one needle of eight in
its first half, and at the end the question which it was. A Llama of three layers learns it at 32
tokens. From each such base its twins go on at 128 tokens: with full attention, with a pattern, with
windows in all layers; they see the same texts in the same order. Seconds each.
"""

import random
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from exact_rows import Row, main, mean
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

import lengthwise as lw
from lengthwise.extend.adapt import binding_of
from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import at_most, exact, surely_at_least
from lengthwise.lab.training import learn, one_cycle, side_by_side
from lengthwise.measure.cost.speed import cache_bytes
from lengthwise.train.patterns import Dilated, LongGen, LongNet, MASFormer, Pattern, fit_pattern

SHORT, LENGTH, FILLERS, NEEDLES = 32, 128, 32, 8
QUESTION, LAYERS, HEADS, WIDTH = FILLERS + NEEDLES, 3, 4, 32
BASE, STEPS, TEXTS, HELD, SEEDS = 150, 350, 12, 128, 3
RUNS = Path("runs/pattern_rows")
# What is held against what: windows reach as far back as those of the patterns.
TWINS: dict[str, Pattern | None] = {
    "dense": None,
    "windows": MASFormer(full=0, block=8),
    "masformer": MASFormer(full=1, block=8),
    "longgen": LongGen(sinks=2, window=12),
    "longnet": LongNet((16, 64, 128), (1, 2, 4)),
}


@cache
def successors() -> list[list[int]]:
    rng = random.Random(0)
    return [rng.sample(range(FILLERS), 4) for _ in range(FILLERS)]


def texts(count: int, length: int, seed: int) -> Tensor:
    """Texts `[count, length]`: the last token but one asks, and the last answers."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        row = [rng.randrange(FILLERS)]
        while len(row) < length - 2:
            row.append(rng.choice(successors()[row[-1]]))
        needle = FILLERS + rng.randrange(NEEDLES)
        row[rng.randrange(1, length // 2)] = needle
        rows.append([*row, QUESTION, needle])
    return torch.tensor(rows)


def losses(model: Any, rows: Tensor) -> Tensor:
    """Nats of every token but the first, `[texts, length - 1]`."""
    logits = model(input_ids=rows[:, :-1], use_cache=False).logits
    return cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")


def go_on(model: Any, length: int, steps: int, rate: float, seed: int, name: str) -> None:
    """Train on texts of a length; the answer weighs twice as much as all tokens."""

    def loss(rows: Tensor) -> Tensor:
        found = losses(model, rows)
        return found.mean() + 2 * found[:, -1].mean()

    rates = one_cycle(torch.optim.AdamW(model.parameters(), weight_decay=0.01), steps, rate)
    batches = (texts(TEXTS, length, seed * 100_003 + step) for step in range(steps))
    learn(model, batches, loss, rates, steps, name=name)


def twin(seed: int, name: str) -> dict[str, Any]:
    """One base, tuned at the longer length; every text's answer and loss."""
    config = LlamaConfig(
        vocab_size=QUESTION + 1, hidden_size=WIDTH, intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        max_position_embeddings=LENGTH, initializer_range=0.1, rope_theta=10_000.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = LlamaForCausalLM(config)
    go_on(model, SHORT, BASE, 4e-3, seed, "base")
    pattern = TWINS[name]
    if pattern is not None:
        fit_pattern(model, pattern)
    go_on(model, LENGTH, STEPS, 4e-3, seed + 500, name)
    rows = texts(HELD, LENGTH, 10**9 + seed)
    with torch.no_grad():
        asked = [model(input_ids=some[:, :-1], use_cache=False).logits for some in rows.split(32)]
        logits = torch.cat(asked)
        nats = cross_entropy(logits.transpose(1, 2), rows[:, 1:], reduction="none")
    return {
        "right": [float(one) for one in logits[:, -1].argmax(-1) == rows[:, -1]],
        "nats": nats[:, LENGTH // 2 : -1].mean(1).tolist(),
        "fingerprint": fingerprint(model),
    }


def twins(*names: str) -> dict[str, dict[str, Any]]:
    """Twins over all seeds: texts one by one."""
    jobs = {f"{name}-{seed}": partial(twin, seed, name) for name in names for seed in range(SEEDS)}
    RUNS.mkdir(parents=True, exist_ok=True)
    found = side_by_side(jobs, RUNS)
    made = {}
    for name in names:
        each = [found[f"{name}-{seed}"] for seed in range(SEEDS)]
        made[name] = {
            "right": torch.tensor([one for run in each for one in run["right"]]),
            "nats": torch.tensor([one for run in each for one in run["nats"]]),
            "found": [round(sum(run["right"]) / HELD, 4) for run in each],
            "loss": [round(sum(run["nats"]) / HELD, 4) for run in each],
            "fingerprint": each[0]["fingerprint"],
        }
    return made


def subject(pattern: Pattern | None) -> Any:
    """An untrained model of the twins' shape under a pattern, for what is counted."""
    config = LlamaConfig(
        vocab_size=QUESTION + 1, hidden_size=WIDTH, intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=HEADS,
        max_position_embeddings=LENGTH,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    return lw.adapt(model) if pattern is None else fit_pattern(model, pattern)


def bytes_held(pattern: Pattern | None) -> int:
    """Of the cache after a text of LENGTH tokens."""
    model = subject(pattern)
    cache_ = lw.new_cache(model)
    with torch.no_grad():
        model(texts(1, LENGTH, 0), past_key_values=cache_)
    return cache_bytes(cache_)


def keys_read(pattern: Pattern | None, length: int) -> int:
    """By the last of so many tokens, in all layers together."""
    engine: Any = binding_of(subject(pattern)).engine
    return sum(engine.keys_read(layer, length) for layer in range(LAYERS))


def row(found: dict[str, dict[str, Any]], mine: str, **more: Any) -> Row:
    """What the rows of this file have in common."""
    numbers = {name: {"found": one["found"], "nats": one["loss"]} for name, one in found.items()}
    return {
        "model": {"name": "Llamas of three layers trained here", "window": SHORT,
                  "fingerprint": found[mine]["fingerprint"]},
        "seeds": range(SEEDS), "trained": True, "items": {"texts": HELD * SEEDS}, **more,
        "numbers": {"by seed": numbers, **more["numbers"]},
        "settings": {"length": LENGTH, "base": SHORT, "steps": [BASE, STEPS],
                     "texts a step": TEXTS, "patterns": {n: repr(TWINS[n]) for n in found}},
    }  # fmt: skip


def misses(found: dict[str, dict[str, Any]]) -> Any:
    return at_most(
        "with windows in all layers at most half of the needles are found",
        mean(found["windows"]["right"]), 0.5,
    )  # fmt: skip


def longgen_row() -> Row:
    found = twins("dense", "windows", "longgen")
    held = {name: bytes_held(TWINS[name]) for name in ("dense", "longgen")}
    less = 1 - held["longgen"] / held["dense"]
    gap = mean(found["dense"]["right"] - found["longgen"]["right"])
    more = mean(found["longgen"]["right"] - found["windows"]["right"])
    return row(
        found, "longgen",
        numbers={"bytes of keys and values": held, "found by dense beyond it": vars(gap)},
        findings=[
            exact(at_most("it holds at most 45% of the bytes of dense", 1 - less, 0.45)),
            at_most("dense finds at most 5 in 100 needles more", gap, 0.05),
            surely_at_least("it finds at least 30 in 100 more than windows do", more, 0.3),
        ],
        control="windows in all layers, tuned alike", premise=misses(found),
    )  # fmt: skip


def beside_dense(
    found: dict[str, dict[str, Any]], mine: str, exactly: list[Any], needles: int, **counted: Any
) -> Row:
    """The row of a twin that is to do less and to model as well as dense.

    Args:
        exactly: What is found without training, of the work for one.
        needles: Of 100, that it is to find beyond windows.
        counted: What the first are from.
    """
    gap = mean(found[mine]["nats"] - found["dense"]["nats"])
    more = mean(found[mine]["right"] - found["windows"]["right"])
    return row(
        found, mine,
        numbers={**counted, "nats above dense": vars(gap)},
        findings=[
            *map(exact, exactly),
            at_most("its loss is within 0.02 nats of dense", gap, 0.02),
            surely_at_least(f"it finds at least {needles} in 100 needles more than windows do",
                            more, needles / 100),
        ],
        control="windows in all layers, tuned alike", premise=misses(found),
    )  # fmt: skip


def masformer_row() -> Row:
    found = twins("dense", "windows", "masformer")
    read = {name: keys_read(TWINS[name], 4096) for name in ("dense", "masformer")}
    part = read["masformer"] / read["dense"]
    less = at_most("at 4,096 tokens it reads at most 35% of the keys of dense", part, 0.35)
    return beside_dense(found, "masformer", [less], 30, **{"keys read by token 4,096": read})


def longnet_row() -> Row:
    found = twins("dense", "windows", "longnet")
    layout = Dilated((16, 64, 128), (1, 2, 4), None)

    def pairs(length: int) -> int:
        at, head = torch.arange(length), torch.arange(HEADS)[:, None, None]
        q, k = at[:, None], at[None]
        seen = [one.visible(torch.tensor(0), head, q, k) & (k <= q) for one in layout.regions()]
        return sum(int(one.expand(HEADS, -1, -1).sum()) for one in seen)

    times = pairs(2048) / pairs(512)
    linear = at_most("pairs for 4 times the text grow 4 times", times, 4.0)
    # Both are handed angles that are rounded to float32, each by its own code.
    off = at_most("logits differ from dense attention under its mask", longnet_off_dense(), 1e-6)
    counted = {"pairs, 4 times the text": times}
    return beside_dense(found, "longnet", [off, linear], 10, **counted)


@torch.no_grad()
def longnet_off_dense() -> float:
    """How far logits are from those of dense attention that counts every pair as LongNet does."""
    model: Any = subject(TWINS["longnet"]).double()
    ids, at = texts(2, LENGTH, 0), torch.arange(LENGTH)
    mine = model(input_ids=ids, use_cache=False).logits
    weights = [
        Dilated((16, 64, 128), (1, 2, 4), head).times(at[:, None], at) for head in range(HEADS)
    ]
    mask = torch.stack(weights)[None].tril().double().log()
    lw.restore(model)
    model.set_attn_implementation("eager")
    dense = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    return float((mine - dense).abs().max())


ROWS = {
    "patterns/longgen": longgen_row,
    "patterns/masformer": masformer_row,
    "patterns/longnet": longnet_row,
}

if __name__ == "__main__":
    main(ROWS)
