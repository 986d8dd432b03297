"""`lengthwise list`: what there is besides methods."""

import shutil
import sys
import textwrap
from typing import Annotated

import typer

ROOM_HELP = "tasks, patterns, objectives, recipes, probes, …; without it, all rooms."


def listing(
    room: Annotated[str, typer.Argument(metavar="ROOM", help=ROOM_HELP, show_default=False)] = "",
) -> None:
    """List tasks, patterns, objectives, recipes, probes and whatever else has a name."""
    from lengthwise.rooms import ROOMS, about, items

    if not room:
        for name in ROOMS:
            print(indented(f"  {name:<12}", about(name)))
        print("\nWhat is in one of them: lengthwise list ROOM. Methods: lengthwise methods")
        return
    found = items(room)
    print(f"{about(room)}\n")
    width = max(len(item.name) for item in found) + 2
    for item in found:
        print(indented(f"  {item.name:<{width}}", item.summary))
        for more in (item.source, item.command):
            if more:
                print(indented(" " * (width + 2), more))


def indented(start: str, text: str, hang: int | None = None) -> str:
    """`text` behind `start`, wrapped to the terminal; later lines stand `hang` to the right."""
    columns = min(shutil.get_terminal_size((100, 24)).columns, 100) if sys.stdout.isatty() else 100
    indent = " " * (len(start) if hang is None else hang)
    return textwrap.fill(
        text,
        max(columns, 40),
        initial_indent=start,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
