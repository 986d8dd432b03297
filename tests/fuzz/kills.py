"""Kill commands at random moments, run them again, and hold what they wrote against a whole run.

    python tests/fuzz/kills.py                       30 kills of every command
    python tests/fuzz/kills.py train pack --count 5 --seed 1

A kill is SIGKILL: nothing is tidied up. Run again until it ends, the same command must leave the
same files as one that was let alone, and no others, beside its output either. Numbers that differ
between two runs that are let alone (seconds, dates) may differ here too.

Processes are forked from one that has imported everything, so that a run takes a second or two.
"""

import argparse
import faulthandler
import json
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests import forked

os.environ |= {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

TEXT = "It was a bright cold day in April, and the clocks were striking thirteen. "
# Whether, and in which run, something was done; a suite counts the peak of a run's first answer.
TELLS = frozenset({"resumed", "session", "peak"})
RUNS = 6  # a command that does not end within so many runs does not end


class Broken(Exception):
    """A command does not do what it is tried for."""


@dataclass(frozen=True)
class Place:
    """What the commands work on, made once."""

    model: Path
    text: Path
    corpus: Path
    rows: Path


Words = list[object]


def measure(at: Place, out: Path) -> Words:
    return [
        "measure", at.model, "--text", at.text, "--lengths", "64,128", "--suite",
        "loss,passkey", "--items", 2,
        "--chunk", 16, "-m", "plain", "-m", "pi:factor=2", "-m", "lminfinite:sinks=2,window=30",
        "-o", out,
    ]  # fmt: skip


def suite(at: Place, out: Path) -> Words:
    return [
        "measure", at.model, "--suite", "quick", "--lengths", "..512", "--items", 1,
        "--text", at.text, "-o", out,
    ]  # fmt: skip


def pack(at: Place, out: Path) -> Words:
    return ["pack", at.corpus, "--tokenizer", at.model, "--capacity", 64, "--workers", 1, "-o", out]


def train(at: Place, out: Path) -> Words:
    return [
        "train", "longlora", f"base={at.model}", f"data={at.rows}", "target=128", "steps=6",
        "step_tokens=128", "dtype=float32", "rank=2", "save_every=2", "evaluate_every=2",
        f"evaluate_text={at.text}", "texts=1", "passkeys=0", "--device", "cpu", "-o", out,
    ]  # fmt: skip


def extend(at: Place, out: Path) -> Words:
    return ["extend", at.model, "--method", "yarn:factor=4", "-o", out]


def force(at: Place, out: Path) -> Words:
    return [*extend(at, out), "--force"]


def auto(at: Place, out: Path) -> Words:
    return ["extend", at.model, "--auto", "--to", 100, "--text", at.text, "-o", out]


COMMANDS: dict[str, Callable[[Place, Path], Words]] = {
    one.__name__: one for one in (measure, suite, pack, train, extend, force, auto)
}


def make_place(folder: Path) -> Place:
    """A tiny checkpoint, a text, files to pack and rows to train on."""
    from datasets import Dataset

    from lengthwise.testing.models import tiny_model, tiny_tokenizer

    at = Place(*(folder / name for name in ("model", "text.txt", "corpus", "rows")))
    model = tiny_model("llama")
    model.generation_config.eos_token_id = None
    model.save_pretrained(at.model)
    tiny_tokenizer().save_pretrained(at.model)
    at.text.write_text(TEXT * 60, encoding="utf-8")
    at.corpus.mkdir()
    for number in range(12):
        (at.corpus / f"{number}.jsonl").write_text(
            "".join(json.dumps({"text": TEXT * (1 + i % 7)}) + "\n" for i in range(100)),
            encoding="utf-8",
        )
    rows = [{"input_ids": [3 + (5 * i + k) % 250 for i in range(128)]} for k in range(12)]
    Dataset.from_list(rows).save_to_disk(str(at.rows))
    return at


def command(words: Words) -> Callable[[], object]:
    """What a child does: a command line."""

    def work() -> None:
        from lengthwise.cli.app import app

        app([str(word) for word in words])

    return work


def snapshot(folder: Path, volatile: frozenset[str] = frozenset()) -> dict[str, Any]:
    """Every file with its content; JSON is read, and loses the keys that may differ; pages lose
    their numbers and drawings."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[name] = "a directory"
        elif path.suffix in (".json", ".jsonl"):
            text = path.read_text(encoding="utf-8")
            try:
                lines = text.splitlines()
                read = json.loads(text) if path.suffix == ".json" else [*map(json.loads, lines)]
            except ValueError:
                found[name] = f"not JSON: {text[:200]}"
            else:
                found[name] = without(read, volatile)
        elif path.suffix in (".md", ".html"):
            # For people: its numbers are those of the files beside it, and some are seconds.
            page = re.sub(r"<svg.*?</svg>", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
            # As many runs are listed as it took.
            page = re.sub(r"<dt>session .*(?=<dt>took)", "", page, flags=re.DOTALL)
            found[name] = re.sub(r"\d[\d,]*(\.\d+)?( (ms|s|kB|MB|GB)\b)?", "0", page)
        else:
            found[name] = path.read_bytes()
    return found


def without(value: Any, keys: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {k: without(v, keys) for k, v in value.items() if k not in keys}
    if isinstance(value, list):
        # What is left of the line that every run of a suite writes is nothing.
        return [rest for one in value if (rest := without(one, keys)) != {}]
    return value


def differing(one: Any, other: Any, key: str = "") -> set[str]:
    """The keys under which two readings of the same JSON differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        both = one.keys() & other.keys()
        return (one.keys() ^ other.keys()).union(*(differing(one[k], other[k], k) for k in both))
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        pairs = zip(one, other, strict=True)
        return set().union(*(differing(a, b, key) for a, b in pairs)) if one else set()
    return set() if one == other else {key}


def run(words: Words, log: Path) -> int | str:
    return forked.run(command(words), log)


def whole(name: str, at: Place, folder: Path) -> tuple[dict[str, Any], frozenset[str], float]:
    """What a command leaves that is let alone, the keys that differ by themselves, its seconds."""
    seen, seconds = [], 0.0
    for count in range(2):
        work = folder / f"{name}-whole-{count}"
        work.mkdir()
        prepare(name, at, work)
        # The same path both times, for a plan may name it.
        place = folder / name
        work.rename(place)
        began = time.monotonic()
        status = run(COMMANDS[name](at, place / "out"), folder / "log")
        seconds = time.monotonic() - began
        if status:
            raise Broken(f"{name} ended with {status}: {(folder / 'log').read_text()}")
        seen.append(snapshot(place))
        place.rename(work)
    if seen[0].keys() != seen[1].keys():
        raise Broken(f"{name}: two runs leave other files: {seen[0].keys() ^ seen[1].keys()}")
    volatile = {
        key
        for file in seen[0]
        if file.endswith((".json", ".jsonl"))
        for key in differing(seen[0][file], seen[1][file], file)
    }
    return seen[1], frozenset(volatile) | TELLS, seconds


def prepare(name: str, at: Place, work: Path) -> None:
    if name == "force":  # what stands there already
        run(
            ["extend", at.model, "--method", "pi:factor=2", "-o", work / "out"], work.parent / "log"
        )


def compare(
    mine: dict[str, Any], wanted: dict[str, Any], unsteady: set[str], volatile: frozenset[str]
) -> list[str]:
    faults = [f"{file} is left" for file in mine if file not in wanted]
    faults += [f"{file} is missing" for file in wanted if file not in mine]
    for file in mine.keys() & wanted.keys():
        right = without(wanted[file], volatile)
        if file not in unsteady and mine[file] != right:
            faults.append(f"{file} is another{first_difference(mine[file], right)}")
    return faults


def first_difference(mine: Any, wanted: Any) -> str:
    if not isinstance(mine, list) or not isinstance(wanted, list):
        return ""
    pairs = enumerate(zip(mine, wanted, strict=False))
    for number, (one, other) in pairs:
        keys = differing(one, other)
        if keys:
            return f": row {number} has another {', '.join(sorted(keys))}"
    return f": {len(mine)} rows for {len(wanted)}"


def trial(
    name: str, at: Place, folder: Path, moment: float, wanted: dict[str, Any],
    unsteady: set[str], volatile: frozenset[str],
) -> tuple[bool, list[str]]:  # fmt: skip
    """Whether the kill came in time, and what is wrong after running to the end."""
    place, log = folder / name, folder / "log"
    place.mkdir()
    log.unlink(missing_ok=True)
    try:
        prepare(name, at, place)
        words = COMMANDS[name](at, place / "out")
        child = forked.begin(command(words), log)
        time.sleep(moment)
        os.kill(child, signal.SIGKILL)
        killed = forked.end(child) == -signal.SIGKILL
        if name == "force" and not (place / "out" / "config.json").exists():
            import lengthwise as lw

            lw.load(place / "out")  # puts back what was set aside
        for _ in range(RUNS):
            status = run(words, log)
            if status in (0, 2):
                break
        faults = compare(snapshot(place, volatile), wanted, unsteady, volatile)
        # The status 2 is right where the killed run had finished its output.
        if status not in (0, 2) or (status == 2 and faults):
            faults.append(f"it ends with {status}: {log.read_text()[-400:]}")
        return killed, faults
    finally:
        shutil.rmtree(place)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("commands", nargs="*", metavar="COMMAND", help=", ".join(COMMANDS))
    parser.add_argument("--count", type=int, default=30, help="kills of each command")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for name in given.commands:
        if name not in COMMANDS:
            parser.error(f"no command {name!r}; choose from {', '.join(COMMANDS)}")
    speak_at_the_end()
    import_everything()
    failed = 0
    with tempfile.TemporaryDirectory() as words:
        folder = Path(words)
        at = make_place(folder)
        for name in given.commands or COMMANDS:
            wanted, volatile, seconds = whole(name, at, folder)
            again = snapshot(folder / f"{name}-whole-0")
            unsteady = {f for f, seen in wanted.items() if isinstance(seen, bytes)}
            unsteady = {file for file in unsteady if again[file] != wanted[file]}
            differ = ", ".join(sorted(volatile | unsteady))
            print(f"{name}: {seconds:.1f} s; may differ: {differ}", flush=True)
            rng = random.Random(f"{given.seed} {name}")
            in_time = 0
            for count in range(given.count):
                moment = rng.uniform(0, seconds)
                killed, faults = trial(name, at, folder, moment, wanted, unsteady, volatile)
                in_time += killed
                failed += bool(faults)
                for fault in faults:
                    print(f"  kill {count} after {moment:.3f} s: {fault}", flush=True)
            print(f"{name}: {given.count} kills, {in_time} before its end", flush=True)
    print(f"{failed} kills changed what is left" if failed else "No kill changed what is left.")
    return int(bool(failed))


def speak_at_the_end() -> None:
    """Say on stdout what ends this process, a signal or a crash: only SIGKILL is silent."""
    faulthandler.enable(sys.stdout)

    def said(number: int, frame: object) -> None:
        print(f"ended by {signal.Signals(number).name}", flush=True)
        sys.exit(128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, said)


def import_everything() -> None:
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import torch

    import lengthwise.cli.app
    import lengthwise.lab.extension
    import lengthwise.measure.report
    import lengthwise.measure.run.runner
    import lengthwise.train.data.pipeline
    import lengthwise.train.loop  # noqa: F401

    torch.set_num_threads(1)


if __name__ == "__main__":
    try:
        status = main()
    except Exception:
        print(traceback.format_exc(), flush=True)
        status = 1
    sys.exit(status)
