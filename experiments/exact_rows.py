"""Rows that need no trained model, or only its gradients: packing, judging, a linear memory.

    python experiments/exact_rows.py train_data/spfhp

Documents are the pieces between blank lines of Python's standard library, and lengths of a long
tail. Judges and answers of the rows on judging are simulated: what is claimed is of the rule.
"""

import argparse
import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy

import lengthwise as lw
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import NO_MODEL, Finding, at_least, at_most, exact
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.statistics.judging import wb_reward
from lengthwise.measure.statistics.length_control import Comparisons, length_controlled_win_rate
from lengthwise.measure.tasks.text import read_text, standard_library_files
from lengthwise.train.data.balance import sorted_batches
from lengthwise.train.data.collate import PackedCollator
from lengthwise.train.data.packers import best_fit, best_fit_bins, spfhp
from lengthwise.train.data.segments import document_attention
from lengthwise.train.data.weights import sequence_loss_weights, total_weight, weighted_loss
from lengthwise.train.objectives.temporal import rescaled_error

Row = dict[str, Any]  # what `evidence.of` takes


def mean(values: Any) -> Interval:
    """A mean with its interval."""
    return bootstrap_mean(torch.as_tensor(values).double(), torch.Generator().manual_seed(0))


def documents(tokenizer: Any, count: int, longest: int, seed: int = 0) -> list[list[int]]:
    """Pieces between two blank lines of shuffled files, of 8 to `longest` tokens."""
    files = standard_library_files(held_out=False)
    random.Random(seed).shuffle(files)
    found: list[list[int]] = []
    for path in files:
        pieces = [piece for piece in read_text(path).split("\n\n\n") if piece.strip()]
        for ids in tokenizer(pieces, verbose=False)["input_ids"] if pieces else []:
            if 8 <= len(ids) <= longest:
                found.append(ids)
        if len(found) >= count:
            break
    return found[:count]


def long_tail(count: int, seed: int, capacity: int) -> np.ndarray:
    """Lognormal lengths, cut at the capacity."""
    draws = np.random.default_rng(seed).lognormal(0.0, 1.1, count)
    return np.clip(draws * 0.15 * capacity, 1, capacity).astype(np.int64)


def corpora(tokenizer: Any, capacity: int) -> dict[str, np.ndarray]:
    """Lengths of documents of two kinds."""
    real = documents(tokenizer, 1500, capacity)
    return {
        "standard library": np.array([len(ids) for ids in real]),
        "long tail": long_tail(20_000, 0, capacity),
    }


def utilisation(bins: list[list[int]], lengths: np.ndarray, capacity: int) -> float:
    """Of all places those that hold a token, after a look that every document lies in one bin."""
    assert sorted(n for one in bins for n in one) == list(range(len(lengths)))
    assert max(int(lengths[one].sum()) for one in bins) <= capacity
    return float(lengths.sum()) / (capacity * len(bins))


