"""LongRoPE's search on the bundled model, untuned, against PI, NTK and YaRN.

    python experiments/longrope_search.py

The search reads one half of the held-out files of the Python standard library, the comparison
the other half. A run that was stopped goes on from `--checkpoint`.
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.lab import evidence
from lengthwise.lab.claims import claims
from lengthwise.lab.evidence import at_most, exact, surely_at_least
from lengthwise.lab.extension import PLAIN, Numbers, described, lost, measure
from lengthwise.measure.engines.reading import first_token
from lengthwise.measure.statistics.intervals import Interval, bootstrap_mean
from lengthwise.measure.tasks import Passkey
from lengthwise.measure.tasks.text import read_text, standard_library_files
from lengthwise.search import (
    Evolution,
    LongRoPESearch,
    Windows,
    needle_windows,
    text_windows,
)
from lengthwise.search.longrope import START_TOKENS

WINDOW = 512


def halves(
    tokenizer: PreTrainedTokenizerBase,
) -> tuple[torch.Tensor, torch.Tensor, list[list[str]]]:
    """Tokens of two halves of the held-out files, and the names of the files."""
    files = sorted(standard_library_files(held_out=True), key=lambda path: path.stem)
    parts = [files[0::2], files[1::2]]
    texts = ["\n".join(read_text(path) for path in part) for part in parts]
    ids = [
        torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        for text in texts
    ]
    return ids[0], ids[1], [[path.stem for path in part] for part in parts]


def search_factors(
    model: PreTrainedModel, windows: Windows, args: argparse.Namespace
) -> tuple[LongRoPESearch, dict[str, float]]:
    """The search at its end, and how many seconds it took."""
    size = args.population  # the paper's proportions: 64, 32, 16, 16
    search = LongRoPESearch(
        model,
        windows,
        args.factor,
        seed=args.seed,
        population=size,
        parents=size // 2,
        mutations=size // 4,
        crossovers=size // 4,
        start_tokens=(0,) if args.plain else START_TOKENS,
    )
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task("searching", total=args.evaluations)
        began = time.monotonic(), time.process_time()

        def report(now: Evolution) -> None:
            words = f"best {now.best_loss:.4f} nats"
            bar.update(task, completed=len(now.evaluated), description=words)

        search.run(
            evaluations=args.evaluations,
            seconds=args.seconds,
            checkpoint=args.checkpoint,
            on_step=report,
        )
    wall, cpu = time.monotonic() - began[0], time.process_time() - began[1]
    return search, {"wall": round(wall, 1), "cpu": round(cpu, 1)}


def losses(model: PreTrainedModel, windows: Windows, methods: tuple[Method, ...]) -> torch.Tensor:
    """Mean loss of every window in nats, `[n]`."""
    return torch.stack([row.double().mean() for row in windows.losses(model, *methods)])


def main() -> None:
    """Search, compare, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--factor", type=float, default=8.0)
    parser.add_argument("--evaluations", type=int, default=300)
    parser.add_argument("--seconds", type=float, default=570.0, help="stop then at the latest")
    parser.add_argument("--population", type=int, default=32)
    parser.add_argument("--search-windows", type=int, default=1)
    parser.add_argument("--windows", type=int, default=16, help="of the comparison")
    parser.add_argument("--plain", action="store_true", help="no start tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(2)
    model, tokenizer = lw.load("demo", dtype=torch.float32)
    model.eval()
    head, length = first_token(tokenizer), round(args.factor * WINDOW)
    searched, compared, names = halves(tokenizer)
    windows = text_windows(searched, length, args.search_windows, head)
    search, seconds = search_factors(model, windows, args)
    found = search.best
    assert isinstance(found, lw.LongRoPE)
    # As the command line writes them: measured again from there, it is the same method.
    found = replace(found, factors=tuple(float(f"{value:g}") for value in found.factors))
    held = text_windows(compared, length, args.windows, head)
    inside = text_windows(compared, WINDOW, 4 * args.windows, head)
    text = "\n".join(tokenizer.decode(compared[i : i + 4096]) for i in range(0, 40_960, 4096))
    needles = needle_windows(tokenizer, Passkey(text).build(tokenizer, length, 8, args.seed))
    contenders: dict[str, tuple[Method, ...]] = {
        "plain": (), "PI": (lw.PI(args.factor),), "NTK": (lw.NTK(args.factor),),
        "YaRN": (lw.YaRN(args.factor),), "LongRoPE": (found,),
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    measured = {name: losses(model, held, methods) for name, methods in contenders.items()}
    for name, methods in contenders.items():
        gap = bootstrap_mean(measured[name] - measured["LongRoPE"], torch.Generator())
        rows.append(
            {
                "method": name,
                f"loss at {length}": measured[name].mean().item(),
                "minus LongRoPE's": {"value": gap.value, "low": gap.low, "high": gap.high},
                f"loss inside {WINDOW}": losses(model, inside, methods).mean().item(),
                f"loss of a needle's answer at {length}": needles.loss(model, *methods),
            }
        )
        Console(stderr=True).print(rows[-1])
    found_loss = next(row for row in rows if row["method"] == "LongRoPE")[f"loss at {length}"]
    findings = [
        surely_at_least(
            f"at {args.factor:g} windows {row['method']}'s loss is above LongRoPE's, 95% interval",
            Interval(**row["minus LongRoPE's"]),
            0.0,
        )
        for row in rows
        if row["method"] in ("PI", "NTK", "YaRN")
    ]
    # Seconds of computing: others may be at work on the same cores.
    findings.append(
        exact(at_most("the search takes at most ten minutes on two cores", seconds["cpu"] / 2, 600))
    )
    results = measure(["LongRoPE"], args.evidence, others={"LongRoPE": (found,)})
    made = evidence.of(
        claims()["extend/longrope"],
        model=described(results),
        seeds=(args.seed,),
        items={"texts": len(held.texts), "passkeys": results.counts["passkey"]},
        numbers={
            **Numbers(results, "LongRoPE").record(),
            "control": Numbers(results, PLAIN).record(),
            "comparison": rows,
            "loss_on_searched_text": search.best_loss,
            "loss_on_other_text": found_loss,
        },
        findings=findings,
        control="plain attention, PI, NTK and YaRN",
        premise=lost(8)(Numbers(results, "LongRoPE")),
        spec=spec_of(found),
        settings={
            key: value for key, value in vars(args).items() if key not in ("evidence", "checkpoint")
        },
        seconds=seconds,
        evaluations=len(search.evaluated),
        generations=search.generation,
        best_so_far=progress(search),
        files={"searched": names[0], "compared": names[1]},
    )
    evidence.write(args.evidence, made)


def spec_of(method: lw.LongRoPE) -> str:
    """As the command line writes it."""
    factors = "/".join(f"{value:g}" for value in method.factors)
    starts = f",start_tokens={method.start_tokens}" if method.start_tokens else ""
    return f"longrope:factors={factors},factor={method.factor:g}{starts}"


def progress(search: Evolution) -> list[tuple[int, float]]:
    """(evaluations, best loss) wherever the best changed."""
    points: list[tuple[int, float]] = []
    for index, trial in enumerate(search.evaluated):
        if not points or trial.loss < points[-1][1]:
            points.append((index + 1, trial.loss))
    return points


if __name__ == "__main__":
    main()
