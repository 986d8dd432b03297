"""What the files beside this one share: command lines tried in this process, and how they end."""

import argparse
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

ALLOWED = (0, 2, 130)
SECONDS = 60  # what takes longer hangs
Ended = tuple[int | str, str]  # the status, or why there is none, and what was said on stderr
Case = Callable[[int], tuple[str, Callable[[], Ended]]]  # from a number: what it is, and to try it


class Hangs(BaseException):
    """Not an Exception: no command may take it for one of its own."""


@contextmanager
def in_time(seconds: int) -> Iterator[None]:
    def late(*_: object) -> None:
        raise Hangs

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def answer(words: list[str]) -> Ended:
    """The status of a command line in this process, and what it said on stderr."""
    from typer.testing import CliRunner

    from lengthwise.cli.app import app

    try:
        with in_time(SECONDS):
            done = CliRunner().invoke(app, words, input="y\n" * 20)
    except Hangs:
        return f"no end in {SECONDS} s", ""
    return done.exit_code, done.stderr


def reading(model: Path, folder: Path) -> list[list[object]]:
    """Command lines that read a model, a text beside it, and write to `folder`/out."""
    text, out = folder / "text.txt", folder / "out"
    run = ["run", model, "--prompt-file", text, "--max-new-tokens", 3]
    return [
        run,
        [*run, "-m", "yarn:factor=8"],
        ["extend", model, "-o", out, "-m", "selfextend:group=2,window=16"],
        ["plan", model, "--device", "h100"],
        ["pack", text, "-o", out, "--capacity", 64, "--tokenizer", model, "--workers", 1],
        ["probe", "context", model, "--contexts", "8,16", "--places", 2, "--block", 4,
         "--text", text],
        ["measure", model, "-o", out, "--lengths", 32, "--suite", "loss", "--text", text],
    ]  # fmt: skip


def fault(status: int | str, said: str) -> str:
    """What is wrong with an answer; nothing if it is as it should be."""
    if status not in ALLOWED:
        return f"status {status}: {said.strip()[-300:]}"
    if "Traceback" in said:
        return f"a traceback: {said.strip()[-300:]}"
    lines = [line for line in said.splitlines() if line.startswith("lengthwise: ")]
    return f"status 2 says {said!r}" if status == 2 and len(lines) != 1 else ""


def faults(case: Case, numbers: Iterable[int]) -> list[str]:
    """A line for each that was answered badly."""
    found = []
    for number in numbers:
        what, attempt = case(number)
        if wrong := fault(*attempt()):
            found.append(f"{number}: {what} | {wrong}")
            print(found[-1], flush=True)
    return found


def main(doc: str | None, what: str, count: int, cases: Callable[[int, Path], Case]) -> int:
    """Try as many as the command line asks for, or the one that it names.

    Args:
        cases: From a seed and an empty folder.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=count)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help=f"the number of one of the {what}")
    given = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as words:
        case = cases(given.seed, Path(words))
        if given.only is not None:
            os.environ["LENGTHWISE_DEBUG"] = "1"
            said, attempt = case(given.only)
            print(said, *attempt(), sep="\n")
            return 0
        found = faults(case, range(given.count))
    seconds = time.monotonic() - began
    print(f"{given.count} {what} in {seconds:.0f} s, {len(found)} answered badly")
    return int(bool(found))
