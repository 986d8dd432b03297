"""`lengthwise extend`: a checkpoint that carries its methods."""

from pathlib import Path
from typing import Annotated

import typer

from lengthwise.cli.inputs import METHOD_HELP, Model
from lengthwise.cli.interrupt import work_begins


def extend(
    model: Model,
    method: Annotated[
        list[str], typer.Option("--method", "-m", metavar="METHOD", help=METHOD_HELP)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory to write.")
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace a directory that exists.")
    ] = False,
) -> None:
    """Write a checkpoint that is extended by methods.

    A scaling that transformers knows becomes plain `rope_parameters`, which every engine reads;
    for all else `lengthwise.load` applies the methods again. The directory appears as a whole or
    not at all.
    """
    check_place(output, force)

    from lengthwise.cli.inputs import open_model, read_methods

    chosen = read_methods(method)
    if not chosen:
        raise ValueError("plain extends nothing; name a method, such as --method yarn:factor=8")

    from lengthwise.catalogue import check_defaults
    from lengthwise.extend.adapt import adapt, binding_of, is_adapted
    from lengthwise.extend.checkpoint import save
    from lengthwise.extend.explain import explain

    # The checkpoint keeps the numbers that it came with, on whatever device.
    loaded, tokenizer = open_model(model, device="cpu", dtype="auto")
    if is_adapted(loaded):
        raise ValueError(f"{model} carries methods already; extend the checkpoint it was made from")
    adapt(loaded, *chosen)
    check_defaults(chosen, binding_of(loaded).engine.geometry.window)
    work_begins()
    note = save(loaded, tokenizer, output, force=force)
    print(explain(loaded))
    print(f"\nWrote {output}. {note}")


def check_place(output: Path, force: bool) -> None:
    """Refuse to write where something is that must not be lost.

    Raises:
        ValueError: If the place is taken; with `force`, if what is there is no checkpoint.
    """
    if output.exists() and not force:
        raise ValueError(f"{output} exists; choose another directory or replace it with --force")
    taken = output.is_file() or (output.is_dir() and any(output.iterdir()))
    if taken and not (output / "config.json").is_file():
        raise ValueError(f"{output} is no checkpoint, and --force replaces nothing else")
