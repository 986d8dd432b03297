"""`lengthwise measure`: how far a model really reads with each method, and at what cost."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lengthwise.cli.inputs import MOST, Chunk, Device, Dtype, check_inputs, read_count, read_text
from lengthwise.cli.interrupt import STATUS, work_begins
from lengthwise.cli.suite import Place, Server, check_options, measure_suite
from lengthwise.files import check_writable, hold, leftovers
from lengthwise.names import SUITE_FILE

TASKS = ("loss", "passkey", "speed")

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lengthwise.extend.method import Method
    from lengthwise.measure import Cell

RESULTS, REPORT = "results.jsonl", "report.html"
AS_SAVED = "as saved"
COMPARE_HELP = "Once for each to compare: plain, yarn:factor=8, yarn:factor=8+streamingllm …"
MODEL_HELP = "A checkpoint's directory, a name on the hub, `demo`, or with --suite a server's URL."
TEXT_HELP = (
    "A long text in UTF-8 [default: the standard library of this Python]; with --suite also .json "
    "of questions as SQuAD or HotpotQA have them."
)
RAY_HELP = (
    "With --suite: let N copies of the model share the items, on this machine or on the cluster "
    "that RAY_ADDRESS names."
)
SUITE_HELP = "A suite of tasks instead: quick, ruler, effective or full."
UPTO_HELP = "The longest length of a suite, tokens or windows [default: 4x; of a server 1x]"
ITEMS_HELP = "Items for each task and length [default: the suite's own]"
THRESHOLD_HELP = "The score above which a length counts as read."
TOKENIZER_HELP = "The tokenizer of a server's model: a directory, or a name on the hub."
SERVED_HELP = "The model, as the server names it [default: the only one]"
CHAT_HELP = "Ask the server by chat completions: it adds its template, beyond the exact length."
KEY_HELP = "The environment variable that holds the server's key."
LENGTHS_HELP = "Tokens, or trained windows as in 8x; separated by commas."
OUTPUT_HELP = "The directory for the results; an interrupted measurement there is continued."


def measure(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help=OUTPUT_HELP)],
    method: Annotated[
        list[str] | None, typer.Option("--method", "-m", metavar="METHOD", help=COMPARE_HELP)
    ] = None,
    suite: Annotated[str, typer.Option(metavar="SUITE", help=SUITE_HELP)] = "",
    upto: Annotated[str, typer.Option(metavar="LENGTH", help=UPTO_HELP)] = "",
    items: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=MOST, help=ITEMS_HELP)
    ] = None,
    threshold: Annotated[float, typer.Option(metavar="SCORE", help=THRESHOLD_HELP)] = 0.85,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help=TEXT_HELP)] = None,
    lengths: Annotated[str, typer.Option(metavar="LENGTHS", help=LENGTHS_HELP)] = "1x,2x,4x,8x",
    tasks: Annotated[
        str, typer.Option(metavar="TASKS", help="What to measure.")
    ] = "loss,passkey,speed",
    passkeys: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Passkey items for each length.")
    ] = 10,
    samples: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=MOST, help="Stretches of text that the loss is read over."
        ),
    ] = 1,
    chunk: Chunk = 512,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MOST, help="Draws the items.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Measure anew what is there already.")
    ] = False,
    device: Device = "",
    dtype: Dtype = "",
    ray: Annotated[int | None, typer.Option(metavar="N", min=1, max=MOST, help=RAY_HELP)] = None,
    tokenizer: Annotated[str, typer.Option(metavar="PATH", help=TOKENIZER_HELP)] = "",
    served_model: Annotated[str, typer.Option(metavar="NAME", help=SERVED_HELP)] = "",
    key_env: Annotated[str, typer.Option(metavar="VAR", help=KEY_HELP)] = "",
    parallel: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Requests to a server at a time.")
    ] = 8,
    chat: Annotated[bool, typer.Option("--chat", help=CHAT_HELP)] = False,
) -> None:
    """Measure loss by position, passkey retrieval, speed and memory; or a suite of tasks.

    The loss is read once over the longest length, passkeys and speed at every length. Results are
    kept as they come, so a measurement that was interrupted goes on where it stopped.
    """
    check_options(context, model, suite)
    command = shlex.join(["lengthwise", *context.obj])
    if suite:
        measure_suite(
            model,
            suite,
            folder=output,
            command=command,
            specs=method or [],
            own=text,
            upto=upto,
            items=items,
            threshold=threshold,
            server=Server(tokenizer, served_model, key_env, parallel, chat),
            place=Place(chunk, device, dtype, ray),
            seed=seed,
            force=force,
        )
        return
    words = None if text is None else read_text(text)
    check_folder(output, force)
    check_inputs(model, method or [], dtype, together=False)
    read_lengths(lengths, 1)
    wanted = [task.strip() for task in tasks.split(",")]
    for task in wanted:
        if task not in TASKS:
            raise ValueError(f"--tasks: unknown task {task!r}; choose from {', '.join(TASKS)}")

    from lengthwise.cli.inputs import open_model, read_methods
    from lengthwise.measure import grid
    from lengthwise.measure.engines.reading import trained_window
    from lengthwise.measure.tasks.text import held_out_text

    methods = {spec.strip(): read_methods([spec]) for spec in method or ["plain"]}
    loaded, own_tokenizer = open_model(model, device, dtype)
    tokens = read_lengths(lengths, trained_window(loaded))
    saved = take_out(loaded)
    if saved:
        methods[AS_SAVED] = saved
    check_methods(loaded, methods, max(tokens), chunk, every_logit="loss" in wanted)
    cells = [
        cell
        for task in TASKS
        if task in wanted
        for cell in grid(task, methods, [max(tokens)] if task == "loss" else tokens)
    ]
    carry_out(
        loaded,
        own_tokenizer,
        methods,
        cells,
        text=words or held_out_text(),
        folder=output,
        command=command,
        begin_anew=force,
        name=model,
        seed=seed,
        loss_samples=samples,
        passkey_count=passkeys,
        chunk=chunk,
    )


def read_lengths(words: str, window: int, option: str = "--lengths") -> list[int]:
    """Lengths in tokens from `512,2x`, where `2x` is two trained windows.

    Raises:
        ValueError: If one of them is no such length.
    """
    lengths = []
    for word in (piece.strip() for piece in words.split(",")):
        lengths.append(read_count(option, word) * (window if word.endswith("x") else 1))
    return sorted(set(lengths))


def take_out(model: "PreTrainedModel") -> "tuple[Method, ...]":
    """The methods that a checkpoint was saved with; the model is left without them."""
    from lengthwise.extend.adapt import binding_of, compose, is_adapted, restore
    from lengthwise.extend.method import AXES

    if not is_adapted(model):
        return ()
    saved, identity = binding_of(model).engine.axes, compose(())
    restore(model)
    return tuple(
        getattr(saved, axis) for axis in AXES if getattr(saved, axis) != getattr(identity, axis)
    )


def check_methods(
    model: "PreTrainedModel",
    methods: "Mapping[str, Sequence[Method]]",
    length: int,
    chunk: int,
    every_logit: bool,
) -> None:
    """Refuse methods that do not fit the model or change nothing, and too great a length.

    Raises:
        ValueError: Which, and what to do.
    """
    from lengthwise.catalogue import check_defaults
    from lengthwise.cli.inputs import check_changes_something
    from lengthwise.cli.memory import check_memory
    from lengthwise.extend.adapt import adapted, binding_of

    for name, chosen in methods.items():
        with adapted(model, *chosen):
            if name != AS_SAVED:
                check_defaults(chosen, binding_of(model).engine.geometry.window)
                check_changes_something(chosen, length)
            check_memory(model, length, chunk, every_logit=every_logit, by=name)


def check_folder(folder: Path, force: bool) -> None:
    """Refuse a place that holds something else than a measurement.

    Raises:
        ValueError: For a file, and for a directory with other contents unless `force`.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a directory for the results")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if SUITE_FILE in names:
        raise ValueError(f"{folder} holds results of a suite; choose another directory")
    if names - leftovers(RESULTS) and RESULTS not in names and not force:
        raise ValueError(
            f"{folder} exists and holds no measurement; choose another directory or add --force"
        )
    check_writable(folder)


def carry_out(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    methods: "Mapping[str, Sequence[Method]]",
    cells: "Sequence[Cell]",
    *,
    text: str,
    folder: Path,
    command: str,
    begin_anew: bool,
    **settings: Any,
) -> None:
    """Measure under a progress bar, print the tables, write the report.

    Args:
        settings: Further arguments of `lengthwise.measure.run_grid`.
    """
    from rich.console import Console

    from lengthwise.measure import Results, print_report, run_grid, write_report
    from lengthwise.measure.run.results import forget_unfinished

    file = folder / RESULTS
    if begin_anew:
        with hold(folder):
            file.unlink(missing_ok=True)
            forget_unfinished(file)
    work_begins()
    try:
        results = run_grid(
            model,
            tokenizer,
            methods,
            cells,
            text=text,
            output=file,
            console=Console(stderr=True),
            **settings,
        )
    except KeyboardInterrupt:
        if file.exists():
            write_report(Results.load(file).as_measurement(), folder / REPORT, command)
        raise typer.Exit(STATUS) from None  # `run` has said what is kept
    write_report(results.as_measurement(), folder / REPORT, command)
    print_report(results.as_measurement(), Console())
    print(f"\nReport: {folder / REPORT}\nNumbers: {file}")
