"""TempScale on a small embedder trained here: do embeddings of long texts collapse, and less so?

    python experiments/temp_scale.py

The encoder of a small T5 learns to find, from one piece of a file, another piece of it: the mean
of its last hidden states, contrasted with the other files of a batch, at lengths from 16 to 256
tokens. Half of the files held out choose the temperature, the other half judge it. Six
minutes of computing.
"""

import argparse
import random
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize
from transformers import T5Config, T5EncoderModel

import lengthwise as lw
from lengthwise.hf.weights import fingerprint
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import Finding, at_least, at_most, exact
from lengthwise.lab.training import Learned, learn, one_cycle
from lengthwise.measure.statistics.intervals import bootstrap_mean
from lengthwise.measure.tasks.text import read_text, standard_library_files

LENGTHS = (16, 32, 64, 128, 256)
SHORT, LONG = LENGTHS[0], LENGTHS[-1]
TEMPERATURES = (1.0, 0.8, 0.6)
PAIRS = 12  # of a step
CONTRAST = 0.1  # what cosines are divided by in training


def read_files(limit: int) -> list[Tensor]:
    """Token ids of files that are long enough for two pieces of `LONG`, at most 12,000 characters.

    Args:
        limit: Files, in an order drawn once.
    """
    _, tokenizer = lw.load("demo")
    paths = standard_library_files(held_out=False)
    random.Random(0).shuffle(paths)
    files: list[Tensor] = []
    for path in paths:
        text = read_text(path)[:12_000]
        if len(text) < 12_000:
            continue
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        if len(ids) >= 2 * LONG:
            files.append(ids)
        if len(files) == limit:
            break
    return files


def pieces(files: list[Tensor], length: int, rng: random.Random) -> tuple[Tensor, Tensor]:
    """Two pieces of every file, one from each half of it, `[n, length]` each."""
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for ids in files:
        half = len(ids) // 2
        for side, first in zip(sides, (0, half), strict=True):
            start = first + rng.randrange(half - length + 1)
            side.append(ids[start : start + length])
    return torch.stack(sides[0]), torch.stack(sides[1])


def embed(model: T5EncoderModel, ids: Tensor) -> Tensor:
    """The mean of the last hidden states `[n, d]`, of length 1."""
    return normalize(model(input_ids=ids).last_hidden_state.mean(1), dim=1)


def model_of(seed: int) -> T5EncoderModel:
    """Four layers of a T5's encoder."""
    config = T5Config(
        vocab_size=1536, d_model=64, d_kv=16, d_ff=192, num_layers=4, num_heads=4,
        dropout_rate=0.0, n_positions=LONG,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return T5EncoderModel(config)


def train(
    model: T5EncoderModel, files: list[Tensor], steps: int, seed: int, folder: Path | None
) -> Learned:
    """Warm-up and cosine."""
    rng = random.Random(seed)
    right = torch.arange(PAIRS)

    def loss(batch: tuple[Tensor, Tensor]) -> Tensor:
        cosines = embed(model, batch[0]) @ embed(model, batch[1]).T / CONTRAST
        return (cross_entropy(cosines, right) + cross_entropy(cosines.T, right)) / 2

    batches = (pieces(rng.sample(files, PAIRS), rng.choice(LENGTHS), rng) for _ in range(steps))
    rates = one_cycle(torch.optim.AdamW(model.parameters()), steps, 2e-3)
    return learn(model, batches, loss, rates, steps, folder, about={"seed": seed})


@torch.no_grad()
def measure(
    model: T5EncoderModel, one: Tensor, other: Tensor, temperature: float
) -> tuple[float, Tensor]:
    """How alike the embeddings of different files are, and one over the rank of the right one."""
    with lw.adapted(model, lw.TempScale(temperature)):
        sides = [
            torch.cat([embed(model, part) for part in side.split(16)]) for side in (one, other)
        ]
    cosines = sides[0] @ sides[1].T
    rank = (cosines >= cosines.diagonal()[:, None]).sum(1)
    return lw.length_collapse(sides[0]), 1.0 / rank.double()


Numbers = dict[int, dict[float, tuple[float, Tensor]]]  # by length, by temperature


def findings(numbers: Numbers, chosen: float) -> list[Finding]:
    """The collapse, what the temperature does to it, and what that is worth."""
    alike = {length: by[1.0][0] for length, by in numbers.items()}
    gain = {
        length: bootstrap_mean(by[chosen][1] - by[1.0][1], torch.Generator().manual_seed(0))
        for length, by in numbers.items()
    }
    return [
        at_least(
            f"plain, texts of {LONG} tokens are more alike than texts of {SHORT}, cosine",
            alike[LONG] - alike[SHORT],
            0.02,
        ),
        at_least(
            f"at temperature {TEMPERATURES[-1]} texts of {LONG} tokens are less alike than at 1, "
            "cosine",
            alike[LONG] - numbers[LONG][TEMPERATURES[-1]][0],
            0.0,
        ),
        exact(
            at_most(
                "the temperature that finds most long texts on other files is below 1",
                chosen,
                TEMPERATURES[1],
            )
        ),
        at_least(
            f"at that temperature more texts of {LONG} tokens are found than at 1, reciprocal rank",
            gain[LONG],
            0.001,
        ),
        at_least(
            f"and texts of {SHORT} tokens are found as well, reciprocal rank",
            gain[SHORT],
            -0.01,
        ),
    ]


def main() -> None:
    """Train, choose a temperature, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--runs", type=Path, help="keeps the training, which goes on after a kill")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--files", type=int, default=320, help="128 of them are held out")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    files = read_files(args.files)
    held, seen = files[:128], files[128:]
    model = model_of(args.seed)
    learned = train(model, seen, args.steps, args.seed, args.runs)
    losses = learned.tenths()
    Console(stderr=True).print("losses", [round(loss, 3) for loss in losses])
    halves: list[Numbers] = []
    for part in (held[:64], held[64:]):
        rng = random.Random(args.seed + 1)
        drawn = {length: pieces(part, length, rng) for length in LENGTHS}
        halves.append({n: {t: measure(model, *drawn[n], t) for t in TEMPERATURES} for n in LENGTHS})
    choosing, judging = halves
    chosen = max(TEMPERATURES, key=lambda t: choosing[LONG][t][1].mean().item())
    rows = [
        {
            "tokens": length,
            "temperature": temperature,
            "mean cosine of different texts": round(alike, 4),
            "mean reciprocal rank": round(ranks.mean().item(), 4),
        }
        for length, by in judging.items()
        for temperature, (alike, ranks) in by.items()
    ]
    made = evidence.of(
        claims()["extend/tempscale"],
        model={"name": "t5 encoder", "fingerprint": fingerprint(model), "window": LONG},
        seeds=(args.seed,),
        trained=True,
        items={"texts": len(held) - 64},
        numbers={"by length and temperature": rows},
        findings=findings(judging, chosen),
        control="the same model at temperature 1",
        spec=f"tempscale:temperature={chosen}",
        settings={
            key: value for key, value in vars(args).items() if key not in ("evidence", "runs")
        },
        files={"trained on": len(seen), "choosing": 64, "judging": len(held) - 64},
        training={
            "cpu_seconds": round(learned.cpu_seconds, 1),
            "losses": [round(loss, 4) for loss in losses],
        },
        temperature=chosen,
    )
    evidence.write(args.evidence, made)
    for row in rows:
        Console(stderr=True).print(row)
    Console(stderr=True).print(made.verdict, made.reason)


if __name__ == "__main__":
    main()
