"""`lengthwise measure`: how far a model really reads with each method, and at what cost."""

import json
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lengthwise.cli.inputs import (
    CHUNK_HELP,
    DEVICE_HELP,
    DTYPE_HELP,
    MOST,
    check_inputs,
    read_count,
    read_text,
    say,
    tell_of_hub,
)
from lengthwise.cli.interrupt import STATUS, work_begins
from lengthwise.cli.readers import Place, Server, check_reader, is_url, open_here, open_server
from lengthwise.cli.strategies import check_strategies, with_strategies
from lengthwise.files import check_writable, hold, leftovers
from lengthwise.measure.run.options import settings
from lengthwise.measure.run.own_copy import find_sets, left_out
from lengthwise.measure.run.plan import read_plan
from lengthwise.names import PUBLISHED, RESULTS, STANDARD, home_of, suite_names

if TYPE_CHECKING:
    from lengthwise.extend.method import Method
    from lengthwise.measure import Cell, Reader, Results, Suite
    from lengthwise.measure.strategies.base import Strategy

REPORT = "report.html"
UPTO, UPTO_OF_SERVER, STANDARD_LENGTHS = "..4x", "..1x", "1x,2x,4x,8x"
PUBLISHED_LENGTHS = "1x"  # what a text is cut to, in its middle
COMPARE_HELP = "Once for each to compare: plain, yarn:factor=8, yarn:factor=8+streamingllm …"
MODEL_HELP = "A checkpoint's directory, a .gguf file, a name on the hub, `demo`, or a server's URL."
OWN_HELP = (
    "A long text in UTF-8, or a .json of questions as SQuAD or HotpotQA have them [default: the "
    "standard library of this Python]"
)
SUITE_HELP = (
    "Suites (quick, ruler, effective, full, flenqa; published ones: lengthwise list published) and "
    "single tasks, separated by commas; tasks with options as lveval:confusing=0/4/8, where each "
    "value behind a / is a task of its own."
)
LENGTHS_HELP = (
    "Tokens, or trained windows as 8x, separated by commas; or ..8x alone, which "
    f"doubles up to there [default: {STANDARD_LENGTHS} for {STANDARD}, {PUBLISHED_LENGTHS} for "
    f"published sets, else {UPTO}, of a server {UPTO_OF_SERVER}]"
)
ITEMS_HELP = (
    "Items for each task and length, and texts for the loss [default: the suite's own; 10 for a "
    "task, 1 text, all of a published set]"
)
DATA_HELP = "The folder with your own copy of published sets, for suites such as longbench."
THRESHOLD_HELP = "The score above which a length counts as read."
RAY_HELP = (
    "Let N copies of the model share the items, on this machine or on the cluster that RAY_ADDRESS "
    "names."
)
TOKENIZER_HELP = "The tokenizer of the server's model: a directory, or a name on the hub."
SERVED_HELP = "The model, as the server names it [default: the only one]"
STRATEGY_HELP = (
    "Once for each way to put a prompt: truncation:window=2048, chainofagents … (lengthwise list "
    "strategies); stands beside --method."
)
CHAT_HELP = (
    "Ask in the model's chat template, which counts towards the length; of a server by chat "
    "completions, beyond the exact length [default: where a model in this process has a template]"
)
KEY_HELP = "The environment variable that holds the server's key."
OUTPUT_HELP = "The directory for the results; an interrupted measurement there is continued."
HERE, THERE = "A model in this process", "A model behind a URL"
# Earlier names of options.
RENAMED = {
    "--tasks": "--suite", "--upto": "--lengths ..LENGTH", "--passkeys": "--items",
    "--samples": "--items",
}  # fmt: skip


@dataclass(frozen=True)
class Own:
    """A person's own text, or questions in the format of SQuAD or HotpotQA."""

    text: str | None
    questions: Mapping[str, Path]
    content: str


