"""How the command line ends: statuses, one line, no traceback, and torch only when it is needed."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from lengthwise.cli import methods
from lengthwise.cli.app import Commands, app
from lengthwise.cli.inputs import MOST

COMMANDS = ("demo", "methods", "extend", "run", "measure")
COMMANDS_AND_INNER = (
    *((name,) for name in (*COMMANDS, "compare", "plan", "pack", "train", "convert", "list")),
    *(("lab", name) for name in ("list", "status", "reproduce")),
    *(("probe", name) for name in ("context", "tokens", "field", "capacity", "heads", "study")),
)


def process(*words: str, **kw: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "lengthwise", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **kw)  # type: ignore[call-overload]


def failing(error: BaseException) -> typer.Typer:
    """A command line with one command, which raises."""
    broken = typer.Typer(cls=Commands)

    @broken.command()
    def command() -> None:
        raise error

    @broken.callback()
    def group() -> None:
        pass

    return broken


def test_help_names_every_command(call: Callable[..., tuple[int, str, str]]) -> None:
    status, out, err = call("--help")
    assert (status, err) == (0, "")
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert call()[:2] == (0, out)


def test_every_command_has_help(call: Callable[..., tuple[int, str, str]]) -> None:
    """Without types of Python, bounds that nobody will meet, and options without a word."""
    for name, *inner in COMMANDS_AND_INNER:
        status, out, err = call(name, *inner, "--help")
        assert (status, err) == (0, "")
        assert out.startswith(f"Usage: {' '.join(['lengthwise', name, *inner])} [OPTIONS]")
        assert not re.search(rf"<\w+|[{{}}]|{MOST}|\[\]|\[\[", out), out
        assert not re.search(r"^  (-\w, )?--\S+( [A-Z]+)?( +\[.*)?$", out, re.MULTILINE), out


def test_help_does_not_wait_for_torch() -> None:
    loaded = (
        "import sys; from lengthwise.cli.app import app; import lengthwise as lw;"
        "print({'torch', 'transformers', 'rich'} & set(sys.modules)); lw.YaRN;"
        "print('torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["set()", "True False"], done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rum"], "No such command 'rum'. Did you mean 'run'?"),
        (["--nonesuch"], "No such option: --nonesuch"),
        (["run"], "Missing argument 'MODEL'."),
        (["run", "demo"], "Missing option '--prompt-file'."),
        (["run", "demo", "--prompt-file", "x", "--chunk", "0"], "--chunk"),
        (["measure", "demo", "-o", "x", "--seed", "many"], "--seed"),
    ],
)
def test_wrong_words_are_one_line(words: list[str], said: str, refused: Callable[..., str]) -> None:
    assert said in refused(*words)


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ValueError("a number\n   is wrong"), 2, "lengthwise: a number is wrong\n"),
        (FileNotFoundError(2, "No such file", "x.txt"), 2, "lengthwise: x.txt: No such file\n"),
        (OSError("disk full"), 2, "lengthwise: disk full\n"),
        (MemoryError(), 2, "lengthwise: out of memory; "),
        (
            ModuleNotFoundError("no", name="pyarrow.lib"),
            2,
            "lengthwise: this needs pyarrow.lib: pip install 'lengthwise[train]'\n",
        ),
        (ModuleNotFoundError("no", name="torch"), 70, "lengthwise: internal error, Module"),
        (KeyError("x"), 70, "lengthwise: internal error, KeyError: 'x' (set LENGTHWISE_DEBUG=1"),
        (KeyboardInterrupt(), 130, "Interrupted.\n"),
        (KeyboardInterrupt("two lines are kept"), 130, "Interrupted: two lines are kept\n"),
    ],
)
def test_every_ending_is_one_line(error: BaseException, status: int, said: str) -> None:
    done = CliRunner().invoke(failing(error), ["command"])
    assert done.exit_code == status
    assert done.stderr.startswith(said) and done.stderr.count("\n") == 1


def test_a_traceback_comes_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LENGTHWISE_DEBUG", "1")
    done = CliRunner().invoke(failing(KeyError("x")), ["command"])
    assert done.exit_code == 70
    assert done.stderr.startswith("Traceback") and "raise error" in done.stderr


def test_the_process_ends_as_the_runner_says() -> None:
    done = process("methods", "yran")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lengthwise: unknown method 'yran'; did you mean YaRN?")
    assert done.stderr.count("\n") == 1


def test_a_reader_who_leaves_early_is_no_error() -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "lengthwise", "methods"]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.parametrize(
    ("begin", "first", "second"),
    [
        # While loading: at once, even where a KeyboardInterrupt would be swallowed.
        ("loading_begins()", 130, None),
        # While working: a KeyboardInterrupt first, and the second time at once.
        ("loading_begins(); work_begins()", None, 130),
    ],
)
def test_interrupts_of_loading_and_of_work(
    begin: str, first: int | None, second: int | None
) -> None:
    program = f"""
import time
from lengthwise.cli.interrupt import loading_begins, work_begins
{begin}
while True:
    try:
        print("ready", flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        pass
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        for expected in (first, second):
            if running.stdout.readline() != "ready\n":
                break
            running.send_signal(signal.SIGINT)
            if expected is not None:
                assert running.wait(60) == expected
        assert running.stderr.read() == "Interrupted.\n"


def test_all_commands_are_registered() -> None:
    assert methods.methods in [command.callback for command in app.registered_commands]
