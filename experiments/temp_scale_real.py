"""TempScale on all-MiniLM-L6-v2: do embeddings of long texts collapse, and less so below one?

    python experiments/temp_scale_real.py

Two pieces of each of 120 texts, files of Python's standard library and pages of its manual: one
asks for the other, among the pieces of all texts, in both directions. The temperature is 0.8, which
the paper tries among others; nothing is chosen on these texts. What is embedded is kept.
"""

import argparse
import random
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch
from real_models import get
from rich.console import Console
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

import lengthwise as lw
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import at_least
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.tasks.text import read_text, standard_library_files

LENGTHS = (32, 128, 510)
LONG = LENGTHS[-1]
TEMPERATURE = 0.8
TEXTS = 120


def texts(tokenizer: Any) -> list[Tensor]:
    """Token ids of texts that hold two pieces of the greatest length, in an order drawn once."""
    found = []
    files = [read_text(path) for path in standard_library_files(held_out=False)]
    pages = [page for page in topics.topics.values() if len(page) > 5000]
    files = [text for text in files if len(text) > 6000]
    random.Random(0).shuffle(files)
    for text in pages + files:
        ids = tokenizer(text[:12_000], add_special_tokens=False, verbose=False)["input_ids"]
        if len(ids) >= 2 * LONG:
            found.append(torch.tensor(ids))
        if len(found) == TEXTS:
            break
    return found


@torch.no_grad()
def embed(model: Any, tokenizer: Any, pieces: list[Tensor], temperature: float) -> Tensor:
    """Means of the last hidden states `[n, d]`, of length 1."""
    first, last = tokenizer.cls_token_id, tokenizer.sep_token_id
    ids = torch.stack([torch.cat([torch.tensor([first]), p, torch.tensor([last])]) for p in pieces])
    with lw.adapted(model, lw.TempScale(temperature)):
        made = [model(input_ids=part).last_hidden_state.mean(1) for part in ids.split(12)]
    return normalize(torch.cat(made), dim=1)


def alike(one: Tensor) -> Tensor:
    """The mean cosine of every text with the others, `[n]`."""
    cosines = one @ one.T
    return (cosines.sum(1) - cosines.diagonal()) / (len(one) - 1)


def found(one: Tensor, other: Tensor) -> Tensor:
    """One over the rank of the right piece, asked in both directions, `[2 n]`."""
    cosines = one @ other.T
    ranks = [(c >= c.diagonal()[:, None]).sum(1) for c in (cosines, cosines.T)]
    return 1 / torch.cat(ranks).double()


def mean(values: Tensor) -> Interval:
    return bootstrap_mean(values.double(), torch.Generator().manual_seed(0))


def main() -> None:
    """Embed, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--out", type=Path, default=Path("runs/temp_scale"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = AutoModel.from_pretrained(
        get("minilm"), dtype=torch.float32, trust_remote_code=False
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(get("minilm"), trust_remote_code=False)
    read = texts(tokenizer)
    sides = {}
    for length in LENGTHS:
        for temperature in (1.0, TEMPERATURE):
            for side in (0, 1):
                file = args.out / f"{length}-{temperature}-{side}.pt"
                if not file.exists():
                    starts = [side * (len(ids) // 2) for ids in read]
                    pieces = [ids[s : s + length] for ids, s in zip(read, starts, strict=True)]
                    torch.save(embed(model, tokenizer, pieces, temperature), file)
                    Console(stderr=True).print(f"{file.name} is embedded")
                sides[length, temperature, side] = torch.load(file, weights_only=True)
    near = {key: alike(sides[(*key, 0)]) for key in ((n, t) for n, t, _ in sides)}
    ranks = {key: found(sides[(*key, 0)], sides[(*key, 1)]) for key in near}
    gain = {n: mean(ranks[n, TEMPERATURE] - ranks[n, 1.0]) for n in LENGTHS}
    made = evidence.of(
        claims()["extend/tempscale@minilm"],
        model={"name": "minilm", "fingerprint": fingerprint(model), "window": 512},
        items={"texts": len(read), "questions": 2 * len(read)},
        numbers={
            "by length and temperature": [
                {
                    "tokens": n, "temperature": t,
                    "mean cosine": round(float(near[n, t].mean()), 4),
                    "mean reciprocal rank": round(float(ranks[n, t].mean()), 4),
                }
                for n, t in near
            ]
        },
        findings=[
            at_least(
                f"at temperature {TEMPERATURE} texts of {LONG} tokens are less alike than at 1, "
                "cosine",
                mean(near[LONG, 1.0] - near[LONG, TEMPERATURE]), 0.02, "temperature 1",
            ),
            at_least(
                "and more of them are found than at 1, reciprocal rank", gain[LONG], 0.0,
                "temperature 1",
            ),
            at_least(
                f"texts of {LENGTHS[0]} tokens are found as well, reciprocal rank",
                gain[LENGTHS[0]], -0.03,
            ),
        ],
        control="the same model at temperature 1",
        premise=at_least(
            f"at temperature 1 texts of {LONG} tokens are more alike than of {LENGTHS[0]}, cosine",
            mean(near[LONG, 1.0] - near[LENGTHS[0], 1.0]), 0.05,
        ),
        spec=f"tempscale:temperature={TEMPERATURE}",
    )  # fmt: skip
    evidence.write(args.evidence, made)
    Console(stderr=True).print(made.verdict, made.reason, made.numbers)


if __name__ == "__main__":
    main()
