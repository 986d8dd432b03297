"""`lengthwise extend --auto`: a race over methods on the person's own text, then a checkpoint."""

import re
import time
from itertools import count, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lengthwise.cli.inputs import open_model, say
from lengthwise.measure.cost.devices import MOST_BYTES

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lengthwise.extend.method import Method
    from lengthwise.measure.tasks import Passkey
    from lengthwise.measure.tasks.base import Item
    from lengthwise.search.race import Race, Run

UNITS = {"s": 1, "m": 60, "h": 3600}
MOST_HOURS = 10_000
SIZES = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "kB": 10**3, "MB": 10**6, "GB": 10**9}
RACE_SHARE = 0.8  # of the budget; the rest measures the winner
SEED, NEEDLES = 0, 4
NEAR, SHARE = 0.1, 0.75  # what counts as reading: nats above the reference, needles found


def read_seconds(words: str) -> float:
    """Seconds from `90s`, `10m` or `1.5h`.

    Raises:
        ValueError: If it is no such time.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", words.strip())
    if match is None or not float(match[1]):
        raise ValueError(f"--budget: {words!r} is no time; write 90s, 10m or 1h")
    seconds = float(match[1]) * UNITS[match[2]]
    if seconds > MOST_HOURS * 3600:
        raise ValueError(f"--budget: {words[:40]!r} is too long; at most {MOST_HOURS:,}h")
    return seconds


def read_bytes(words: str) -> int:
    """Bytes from `8GiB` or `500MB`.

    Raises:
        ValueError: If it is no such size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", words.strip())
    if match is None or match[2] not in SIZES or not float(match[1]):
        raise ValueError(f"--memory: {words!r} is no size; write 8GiB or 500MB")
    count = float(match[1]) * SIZES[match[2]]
    if count > MOST_BYTES:
        raise ValueError(f"--memory: {words[:40]!r} is too much; at most 1024TiB")
    return int(count)


def choose(
    name: str, length: int, budget: float, text: str | None, memory: int | None, state: Path
) -> "tuple[tuple[Method, ...], dict[str, Any]]":
    """Race within a budget: the winner, and a record of everything that was tried.

    Args:
        name: The model.
        length: Target in tokens.
        budget: Seconds for the race and for measuring its winner.
        text: What the model is to read; None takes the standard library.
        memory: Bytes for weights and cache at the target; None is all.
        state: The file that a race which was stopped goes on from.

    Raises:
        ValueError: If the model is extended already or the text or the length is too short.
    """
    began = time.monotonic()

    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from lengthwise.extend.adapt import is_adapted
    from lengthwise.hf.weights import fingerprint
    from lengthwise.measure.engines.reading import first_token, trained_window
    from lengthwise.measure.tasks import Passkey
    from lengthwise.measure.tasks.text import held_out_text
    from lengthwise.search.candidates import candidates
    from lengthwise.search.longrope import LongRoPESearch
    from lengthwise.search.race import Race, Rung
    from lengthwise.search.windows import needle_windows, text_windows

    model, tokenizer = open_model(name)
    refuse_scaled(model, name)
    if is_adapted(model):
        raise ValueError(f"{name} carries methods already; extend the checkpoint it was made from")
    window = trained_window(model)
    if length <= window:
        raise ValueError(
            f"--to must be above the model's window of {window:,} tokens, got {length:,}"
        )
    words = text or held_out_text()
    ids = torch.tensor(tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"])
    if len(ids) < length:
        raise ValueError(
            f"the text has {len(ids):,} tokens, and a race to {length:,} needs as many; give a "
            "longer one with --text, or a shorter --to"
        )
    field = candidates(window, length)
    head = first_token(tokenizer)

    passkeys = Passkey(words)
    asked = {n: passkeys.build(tokenizer, n, NEEDLES, SEED + 1) for n in doubled(window, length)}

    def rung(texts: int, needles: int, keeps: int) -> Rung:
        hidden = needle_windows(tokenizer, passkeys.build(tokenizer, length, needles, SEED))
        return Rung(text_windows(ids, length, texts, head), hidden, keeps)

    rungs = [rung(1, 1, 8), rung(2, 4, 4), rung(4, 8, 1)]
    try:
        arm = LongRoPESearch(
            model, rungs[0].texts, length / window, start_tokens=(0,), population=16, parents=8,
            mutations=8, crossovers=8, seed=SEED,
        )  # fmt: skip
    except ValueError as error:
        say(f"without the search of factors: {error}")
        arm = None
    known = {"model": fingerprint(model), "dtype": str(model.dtype)}
    race = Race(model, field, rungs, arm=arm, memory=memory, state=state, about=known)
    if race.runs:
        say(f"{state}: {len(race.runs)} runs are there already")
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<64}", markup=False), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("race", total=RACE_SHARE * budget)

        def on_run(race: "Race", run: "Run") -> None:
            best = race.best_run
            words = f"rung {run.rung + 1} of {len(rungs)} · best so far {best.methods}"[:64]
            progress.update(bar, description=words, completed=time.monotonic() - began)
            if not console.is_terminal:
                loss = run.refused or f"text {run.text_loss:.3f}, answers {run.needle_loss:.3f}"
                progress.console.print(f"{run.methods}: {loss}", soft_wrap=True, markup=False)

        try:
            winner = race.run(RACE_SHARE * budget - (time.monotonic() - began), on_run)
        except KeyboardInterrupt:
            if race.runs:
                say(f"Best so far: {race.best_run.methods}. {state} keeps the race; run the same "
                    "command again to go on.")  # fmt: skip
            raise
    record = race.record() | {
        "length": length,
        "winner": race.best_run.methods,
        "after": measured(model, tokenizer, winner, passkeys, ids, window, asked, began + budget),
    }
    return winner, record | {"seconds": round(time.monotonic() - began, 1)}


