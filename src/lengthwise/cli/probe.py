"""`lengthwise probe`: where in its context a model looks, how far, and what that is worth."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lengthwise.cli.command import Command
from lengthwise.cli.inputs import (
    MOST,
    Device,
    Dtype,
    Methods,
    Model,
    Seed,
    Text,
    check_inputs,
    read_text,
)  # fmt: skip
from lengthwise.cli.interrupt import work_begins
from lengthwise.cli.measure import read_lengths
from lengthwise.cli.study import study
from lengthwise.files import check_writable, write_text

if TYPE_CHECKING:
    from rich.progress import Progress
    from torch import Tensor


probe = typer.Typer(
    help="Where in its context a model looks, how far, and what that is worth.",
    no_args_is_help=True,
)
JSON_HELP = "Also write the numbers to this file, as JSON."
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help=JSON_HELP)]
Force = Annotated[bool, typer.Option("--force", help="Replace a --json file that exists.")]


def _opened(model: str, method: list[str] | None, device: str, dtype: str) -> tuple[Any, Any]:
    """The model with the methods, and its tokenizer."""
    from lengthwise.cli.inputs import open_model, read_methods
    from lengthwise.extend.adapt import adapt

    chosen = read_methods(method or [])
    loaded, tokenizer = open_model(model, device, dtype)
    if chosen:
        adapt(loaded, *chosen)
    return loaded, tokenizer


def _ids(tokenizer: Any, text: Path | None) -> "Tensor":
    """The tokens of a text, without those that the tokenizer adds."""
    import torch

    from lengthwise.measure.tasks.text import held_out_text

    words = held_out_text() if text is None else read_text(text)
    return torch.tensor(tokenizer(words, add_special_tokens=False, verbose=False)["input_ids"])


def _check(
    model: str, method: list[str] | None, dtype: str, text: Path | None, path: Path | None,
    force: bool,
) -> None:  # fmt: skip
    """Refuse what is wrong, and a file that would be written over, before hours of work.

    Raises:
        ValueError: For the inputs of all commands, and if the file exists and `force` is not set.
    """
    check_inputs(model, method or [], dtype)
    if text is not None:
        read_text(text)
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{path} is a directory; name a file for the numbers")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; choose another file or replace it with --force")
    check_writable(path.parent)


def _keep(path: Path | None, record: Any) -> None:
    """Write the numbers, whole or not at all."""
    if path is not None:
        write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _busy(words: str) -> "Progress":
    """A clock beside some words, for work whose length is not known."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    shown = Progress(
        SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn(),
        console=console, transient=True, disable=not console.is_terminal,
    )  # fmt: skip
    shown.add_task(words, total=None)
    return shown


@probe.command(cls=Command)
def context(
    model: Model,
    method: Methods = None,
    contexts: Annotated[
        str, typer.Option(metavar="LENGTHS", help="Tokens, or trained windows as in 2x.")
    ] = "16,32,64,128,256,1x,2x,4x",
    places: Annotated[int, typer.Option(metavar="N", min=2, max=MOST, help="Blocks of text.")] = 32,
    block: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Tokens of a block.")
    ] = 16,
    tolerance: Annotated[
        float,
        typer.Option(metavar="NATS", min=0.0, help="A gain for each token that is no help yet."),
    ] = 0.02,
    text: Text = None,
    seed: Seed = 0,
    output: Json = None,
    force: Force = False,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Loss of the same tokens under every context length, and the real effective context."""
    _check(model, method, dtype, text, output, force)
    read_lengths(contexts, 1, "--contexts")
    import torch

    from lengthwise.measure.engines.reading import first_token, trained_window
    from lengthwise.measure.probes import effective_context, losses_by_context

    loaded, tokenizer = _opened(model, method, device, dtype)
    lengths = read_lengths(contexts, trained_window(loaded), "--contexts")
    ids = _ids(tokenizer, text)
    work_begins()
    with _busy(f"{places} blocks under {len(lengths)} contexts"):
        losses = losses_by_context(
            loaded, ids, lengths, block=block, places=places, head=first_token(tokenizer)
        )
    generator = torch.Generator().manual_seed(seed)
    found = effective_context(losses, lengths, generator, tolerance=tolerance)
    means = losses.mean(0).tolist()
    for length, mean in zip(lengths, means, strict=True):
        print(f"{length:>10,} tokens of context  {mean:8.4f} nats per token")
    print(
        f"effective context: {found.value:,.0f} tokens (95%: {found.low:,.0f} to "
        f"{found.high:,.0f}); beyond it no context gains more than {tolerance} nats"
    )
    if found.high == lengths[-1]:
        print("The longest context is within the interval: longer ones may still help.")
    record = {"contexts": lengths, "nats": means, "effective": vars(found), "tolerance": tolerance}
    _keep(output, record | {"model": model, "methods": method or [], "seed": seed})


@probe.command(cls=Command)
def tokens(
    model: Model,
    text: Annotated[Path, typer.Option(metavar="FILE", help="A short text in UTF-8.")],
    method: Methods = None,
    window: Annotated[
        int, typer.Option(metavar="N", min=2, max=MOST, help="Tokens read at once.")
    ] = 128,
    last: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Predictions to show.")
    ] = 4,
    output: Json = None,
    force: Force = False,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Which tokens of its context the last predictions of a text rest on."""
    _check(model, method, dtype, text, output, force)
    from lengthwise.measure.engines.reading import first_token
    from lengthwise.measure.probes import ContextLengthProbing, importance

    words = read_text(text)
    loaded, tokenizer = _opened(model, method, device, dtype)
    probing = ContextLengthProbing(window, head=first_token(tokenizer))
    ids = _ids(tokenizer, text)
    work_begins()
    with _busy(f"{len(ids)} windows of {window} tokens"):
        scores = importance(probing.losses(loaded, ids))
    said = [tokenizer.decode([token]) for token in ids.tolist()]
    for place in range(max(1, len(ids) - last), len(ids)):
        row = scores[place].nan_to_num(nan=0.0)
        best = row.topk(min(5, len(row)))
        parts = [
            f"{said[place - distance - 1]!r} {distance + 1} back {value:+.2f}"
            for value, distance in zip(best.values.tolist(), best.indices.tolist(), strict=True)
            if distance < place
        ]
        print(f"{said[place]!r}: {', '.join(parts)}")
    _keep(output, {"text": words, "tokens": said, "importance": scores.nan_to_num().tolist()})