def concatenation_cuts(lengths: np.ndarray, capacity: int) -> int:
    """Documents that fit, and that rows of joined documents cut all the same."""
    ends = lengths.cumsum()
    return int(((ends - lengths) // capacity != (ends - 1) // capacity).sum())


def rows_of(docs: list[list[int]], bins: list[list[int]]) -> list[dict[str, Any]]:
    return [{"input_ids": [t for n in one for t in docs[n]], "seq_lengths": [len(docs[n])
             for n in one]} for one in bins]  # fmt: skip


def bundled() -> tuple[Any, Any, dict[str, Any]]:
    """The bundled model in double precision, its tokenizer, and what the file says of it."""
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    about = {"name": "demo", "fingerprint": fingerprint(model), "window": 512}
    return model.double().eval(), tokenizer, about


def gradients(model: Any) -> Tensor:
    """All gradients in a row; they are set to zero."""
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found


def apart(model: Any, docs: list[list[int]], each: Callable[[int], float]) -> tuple[Tensor, Tensor]:
    """Losses of documents in forwards of their own, and the gradient of their weighted sum."""
    losses = []
    for ids in (torch.tensor([doc]) for doc in docs):
        loss = cross_entropy(model(input_ids=ids, use_cache=False).logits[0, :-1], ids[0, 1:])
        (loss * each(ids.shape[1] - 1)).backward()
        losses.append(loss.item())
    return torch.tensor(losses, dtype=torch.float64), gradients(model)


def far(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest entry."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def spfhp_row() -> Row:
    """How full rows are, and whether documents stay apart in them."""
    model, tokenizer, about = bundled()
    capacity, used = 1024, {}
    for name, lengths in corpora(tokenizer, capacity).items():
        used[name] = utilisation(spfhp(lengths, capacity), lengths, capacity)
    docs = documents(tokenizer, 40, 200, seed=1)
    bins = spfhp([len(doc) for doc in docs], 512)
    targets = sum(len(doc) - 1 for doc in docs)
    losses, wanted = apart(model, docs, lambda n: n / targets)
    batch, joined = PackedCollator()(rows_of(docs, bins)), []
    with document_attention(model, "sdpa"):
        given = {key: batch[key] for key in ("input_ids", "position_ids", "segment_ids")}
        logits = model(**given).logits
    kept = cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(),
                         reduction="sum") / targets  # fmt: skip
    kept.backward()
    off = far(gradients(model), wanted)
    for one in bins:  # the same rows with nothing that tells documents apart
        ids = torch.tensor([[t for n in one for t in docs[n]]])
        with torch.no_grad():
            rows = model(input_ids=ids, use_cache=False).logits[0]
        at = 0
        for n in one:
            end = at + len(docs[n])
            row = cross_entropy(rows[at : end - 1], ids[0, at + 1 : end]).item()
            joined.append(abs(row - float(losses[n])))
            at = end
    share = torch.tensor([(len(doc) - 1) / targets for doc in docs])
    gap = abs(kept.item() - float((losses * share).sum()))
    return {
        "model": about,
        "items": {"documents": len(docs), "corpora": len(used)},
        "numbers": {"utilisation": used, "loss, packed less alone": gap, "gradient": off},
        "control": "the same rows with documents joined",
        "premise": at_least(
            "with nothing that tells documents apart a document's loss is off by", mean(joined),
            0.02,
        ),
        "findings": [
            exact(at_least(f"share of the tokens of a row that is used, {name}", value, 0.95))
            for name, value in used.items()
        ]
        + [
            exact(at_most("the packed loss is off by, nats", gap, 1e-7)),
            exact(at_most("the packed gradient is off by, of its largest entry", off, 1e-6)),
        ],
    }  # fmt: skip


def best_fit_row() -> Row:
    """What is cut, how full rows are, and how the time grows."""
    _, tokenizer, _ = bundled()
    capacity, used, cut, findings = 2048, {}, {}, []
    for name, lengths in corpora(tokenizer, capacity).items():
        rows = -(-int(lengths.sum()) // capacity)
        full = utilisation(best_fit(lengths, capacity), lengths, capacity)
        of_joined = float(lengths.sum()) / (rows * capacity)
        used[name], cut[name] = full, concatenation_cuts(lengths, capacity) / len(lengths)
        findings.append(
            exact(at_least(f"rows are as full as joined ones, {name}", full / of_joined, 0.99))
        )
    ratios = []
    for seed in range(5):
        seconds = []
        for count in (50_000, 500_000):
            lengths = long_tail(count, seed, capacity)
            began = time.process_time()
            best_fit_bins(lengths, capacity)
            seconds.append(time.process_time() - began)
        ratios.append(seconds[1] / seconds[0])
    findings.append(
        at_most("ten times the documents take so many times as long (n log n: 12)", mean(ratios),
                15)
    )  # fmt: skip
    return {
        "model": NO_MODEL,
        "items": {"corpora": len(used), "timings": len(ratios)},
        "numbers": {"utilisation": used, "documents cut by joining": cut, "times": ratios},
        "control": "documents joined and cut into rows",
        "premise": exact(
            at_least("joined rows cut of the documents that fit", min(cut.values()), 0.05)
        ),
        "findings": [
            exact(at_most("documents that fit and are cut", 0, 0, "joined rows")),
            *findings,
        ],
    }


def long_align_row() -> Row:
    """The gradient of packed rows, and what sorting saves."""
    model, tokenizer, about = bundled()
    docs = documents(tokenizer, 32, 200, seed=2)
    _, wanted = apart(model, docs, lambda n: 1 / len(docs))
    rows = rows_of(docs, spfhp([len(doc) for doc in docs], 512))
    batch = PackedCollator()(rows)
    weights = torch.zeros(batch["labels"].shape, dtype=torch.float64)
    for row, one in zip(weights, rows, strict=True):
        row[: len(one["input_ids"])] = torch.tensor(sequence_loss_weights(one["seq_lengths"]))
    off = {}
    for name, each in (("weighted", weights), ("every token alike", (weights > 0).double())):
        with document_attention(model, "sdpa"):
            logits = model(**{k: batch[k] for k in ("input_ids", "position_ids", "segment_ids")})
        total = total_weight([{"labels": batch["labels"], "loss_weights": each}])
        weighted_loss(logits.logits, batch["labels"], each, total).backward()
        off[name] = far(gradients(model), wanted)
    lengths = long_tail(20_000, 3, 2048)
    rng = np.random.default_rng(0)
    drawn = rng.permutation(len(lengths)).reshape(-1, 8).tolist()
    padded = {
        name: sum(8 * int(lengths[b].max()) for b in batches) / int(lengths.sum())
        for name, batches in (
            ("sorted", sorted_batches(lengths, 8, rng)), ("as drawn", drawn))
    }  # fmt: skip
    model = model.float()
    texts = documents(tokenizer, 1000, 400, seed=3)
    ratios = []
    for seed in range(6):
        picked = random.Random(seed).sample(texts, 32)
        sizes = [len(doc) for doc in picked]
        order = sorted_batches(sizes, 8, np.random.default_rng(seed))
        plain = [list(range(n, n + 8)) for n in range(0, 32, 8)]
        ratios.append(step_seconds(model, picked, order) / step_seconds(model, picked, plain))
    return {
        "model": about,
        "items": {"documents": len(docs), "timings": len(ratios)},
        "numbers": {"gradient off by": off, "tokens with padding": padded, "times": ratios},
        "control": "every token alike; batches as they are drawn",
        "premise": exact(
            at_least(
                "with every token alike the gradient is off by, of its largest entry",
                off["every token alike"], 0.05,
            )
        ),
        "findings": [
            exact(at_most("weighted, the packed gradient is off by", off["weighted"], 1e-6)),
            exact(at_most("sorted batches pad every token to", padded["sorted"], 1.1)),
            exact(at_least("and those as drawn to", padded["as drawn"], 2.0, "as drawn")),
            at_most("sorted, 32 texts take of the time as drawn", mean(ratios), 0.8, "as drawn"),
        ],
    }  # fmt: skip


def step_seconds(model: Any, docs: list[list[int]], batches: list[list[int]]) -> float:
    """The processor's seconds of a forward and a backward over padded batches."""
    began = time.process_time()
    for batch in batches:
        longest = max(len(docs[n]) for n in batch)
        ids = torch.tensor([docs[n] + [0] * (longest - len(docs[n])) for n in batch])
        mask = torch.tensor([[n < len(docs[k]) for n in range(longest)] for k in batch]).long()
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        labels = ids.masked_fill(mask == 0, -100)
        cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()).backward()
        model.zero_grad()
    return time.process_time() - began


def length_control_row() -> Row:
    """A model told to be terse or wordy, judged by one who likes length; 24 of them."""
    gaps: dict[str, list[float]] = {"raw": [], "controlled": []}
    for seed in range(24):
        generator = torch.Generator().manual_seed(seed)
        ability = torch.randn((), generator=generator).item() / 2
        found = {}
        for words in (-600.0, 600.0):
            base = 1200 + 300 * torch.randn(2000, generator=generator).double()
            mine = base + words + 500 * torch.randn(2000, generator=generator).double()
            odds = ability + 1.5 * torch.tanh((mine - base) / 800)
            wins = (torch.rand(2000, generator=generator) < odds.sigmoid()).double()
            found[words] = length_controlled_win_rate(
                Comparisons(*(tuple(x.tolist()) for x in (wins, mine, base)))
            )
        gaps["raw"].append(found[600.0].raw.value - found[-600.0].raw.value)
        gaps["controlled"].append(abs(found[600.0].win_rate.value - found[-600.0].win_rate.value))
    less = torch.tensor(gaps["raw"]).abs() - torch.tensor(gaps["controlled"])
    return {
        "model": NO_MODEL,
        "seeds": range(24),
        "items": {"models": 24, "pairs of each": 2000},
        "numbers": gaps,
        "control": "the raw rate of wins",
        "premise": at_least(
            "wordy less terse, the raw rates of wins differ by", mean(gaps["raw"]), 0.2
        ),
        "findings": [
            at_most("wordy and terse, the controlled rates differ by", mean(gaps["controlled"]),
                    0.05),
            at_least("which is less than the raw ones by", mean(less), 0.15, "the raw rate"),
        ],
    }  # fmt: skip


def wildbench_row() -> Row:
    """What 1,200 more characters earn from a judge who slightly likes length; 24 models."""
    gains: dict[str, list[float]] = {"as judged": [], "with ties": []}
    for seed in range(24):
        rng = random.Random(seed)
        rewards = {}
        for extra in (0, 1200):
            outcomes, mine, base = [], [], []
            for _ in range(1000):
                base.append(rng.randrange(500, 1500))
                mine.append(rng.randrange(500, 1500) + extra)
                liking = (mine[-1] - base[-1]) / 500 + rng.gauss(0, 1)
                outcomes.append(max(-2, min(2, round(liking / 2))))
            for name, margin in (("with ties", 500), ("as judged", math.inf)):
                rewards[name, extra] = wb_reward(outcomes, mine, base, margin).value
        for name, found in gains.items():
            found.append(rewards[name, 1200] - rewards[name, 0])
    kept = [a / b for a, b in zip(gains["with ties"], gains["as judged"], strict=True)]
    return {
        "model": NO_MODEL,
        "seeds": range(24),
        "items": {"models": 24, "pairs of each": 1000},
        "numbers": gains,
        "control": "outcomes as they were judged",
        "premise": at_least(
            "as judged, 1,200 more characters earn a reward of", mean(gains["as judged"]), 0.2
        ),
        "findings": [
            at_most("with ties length earns of that", mean(kept), 0.75, "outcomes as judged")
        ],
    }


def temporal_row() -> Row:
    """A linear memory of lags 2 and 50 learned by steps of one size; 24 draws."""
    far_away: dict[float, list[float]] = {0.0: [], 4.0: []}
    first: dict[float, list[float]] = {0.0: [], 4.0: []}
    for seed in range(24):
        for power in far_away:
            error, gradient = learned(power, seed)
            far_away[power].append(error)
            first[power].append(gradient)
    return {
        "model": {"name": "a linear functional of 64 lags", "fingerprint": "none", "window": 64},
        "seeds": range(24),
        "trained": True,
        "items": {"draws": 24},
        "numbers": {
            name: {str(power): [round(x, 4) for x in values] for power, values in one.items()}
            for name, one in (("error at lag 50", far_away), ("first gradient there", first))
        },
        "control": "the plain squared error",
        "premise": at_least(
            "the plain error leaves at lag 50 of a weight of 1", mean(far_away[0.0]), 0.2
        ),
        "findings": [
            at_most("rescaled, what is left of it after 60 steps", mean(far_away[4.0]), 0.05),
            at_least(
                "the first gradient at that lag is so many times the plain one",
                mean(torch.tensor(first[4.0]) / torch.tensor(first[0.0])), 1.5, "the plain error",
            ),
        ],
    }  # fmt: skip


def learned(power: float, seed: int) -> tuple[float, float]:
    """What is missing at lag 50 after 60 steps, and the size of the first gradient there."""
    length, generator = 64, torch.Generator().manual_seed(seed)
    wanted = torch.zeros(length).double()
    wanted[[2, 50]] = 1.0
    kernel, first = torch.zeros(length).double().requires_grad_(), 0.0
    lag = torch.arange(length)[:, None] - torch.arange(length)
    for step in range(60):
        x = torch.randn(64, length, generator=generator).double()
        made, right = (
            x @ torch.where(lag >= 0, w[lag.clamp(min=0)], 0).T for w in (kernel, wanted)
        )
        (gradient,) = torch.autograd.grad(rescaled_error(made, right, power), kernel)
        first = first if step else float(gradient[50].abs())
        kernel = (kernel - 0.05 * gradient).detach().requires_grad_()
    return float((kernel.detach() - wanted)[50].abs()), first


ROWS: dict[str, Callable[[], Row]] = {
    "train_data/spfhp": spfhp_row,
    "train_data/best_fit": best_fit_row,
    "train_data/long_align": long_align_row,
    "measure/length_control": length_control_row,
    "measure/wildbench": wildbench_row,
    "objectives/temporal_rescaling": temporal_row,
}


def main(rows: dict[str, Callable[[], Row]]) -> None:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser(description="Rows of the claims.")
    parser.add_argument("names", nargs="+", choices=[*rows], metavar="NAME")
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    args = parser.parse_args()
    console = Console(stderr=True)
    for name in args.names:
        made = evidence.of(claims()[name], **rows[name]())
        found: list[Finding] = [*filter(None, [made.premise]), *made.findings]
        console.print(name, made.verdict, made.reason)
        for one in found:
            console.print(f"  {one}")
        evidence.write(args.evidence, made)


if __name__ == "__main__":
    main(ROWS)