def measure(
    context: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help=OUTPUT_HELP)],
    suite: Annotated[str, typer.Option(metavar="NAMES", help=SUITE_HELP)] = STANDARD,
    lengths: Annotated[
        str, typer.Option(metavar="LENGTHS", help=LENGTHS_HELP, show_default=False)
    ] = "",
    items: Annotated[
        int | None, typer.Option(metavar="N", min=1, max=MOST, help=ITEMS_HELP)
    ] = None,
    threshold: Annotated[float, typer.Option(metavar="SCORE", help=THRESHOLD_HELP)] = 0.85,
    text: Annotated[Path | None, typer.Option(metavar="FILE", help=OWN_HELP)] = None,
    data: Annotated[Path | None, typer.Option(metavar="DIR", help=DATA_HELP)] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, max=MOST, help="Draws the items.")] = 0,
    force: Annotated[
        bool, typer.Option("--force", help="Measure anew what is there already.")
    ] = False,
    method: Annotated[
        list[str] | None,
        typer.Option("--method", "-m", metavar="METHOD", help=COMPARE_HELP, rich_help_panel=HERE),
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(metavar="STRATEGY", help=STRATEGY_HELP)
    ] = None,
    chunk: Annotated[
        int,
        typer.Option(metavar="N", min=1, max=MOST, help=CHUNK_HELP, rich_help_panel=HERE),
    ] = 512,
    device: Annotated[
        str, typer.Option(metavar="DEVICE", help=DEVICE_HELP, rich_help_panel=HERE)
    ] = "",
    dtype: Annotated[
        str, typer.Option(metavar="DTYPE", help=DTYPE_HELP, rich_help_panel=HERE)
    ] = "",
    ray: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, max=MOST, help=RAY_HELP, rich_help_panel=HERE),
    ] = None,
    tokenizer: Annotated[
        str, typer.Option(metavar="PATH", help=TOKENIZER_HELP, rich_help_panel=THERE)
    ] = "",
    served_model: Annotated[
        str, typer.Option(metavar="NAME", help=SERVED_HELP, rich_help_panel=THERE)
    ] = "",
    key_env: Annotated[str, typer.Option(metavar="VAR", help=KEY_HELP, rich_help_panel=THERE)] = "",
    parallel: Annotated[
        int,
        typer.Option(
            metavar="N", min=1, max=MOST, help="Requests at a time.", rich_help_panel=THERE
        ),
    ] = 8,
    chat: Annotated[
        bool | None, typer.Option("--chat/--no-chat", help=CHAT_HELP, show_default=False)
    ] = None,
) -> None:
    """Measure loss by position, passkey retrieval, speed and memory; or suites of tasks.

    The loss is read once over the longest length, everything else at every length. Results are
    kept as they come, so a measurement that was interrupted goes on where it stopped.
    """
    server = Server(tokenizer, served_model, key_env, parallel, bool(chat))
    place = Place(chunk, device, dtype, ray, chat)
    names = suite_names(suite)
    for name in names:
        settings(name)
    check_reader(context, model, names, server, place)
    check_strategies(strategy or [], names, asked_only=is_url(model), ray=ray is not None)
    files = find_published(names, data, text)
    own = read_own(text)
    check_folder(output, force)
    if not lengths:
        standard = {*names} <= {*suite_names(STANDARD)}
        lengths = STANDARD_LENGTHS if standard else UPTO
        lengths = UPTO_OF_SERVER if is_url(model) else lengths
        lengths = PUBLISHED_LENGTHS if files else lengths
    if ".." in lengths and "," in lengths:
        raise ValueError(
            f"--lengths: ..LENGTH stands alone, got {lengths!r}; write every length out instead"
        )
    upto = lengths.removeprefix("..") if lengths.startswith("..") else ""
    read_lengths(upto or lengths, 1, single=bool(upto))
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold must be between 0 and 1, got {threshold}")
    check_inputs("" if is_url(model) else model, method or [], dtype, together=False)
    if is_url(model):
        tell_of_hub(tokenizer)

    from lengthwise.cli.inputs import be_quiet, read_methods
    from lengthwise.measure.run.suites import suite as suite_of

    be_quiet()

    from lengthwise.measure.tasks.text import held_out_text

    filler = own.text or held_out_text()
    if files:
        assert data is not None
        chosen = open_published(suite, files, data, items, threshold)
    else:
        chosen = suite_of(
            suite, filler, text=own.text, questions=own.questions, items=items, threshold=threshold
        )

    def lengths_of(window: int | None) -> list[int]:
        found = read_lengths(upto or lengths, window, single=bool(upto))
        return chosen.lengths(found[0], window) if upto else found

    methods: Mapping[str, tuple[Method, ...]]
    specs = method or ([] if strategy else ["plain"])
    methods = {spec.strip(): read_methods([spec]) for spec in specs}
    reader: Reader
    if is_url(model):
        reader = open_server(model, server)
        tokens = lengths_of(reader.describe().get("window"))
    else:
        every_logit = "loss" in names
        reader, methods, tokens = open_here(model, methods, lengths_of, place, every_logit)
    reader, ways = with_strategies(reader, methods, strategy or [])
    carry_out(
        reader,
        chosen,
        ways,
        tokens,
        folder=output,
        command=shlex.join(["lengthwise", *context.obj]),
        text=filler + own.content,
        seed=seed,
        begin_anew=force,
    )


