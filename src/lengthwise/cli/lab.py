"""`lengthwise lab`: the papers' claims, held against small models, and what came out."""

from pathlib import Path
from typing import Annotated

import typer

from lengthwise.cli.inputs import MOST, be_quiet
from lengthwise.cli.interrupt import STATUS, work_begins
from lengthwise.files import check_writable

lab = typer.Typer(help="Hold the papers' claims against small models.", no_args_is_help=True)
FOLDER = Path("evidence")


@lab.command("list")
def show() -> None:
    """List the claims: what makes the evidence of each, in how many minutes, and the paper."""
    from lengthwise.lab.claims import claims

    for claim in claims().values():
        print(f"{claim.command:<55} {claim.minutes:>3g} min  {claim.system}: {claim.source}")


@lab.command()
def status(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="The directory of all evidence.")
    ] = FOLDER,
) -> None:
    """Print every claim with its verdict, what makes its evidence, and the file that holds it.

    A claim is shown when its file carries all that is needed to believe it: a control that fails
    beside it, intervals that exclude chance, items and seeds enough.
    """
    from lengthwise.lab.status import rows

    for row in rows(folder):
        file = (folder / row.file).as_posix() if row.file else ""
        words = f"{row.claim.system:<24} {row.verdict:<22} {row.state:<8} {row.command:<50} {file}"
        print(words.rstrip())


@lab.command()
def reproduce(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="CLAIM...", help="Claims as `lab list` names them, or all of a room: extend."
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory of all evidence.")
    ] = FOLDER,
    passkeys: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MOST, help="Items of each length [default: 4]."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MOST, help="Texts for the loss [default: 1]."),
    ] = None,
) -> None:
    """Make the evidence of claims anew and print the verdict on each.

    What is finished is kept as it comes, so a run that was interrupted goes on where it stopped.
    """
    from lengthwise.lab import reproduce as making
    from lengthwise.lab.claims import find

    chosen = find(names)
    making.check(chosen, passkeys, samples)
    check_writable(output)
    be_quiet()
    work_begins()
    try:
        for found in making.reproduce(chosen, output, passkeys=passkeys, samples=samples):
            print(f"{found.name:<32} {found.verdict}{f': {found.reason}' if found.reason else ''}")
    except KeyboardInterrupt:
        raise typer.Exit(STATUS) from None  # what runs has said what is kept
