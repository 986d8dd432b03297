"""`lengthwise train`: a recipe tunes a model to a longer window."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lengthwise.cli.inputs import read_text, tell_of_hub
from lengthwise.cli.interrupt import work_begins
from lengthwise.hf.files import find_checkpoint
from lengthwise.train.places import check_folder

if TYPE_CHECKING:
    import torch

    from lengthwise.train.recipe import Recipe

RECIPE_HELP = "A name of --list, a file RECIPE.toml, or FILE.py:FUNCTION."
OVERRIDES_HELP = "What differs from the recipe, as in base=demo data=TEXTS target=2048 steps=150."


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help=RECIPE_HELP)] = "",
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help=OVERRIDES_HELP)
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="The directory to write.")
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="Print the recipes and end.")] = False,
    show: Annotated[
        bool, typer.Option("--show", help="Print the recipe with all its keys as TOML and end.")
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help="cpu [default: what accelerate finds]")
    ] = "",
    tracker: Annotated[
        str, typer.Option(metavar="NAME", help="tensorboard, wandb, mlflow … as accelerate has it.")
    ] = "",
    force: Annotated[bool, typer.Option("--force", help="Begin anew where a run is.")] = False,
) -> None:
    """Tune a model to a longer window by a recipe.

    DIR/model is a checkpoint that plain transformers loads, DIR/adapter its adapter for peft,
    DIR/metrics.jsonl what was measured on the way. The same command after an interruption goes on
    where the last checkpoint is, and ends with the same bits. `torchrun -m lengthwise train …`
    shares every step among processes.
    """
    from lengthwise.train.recipe import read_recipe

    if listed:
        print_recipes()
        return
    if not recipe:
        raise ValueError("name a recipe; `lengthwise train --list` prints them")
    chosen = read_recipe(recipe, overrides or [])
    if show:
        print(as_toml(chosen.settings()), end="")
        return
    if output is None:
        raise ValueError("name the directory to write, as in --output runs/longer")
    if device not in ("", "cpu"):
        raise ValueError(
            f"--device must be cpu or left out, got {device!r}; CUDA_VISIBLE_DEVICES says which GPU"
        )
    chosen.ready()
    check_paths(chosen)
    check_folder(output, force)

    from lengthwise.cli.inputs import be_quiet, say

    be_quiet()
    from lengthwise.train.loop import train as run

    work_begins()
    with _progress() as (steps, packing):
        result = run(
            chosen, output, device=device, tracker=tracker, room=_room, force=force, say=say,
            progress=steps, packing=packing,
        )  # fmt: skip
    if _speaks():
        print(report(result))


def check_paths(recipe: "Recipe") -> None:
    """Refuse a recipe whose files are not there, before torch is imported.

    Raises:
        ValueError: Which.
    """
    if not recipe.data.startswith("hub:") and not Path(recipe.data).exists():
        raise ValueError(f"there is no file or directory {recipe.data}, which data names")
    if recipe.evaluate_text:
        read_text(Path(recipe.evaluate_text))
    if recipe.adapter and not (Path(recipe.adapter) / "adapter_config.json").is_file():
        raise ValueError(f"there is no adapter in {recipe.adapter}: it has no adapter_config.json")
    find_checkpoint(recipe.base)
    if _speaks():
        tell_of_hub(recipe.base)


def _speaks() -> bool:
    """Whether this is the first of the processes that torchrun started, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def _room(device: "torch.device") -> int:
    from lengthwise.cli.memory import SPARE, free_bytes

    return int((1 - SPARE) * free_bytes(device))


def report(result: Any) -> str:
    """What a run did, as a table."""
    lines = [f"{'':<10}{'loss, nats a token':>24}{'passkeys found':>24}"]
    lines.append(f"{'tokens':<10}{'before':>12}{'after':>12}{'before':>12}{'after':>12}")
    for length, after in result.after["loss"].items():
        before = result.before["loss"][length]
        found = [f"{one['passkey'].get(length, 0):.0%}" for one in (result.before, result.after)]
        keys = found if result.after["passkey"] else ["", ""]
        lines.append(f"{int(length):<10,}{before:>12.3f}{after:>12.3f}{keys[0]:>12}{keys[1]:>12}")
    speed = result.tokens / max(result.seconds, 1e-9)
    lines += [
        "",
        f"{result.steps:,} steps, {result.tokens:,} tokens in {result.seconds:,.0f} s "
        f"({speed:,.0f} a second).",
        f"Wrote {result.folder / 'model'}. {result.note}",
    ]
    return "\n".join(lines)


def print_recipes() -> None:
    """The named recipes, one a paragraph."""
    from lengthwise.train.recipes import RECIPES

    for name, recipe in RECIPES.items():
        print(f"{name:<16} {recipe.about}\n{'':<17}{recipe.source}")


def as_toml(settings: dict[str, Any]) -> str:
    """A recipe's keys as a TOML file that gives the same recipe."""
    import json

    lines = []
    for name, value in settings.items():
        if isinstance(value, tuple):
            value = list(value)
        lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


@contextmanager
def _progress() -> Iterator[tuple[Any, Any]]:
    """Bars with the time left, on a terminal: for steps, and for packing before them."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    tasks: dict[str, Any] = {}

    def show(name: str, done: int, total: int | None, words: str = "") -> None:
        if name not in tasks:
            tasks[name] = bar.add_task(name, total=total)
        bar.update(tasks[name], completed=done, description=words or name)

    def steps(done: int, total: int, loss: float) -> None:
        show("tuning", done, total, f"tuning, loss {loss:.3f}")

    with bar:
        yield steps, show