@probe.command(cls=Command)
def field(
    model: Model,
    method: Methods = None,
    length: Annotated[
        int, typer.Option(metavar="N", min=2, max=MOST, help="Tokens of the text.")
    ] = 512,
    block: Annotated[
        int, typer.Option(metavar="N", min=1, max=MOST, help="Tokens changed at once.")
    ] = 32,
    text: Text = None,
    seed: Seed = 0,
    output: Json = None,
    force: Force = False,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """How far the last token can look by the model's design, and how far it does look."""
    _check(model, method, dtype, text, output, force)
    import torch

    from lengthwise.measure.probes import extent, perturbation_field, theoretical_field

    loaded, tokenizer = _opened(model, method, device, dtype)
    ids = _ids(tokenizer, text)
    if len(ids) < length:
        raise ValueError(f"the text has {len(ids):,} tokens, --length asks for {length:,}")
    work_begins()
    with _busy(f"{-(-length // block)} changes of {block} tokens"):
        reached = theoretical_field(loaded, length)
        generator = torch.Generator().manual_seed(seed)
        effects = perturbation_field(loaded, ids[:length], generator, block=block)
    counts = reached.sum(1).tolist()
    print(f"one layer reaches {counts[-2]:,} of {length:,} tokens, all layers {counts[0]:,}")
    for share in (0.5, 0.9, 0.99):
        tokens_back = min(length, extent(effects, share) * block)
        print(f"{share:.0%} of the effect comes from the last {tokens_back:,} tokens")
    record = {"reached_before_layer": counts, "block": block, "nats": effects.tolist()}
    _keep(output, record | {"model": model, "methods": method or [], "seed": seed})


@probe.command(cls=Command)
def capacity(
    model: Model,
    method: Methods = None,
    length: Annotated[
        int, typer.Option(metavar="N", min=2, max=MOST, help="Tokens of a text.")
    ] = 512,
    texts: Annotated[int, typer.Option(metavar="N", min=1, max=MOST, help="Texts.")] = 8,
    bias: Annotated[float, typer.Option(metavar="BITS", help="Added to the bits saved.")] = 0.0,
    text: Text = None,
    output: Json = None,
    force: Force = False,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Bits of text saved for each doubling of a model's operations, tokenizer included."""
    _check(model, method, dtype, text, output, force)
    from lengthwise.measure.probes import information_capacity
    from lengthwise.measure.tasks.text import held_out_text

    loaded, tokenizer = _opened(model, method, device, dtype)
    words = held_out_text() if text is None else read_text(text)
    size = len(words) // texts
    work_begins()
    with _busy(f"{texts} texts of {length} tokens"):
        parts = [words[i * size : (i + 1) * size] for i in range(texts)]
        found = information_capacity(loaded, tokenizer, parts, length)
    print(
        f"{found.text_bits:.2f} bits of text in a token, {found.loss_bits:.2f} bits of loss, "
        f"{found.flops:.3g} operations: information capacity {found.capacity(bias):.4f}"
    )
    _keep(output, {**vars(found), "bias": bias, "capacity": found.capacity(bias), "model": model})


@probe.command(cls=Command)
def heads(
    model: Model,
    length: Annotated[
        int, typer.Option(metavar="N", min=16, max=MOST, help="Tokens of texts and passkeys.")
    ] = 512,
    share: Annotated[
        float, typer.Option(metavar="SHARE", help="Of all heads that are flagged.")
    ] = 0.1,
    draws: Annotated[
        int, typer.Option(metavar="N", min=2, max=MOST, help="Sets of random heads.")
    ] = 20,
    items: Annotated[int, typer.Option(metavar="N", min=1, max=MOST, help="Passkeys.")] = 16,
    seed: Seed = 0,
    output: Json = None,
    force: Force = False,
    device: Device = "",
    dtype: Dtype = "",
) -> None:
    """Find positional heads, and see what is lost without them and without as many others."""
    _check(model, None, dtype, None, output, force)
    from lengthwise.lab.heads import evidence

    loaded, tokenizer = _opened(model, None, device, dtype)
    work_begins()
    with _busy(f"{draws + 2} ablations"):
        found = evidence(
            loaded,
            tokenizer,
            model,
            length=length,
            flag=share,
            draws=draws,
            items=items,
            seed=seed,
        )
    for finding in found.findings:
        print(f"{'holds' if finding.holds else 'fails'}: {finding}")
    print(f"verdict: {found.verdict}")
    _keep(output, found.record())


probe.command(cls=Command)(study)
