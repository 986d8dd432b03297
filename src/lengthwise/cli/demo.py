"""`lengthwise demo`: all of it in three minutes, on the bundled model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lengthwise.cli.inputs import say
from lengthwise.cli.measure import RESULTS, carry_out, check_folder

if TYPE_CHECKING:
    from lengthwise.measure import Cell

# For a window of 512. InfLLM reads 4 + 256 + 8 * 32 keys, as many as fit the window.
METHODS = {
    "plain": "plain",
    "PI": "pi:factor=16",
    "YaRN": "yarn:factor=16",
    "LMInfinite": "lminfinite:sinks=4,window=508",
    "SelfExtend": "selfextend:group=24,window=144",
    "StreamingLLM": "streamingllm:sinks=4,window=508",
    "InfLLM": "infllm:pages=8,page_size=32,sinks=4,window=256",
}
LOSS = ("plain", "PI", "YaRN", "LMInfinite", "SelfExtend", "StreamingLLM")
PASSKEY = ("plain", "SelfExtend", "InfLLM")
SPEED = ("plain", "LMInfinite", "SelfExtend", "StreamingLLM", "InfLLM")
WINDOWS, ITEMS = 16, 6
PLAN = (
    ("loss", LOSS, (WINDOWS,)),
    ("passkey", PASSKEY, (1, 2, 4, 8)),
    ("speed", SPEED, (WINDOWS,)),
)


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="The directory for the report.")
    ] = Path("lengthwise-demo"),
    force: Annotated[
        bool, typer.Option("--force", help="Show it anew, in place of what is there.")
    ] = False,
) -> None:
    """Show the bundled model at 16 times its window, in three minutes, without a network."""
    check_folder(output, force)

    from lengthwise.cli.inputs import open_model, read_methods
    from lengthwise.measure import Cell, LocalReader, Loss, Passkey, Speed, Suite
    from lengthwise.measure.tasks.text import held_out_text

    model, tokenizer = open_model("demo")
    window = model.config.max_position_embeddings
    say(
        f"The bundled model was trained on {window:,} tokens at a time. It now reads "
        f"{WINDOWS * window:,}, by itself and with methods that need no training."
    )
    cells = {
        Cell(method, task, times * window)
        for task, methods, windows in PLAN
        for method in methods
        for times in windows
    }
    text = held_out_text()
    carry_out(
        LocalReader(model, tokenizer, name="demo"),
        Suite("demo", {"loss": Loss(text), "passkey": Passkey(text), "speed": Speed(text)}, ITEMS),
        {name: read_methods([spec]) for name, spec in METHODS.items()},
        sorted({cell.length for cell in cells}),
        only=cells,
        text=text,
        folder=output,
        command="lengthwise demo",
        begin_anew=force or is_complete(output / RESULTS, cells),
    )


def is_complete(file: Path, cells: "set[Cell]") -> bool:
    """Whether an earlier demo ran to its end; one that was interrupted is continued instead."""
    from lengthwise.measure import Results

    if not file.exists():
        return False
    try:
        results = Results.load(file)
    except ValueError:  # of another version
        return True
    return {row.cell for row in results.finished} >= cells
