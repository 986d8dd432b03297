"""`lengthwise run`: read a long text, then answer."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lengthwise.cli.inputs import (
    MOST,
    Chunk,
    Device,
    Dtype,
    Methods,
    Model,
    check_inputs,
    read_text,
    say,
)  # fmt: skip
from lengthwise.cli.interrupt import work_begins
from lengthwise.cli.strategies import answer_by, check_strategy

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lengthwise.extend.engine import Engine
    from lengthwise.extend.scores import ScoreEngine

PROMPT_HELP = "A text in UTF-8; - is the standard input."
STRATEGY_HELP = (
    "Put the text and the question as chainofagents:window=2048 or another of `lengthwise list "
    "strategies` does."
)
CHAT_HELP = "Whether to use the tokenizer's chat template [default: if it has one]"


def run(
    model: Model,
    prompt_file: Annotated[Path, typer.Option(metavar="FILE", help=PROMPT_HELP)],
    method: Methods = None,
    question: Annotated[
        str, typer.Option("--question", "-q", metavar="TEXT", help="Asked after the text.")
    ] = "",
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Tokens of the answer, at most.")
    ] = 128,
    strategy: Annotated[str, typer.Option(metavar="STRATEGY", help=STRATEGY_HELP)] = "",
    chunk: Chunk = 512,
    chat: Annotated[bool | None, typer.Option("--chat/--no-chat", help=CHAT_HELP)] = None,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Read a text of any length and answer a question about it, token by token.

    The likeliest token is taken every time, so the same command gives the same answer. The
    answer goes to the standard output and everything else to the standard error.
    """
    text = read_text(prompt_file)
    check_inputs(model, method or [], dtype)
    if strategy:
        check_strategy(strategy)
        if not question:
            raise ValueError("--strategy puts a question to a text; add --question")

    from lengthwise.cli.inputs import check_changes_something, open_model, read_methods

    chosen = read_methods(method or [])

    from lengthwise.catalogue import check_defaults
    from lengthwise.cli.memory import check_memory
    from lengthwise.extend.adapt import adapt, binding_of, is_adapted

    loaded, tokenizer = open_model(model, device, dtype)
    if not is_adapted(loaded):
        adapt(loaded, *chosen)
    elif chosen:
        raise ValueError(f"{model} carries methods already; run it without --method")
    engine = binding_of(loaded).engine
    check_defaults(chosen, engine.geometry.window)
    if strategy:
        answer_by(strategy, loaded, tokenizer, text, question, max_new_tokens, chunk, chat)
        return
    ids = encode(tokenizer, text, question, chat)
    length = ids.shape[1] + max_new_tokens
    check_changes_something(chosen, length)
    check_memory(loaded, length, chunk)
    note_reach(engine, length)

    work_begins()
    answered = 0
    began = time.perf_counter()
    try:
        logits, cache = read_all(loaded, ids, chunk)
        read_seconds = time.perf_counter() - began
        tokens = generate(loaded, logits, cache, ids.shape[1], max_new_tokens)
        for piece in pieces(tokenizer, tokens):
            answered += 1
            sys.stdout.write(piece)
            sys.stdout.flush()
    except ValueError:
        if answered:
            print(flush=True)
        raise
    except KeyboardInterrupt:
        if not answered:
            raise KeyboardInterrupt("nothing was answered yet") from None
        print(flush=True)
        raise KeyboardInterrupt("the answer so far is above") from None
    print(flush=True)
    if sys.stderr.isatty():
        from lengthwise.measure.cost.speed import cache_bytes

        seconds = time.perf_counter() - began - read_seconds
        say(
            f"Read {ids.shape[1]:,} tokens in {read_seconds:.1f} s "
            f"({ids.shape[1] / read_seconds:,.0f} a second), answered {answered:,} in "
            f"{seconds:.1f} s, the cache holds {cache_bytes(cache) / 1e6:,.1f} MB."
        )


def note_reach(engine: "Engine | ScoreEngine", length: int) -> None:
    """Say that distances will be longer than the model knows: of a whole text where nothing but a
    scaling could help with it, else of a window.
    """
    from lengthwise.extend.adapt import compose

    axes, own = engine.axes, compose(())
    reach = axes.scaling.reach(engine.geometry.window)
    if length <= reach or not axes.scaling.static:
        return
    name = "the plain model" if axes.scaling == own.scaling else type(axes.scaling).__name__
    at_their_places = (axes.layout, axes.selector) == (own.layout, own.selector)
    if at_their_places and not axes.store.in_cache:
        say(f"Note: {length:,} tokens are beyond the {reach:,} that {name} was made for.")
        return
    for method in (axes.store, axes.layout):
        window = getattr(method, "window", 0)
        if window > reach:
            what = f"{type(method).__name__}'s window of {window:,} tokens"
            say(f"Note: {what} is beyond the {reach:,} that {name} was made for.")
            return


def encode(
    tokenizer: "PreTrainedTokenizerBase", text: str, question: str, chat: bool | None
) -> "Tensor":
    """The prompt as tokens `[1, t]`.

    Raises:
        ValueError: If a chat is asked of a tokenizer that has no template for it, or a bad one.
    """
    import torch

    from lengthwise.hf.prompts import encode_chat, encode_prompt

    templated = bool(getattr(tokenizer, "chat_template", None))
    if chat and not templated:
        raise ValueError("this model's tokenizer has no chat template; use --no-chat")
    if templated and chat is not False:
        content = f"{text.rstrip()}\n\n{question}" if question else text
        return torch.tensor([encode_chat(tokenizer, content)])
    prompt = f"{text.rstrip()}\n{question}" if question else text
    return torch.tensor([encode_prompt(tokenizer, prompt)])


def read_all(model: "PreTrainedModel", ids: "Tensor", chunk: int) -> "tuple[Tensor, Any]":
    """Read the prompt in chunks under a progress bar; the last logits and the cache."""
    import torch
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from lengthwise.measure.engines.reading import read

    console = Console(stderr=True)
    columns = (
        TextColumn("reading"),
        BarColumn(),
        TextColumn("{task.completed:,} of {task.total:,} tokens, {task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    began = time.perf_counter()
    bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
    with bar, torch.no_grad():
        task = bar.add_task("", total=ids.shape[1], speed="…")
        for logits, cache in read(model, ids, chunk):
            done = cache.get_seq_length()
            speed = f"{done / (time.perf_counter() - began):,.0f} a second"
            bar.update(task, completed=done, speed=speed)
    return logits, cache


def generate(
    model: "PreTrainedModel", logits: "Tensor", cache: Any, length: int, limit: int
) -> Iterator[int]:
    """The likeliest tokens after `length` read ones, up to an end token or `limit`.

    Raises:
        ValueError: Once the logits are NaN.
    """
    from lengthwise.measure.engines.greedy import answering, end_tokens

    ends = end_tokens(model)
    for written, _ in answering(model, logits, cache, length, limit):
        if written[0] in ends:
            return
        yield written[0]


def pieces(tokenizer: "PreTrainedTokenizerBase", tokens: Iterator[int]) -> Iterator[str]:
    """The text that each token adds; a character waits until all its bytes are there."""
    seen: list[int] = []
    shown = ""
    for token in tokens:
        seen.append(token)
        text = tokenizer.decode(seen, skip_special_tokens=True)
        if text.endswith("\ufffd"):
            yield ""
            continue
        yield text[len(shown) :]
        shown = text
    rest = tokenizer.decode(seen, skip_special_tokens=True)
    if len(rest) > len(shown):
        yield rest[len(shown) :]
