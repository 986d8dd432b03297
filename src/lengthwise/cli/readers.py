"""What `lengthwise measure` measures: a model in this process, copies of it, or a server."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from lengthwise.cli.inputs import say
from lengthwise.hf.files import find_tokenizer
from lengthwise.names import READINGS

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lengthwise.extend.method import Method
    from lengthwise.measure.engines.base import Reader

AS_SAVED = "as saved"
# Options of the one and of the other, by the names of `measure`'s arguments.
OF_SERVER = ("tokenizer", "served_model", "key_env", "parallel")
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
    chat: bool | None = None


def is_url(model: str) -> bool:
    """Whether a MODEL is the address of a server."""
    return model.startswith(("http://", "https://"))


def check_reader(
    context: typer.Context, model: str, names: Sequence[str], server: Server, place: Place
) -> None:
    """Refuse options that would be ignored, and tasks that a reader cannot do.

    Args:
        names: Of suites and tasks.

    Raises:
        ValueError: Which, and what it goes with.
    """
    for name in OF_PROCESS if is_url(model) else OF_SERVER:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            option = "--" + name.replace("_", "-")
            raise ValueError(
                f"{option} is for a model in this process; {model} is a server, which has its own"
                if is_url(model)
                else f"{option} is for a server; {model} is no URL"
            )
    readings = [name for name in names if name in READINGS]
    if readings and (is_url(model) or place.ray is not None):
        raise ValueError(
            f"{readings[0]} is read from a model in this process, and a server or copies can only "
            "be asked: name a suite or tasks without it, as --suite quick"
        )
    if is_url(model):
        from lengthwise.measure.engines.wire import address

        address(model)
        check_server(server)


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


def open_here(
    model: str,
    methods: "Mapping[str, tuple[Method, ...]]",
    lengths_of: Callable[[int], list[int]],
    place: Place,
    every_logit: bool,
) -> "tuple[Reader, Mapping[str, tuple[Method, ...]], list[int]]":
    """A model in this process or copies of it on Ray, the methods that fit, and the lengths.

    Args:
        lengths_of: From the trained window to the lengths.
        every_logit: Whether a loss is read, for which every token has its logits.
    """
    from lengthwise.cli.inputs import open_model
    from lengthwise.hf.prompts import Chat
    from lengthwise.measure.engines.local import LocalReader
    from lengthwise.measure.engines.reading import trained_window

    loaded, tokenizer = open_model(model, place.device, place.dtype)
    lengths = lengths_of(trained_window(loaded))
    saved = take_out(loaded)
    if saved:
        methods = {**methods, AS_SAVED: saved}
    check_methods(loaded, methods, max(lengths), place.chunk, every_logit)
    if place.ray is None:
        reader = LocalReader(loaded, tokenizer, place.chunk, model, chat=place.chat)
        if place.chat is None and isinstance(reader.tokenizer, Chat):
            say("asked in the model's chat template; --no-chat asks without it")
        return reader, methods, lengths
    from lengthwise.measure.engines.fanout import RayReader

    gpus = 1.0 if loaded.device.type == "cuda" else 0.0
    del loaded  # it was opened to check what was asked; the copies open it for themselves
    path = str(Path(model).resolve()) if Path(model).is_dir() else model
    make = partial(copy_of, path, place, model)
    return RayReader(make, place.ray, gpus=gpus), methods, lengths


def copy_of(path: str, place: Place, name: str) -> "Reader":
    """The model in a process of its own, without the methods that it was saved with."""
    from lengthwise.cli.inputs import be_quiet, open_model
    from lengthwise.measure.engines.local import LocalReader

    be_quiet()
    loaded, tokenizer = open_model(path, place.device, place.dtype)
    take_out(loaded)
    return LocalReader(loaded, tokenizer, place.chunk, name, chat=place.chat)


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
