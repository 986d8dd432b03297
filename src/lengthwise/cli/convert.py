"""`lengthwise convert`: a GGUF file as a checkpoint that everything here reads."""

from pathlib import Path
from typing import Annotated

import typer

from lengthwise.cli.extend import check_place
from lengthwise.cli.inputs import DTYPES, check_inputs
from lengthwise.cli.interrupt import work_begins
from lengthwise.files import restore
from lengthwise.hf.gguf_file import is_gguf


def convert(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .gguf file.", show_default=False)],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory to write.")
    ],
    dtype: Annotated[
        str,
        typer.Option(
            metavar="DTYPE",
            help=f"{', '.join(DTYPES)} [default: the file's own, or float32 where it is quantised]",
        ),
    ] = "",
    force: Annotated[
        bool, typer.Option("--force", help="Replace a directory that exists.")
    ] = False,
) -> None:
    """Write a GGUF file as a checkpoint: config.json, safetensors and the tokenizer.

    Weights that are quantised become plain numbers. The directory appears as a whole or not at
    all. Wherever a command takes a MODEL the file itself will do too; a checkpoint opens sooner,
    and other programs read it.
    """
    if not is_gguf(file):
        raise ValueError(f"{file} is no GGUF file by its name; write FILE.gguf")
    restore(output)
    check_place(output, force)
    check_inputs(file, dtype=dtype)

    from lengthwise.cli.inputs import open_model
    from lengthwise.extend.checkpoint import save

    work_begins()
    model, tokenizer = open_model(file, device="cpu", dtype=dtype or "auto", reads=False)
    save(model, tokenizer, output, force=force)
    print(f"Wrote {output}: {sum(one.numel() for one in model.parameters()):,} parameters.")
