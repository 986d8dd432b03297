"""The directory of a run: what it holds, and whether this run may go on in it."""

import json
import shutil
from pathlib import Path
from typing import Any

from lengthwise.files import write_text
from lengthwise.train.data.reading import first_line
from lengthwise.train.places import RUN
from lengthwise.train.recipe import Recipe

UNFINISHED = (".tmp", ".new", ".old")  # of files and directories before they have their names
MAY_DIFFER = ("about", "source", "save_every")  # between the parts of one run


def sweep(folder: Path) -> None:
    """Remove what a run that was killed was just writing."""
    for path in folder.iterdir():
        if path.suffix in UNFINISHED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def clear(folder: Path) -> None:
    """Remove a run; the rows that were packed for it go too, for the data may be other."""
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def check_same_run(folder: Path, recipe: Recipe, base: str, rows: str) -> None:
    """Note what a run is, or refuse a directory that holds another one.

    Args:
        base: The fingerprint of the base's weights.
        rows: The identity of the data.

    Raises:
        ValueError: With the first thing that differs.
    """
    now: dict[str, Any] = {
        "recipe": json.loads(json.dumps(recipe.settings())), "base": base, "rows": rows,
    }  # fmt: skip
    file = folder / RUN
    if not file.is_file():
        write_text(file, json.dumps(now, indent=1) + "\n")
        return
    way_out = "choose another directory or begin anew with --force"
    try:
        then = json.loads(file.read_text(encoding="utf-8"))
        recipe_then, base_then, rows_then = dict(then["recipe"]), then["base"], then["rows"]
    except (ValueError, KeyError, TypeError) as error:
        why = f"{type(error).__name__}: {first_line(error)}"
        raise ValueError(f"{file} is damaged ({why}); {way_out}") from error
    for name, value in now["recipe"].items():
        if name not in MAY_DIFFER and recipe_then.get(name) != value:
            raise ValueError(
                f"{folder} holds a run with {name}={recipe_then.get(name)!r}, now {value!r}; "
                + way_out
            )
    for was, name, what in (
        (base_then, "base", "the weights of the base"), (rows_then, "rows", "the data"),
    ):  # fmt: skip
        if was != now[name]:
            raise ValueError(f"{folder}: {what} changed since the run began; {way_out}")
