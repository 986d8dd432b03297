"""`lengthwise lab`: the papers' claims, held against models, and what came out."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lengthwise.cli.command import Command
from lengthwise.cli.inputs import MOST, be_quiet
from lengthwise.cli.interrupt import STATUS, work_begins
from lengthwise.files import check_writable

lab = typer.Typer(help="Hold the papers' claims against models.", no_args_is_help=True)
FOLDER = Path("evidence")


@lab.command("list", cls=Command)
def show() -> None:
    """List the claims: the command that makes the evidence, its minutes, and the paper."""
    from lengthwise.lab.claims import claims

    for claim in (one for one in claims().values() if one.minutes):
        print(f"{claim.command:<55} {claim.minutes:>3g} min  {claim.system}: {claim.source}")


@lab.command(cls=Command)
def status(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The directory of all evidence.")
    ] = FOLDER,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print every claim with its state and what makes its evidence.

    A claim is shown when a file carries all that is needed to believe it: a control that does worse
    in the same run, intervals that exclude chance, items, texts and seeds enough. It is partly
    shown when something of that is lacking or half of what it says did not come out.
    """
    from lengthwise.lab.evidence import SHOWN
    from lengthwise.lab.status import rows

    found = rows(folder)
    if as_json:
        print(json.dumps([row.record() for row in found], indent=1, ensure_ascii=False))
        return
    for room in dict.fromkeys(row.claim.room for row in found):
        inside = [row for row in found if row.claim.room == room]
        shown = sum(row.state == SHOWN for row in inside)
        print(f"{room}: {shown} of {len(inside)} shown")
        for row in inside:
            print(f"  {row.claim.system:<24} {row.state:<14} {row.command}".rstrip())
    print(f"{sum(row.state == SHOWN for row in found)} of {len(found)} shown")


@lab.command(cls=Command)
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
