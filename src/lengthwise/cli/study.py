"""`lengthwise probe study`: extension methods on the same base, text and items."""

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lengthwise.catalogue import PLAIN
from lengthwise.cli.inputs import (
    MOST,
    Device,
    Dtype,
    Model,
    Seed,
    Text,
    check_inputs,
    read_text,
)
from lengthwise.cli.interrupt import STATUS, work_begins
from lengthwise.files import hold
from lengthwise.hf.files import find_checkpoint

if TYPE_CHECKING:
    from lengthwise.measure.run.results import Results

STUDY_HELP = "Once for each candidate: plain, yarn:factor=8, selfextend:group=8,window=128 …"
OUTPUT_HELP = "The directory for the results; an interrupted study there is continued."
LENGTHS_HELP = "Tokens, or trained windows as 2x, separated by commas."
TASKS_HELP = "needle, and tasks of RULER, lines, threads or longicl, separated by commas."
TUNED_HELP = "A tuned checkpoint as NAME=DIRECTORY, measured as it is."


def study(
    context: typer.Context,
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help=OUTPUT_HELP)],
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", metavar="METHOD", help=STUDY_HELP)
    ] = None,
    tuned: Annotated[list[str] | None, typer.Option(metavar="NAME=DIR", help=TUNED_HELP)] = None,
    lengths: Annotated[str, typer.Option(metavar="LENGTHS", help=LENGTHS_HELP)] = "1x,2x,4x",
    tasks: Annotated[
        str, typer.Option(metavar="TASKS", help=TASKS_HELP)
    ] = "needle,niah_single_1,vt",
    items: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Items for each task and length.")
    ] = 10,
    samples: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Texts for the perplexity.")
    ] = 1,
    text: Text = None,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Measure anew.")] = False,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Every extension method on the same base, text and items: perplexity, needle, tasks.

    Prints how the three go together. What is finished is kept, and not measured again.
    """
    from lengthwise.cli.measure import REPORT, RESULTS, check_folder, read_lengths, write_out

    check_folder(output, force)
    check_inputs(model, method or [], dtype, together=False)
    words = None if text is None else read_text(text)
    read_lengths(lengths, 1)
    methods = [spec.strip() for spec in method or [PLAIN]]
    folders: dict[str, str] = {}
    for pair in tuned or []:
        name, equals, folder = pair.partition("=")
        if not equals or not Path(folder).is_dir() or name in [*folders, *methods]:
            raise ValueError(f"--tuned: write NAME=DIRECTORY with a new name, got {pair!r}")
        folders[name] = find_checkpoint(folder)

    from rich.console import Console

    from lengthwise.cli.inputs import open_model, read_methods
    from lengthwise.measure.engines.reading import trained_window
    from lengthwise.measure.probes.study import Checkpoint, StudyReader, study_suite
    from lengthwise.measure.run.runner import measure
    from lengthwise.measure.tasks.text import held_out_text

    words = words or held_out_text()
    suite = study_suite(words, [one.strip() for one in tasks.split(",")], samples, items, seed)
    chosen: dict[str, Any] = {spec: read_methods([spec]) for spec in methods}
    chosen |= {name: [Checkpoint.of(folder)] for name, folder in folders.items()}
    loaded, tokenizer = open_model(model, device, dtype)
    wanted = read_lengths(lengths, trained_window(loaded))
    reader = StudyReader(loaded, tokenizer, name=model)
    command = shlex.join(["lengthwise", *context.obj])
    if force and (output / RESULTS).exists():
        with hold(output):
            (output / RESULTS).unlink()
    work_begins()
    try:
        results = measure(
            reader, suite, chosen, wanted, folder=output, seed=seed, text=words, command=command,
            console=Console(stderr=True),
        )  # fmt: skip
    except KeyboardInterrupt:
        raise typer.Exit(STATUS) from None  # `measure` has said what is kept
    write_out(results, output, command)
    _show(results)
    print(f"\nReport: {output / REPORT}\nNumbers: {output / RESULTS}")


def _show(results: "Results") -> None:
    """The tables, and how they go together."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lengthwise.measure.report.study import correlations, score_and_nats, sentences
    from lengthwise.names import ANSWER, PERPLEXITY

    console = Console()
    asked = [task for task in results.settings if ANSWER + task in results.settings]
    lengths = sorted({row.length for row in results.readings})
    for task in (PERPLEXITY, *asked):
        title = PERPLEXITY if task == PERPLEXITY else f"{task}: score (nats of the answer)"
        table = Table("", *(f"{length:,}" for length in lengths), title=title, title_justify="left")
        for name in results.methods:
            cells = []
            for length in lengths:
                if task == PERPLEXITY:
                    nats = [x["nats"] for x in results.values(name, task, length)]
                    words = f"{math.exp(sum(nats) / len(nats)):.2f}" if nats else "refused"
                else:
                    pair = score_and_nats(results, name, task, length)
                    words = "refused" if pair is None else f"{pair[0]:.2f} ({pair[1]:.2f})"
                cells.append(words)
            table.add_row(Text(name), *cells)
        console.print(table)
    table = Table("", "cells", "Pearson", "Spearman", "Spearman at each length")
    for one in correlations(results):
        numbers = ["–" if x is None else f"{x:+.2f}" for x in (one.pearson, one.spearman)]
        lengths_said = ", ".join(f"{n:,}: {x:+.2f}" for n, x in one.at_length.items())
        table.add_row(f"{one.one} and {one.other}", str(one.cells), *numbers, lengths_said or "–")
    console.print(table)
    for sentence in sentences(results):
        console.print(Text("• " + sentence))
