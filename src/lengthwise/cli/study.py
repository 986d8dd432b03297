"""`lengthwise probe study`: extension methods on the same base, text and items."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    say,
)  # fmt: skip
from lengthwise.cli.interrupt import STATUS, work_begins
from lengthwise.hf.files import find_checkpoint

if TYPE_CHECKING:
    from lengthwise.measure.run.results import Results

STUDY_HELP = "Once for each candidate: plain, yarn:factor=8, selfextend:group=8,window=128 …"
TUNED_HELP = "A tuned checkpoint as NAME=DIRECTORY, measured as it is."


def study(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR")],
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", metavar="METHOD", help=STUDY_HELP)
    ] = None,
    tuned: Annotated[list[str] | None, typer.Option(metavar="NAME=DIR", help=TUNED_HELP)] = None,
    lengths: Annotated[str, typer.Option(metavar="LENGTHS")] = "1x,2x,4x",
    tasks: Annotated[str, typer.Option(metavar="TASKS")] = "needle,niah_single_1,vt",
    items: Annotated[int, typer.Option(metavar="N", min=1, max=MOST)] = 10,
    samples: Annotated[int, typer.Option(metavar="N", min=1, max=MOST)] = 1,
    text: Text = None,
    seed: Seed = 0,
    force: Annotated[bool, typer.Option("--force", help="Measure anew.")] = False,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Every extension method on the same base, text and items: perplexity, needle, tasks.

    Prints how the three go together. What is finished is kept, and not measured again.
    """
    from lengthwise.cli.measure import RESULTS, check_folder, read_lengths

    check_folder(output, force)
    check_inputs(model, method or [], dtype, together=False)
    words = None if text is None else read_text(text)
    read_lengths(lengths, 1)
    folders: dict[str, str] = {}
    for pair in tuned or []:
        name, equals, folder = pair.partition("=")
        if not equals or not Path(folder).is_dir() or name in folders:
            raise ValueError(f"--tuned: write NAME=DIRECTORY with a new name, got {pair!r}")
        folders[name] = find_checkpoint(folder)

    from lengthwise.cli.inputs import open_model, read_methods
    from lengthwise.measure.engines.reading import trained_window
    from lengthwise.measure.probes.study import Entry
    from lengthwise.measure.probes.study import study as run
    from lengthwise.measure.tasks.text import held_out_text

    entries = {spec.strip(): Entry(read_methods([spec])) for spec in method or [PLAIN]}
    for name, folder in folders.items():
        if name in entries:
            raise ValueError(f"--tuned: write NAME=DIRECTORY with a new name, got {name!r}")
        entries[name] = Entry(
            checkpoint=lambda folder=folder: open_model(folder, device, dtype)  # type: ignore[misc]
        )
    loaded, tokenizer = open_model(model, device, dtype)
    if force:
        (output / RESULTS).unlink(missing_ok=True)
    words = words or held_out_text()
    wanted = read_lengths(lengths, trained_window(loaded))
    names = [name.strip() for name in tasks.split(",")]
    total = len(entries) * len(wanted) * (len(names) + 1)
    work_begins()
    try:
        with _Counted(total) as shown:
            results = run(
                loaded, tokenizer, entries, wanted, text=words, output=output / RESULTS,
                tasks=names, samples=samples, items=items, seed=seed, progress=shown,
            )  # fmt: skip
    except KeyboardInterrupt:
        say(f"Interrupted. {output / RESULTS} keeps what is finished; run the same command again.")
        raise typer.Exit(STATUS) from None
    _show(results)
    print(f"\nNumbers: {output / RESULTS}")


class _Counted:
    """Progress over a number of cells, with the time that is left."""

    def __init__(self, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._shown = Progress(
            TextColumn("{task.description:<48}", markup=False), BarColumn(), TimeRemainingColumn(),
            console=Console(stderr=True),
        )  # fmt: skip
        self._task = self._shown.add_task("", total=total)
        self._begun = False

    def __enter__(self) -> "_Counted":
        return self

    def __call__(self, words: str) -> None:
        self._shown.start()  # not before there is something to do; again it does nothing
        self._shown.update(self._task, description=words, advance=int(self._begun))
        self._begun = True

    def __exit__(self, *_: object) -> None:
        if self._begun:
            self._shown.stop()


def _show(results: "Results") -> None:
    """The tables, and how they go together."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lengthwise.measure.probes.study import PERPLEXITY, correlations

    console = Console()
    by_cell = {(row.method, row.task, row.length): row for row in results.rows}
    for task in dict.fromkeys(row.task for row in results.rows):
        lengths = sorted({row.length for row in results.rows if row.task == task})
        title = "perplexity" if task == PERPLEXITY else f"{task}: score (nats of the answer)"
        table = Table("", *(f"{length:,}" for length in lengths), title=title, title_justify="left")
        for name in dict.fromkeys(row.method for row in results.rows):
            cells = []
            for length in lengths:
                row = by_cell.get((name, task, length))
                if row is None:
                    cells.append("")
                elif row.refused:
                    cells.append("refused")
                elif task == PERPLEXITY:
                    cells.append(f"{row.values['perplexity']:.2f}")
                else:
                    cells.append(f"{row.values['score']:.2f} ({row.values['answer_nats']:.2f})")
            table.add_row(Text(name), *cells)
        console.print(table)
    table = Table("", "cells", "Pearson", "Spearman", "Spearman at each length")
    for one in correlations(results):
        numbers = ["–" if x is None else f"{x:+.2f}" for x in (one.pearson, one.spearman)]
        lengths_said = ", ".join(f"{n:,}: {x:+.2f}" for n, x in one.at_length.items())
        table.add_row(f"{one.one} and {one.other}", str(one.cells), *numbers, lengths_said or "–")
    console.print(table)
