"""`lengthwise measure --suite`: a suite of tasks on a model in this process or behind a URL."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lengthwise.cli.inputs import check_inputs, read_count, say
from lengthwise.cli.interrupt import STATUS, work_begins
from lengthwise.files import check_writable, hold, leftovers
from lengthwise.hf.files import find_tokenizer
from lengthwise.names import SUITE_FILE, SUITES

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from lengthwise.extend.method import Method
    from lengthwise.measure.engines.base import Reader
    from lengthwise.measure.run.suite.file import SuiteResults
    from lengthwise.measure.run.suite.suites import Suite

REPORT = "report.html"
WINDOWS = 4  # trained windows that a model in this process is read to
# Options that mean nothing together, by the names of `measure`'s arguments.
WITH_SUITE = ("lengths", "tasks", "passkeys", "samples")
OF_SERVER = ("tokenizer", "served_model", "key_env", "parallel", "chat")
WITHOUT_SUITE = ("upto", "items", "threshold", "ray", *OF_SERVER)
OF_PROCESS = ("method", "chunk", "device", "dtype", "ray")


@dataclass(frozen=True)
class Server:
    """How to speak to a model behind a URL."""

    tokenizer: str
    name: str
    key_env: str
    parallel: int
    chat: bool


@dataclass(frozen=True)
class Place:
    """Where and how a model runs that is not behind a URL; `ray` is how many copies, if any."""

    chunk: int
    device: str
    dtype: str
    ray: int | None


@dataclass(frozen=True)
class Own:
    """A person's own text, or questions in the format of SQuAD or HotpotQA."""

    text: str | None
    questions: Mapping[str, Path]
    content: str


def is_url(model: str) -> bool:
    """Whether a MODEL is the address of a server."""
    return model.startswith(("http://", "https://"))


def check_options(context: typer.Context, model: str, suite: str) -> None:
    """Refuse options that would be ignored.

    Raises:
        ValueError: Which, and what it goes with.
    """

    def given(names: tuple[str, ...]) -> str:
        for name in names:
            source = context.get_parameter_source(name)
            if source is not None and source.name == "COMMANDLINE":
                return "--" + name.replace("_", "-")
        return ""

    if not suite:
        if is_url(model):
            raise ValueError(f"{model}: a server is measured by a suite; add --suite quick")
        if option := given(WITHOUT_SUITE):
            raise ValueError(f"{option} goes with --suite only; add --suite quick")
        return
    if option := given(WITH_SUITE):
        raise ValueError(
            f"{option} does not go with --suite, which has its own tasks and lengths: use --upto "
            "and --items"
        )
    if is_url(model) and (option := given(OF_PROCESS)):
        raise ValueError(
            f"{option} is for a model in this process; {model} is a server, which has its own"
        )
    if not is_url(model) and (option := given(OF_SERVER)):
        raise ValueError(f"{option} is for a server; {model} is no URL")


def measure_suite(
    model: str,
    suite_name: str,
    *,
    folder: Path,
    command: str,
    specs: Sequence[str],
    own: Path | None,
    upto: str,
    items: int | None,
    threshold: float,
    server: Server,
    place: Place,
    seed: int,
    force: bool,
) -> None:
    """Carry out a suite and report on it.

    Raises:
        ValueError: As `lengthwise.measure.run.suite.runner.run_suite`, and for bad options.
    """
    given = read_own(own)
    check_suite_folder(folder, force)
    check_inputs("" if is_url(model) else model, specs, place.dtype, together=False)
    read_upto(upto, 1, WINDOWS)
    if suite_name not in SUITES:
        listed = ", ".join(SUITES)
        raise ValueError(f"--suite: there is no suite {suite_name!r}; choose from {listed}")
    if not 0 < threshold < 1:
        raise ValueError(f"--threshold must be between 0 and 1, got {threshold}")
    if is_url(model):
        from lengthwise.measure.engines.wire import address

        address(model)
        check_server(server)

    from lengthwise.cli.inputs import be_quiet, read_methods
    from lengthwise.measure.run.suite.suites import suite

    be_quiet()

    from lengthwise.measure.tasks.text import held_out_text

    filler = given.text or held_out_text()
    chosen = suite(
        suite_name,
        filler,
        text=given.text,
        questions=given.questions,
        items=items,
        threshold=threshold,
    )
    methods = {spec.strip(): read_methods([spec]) for spec in specs or ["plain"]}
    reader: Reader
    if is_url(model):
        reader = open_server(model, server)
        window = reader.describe().get("window")
        lengths = chosen.lengths(read_upto(upto, window, 1), window)
    else:
        reader, methods, lengths = open_here(model, chosen, methods, upto, place)
    if force:
        begin_anew(folder)
    carry_out_suite(
        reader,
        chosen,
        methods,
        lengths,
        folder=folder,
        command=command,
        seed=seed,
        text=filler + given.content,
    )


