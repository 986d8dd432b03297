"""Convert a short encoder, tune it, and see whether it beats its truncated original.

    python experiments/long_encoder.py

The problem: from which folder of the standard library is most of a text? A text is eight pieces of
128 tokens in random order, five from files of one folder and three from files of others, so its
first piece names the right folder five times in eight. A BERT of two layers learns it from the
first 128 tokens. Then one copy goes on like that, and another is converted to 1,024 tokens in a
window of 128 (Clinical-Longformer's way) and goes on with whole texts: equal texts, unequal tokens.
Files of the evaluation are not trained on. A few minutes on two cores.
"""

import argparse
import copy
import random
import sysconfig
from functools import partial
from pathlib import Path
from statistics import mean

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForSequenceClassification

import lengthwise as lw
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import Finding, at_least, share
from lengthwise.lab.training import held, learn, side_by_side
from lengthwise.measure.tasks.text import read_text
from lengthwise.train.patterns import EncoderWindow, lengthen_encoder

FOLDERS = ("asyncio", "email", "importlib", "multiprocessing", "unittest", "xml")
WINDOW, PIECES, MAJORITY = 128, 8, 5
LENGTH = WINDOW * PIECES
CLASS_TOKEN = 0
TEXTS, HELD = 16, 256  # of a step, and of the evaluation
Pieces = list[list[list[int]]]  # by folder


def read_pieces(held_out: bool) -> Pieces:
    """Pieces of `WINDOW` tokens of every folder; one file in four is held out."""
    _, tokenizer = lw.load("demo", dtype=torch.float32)
    root = Path(sysconfig.get_paths()["stdlib"])
    found: Pieces = []
    for folder in FOLDERS:
        files = sorted(root.joinpath(folder).rglob("*.py"))
        random.Random(0).shuffle(files)
        cut = len(files) // 4
        pieces = []
        for path in files[:cut] if held_out else files[cut:]:
            ids = tokenizer(read_text(path), add_special_tokens=False, verbose=False)["input_ids"]
            pieces += [ids[i : i + WINDOW] for i in range(0, len(ids) - WINDOW + 1, WINDOW)]
        found.append(pieces)
    return found