def refuse_scaled(model: "PreTrainedModel", name: str) -> None:
    """Refuse a checkpoint whose frequencies are scaled: a factor is never applied twice.

    Raises:
        ValueError: With the type of its scaling.
    """
    parameters = getattr(model.config, "rope_parameters", None) or {}
    kinds = [p for p in parameters.values() if isinstance(p, dict)] or [parameters]
    scaled = {kind.get("rope_type", "default") for kind in kinds} - {"default"}
    if scaled:
        raise ValueError(
            f"{name} is scaled already ({', '.join(sorted(scaled))}); extend the checkpoint it was "
            "made from, or name a method with --method"
        )


def doubled(window: int, length: int) -> list[int]:
    """The window, twice the window and so on, up to the length, which is the last."""
    return [*takewhile(lambda n: n < length, (window << k for k in count())), length]


def measured(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    winner: "tuple[Method, ...]",
    passkeys: "Passkey",
    ids: "Tensor",
    window: int,
    asked: "dict[int, list[Item]]",
    ends: float,
) -> dict[str, Any]:
    """Loss and needles by length with the winner; what the clock leaves no time for is missing."""
    import torch

    from lengthwise.extend.adapt import adapted
    from lengthwise.measure.engines.greedy import answers
    from lengthwise.measure.engines.reading import first_token
    from lengthwise.measure.tasks.loss import in_window_losses, losses_by_position

    head = first_token(tokenizer)
    lead = [] if head is None else [head]
    text = torch.cat([torch.tensor(lead, dtype=torch.long), ids])[None, : max(asked)]
    reference = in_window_losses(model, text, window, head)[0]
    rows = []
    with adapted(model, *winner):
        mine = losses_by_position(model, text)[0]
        for low, (high, items) in zip([0, *asked], asked.items(), strict=False):
            span = slice(max(low - 1, 0), high - 1)
            row: dict[str, Any] = {
                "tokens": high,
                "loss": round(float(mine[span].mean()), 4),
                "in_window_loss": round(float(reference[span].mean()), 4),
                "needles_found": None,
            }
            if time.monotonic() < ends:
                replies = answers(model, tokenizer, items)
                right = [passkeys.score(*pair) for pair in zip(replies, items, strict=True)]
                row["needles_found"] = sum(right) / len(right)
            rows.append(row)
    effective = 0
    for row in rows:
        share = row["needles_found"]
        if row["loss"] - row["in_window_loss"] > NEAR or share is None or share < SHARE:
            break
        effective = row["tokens"]
    return {"by_length": rows, "effective_length": effective}


def report(record: dict[str, Any]) -> str:
    """The race in words and a table, as Markdown."""
    after = record["after"]
    lines = [
        f"# The race to {record['length']:,} tokens",
        "",
        f"Winner: `{record['winner']}`, after {record['seconds']:.0f} s.",
        "",
        f"Effective length: {after['effective_length']:,} tokens, the longest at which the loss is "
        f"within {NEAR} nats of the same tokens read inside the window and {SHARE:.0%} of "
        f"{NEEDLES} needles are found. Needles and text are those of the race's own kind; measure "
        "on texts of yours before you rely on it.",
        "",
        "| up to | loss | loss inside the window | needles found |",
        "| ---: | ---: | ---: | ---: |",
    ]
    for row in after["by_length"]:
        share = row["needles_found"]
        needles = "no time" if share is None else f"{share:.0%}"
        lines.append(
            f"| {row['tokens']:,} | {row['loss']:.3f} | {row['in_window_loss']:.3f} | {needles} |"
        )
    lines += [
        "",
        "## Everything that was tried",
        "",
        "Losses in nats, on texts and on the answers to needles; the score is their mean.",
        "",
        "| rung | methods | texts | answers | score | seconds |",
        "| ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for run in sorted(record["runs"], key=lambda r: (-r["rung"], r["score"] is None, r["score"])):
        if run["refused"]:
            lines.append(f"| {run['rung'] + 1} | `{run['methods']}` | {run['refused']} | | | |")
            continue
        numbers = [run["text_loss"], run["needle_loss"], run["score"]]
        cells = " | ".join("not finite" if x is None else f"{x:.3f}" for x in numbers)
        lines.append(f"| {run['rung'] + 1} | `{run['methods']}` | {cells} | {run['seconds']:.1f} |")
    if record["arm"] is not None:
        tried = len(record["arm"]["evaluated"])
        lines += ["", f"The search of LongRoPE's factors tried {tried} candidates."]
    return "\n".join(lines) + "\n"
