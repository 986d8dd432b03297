"""Try command lines that nobody planned: every one ends with status 0, 2 or 130, in one line.

    python tests/fuzz/arguments.py                      300 lines
    python tests/fuzz/arguments.py --count 50 --seed 3
    python tests/fuzz/arguments.py --only 17            one of them, with its traceback

A line is a command with options of its own, most of them good, one or two of them not: numbers out
of every range, names of nothing, text in brackets, half of a character, paths of the wrong kind.
"""

import json
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.fuzz.checkpoints import make_sound
from tests.fuzz.trying import Case, Ended, answer, main

WORDS = (
    "", " ", "-", "--", "0", "-1", "1", "2", "3.5", "1e3", "1e400", "nan", "inf", "99999999999999",
    "0x10", "\u0664", "a", "[/b]", "[red]", "a b", "\u2028", "\ud800", "x" * 300, "yarn", "../..",
    "/dev/null", "/proc/self/mem", "1,2", ",", "4x", "0x", "-4x", "true", "plain", "demo", "*",
    "hub:", "hub:x", "hub:[]", "http://", "yarn:factor", "yarn:factor=", "yarn:factor=nan",
    "yarn:factor=1e308", "yarn:factor=-1", "yarn:factor=2,factor=3", "pi:factor=2+pi:factor=2",
    "selfextend:group=0,window=0", "selfextend:group=99999999999,window=3", "infllm:pages=-1",
    "longrope:factors=/,factor=2", "longrope:factors=1/2,factor=2", "streamingllm:window=0",
    "yarn:factor=8+streamingllm:window=8",
)  # fmt: skip

SOUND = (
    "1", "2", "3", "8", "16", "64", "128", "0.5", "1e3", "cpu", "float32", "bfloat16", "plain",
    "yarn:factor=2", "selfextend:group=2,window=16", "streamingllm:window=16", "split", "drop",
    "greedy", "exact", "line", "loss", "passkey", "32,64", "1x", "2x", "10s", "1GiB", "true",
    "lora", "effective", "momentum", "h200", "tiledloss", "bucketed", "16,32",
)  # fmt: skip

# A command, what it needs, and its options; words in braces are paths.
COMMANDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "run": (
        "{model} --prompt-file {text} --max-new-tokens 2",
        ("--method", "--question", "--max-new-tokens", "--chunk", "--device", "--dtype", "--chat",
         "--prompt-file"),
    ),
    "measure": (
        "{model} -o {out} --text {text} --lengths 32 --suite loss",
        ("--method", "--lengths", "--suite", "--items", "--chunk", "--seed", "--text", "--device",
         "--dtype", "--force", "--output", "--threshold", "--tokenizer"),
    ),
    "measure --suite quick": (
        "{model} -o {out} --lengths ..512 --items 1",
        ("--method", "--lengths", "--threshold", "--text", "--chunk", "--seed", "--suite",
         "--tokenizer", "--parallel", "--ray"),
    ),
    "extend": (
        "{model} -o {out} --method pi:factor=2",
        ("--method", "--to", "--budget", "--memory", "--force", "--output", "--text"),
    ),
    "extend --auto": (
        "{model} -o {out} --to 100 --budget 0.1s --text {text}",
        ("--to", "--budget", "--memory", "--text", "--method", "--output"),
    ),
    "plan": (
        "{model} --device h100",
        ("--device", "--tokens", "--batch", "--lora", "--optimizer", "--dtype", "--memory",
         "--flops", "--bandwidth", "--link", "--method", "--train", "--json"),
    ),
    "pack": (
        "{text} -o {out} --capacity 64 --tokenizer {model} --workers 1",
        ("--capacity", "--tokenizer", "--overflow", "--packer", "--column", "--document",
         "--vocabulary", "--seed", "--slim", "--mask", "--workers", "--output", "--end"),
    ),
    "train": (
        "pi base={model} data={text} target=128 steps=1 step_tokens=128 passkeys=0 texts=1 "
        "dtype=float32 evaluate_text={text} --device cpu -o {out}",
        ("target=", "steps=", "rank=", "methods=", "betas=", "seed=", "dtype=", "tune=", "rows=",
         "memory=", "data=", "base=", "--device", "--show", "--list", "step_tokens=", "objective=",
         "evaluate_lengths=", "transform=", "layout=", "optimizer=", "learning_rate="),
    ),
    "probe context": (
        "{model} --contexts 8,16 --places 2 --block 4 --text {text}",
        ("--contexts", "--places", "--block", "--tolerance", "--text", "--seed", "--json",
         "--method"),
    ),
    "probe field": (
        "{model} --length 16 --block 8 --text {text}",
        ("--length", "--block", "--text", "--seed", "--method", "--json"),
    ),
    "probe tokens": ("{model} --text {short} --window 8", ("--window", "--last", "--method")),
    "probe capacity": (
        "{model} --text {text} --length 16 --texts 2", ("--length", "--texts", "--bias"),
    ),
    "compare": ("{model}", ("--threshold", "{text}", "{nothing}")),
    "methods": ("", ("yarn", "--help")),
    "lab list": ("", ("--help",)),
    "lab status": ("{model}", ("{nothing}", "{text}")),
}  # fmt: skip


