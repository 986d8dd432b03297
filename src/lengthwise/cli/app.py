"""The commands, and the one place where what goes wrong becomes one line and an exit status.

Status 0: done. 2: something that the person can change, a wrong path, option, method, text or
directory. 70: a mistake of ours; LENGTHWISE_DEBUG=1 shows the traceback. 130: Ctrl-C. 141: whoever
read the output has gone.
"""

import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from lengthwise.cli import (
    compare,
    convert,
    demo,
    extend,
    interrupt,
    lab,
    listing,
    measure,
    methods,
    pack,
    plan,
    probe,
    run,
    train,
)
from lengthwise.cli.command import Command

USER_ERROR, BUG, CLOSED_PIPE = 2, 70, 141


class Commands(TyperGroup):
    """The group of all commands, with our way of ending."""

    def main(self, args: Sequence[str] | None = None, *_: Any, **__: Any) -> NoReturn:
        """Run a command line and end the process with its status."""
        arguments = sys.argv[1:] if args is None else list(args)
        try:
            # make_context empties the list that it is given.
            with self.make_context("lengthwise", [*arguments], obj=arguments) as context:
                self.invoke(context)
            sys.stdout.flush()  # a closed pipe shows here
        except typer.Exit as ended:
            sys.exit(ended.exit_code)
        except KeyboardInterrupt as interrupted:
            _say("Interrupted" + (f": {interrupted}" if str(interrupted) else "."))
            sys.exit(interrupt.STATUS)
        except BrokenPipeError:
            # Whoever read the output has gone; the interpreter must not try to flush again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(CLOSED_PIPE)
        except Exception as error:
            sys.exit(_explain(error))
        sys.exit(0)


def _explain(error: Exception) -> int:
    """Say in one line what was wrong; the exit status."""
    if os.environ.get("LENGTHWISE_DEBUG") == "1":
        traceback.print_exc()
    words = getattr(error, "format_message", error.__str__)()  # click words its own errors
    if (option := getattr(error, "option_name", "")) in measure.RENAMED:
        words = f"No such option: {option} (of measure it is {measure.RENAMED[option]} now)"
    if isinstance(error, OSError) and error.filename is not None:
        words = f"{error.filename}: {error.strerror}"
    if hasattr(error, "format_message") or isinstance(error, (ValueError, OSError)):
        _say(f"lengthwise: {words}")
        return USER_ERROR
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        _say("lengthwise: out of memory; try a shorter text, a smaller --chunk or a smaller model")
        return USER_ERROR
    if isinstance(error, ModuleNotFoundError) and (extra := _extra(error.name or "")):
        _say(f"lengthwise: this needs {error.name}: pip install 'lengthwise[{extra}]'")
        return USER_ERROR
    _say(
        f"lengthwise: internal error, {type(error).__name__}: {words} "
        "(set LENGTHWISE_DEBUG=1 for the traceback, and please report it)"
    )
    return BUG


def _extra(module: str) -> str:
    """The optional part of the package that brings a module; empty if none does."""
    from importlib.metadata import PackageNotFoundError, requires

    try:
        needs = requires("lengthwise") or []
    except PackageNotFoundError:
        return ""
    for need in needs:
        package, _, extra = need.partition("; extra == ")
        name = re.split(r"[^\w-]", package)[0].replace("-", "_")
        extra = extra.strip("'\"")
        if extra not in ("", "dev") and name == module.partition(".")[0]:  # dev holds the others
            return extra
    return ""


def _say(words: str) -> None:
    print(" ".join(words.split()), file=sys.stderr)


app = typer.Typer(
    cls=Commands,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for command in (
    demo.demo, methods.methods, extend.extend, run.run, measure.measure, compare.compare,
    plan.plan, pack.pack, train.train, convert.convert,
):  # fmt: skip
    app.command(cls=Command)(command)
app.command("list", cls=Command)(listing.listing)
app.add_typer(lab.lab, name="lab")
app.add_typer(probe.probe, name="probe")


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"lengthwise {version('lengthwise')}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def lengthwise(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """Use and measure language models beyond the length that they were trained for.

    Start with `lengthwise demo`: it needs no network and takes three minutes. Wherever a command
    takes a MODEL, that is a directory with a checkpoint, a .gguf file, a name on the Hugging Face
    hub, or the word `demo` for the small model that comes with lengthwise.
    """
    if context.invoked_subcommand is None:
        print(context.get_help())