def find_published(names: Sequence[str], data: Path | None, text: Path | None) -> dict[str, Path]:
    """The files of published sets by task; none where none of the names is one.

    Raises:
        ValueError: As `find_sets`; published sets without a folder, or options without them.
    """
    homes = [name for name in names if home_of(name) is not None]
    if not homes:
        if data is not None:
            raise ValueError(
                f"--data is for published sets ({', '.join(PUBLISHED)}), and --suite {names[0]} is "
                "made here"
            )
        return {}
    if data is None:
        raise ValueError(
            f"{homes[0]} is scored from your own copy: add --data with its folder; nothing is "
            "downloaded"
        )
    if text is not None:
        raise ValueError(f"--text is for tasks that are made here; {homes[0]} has texts of its own")
    return find_sets(names, data)


def open_published(
    suite: str, files: Mapping[str, Path], data: Path, items: int | None, threshold: float
) -> "Suite":
    """The suite of published sets, after saying what is left out and what is known of it."""
    from lengthwise.measure.published import suite_of

    chosen = suite_of(suite, files, data, items=items, threshold=threshold)
    if missing := left_out(suite_names(suite), list(files)):
        say(missing)
    for task in chosen.tasks.values():
        for fact in task.facts():  # type: ignore[union-attr]
            say(fact)
    return chosen


def read_lengths(
    words: str, window: int | None, option: str = "--lengths", single: bool = False
) -> list[int]:
    """Lengths in tokens from `512,2x`, where `2x` is two trained windows.

    Args:
        single: Whether there is to be one only.

    Raises:
        ValueError: If one of them is no such length, or the window is not known.
    """
    lengths = []
    for word in (piece.strip() for piece in ([words] if single else words.split(","))):
        count = read_count(option, word)
        if word.endswith("x"):
            if window is None:
                raise ValueError(
                    f"the server does not say how long its window is; give {option} in tokens"
                )
            count *= window
        lengths.append(count)
    return sorted(set(lengths))


def read_own(path: Path | None) -> Own:
    """A person's file: text, or questions where its name ends in .json.

    Raises:
        ValueError: The file cannot be read as that.
    """
    if path is None:
        return Own(None, {}, "")
    content = read_text(path)
    if path.suffix != ".json":
        return Own(content, {}, content)
    try:
        form = "hotpot" if isinstance(json.loads(content), list) else "squad"
    except (ValueError, RecursionError) as error:  # the latter where it is nested too deeply
        raise ValueError(f"--text: {path} is no JSON: {error}") from None
    return Own(None, {form: path}, content)


def check_folder(folder: Path, force: bool) -> None:
    """Refuse a place that holds something else than a measurement of this version.

    Raises:
        ValueError: For a file, and for a directory with other contents unless `force`.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a directory for the results")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if names - leftovers(RESULTS) and RESULTS not in names and not force:
        raise ValueError(
            f"{folder} exists and holds no measurement; choose another directory or add --force"
        )
    if RESULTS in names and not force:
        # Before a model is loaded to be measured into it.
        read_plan(folder / RESULTS, "choose another directory or add --force")
    check_writable(folder)


def carry_out(
    reader: "Reader",
    suite: "Suite",
    methods: "Mapping[str, Sequence[Method | Strategy]]",
    lengths: Sequence[int],
    *,
    folder: Path,
    command: str,
    text: str,
    seed: int = 0,
    only: "Collection[Cell] | None" = None,
    begin_anew: bool = False,
) -> None:
    """Measure under a progress bar, print the tables, write the report and the Parquet file."""
    from rich.console import Console

    from lengthwise.measure import Results, measure, print_report

    if begin_anew and (folder / RESULTS).exists():
        with hold(folder):
            (folder / RESULTS).unlink()
    work_begins()
    try:
        results = measure(
            reader,
            suite,
            methods,
            lengths,
            folder=folder,
            only=only,
            seed=seed,
            text=text,
            command=command,
            console=Console(stderr=True),
        )
    except KeyboardInterrupt:
        if (folder / RESULTS).exists():
            write_out(Results.load(folder), folder, command)
        raise typer.Exit(STATUS) from None  # `measure` has said what is kept
    write_out(results, folder, command)
    print_report(results, Console())
    print(f"\nReport: {folder / REPORT}\nNumbers: {folder / RESULTS}")


def write_out(results: "Results", folder: Path, command: str) -> None:
    """The report, and the Parquet file of what was answered."""
    from lengthwise.measure import write_report
    from lengthwise.measure.run.parquet import write_parquet

    write_report(results, folder / REPORT, command)
    if not results.rows:
        return
    try:
        write_parquet(results, folder)
    except ValueError as error:  # without pyarrow
        say(str(error))