def open_here(
    model: str,
    chosen: "Suite",
    methods: "dict[str, tuple[Method, ...]]",
    upto: str,
    place: Place,
) -> "tuple[Reader, dict[str, tuple[Method, ...]], list[int]]":
    """A model in this process or copies of it on Ray, the methods that fit, and the lengths."""
    from lengthwise.cli.inputs import open_model
    from lengthwise.cli.measure import AS_SAVED, check_methods, take_out
    from lengthwise.measure.engines.local import LocalReader
    from lengthwise.measure.engines.reading import trained_window

    loaded, tokenizer = open_model(model, place.device, place.dtype)
    window = trained_window(loaded)
    lengths = chosen.lengths(read_upto(upto, window, WINDOWS), window)
    saved = take_out(loaded)
    if saved:
        methods = {**methods, AS_SAVED: saved}
    check_methods(loaded, methods, max(lengths), place.chunk, every_logit=False)
    if place.ray is None:
        return LocalReader(loaded, tokenizer, place.chunk, model), methods, lengths
    from lengthwise.measure.engines.fanout import RayReader

    gpus = 1.0 if loaded.device.type == "cuda" else 0.0
    del loaded  # it was opened to check what was asked; the copies open it for themselves
    path = str(Path(model).resolve()) if Path(model).is_dir() else model
    make = partial(copy_of, path, place, model)
    return RayReader(make, place.ray, gpus=gpus), methods, lengths


def copy_of(path: str, place: Place, name: str) -> "Reader":
    """The model in a process of its own, without the methods that it was saved with."""
    from lengthwise.cli.inputs import be_quiet, open_model
    from lengthwise.cli.measure import take_out
    from lengthwise.measure.engines.local import LocalReader

    be_quiet()
    loaded, tokenizer = open_model(path, place.device, place.dtype)
    take_out(loaded)
    return LocalReader(loaded, tokenizer, place.chunk, name)


def check_server(server: Server) -> str | None:
    """The key of a server, where one is named.

    Raises:
        ValueError: No tokenizer, or no key where one is named.
    """
    if not server.tokenizer:
        raise ValueError(
            "a server needs --tokenizer: the directory or name of its model's tokenizer, by which "
            "items get their exact length"
        )
    key = os.environ.get(server.key_env) if server.key_env else None
    if server.key_env and not key:
        raise ValueError(
            f"--key-env: the environment variable {server.key_env} is not set; put the key there"
        )
    try:
        find_tokenizer(server.tokenizer)
    except ValueError as error:
        raise ValueError(f"--tokenizer: {error}") from None
    return key


def open_server(url: str, server: Server) -> "Reader":
    """The model behind a URL.

    Raises:
        ValueError: No tokenizer, no key where one is named, or what `Endpoint` raises.
    """
    key = check_server(server)
    from lengthwise.measure.engines.endpoint import ChatEndpoint, Endpoint

    reader = (ChatEndpoint if server.chat else Endpoint)(
        url,
        tokenizer=read_tokenizer(server.tokenizer),
        model=server.name or None,
        key=key,
        parallel=server.parallel,
    )
    if not reader.counts:
        say(f"{url} does not count tokens of prompts: one that it cuts would go unnoticed")
    return reader


