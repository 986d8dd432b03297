"""`lengthwise extend`: a checkpoint that carries its methods."""

import json
from pathlib import Path
from typing import Annotated

import typer

from lengthwise.cli.inputs import MOST, TEXT_HELP, Methods, Model, check_inputs, read_text
from lengthwise.cli.interrupt import work_begins
from lengthwise.files import check_writable, restore

RECORD = "search.json"


def extend(
    model: Model,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory to write.")
    ],
    method: Methods = None,
    auto: Annotated[
        bool, typer.Option("--auto", help="Let a race over methods choose, on a text.")
    ] = False,
    to: Annotated[
        int | None,
        typer.Option(
            "--to", metavar="TOKENS", max=MOST, help="The length that --auto is to reach."
        ),
    ] = None,
    budget: Annotated[
        str, typer.Option(metavar="TIME", help="How long --auto may take: 90s, 10m, 1h.")
    ] = "10m",
    text: Annotated[Path | None, typer.Option(metavar="FILE", help=TEXT_HELP)] = None,
    memory: Annotated[
        str, typer.Option(metavar="SIZE", help="What weights and cache may take: 8GiB.")
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a directory that exists.")
    ] = False,
) -> None:
    """Write a checkpoint that is extended by methods, or by those that a race finds best.

    A scaling that transformers knows is written in its words, those of version 5 and of version 4;
    for all else `lengthwise.load` applies the methods again. The directory appears as a whole or
    not at all.

    `--auto --to 32768` tries the methods that need no tuning, with arguments for that length, on a
    text and on planted needles, and tells in DIR/search.md what each of them cost and lost. A race
    that was stopped goes on when the same command is run again.
    """
    restore(output)
    forget_finished(output)
    check_place(output, force)
    if auto and method:
        raise ValueError(f"--auto chooses the method, so leave out --method {method[0]} or --auto")
    if not auto and not method:
        raise ValueError("name a --method, or let a race choose with --auto --to TOKENS")
    if auto and to is None:
        raise ValueError("--auto needs the length to reach: write --to TOKENS")
    if auto and to is not None and to < 1:
        raise ValueError(f"--auto needs the length to reach: --to must be at least 1, got {to}")
    check_inputs(model, method or [])
    if auto and to is not None:
        _race(model, output, to, budget, text, memory, force)
        return

    from lengthwise.cli.inputs import open_model, read_methods

    chosen = read_methods(method or [])
    if not chosen:
        raise ValueError("plain extends nothing; name a method, such as --method yarn:factor=8")

    from lengthwise.catalogue import check_defaults
    from lengthwise.extend.adapt import adapt, binding_of, is_adapted
    from lengthwise.extend.checkpoint import save
    from lengthwise.extend.explain import explain

    # The checkpoint keeps the numbers that it came with, on whatever device.
    loaded, tokenizer = open_model(model, device="cpu", dtype="auto", reads=False)
    if is_adapted(loaded):
        raise ValueError(f"{model} carries methods already; extend the checkpoint it was made from")
    adapt(loaded, *chosen)
    check_defaults(chosen, binding_of(loaded).engine.geometry.window)
    work_begins()
    note = save(loaded, tokenizer, output, force=force)
    print(explain(loaded))
    print(f"\nWrote {output}. {note}")


def _race(
    model: str, output: Path, to: int, budget: str, text: Path | None, memory: str, force: bool
) -> None:
    from lengthwise.cli.auto import choose, read_bytes, read_seconds, report

    words = None if text is None else read_text(text)
    seconds, allowed = read_seconds(budget), read_bytes(memory) if memory else None
    state = state_of(output)
    work_begins()
    winner, record = choose(model, to, seconds, words, allowed, state)
    print(report(record))
    if not winner:
        print(f"No method beat the plain model at {to:,} tokens; nothing is written.")
        return

    from lengthwise.cli.inputs import open_model
    from lengthwise.extend.adapt import adapt
    from lengthwise.extend.checkpoint import save

    # The race may run in other numbers or on a device; the checkpoint keeps its own.
    loaded, tokenizer = open_model(model, device="cpu", dtype="auto")
    adapt(loaded, *winner)
    told = {"search.md": report(record), RECORD: json.dumps(record)}
    note = save(loaded, tokenizer, output, force=force, beside=told)
    state.unlink(missing_ok=True)
    print(f"Wrote {output}. {note}")


def state_of(output: Path) -> Path:
    """The file that a race which was stopped goes on from."""
    return output.with_name(f"{output.name}.{RECORD}")


def forget_finished(output: Path) -> None:
    """Remove the state of a race whose checkpoint is written: it was killed in between."""
    try:
        state, told = (
            json.loads(file.read_text(encoding="utf-8"))
            for file in (state_of(output), output / RECORD)
        )
        if all(told[key] == state[key] for key in ("about", "runs", "arm")):
            state_of(output).unlink()
    except (OSError, ValueError, LookupError, TypeError):
        return


def check_place(output: Path, force: bool) -> None:
    """Refuse to write where something is that must not be lost.

    Raises:
        ValueError: If the place is taken or cannot be written; with `force`, if what is there is
            no checkpoint.
    """
    if output.exists() and not force:
        raise ValueError(f"{output} exists; choose another directory or replace it with --force")
    taken = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if taken and not (output / "config.json").is_file():
        raise ValueError(f"{output} is no checkpoint, and --force replaces nothing else")
    check_writable(output.parent)
