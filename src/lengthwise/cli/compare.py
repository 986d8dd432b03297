"""`lengthwise compare`: results side by side."""

from pathlib import Path
from typing import Annotated

import typer

from lengthwise.measure.run.plan import read_plan
from lengthwise.names import RESULTS

FILES_HELP = "Results: their directories, or files as results.jsonl."


def compare(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help=FILES_HELP, show_default=False)
    ],
    threshold: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="For effective lengths [default: each file's own]"),
    ] = None,
) -> None:
    """Compare results of `measure`: losses, scores, effective lengths, differences.

    Scores are held against the first method of the first file, on the same items.
    """
    if threshold is not None and not 0 < threshold < 1:
        raise ValueError(f"--threshold must be between 0 and 1, got {threshold}")
    for path in files:
        file = path / RESULTS if path.is_dir() else path
        if not file.exists():
            raise ValueError(f"there is no {file}; name the output of lengthwise measure")
        read_plan(file)

    from rich.console import Console

    from lengthwise.measure.report.comparison import print_comparison
    from lengthwise.measure.run.results import Results

    print_comparison([(path, Results.load(path)) for path in files], Console(), threshold)