def read_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    """A tokenizer from a directory or the hub; `demo` is that of the bundled model.

    Raises:
        ValueError: There is none.
    """
    from lengthwise.hf.loading import load_tokenizer

    try:
        return load_tokenizer(find_tokenizer(name))
    except ValueError as error:
        raise ValueError(f"--tokenizer: {error}") from None


def read_upto(words: str, window: int | None, windows: int) -> int:
    """A length in tokens, or in trained windows as `4x`; nothing is `windows` of them.

    Raises:
        ValueError: If it is no such length, or the window is not known.
    """
    words = words.strip() or f"{windows}x"
    count = read_count("--upto", words)
    if not words.endswith("x"):
        return count
    if window is None:
        raise ValueError("the server does not say how long its window is; give --upto in tokens")
    return count * window


def read_own(path: Path | None) -> Own:
    """A person's file: text, or questions where its name ends in .json.

    Raises:
        ValueError: The file cannot be read as that.
    """
    if path is None:
        return Own(None, {}, "")
    from lengthwise.cli.inputs import read_text

    content = read_text(path)
    if path.suffix != ".json":
        return Own(content, {}, content)
    try:
        form = "hotpot" if isinstance(json.loads(content), list) else "squad"
    except (ValueError, RecursionError) as error:  # the latter where it is nested too deeply
        raise ValueError(f"--text: {path} is no JSON: {error}") from None
    return Own(None, {form: path}, content)


def check_suite_folder(folder: Path, force: bool) -> None:
    """Refuse a place that holds something else than results of a suite.

    Raises:
        ValueError: For a file, and for a directory with other contents unless `force`.
    """
    from lengthwise.cli.measure import RESULTS

    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a directory for the results")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if RESULTS in names:
        raise ValueError(f"{folder} holds a measurement without --suite; choose another directory")
    if names - leftovers(SUITE_FILE) and SUITE_FILE not in names and not force:
        raise ValueError(
            f"{folder} exists and holds no measurement; choose another directory or add --force"
        )
    check_writable(folder)


def begin_anew(folder: Path) -> None:
    """Remove the results of a folder, unless another run is writing them."""
    if (folder / SUITE_FILE).exists():
        with hold(folder):
            (folder / SUITE_FILE).unlink()


def carry_out_suite(
    reader: "Reader",
    suite: "Suite",
    methods: "Mapping[str, Sequence[Method]]",
    lengths: Sequence[int],
    *,
    folder: Path,
    command: str,
    seed: int,
    text: str,
) -> None:
    """Answer under a progress bar, print the tables, write the report and the Parquet file."""
    from rich.console import Console

    from lengthwise.measure.run.suite.file import SuiteResults
    from lengthwise.measure.run.suite.runner import run_suite

    work_begins()
    try:
        results = run_suite(
            reader,
            suite,
            methods,
            lengths,
            folder=folder,
            seed=seed,
            text=text,
            command=command,
            console=Console(stderr=True),
        )
    except KeyboardInterrupt:
        if (folder / SUITE_FILE).exists():
            write_out(SuiteResults.load(folder), folder, command)
        raise typer.Exit(STATUS) from None  # `run_suite` has said what is kept
    from lengthwise.measure.report import print_report

    write_out(results, folder, command)
    print_report(results, Console())
    print(f"\nReport: {folder / REPORT}\nNumbers: {folder / SUITE_FILE}")


def write_out(results: "SuiteResults", folder: Path, command: str) -> None:
    """The report and the Parquet file."""
    from lengthwise.measure.report import write_report
    from lengthwise.measure.run.suite.parquet import write_parquet

    write_report(results, folder / REPORT, command)
    try:
        write_parquet(results, folder)
    except ValueError as error:  # without pyarrow
        say(str(error))