def texts(pieces: Pieces, count: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    """`count` texts `[count, LENGTH]`, the first token the class token, and their folders."""
    rows, labels = [], []
    for _ in range(count):
        label, *others = rng.sample(range(len(FOLDERS)), 1 + PIECES - MAJORITY)
        parts = [rng.choice(pieces[label]) for _ in range(MAJORITY)]
        parts += [rng.choice(pieces[other]) for other in others]
        rng.shuffle(parts)
        rows.append([CLASS_TOKEN, *(token for part in parts for token in part)][:LENGTH])
        labels.append(label)
    return torch.tensor(rows), torch.tensor(labels)


def encoder(seed: int, vocabulary: int) -> BertForSequenceClassification:
    """A BERT of 128 positions."""
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=192, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=WINDOW, num_labels=len(FOLDERS),
        attention_probs_dropout_prob=0.0, hidden_dropout_prob=0.0,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForSequenceClassification(config)


def train(
    model: BertForSequenceClassification, pieces: Pieces, length: int, steps: int, seed: int,
    name: str, folder: Path | None,
) -> dict[str, float]:  # fmt: skip
    """Train on the first `length` tokens of `steps` batches of `TEXTS` texts."""
    rng = random.Random(seed)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        rows, labels = batch
        return cross_entropy(model(rows[:, :length]).logits, labels)

    rates = held([torch.optim.AdamW(model.parameters(), lr=5e-4)], steps, warmup=20, fall=0.5)
    learned = learn(
        model, (texts(pieces, TEXTS, rng) for _ in range(steps)), loss, rates, steps,
        folder and folder / name, about={"seed": seed, "length": length}, name=name,
    )  # fmt: skip
    return {"loss": round(mean(learned.losses[-20:]), 4), "steps": steps,
            "cpu_seconds": round(learned.cpu_seconds, 1),
            "tokens": steps * TEXTS * length}  # fmt: skip


@torch.no_grad()
def accuracy(
    model: BertForSequenceClassification, rows: Tensor, labels: Tensor, length: int
) -> float:
    """Share of the texts whose folder is found from their first `length` tokens."""
    model.eval()
    right = [
        (model(some[:, :length]).logits.argmax(-1) == wanted).float()
        for some, wanted in zip(rows.split(32), labels.split(32), strict=True)
    ]
    return round(torch.cat(right).mean().item(), 4)


def one_seed(seed: int, steps: int, tuning: int, folder: Path | None) -> dict[str, object]:
    """Both ways from one original."""
    seen, unseen = read_pieces(held_out=False), read_pieces(held_out=True)
    rows, labels = texts(unseen, HELD, random.Random(1000 + seed))
    vocabulary = 1 + max(token for part in [*seen, *unseen] for piece in part for token in piece)
    original = encoder(seed, vocabulary)
    runs = {"original": train(original, seen, WINDOW, steps, seed, f"original-{seed}", folder)}
    found = {"original, truncated": accuracy(original, rows, labels, WINDOW)}
    truncated, long = copy.deepcopy(original), copy.deepcopy(original)
    lengthen_encoder(long, LENGTH, EncoderWindow(window=WINDOW, first=1))
    found["converted, not tuned"] = accuracy(long, rows, labels, LENGTH)
    runs["truncated"] = train(
        truncated, seen, WINDOW, tuning, seed + 500, f"truncated-{seed}", folder
    )
    found["truncated, tuned"] = accuracy(truncated, rows, labels, WINDOW)
    runs["converted"] = train(long, seen, LENGTH, tuning, seed + 500, f"converted-{seed}", folder)
    found["converted, tuned"] = accuracy(long, rows, labels, LENGTH)
    Console(stderr=True).print(found)
    return {"seed": seed, "accuracy": found, "runs": runs}


def findings(seeds: list[dict]) -> list[Finding]:
    """The claim on every seed."""
    found = []
    for one in seeds:
        score = one["accuracy"]
        gain = score["converted, tuned"] - score["truncated, tuned"]
        says = f"seed {one['seed']}: converted and tuned finds at least 5 in 100 texts more"
        found.append(at_least(says, round(gain, 4), 0.05))
    return found


def main() -> None:
    """Train, convert, tune, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--runs", type=Path, help="keeps the training, which goes on after a kill")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--tuning", type=int, default=120)
    parser.add_argument("--seeds", type=int, default=2)
    args = parser.parse_args()
    jobs = {
        f"{args.steps}-{args.tuning}-{seed}": partial(
            one_seed, seed, args.steps, args.tuning, args.runs
        )
        for seed in range(args.seeds)
    }
    seeds = list(side_by_side(jobs, args.runs).values())
    train, held_out = read_pieces(held_out=False), read_pieces(held_out=True)
    made = evidence.of(
        claims()["tuning/long_encoder"],
        model={"name": "a BERT of two layers trained here", "fingerprint": "", "window": WINDOW},
        seeds=range(args.seeds),
        trained=True,
        items={"texts": HELD},
        numbers={"seeds": [
            {**one, "texts_found": {name: share(round(part * HELD), HELD)
                                    for name, part in one["accuracy"].items()}}
            for one in seeds
        ]},
        findings=findings(seeds),
        control="the original, truncated and tuned on the same texts",
        settings={"steps": args.steps, "tuning": args.tuning, "texts": HELD, "folders": FOLDERS,
                  "pieces": {folder: [len(a), len(b)]
                             for folder, a, b in zip(FOLDERS, train, held_out, strict=True)}},
    )  # fmt: skip
    evidence.write(args.evidence, made)


if __name__ == "__main__":
    main()