def make_paths(folder: Path) -> dict[str, Path]:
    paths = {name: folder / name for name in ("text.txt", "out", "nothing", "empty", "short")}
    paths["text"] = paths.pop("text.txt")
    paths["model"] = make_sound(folder)
    paths["text"].write_text("The reader keeps a window open on the text. " * 60)
    paths["short"].write_text("The reader keeps a window.")
    paths["empty"].mkdir()
    return paths


def line(number: int, seed: int, paths: dict[str, Path]) -> list[str]:
    """The words of one command line."""
    rng = random.Random(f"{seed} {number}")
    shutil.rmtree(paths["out"], ignore_errors=True)
    paths["out"].unlink(missing_ok=True) if paths["out"].is_file() else None
    command = rng.choice(list(COMMANDS))
    needed, options = COMMANDS[command]
    words = [*command.split(), *needed.split()]
    for _ in range(rng.choice([1, 1, 1, 2])):
        kind = rng.choice(["option"] * 12 + ["word", "lost", "twice", "unknown"])
        option = rng.choice(options)
        odd = [*WORDS, *(f"{{{name}}}" for name in paths)]
        value = rng.choice(odd if rng.random() < 0.6 else SOUND)
        if kind == "option":
            at = words.index(option) if option in words else -1
            if at >= 0:
                words[at + 1 : at + 2] = [value]
            elif option.endswith("="):
                words = [word for word in words if not word.startswith(option)]
                words.append(option + value)
            else:
                words += [option, *([value] if rng.random() < 0.9 else [])]
        elif kind == "word":
            words.insert(rng.randrange(1, len(words) + 1), value)
        elif kind == "lost" and len(words) > 1:
            del words[rng.randrange(1, len(words))]
        elif kind == "twice":
            words.append(rng.choice(words))
        else:
            words.append("--" + rng.choice(["nonesuch", "forc", "m", "output="]))
    return [filled(word, paths) for word in words]


def filled(word: str, paths: dict[str, Path]) -> str:
    for name, path in paths.items():
        word = word.replace(f"{{{name}}}", str(path))
    return word


def cases(seed: int, folder: Path) -> Case:
    """Odd command lines."""
    paths = make_paths(folder)
    here = folder / "here" / "and" / "there"  # an output may be a name in this folder, or above it
    here.mkdir(parents=True)

    def case(number: int) -> tuple[str, Callable[[], Ended]]:
        words = line(number, seed, paths)

        def attempt() -> Ended:
            with chdir(here):
                return answer(words)

        return json.dumps([word.replace(str(folder), "")[:80] for word in words]), attempt

    return case


if __name__ == "__main__":
    sys.exit(main(__doc__, "lines", 300, cases))
