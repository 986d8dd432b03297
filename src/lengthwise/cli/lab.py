"""`lengthwise lab`: the papers' claims, held against the bundled model."""

from pathlib import Path
from typing import Annotated

import typer

from lengthwise.cli.inputs import MOST
from lengthwise.cli.interrupt import STATUS, work_begins
from lengthwise.files import check_writable

lab = typer.Typer(help="Hold the papers' claims against the bundled model.", no_args_is_help=True)
FOLDER = Path("evidence/extend")
MEASUREMENTS = "results.jsonl"


@lab.command("list")
def show() -> None:
    """List the methods whose claims are held against the model."""
    from lengthwise.lab.extension import CLAIMS

    for claim in CLAIMS:
        print(f"{claim.method:<16} {claim.spec:<48} {claim.paper}")


@lab.command()
def reproduce(
    methods: Annotated[
        list[str] | None, typer.Argument(metavar="[METHOD]...", help="Which [default: all].")
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory for the evidence.")
    ] = FOLDER,
    passkeys: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Items for each length.")
    ] = 4,
    samples: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Texts for the loss.")
    ] = 1,
) -> None:
    """Measure methods on the bundled model to 16 windows and write a verdict on each claim.

    Measurements are kept as they come, so a run that was interrupted goes on where it stopped.
    """
    check_writable(output)

    from lengthwise.lab.extension import cells, evidence, find, place

    chosen = find(methods or [])

    from rich.console import Console

    from lengthwise.cli.inputs import open_model, read_methods
    from lengthwise.lab.evidence import write
    from lengthwise.lab.extension import CLAIMS, PLAIN
    from lengthwise.measure import run_grid
    from lengthwise.measure.tasks.text import held_out_text

    model, tokenizer = open_model("demo")
    specs = {PLAIN: PLAIN, **{claim.method: claim.spec for claim in CLAIMS}}
    work_begins()
    try:
        results = run_grid(
            model,
            tokenizer,
            {name: read_methods([spec]) for name, spec in specs.items()},
            cells(chosen, model.config.max_position_embeddings),
            text=held_out_text(),
            output=output / MEASUREMENTS,
            name="demo",
            loss_samples=samples,
            passkey_count=passkeys,
            console=Console(stderr=True),
        )
    except KeyboardInterrupt:
        raise typer.Exit(STATUS) from None  # `run` has said what is kept
    for claim in chosen:
        options = f"--passkeys {passkeys} --samples {samples}"
        command = f"lengthwise lab reproduce {claim.method.lower()} {options}"
        record = evidence(claim, results, command)
        write(place(output, claim), record)
        print(f"{claim.method:<16} {record['verdict']}")
