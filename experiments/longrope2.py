"""LongRoPE2's search on the bundled model, untuned, against PI, NTK and YaRN.

    python experiments/longrope2.py

The search reads one half of the held-out files of the Python standard library, with passkeys
planted in it, and only the loss of the answers counts; the comparison reads the other half. A run
that was stopped goes on from `--checkpoint`.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from longrope_search import halves, losses, progress
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import (
    Finding,
    at_least,
    at_most,
    exact,
    surely_at_least,
)
from lengthwise.lab.extension import PLAIN, Numbers, described, lost, measure
from lengthwise.measure.engines.reading import first_token
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.tasks import Passkey
from lengthwise.search import (
    Evolution,
    LongRoPE2Search,
    Windows,
    needle_windows,
    text_windows,
)

WINDOW = 512
FACTOR = 8
LENGTHS = (1, 2, 4, 8)  # windows of the comparison
OTHERS = ("PI", "NTK", "YaRN")


def filler(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> str:
    """Text of the first 32,768 tokens, in pieces (one long one takes much longer)."""
    return "\n".join(tokenizer.decode(ids[i : i + 4096]) for i in range(0, 32_768, 4096))


def search_factors(
    model: PreTrainedModel, windows: Windows, args: argparse.Namespace
) -> tuple[LongRoPE2Search, float]:
    """The search at its end, and the seconds of computing that it took."""
    size = args.population  # LongRoPE's proportions: 64, 32, 16, 16
    search = LongRoPE2Search(
        model, windows, FACTOR, seed=args.seed, population=size, parents=size // 2,
        mutations=size // 4, crossovers=size // 4,
    )  # fmt: skip
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task, began = bar.add_task("searching", total=args.evaluations), time.process_time()

        def report(now: Evolution) -> None:
            words = f"best {now.best_loss:.4f} nats"
            bar.update(task, completed=len(now.evaluated), description=words)

        search.run(evaluations=args.evaluations, checkpoint=args.checkpoint, on_step=report)
    return search, round(time.process_time() - began, 1)


def mean(gap: Tensor) -> Interval:
    """A mean over texts, with its 95% interval."""
    return bootstrap_mean(gap, torch.Generator().manual_seed(0))


def findings(
    text: dict[str, dict[int, Tensor]], needles: dict[str, Tensor], critical: int, theory: int
) -> list[Finding]:
    """The claim in numbers; intervals are of differences between the same texts."""
    out = [
        surely_at_least(
            f"at {FACTOR} windows {name}'s loss is above LongRoPE2's, low end of 95%, nats",
            mean(text[name][FACTOR] - text["LongRoPE2"][FACTOR]),
            0.0,
        )
        for name in OTHERS
    ]
    out += [
        at_least(
            f"at {FACTOR} windows {name}'s loss of a needle's answer is not below its own, nats",
            mean(needles[name] - needles["LongRoPE2"]),
            0.0,
        )
        for name in OTHERS
    ]
    apart = (text["plain"][1] - text["LongRoPE2"][1]).abs().max().item()
    # To rounding: transformers computes the plain model's attention, this library the other.
    out.append(
        exact(at_most("inside the window its losses are the plain model's, nats", apart, 1e-5))
    )
    says = "the critical pair that the search finds is below that of theory, pairs"
    out.append(exact(at_least(says, theory - critical, 1)))
    return out


def table(by: dict[str, dict[int, Tensor]]) -> list[dict[str, Any]]:
    """Mean losses, a row for each method."""
    return [
        {"method": name, **{f"loss at {n} windows": x.mean().item() for n, x in row.items()}}
        for name, row in by.items()
    ]


def main() -> None:
    """Search, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--evaluations", type=int, default=160)
    parser.add_argument("--population", type=int, default=32)
    parser.add_argument("--needles", type=int, default=2, help="texts of an evaluation")
    parser.add_argument("--windows", type=int, default=8, help="texts of the comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path)
    args = parser.parse_args()
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    model.eval()
    head, length = first_token(tokenizer), FACTOR * WINDOW
    searched, compared, names = halves(tokenizer)
    words = filler(tokenizer, searched)
    depths = [(i + 0.5) / args.needles for i in range(args.needles)]
    hidden = needle_windows(
        tokenizer,
        [
            Passkey(words, depth).build(tokenizer, length, 1, args.seed + i)[0]
            for i, depth in enumerate(depths)
        ],
    )
    search, seconds = search_factors(model, hidden, args)
    found = search.best
    assert isinstance(found, lw.LongRoPE2)
    # As the command line writes them: measured again from there, it is the same method.
    found = replace(found, factors=tuple(float(f"{value:g}") for value in found.factors))
    contenders: dict[str, tuple[Method, ...]] = {
        "plain": (), "PI": (lw.PI(FACTOR),), "NTK": (lw.NTK(FACTOR),),
        "YaRN": (lw.YaRN(FACTOR),), "LongRoPE2": (found,),
    }  # fmt: skip
    texts = {n: text_windows(compared, n * WINDOW, args.windows, head) for n in LENGTHS}
    other = Passkey(filler(tokenizer, compared))
    asked = needle_windows(tokenizer, other.build(tokenizer, length, args.windows, args.seed + 100))
    text: dict[str, dict[int, Tensor]] = {}
    needles: dict[str, Tensor] = {}
    for name, methods in contenders.items():
        text[name] = {n: losses(model, windows, methods) for n, windows in texts.items()}
        needles[name] = losses(model, asked, methods)
        means = {n: round(row.mean().item(), 4) for n, row in text[name].items()}
        Console(stderr=True).print(name, means, "needle", round(needles[name].mean().item(), 4))
    results = measure(["LongRoPE2"], args.evidence, others={"LongRoPE2": (found,)})
    made = evidence.of(
        claims()["extend/longrope2"],
        model=described(results),
        seeds=(args.seed,),
        items={
            "texts": args.windows, "needles": args.windows,
            "passkeys": results.counts["passkey"],
        },
        numbers={
            **Numbers(results, "LongRoPE2").record(),
            "control": Numbers(results, PLAIN).record(),
            "comparison": {
                "text": table(text),
                f"loss of a needle's answer at {FACTOR} windows": {
                    name: row.mean().item() for name, row in needles.items()
                },
            },
            "critical_pair": {"found": search.critical_pair, "theory": search.theoretical_pair},
        },
        findings=findings(text, needles, search.critical_pair, search.theoretical_pair),
        control="plain attention, PI, NTK and YaRN",
        premise=lost(8)(Numbers(results, "LongRoPE2")),
        spec="longrope2:factors="
        + "/".join(f"{value:g}" for value in found.factors)
        + f",factor={FACTOR}",
        settings={
            key: value for key, value in vars(args).items() if key not in ("evidence", "checkpoint")
        },
        cpu_seconds_of_search=seconds,
        evaluations=len(search.evaluated),
        generations=search.generation,
        best_so_far=progress(search),
        files={"searched": names[0], "compared": names[1]},
    )  # fmt: skip
    evidence.write(args.evidence, made)
    Console(stderr=True).print(made.verdict, made.reason)


if __name__ == "__main__":
    main()
