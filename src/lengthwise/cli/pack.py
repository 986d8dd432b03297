"""`lengthwise pack`: documents of every length to rows of one."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lengthwise.cli.inputs import MOST, tell_of_hub
from lengthwise.cli.interrupt import work_begins
from lengthwise.hf.files import find_tokenizer

if TYPE_CHECKING:
    from lengthwise.train.data.pipeline import Progress

SOURCE_HELP = (
    "A file of text, JSON lines, Parquet or Arrow, a folder of them, a directory that `datasets` "
    "saved, or hub:NAME to stream the train split from the Hugging Face hub."
)
TOKENIZER_HELP = (
    "A checkpoint's directory, a name on the hub, or `demo`; not needed for lists of tokens."
)
OVERFLOW_HELP = "For documents longer than a row: split, truncate, drop or raise."
PACKER_HELP = "best_fit, first_fit, greedy, spfhp, nnlshp or exact."
VOCABULARY_HELP = "Tokens must be below it [default: the tokenizer's, if there is one]"
COLUMN_HELP = "The column of the documents [default: input_ids if there is one, else text]"
SLIM_HELP = "Write input_ids and seq_lengths alone; collators can make the other columns."
MASK_HELP = "Add an attention_mask of ones; beside it documents are not kept apart."
RAY_HELP = "Work on Ray Data, on the cluster of RAY_ADDRESS or on this machine."


def pack(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=SOURCE_HELP, show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory to write.")
    ],
    capacity: Annotated[int, typer.Option(metavar="N", max=MOST, help="Tokens of a row, at most.")],
    tokenizer: Annotated[str, typer.Option(metavar="NAME", help=TOKENIZER_HELP)] = "",
    overflow: Annotated[str, typer.Option(metavar="POLICY", help=OVERFLOW_HELP)] = "split",
    packer: Annotated[str, typer.Option(metavar="NAME", help=PACKER_HELP)] = "best_fit",
    column: Annotated[str, typer.Option(metavar="NAME", help=COLUMN_HELP)] = "",
    document: Annotated[
        str, typer.Option(metavar="UNIT", help="A document of plain text: a file or a line.")
    ] = "file",
    vocabulary: Annotated[
        int, typer.Option(metavar="N", max=MOST, help=VOCABULARY_HELP, show_default=False)
    ] = 0,
    end: Annotated[
        bool, typer.Option("--end/--no-end", help="Whether texts get the tokenizer's end token.")
    ] = True,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, max=MOST, help="Of the order of the rows.")
    ] = 0,
    slim: Annotated[bool, typer.Option("--slim", help=SLIM_HELP)] = False,
    mask: Annotated[bool, typer.Option("--mask", help=MASK_HELP)] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out and count what cannot be read.")
    ] = False,
    workers: Annotated[
        int, typer.Option(metavar="N", max=1024, help="Processes; 0 is one for each core.")
    ] = 0,
    ray: Annotated[bool, typer.Option("--ray", help=RAY_HELP)] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a packed data set that exists.")
    ] = False,
) -> None:
    """Pack documents into rows for training, every document exactly once.

    The directory loads with datasets.load_from_disk; docs/data.md has the settings by which
    transformers' Trainer, TRL and axolotl keep the documents of a row apart. The same command
    after an interruption goes on where it stopped, and with another capacity, packer or policy it
    keeps the tokens.
    """
    if tokenizer:
        find_tokenizer(tokenizer)
        tell_of_hub(tokenizer)

    from lengthwise.train.data.pipeline import pack as pack_corpus

    work_begins()
    try:
        with _progress() as progress:
            report = pack_corpus(
                source, output, capacity, tokenizer=tokenizer, column=column, document=document,
                overflow=overflow, packer=packer, vocabulary=vocabulary, end=end, seed=seed,
                slim=slim, mask=mask, skip_bad=skip_bad, ray=ray, force=force, progress=progress,
                workers=workers or os.cpu_count() or 1,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise KeyboardInterrupt("what is finished is kept; the same command goes on") from None
    print(report.text())
    print(f"Wrote {output} in {report.seconds:,.1f} s. Picture: {output / 'report.html'}")


@contextmanager
def _progress() -> "Iterator[Progress]":
    """A bar with the time left, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar:
        tasks = {}

        def show(name: str, done: int, total: int | None) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        yield show
