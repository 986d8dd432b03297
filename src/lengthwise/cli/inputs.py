"""What several commands take: a model, methods, a file of text."""

import logging
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lengthwise.catalogue import check
from lengthwise.hf.files import find_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from lengthwise.extend.method import Method

METHOD_HELP = "yarn:factor=8 or infllm:pages=32, say; join several on different axes by +."
MODEL_HELP = "A checkpoint's directory, a .gguf file, a name on the Hugging Face hub, or `demo`."
MOST = 1 << 31  # of whole numbers that options take
DTYPES = ("float32", "bfloat16", "float16")
DEVICE_HELP = "cpu, cuda, cuda:1 … [default: a GPU if there is one]"
DTYPE_HELP = f"{', '.join(DTYPES)} [default: the checkpoint's own; for demo float32]"
Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, show_default=False)]
Device = Annotated[str, typer.Option(metavar="DEVICE", help=DEVICE_HELP)]
Dtype = Annotated[str, typer.Option(metavar="DTYPE", help=DTYPE_HELP)]
Methods = Annotated[
    list[str] | None, typer.Option("--method", "-m", metavar="METHOD", help=METHOD_HELP)
]
TEXT_HELP = "A text in UTF-8 [default: the standard library of this Python]"
Text = Annotated[Path | None, typer.Option(metavar="FILE", help=TEXT_HELP)]
Seed = Annotated[
    int, typer.Option(metavar="N", min=0, max=MOST, help="Draws everything that is random.")
]
CHUNK_HELP = "Tokens that are read in one forward pass."
Chunk = Annotated[int, typer.Option(metavar="N", min=1, max=MOST, help=CHUNK_HELP)]


def say(words: str) -> None:
    """One line for the person at the terminal; scripts read stdout, which this leaves alone."""
    print(words, file=sys.stderr)


def read_text(path: Path) -> str:
    """The text of a file in UTF-8; `-` is the standard input.

    Raises:
        ValueError: If there is no such file, or it is empty, binary or in another encoding.
    """
    if str(path) == "-":
        data = sys.stdin.buffer.read()
    elif not path.exists():
        raise ValueError(f"there is no file {path}")
    elif path.is_dir():
        raise ValueError(f"{path} is a directory; name a file of text")
    else:
        data = path.read_bytes()
    if b"\0" in data:
        raise ValueError(
            f"{path} is binary, not text: byte {data.index(0):,} is NUL; give plain text in UTF-8"
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte {error.start:,} is 0x{data[error.start]:02x}; "
            "convert it first, for instance with iconv -t utf-8"
        ) from None
    text = text.removeprefix("\ufeff")  # the mark that some editors put first
    if not text.strip():
        raise ValueError(f"{path} is empty; give a file with text in it")
    return text


def read_count(option: str, words: str) -> int:
    """The number of `4096`, in tokens, or of `8x`, in trained windows.

    Raises:
        ValueError: If it is none, or out of range.
    """
    number = words.removesuffix("x")
    digits = number.isascii() and number.isdigit() and len(number) <= len(str(MOST))
    if not (digits and 1 <= int(number) <= MOST):
        raise ValueError(
            f"{option}: {words[:40]!r} is no length; write tokens as 4096 or windows as 8x, at "
            f"most {MOST:,}"
        )
    return int(number)


def check_inputs(
    model: str = "", methods: Sequence[str] = (), dtype: str = "", *, together: bool = True
) -> None:
    """Refuse what can be seen to be wrong before torch is imported, which takes seconds.

    Args:
        model: A MODEL, unless it is empty.
        methods: What `--method` was given.
        dtype: What `--dtype` was given.
        together: Whether the methods are for one model, or each to be compared.

    Raises:
        ValueError: For a directory without a checkpoint or with a damaged one, a method that
            there is not or an option of it that is wrong, or an unknown dtype.
    """
    check(methods, together)
    if dtype not in ("", "auto", *DTYPES):
        raise ValueError(f"--dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    if model:
        find_checkpoint(model)
        tell_of_hub(model)


def tell_of_hub(name: str) -> None:
    """Say where a name that is nothing here is looked for: without a network that takes long."""
    from huggingface_hub.constants import HF_HUB_OFFLINE

    if not (HF_HUB_OFFLINE or name == "demo" or Path(name).exists()):
        say(f"There is no directory {name} here; asking the Hugging Face hub for it …")


def open_model(
    name: str, device: str = "", dtype: str = "", reads: bool = True
) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
    """`lengthwise.load`, quietly, on a device.

    Args:
        reads: Whether the model has to read texts and go on with them; encoders cannot.

    Raises:
        ValueError: As `lengthwise.load`, and for an unknown device or dtype, or a model that
            lengthwise cannot adapt.
    """
    check_inputs(dtype=dtype)  # the model's files are looked at once more when they are loaded
    be_quiet()
    import torch

    from lengthwise.extend.checkpoint import load
    from lengthwise.hf.families import refuse_unsupported
    from lengthwise.hf.other import kind_of

    wanted = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(wanted)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError):  # torch asserts where it was built without CUDA
        raise ValueError(f"--device {wanted!r} is not on this machine; try cpu") from None
    local = name == "demo" or Path(name).exists()
    numbers = dtype or ("float32" if name == "demo" and place.type == "cpu" else "auto")
    try:
        model, tokenizer = load(name, dtype=numbers)
    except ValueError as error:
        if local:
            raise
        raise ValueError(f"there is no directory {name} here; {error}") from None
    kind = kind_of(model)
    if kind is None:
        refuse_unsupported(model)
    elif reads and kind != "alibi":
        raise ValueError(
            f"{name} is a {model.config.model_type}, no causal language model: it cannot be read "
            "with here; `lengthwise extend` and Python's lw.adapt take it"
        )
    return model.to(place).eval(), tokenizer


def be_quiet() -> None:
    """Keep the libraries' own warnings and progress bars off the terminal; ours are a line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if os.environ.get("LENGTHWISE_DEBUG") == "1":
        return
    from lengthwise.core.built import BuildWarning

    warnings.simplefilter("ignore")
    warnings.simplefilter("default", BuildWarning)
    warnings.showwarning = lambda message, *_, **__: say(f"Note: {message}")
    # On some processors it asks for a package that would fetch code from the hub.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    import huggingface_hub.utils.logging as hub
    import transformers.utils.logging as ours

    hub.set_verbosity_error()
    ours.set_verbosity_error()
    ours.disable_progress_bar()


def read_methods(specs: Sequence[str]) -> "tuple[Method, ...]":
    """The methods of all `--method` options together, at most one on each axis.

    Raises:
        ValueError: If one is unknown or wrong, or two do not go together.
    """
    from lengthwise.catalogue import parse_many
    from lengthwise.extend.adapt import compose

    chosen = tuple(method for spec in specs for method in parse_many(spec))
    compose(chosen)  # before a model is loaded, which may take minutes
    return chosen


def check_changes_something(chosen: "Sequence[Method]", length: int) -> None:
    """Refuse a window that covers a whole text, for then the method would change nothing.

    Args:
        length: Tokens that will be read and written.

    Raises:
        ValueError: With both sizes.
    """
    from lengthwise.extend.method import Store

    endless = 1 << 50
    for method in chosen:
        covered = getattr(method, "window", 0)
        if isinstance(method, Store):
            covered = method.kept(endless)
        if length <= covered < endless:
            does = "keeps" if isinstance(method, Store) else "has a window of"
            raise ValueError(
                f"{type(method).__name__} {does} {covered:,} tokens and the text has {length:,}, "
                "so it would change nothing; choose a smaller window or a longer text"
            )
