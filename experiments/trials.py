"""Rows of the claims whose experiment is methods side by side, on the bundled model and real ones.

    python experiments/trials.py extend/streamingllm@smollm2          one row
    python experiments/trials.py NAME --text book.txt manual.txt      on texts of your own

Texts are the held-out files of Python's standard library; for real models its manual too, which
lies in `pydoc_data`. What is measured is kept under runs/trials.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics
from typing import Any

import torch
from rich.console import Console

import lengthwise as lw
from lengthwise.cli.inputs import be_quiet
from lengthwise.lab import evidence
from lengthwise.lab.evidence import REAL, Finding, at_least, at_most, exact
from lengthwise.lab.trials import PLAIN, Bench, Found, Trial, carry_out
from lengthwise.measure import REFERENCE
from lengthwise.measure.tasks.text import held_out_text, read_text

Judge = Callable[[Found], Finding]
W = 512  # the bundled model's window
BENCHES = {
    "bundled": Bench("demo", texts=8, length=4 * W),
    "bundled8": Bench("demo", texts=8, length=8 * W),
    "bundled16": Bench("demo", texts=8, length=16 * W),
    "smollm2": Bench("smollm2", texts=20, length=640, dtype="bfloat16", window=64),
    "bundled1": Bench("demo", texts=20, length=W, inside=False),
    "smollm2short": Bench("smollm2", texts=20, length=256, dtype="bfloat16", inside=False),
}
LITTLE = 64  # keys that are left to SmolLM2, of its 8,192


def flat(name: str, start: int, end: int, bound: float, other: str = REFERENCE) -> Judge:
    """That a method's loss over some positions is near that of another."""
    where = f"after {start} to {end} tokens the loss is within {bound} nats of "
    words = "the same tokens inside the window" if other == REFERENCE else f"{other}'s"
    return lambda f: at_most(where + words, f.gap(name, other, start, end), bound)


def worse(name: str, other: str, start: int, end: int, by: float = 0.1) -> Judge:
    """That another's loss is clearly above."""
    words = f"after {start} to {end} tokens the loss of {name} is above that of {other} by {by}"
    return lambda f: at_least(words, f.gap(name, other, start, end), by, against=name)


def finds(name: str, length: int, least: float = 0.75) -> Judge:
    """That passkeys are found."""
    words = f"at least {least:.0%} of the passkeys are found in {length:,} tokens"
    return lambda f: at_least(words, f.found(name, length), least)


def misses(name: str, length: int, most: float = 0.5) -> Judge:
    """That another method finds few of them."""
    words = f"{name} finds at most {most:.0%} of the passkeys in {length:,} tokens"
    return lambda f: at_most(words, f.found(name, length), most)


def trial(
    bench: str, methods: dict[str, str], control: str, premise: Judge, *findings: Judge, **more: Any
) -> Trial:
    """A row: findings and premise are functions of what was found."""
    return Trial(bench, methods, control, premise, lambda f: [one(f) for one in findings], **more)


def extends(
    name: str, spec: str, windows: int, *, key: bool = False, tax: float = 0.05, bound: float = 0.2
) -> Trial:
    """An untuned method: flat to so many windows, nothing lost inside, passkeys at the end."""
    end = windows * W
    found = [flat(name, end // 2, end, bound), flat(name, 0, W, tax, PLAIN)]
    if key:
        found += [finds(name, end), misses(PLAIN, end)]
    return trial(
        {4: "bundled", 8: "bundled8"}[windows], {PLAIN: "", name: spec}, "plain attention",
        worse(PLAIN, name, end // 2, end, 0.2), *found, passkeys=(end,) if key else (),
    )  # fmt: skip


def needs_sinks(name: str, spec: str, *more: Judge) -> Trial:
    """Few keys with the first ones among them, beside as many without."""
    return trial(
        "smollm2",
        {PLAIN: "", name: f"{spec}:sinks=4,window={LITTLE - 4}",
         "no sinks": f"slidingwindow:window={LITTLE}"},
        "a window of as many keys without the first ones",
        worse("no sinks", name, 320, 640, 0.2), flat(name, 320, 640, 0.2), *more,
        caches=bool(more),
    )  # fmt: skip


def below(name: str, other: str, start: int, end: int) -> Judge:
    """That its loss is below another's."""
    words = f"after {start} to {end} tokens the loss is below that of {other}"
    return lambda f: at_most(words, f.gap(name, other, start, end), 0.0, against=other)


def keeps(bench: str, name: str, spec: str, keys: int, *more: Judge) -> Trial:
    """A store that chooses what it keeps, beside sinks and a window that hold no fewer keys."""
    length = BENCHES[bench].length
    span = length // 2, length
    return trial(
        bench,
        {PLAIN: "", "StreamingLLM": f"streamingllm:sinks=4,window={keys - 4}", name: spec},
        "StreamingLLM, which holds no fewer keys", worse("StreamingLLM", PLAIN, *span),
        below(name, "StreamingLLM", *span), *more,
    )  # fmt: skip


def heavy(bench: str, spec: str, keys: int) -> Trial:
    """Heavy hitters beside the newest keys alone; StreamingLLM's numbers stand in the file."""
    length = BENCHES[bench].length
    span = length // 2, length
    return trial(
        bench,
        {PLAIN: "", "the newest alone": f"slidingwindow:window={keys}",
         "StreamingLLM": f"streamingllm:sinks=4,window={keys - 4}", "H2O": spec},
        "a window of no fewer keys, the newest alone",
        worse("the newest alone", PLAIN, *span), below("H2O", "the newest alone", *span),
    )  # fmt: skip


def recalls(name: str, spec: str, length: int = 16 * W) -> Trial:
    """What is far away is looked up: passkeys that a window of as long as the model's own loses."""
    return trial(
        "bundled16", {"a window": f"slidingwindow:window={W}", name: spec},
        "a sliding window of the model's length", misses("a window", length),
        finds(name, length, 0.5), more(name, "a window", length),
        passkeys=(length,), loss=False,
    )  # fmt: skip


def more(name: str, other: str, length: int, by: float = 0.05) -> Judge:
    """That more passkeys are found than by another on the same items."""
    words = f"the share of passkeys found in {length:,} tokens beyond that of {other}"
    return lambda f: at_least(words, f.more(name, other, length), by, against=other)


def constant(name: str) -> Judge:
    """That the second half of a piece adds nothing to the cache."""
    words = "bytes that the second half of a piece adds to its cache"
    return lambda f: exact(at_most(words, f.caches[name][1] - f.caches[name][0], 0))


TRIALS = {
    "extend/streamingllm@smollm2": needs_sinks(
        "StreamingLLM", "streamingllm", constant("StreamingLLM")
    ),
    "extend/lminfinite@smollm2": needs_sinks("LMInfinite", "lminfinite"),
    "extend/selfextend@bundled": extends(
        "SelfExtend", "selfextend:group=24,window=144", 4, key=True
    ),
    "extend/dualchunk@bundled": extends("DualChunk", "dualchunk:chunk=384,window=64", 4, key=True),
    "extend/dynamicyarn@bundled": extends("DynamicYaRN", "dynamicyarn", 4, tax=0.01),
    "extend/rerope@bundled": extends("ReRoPE", "rerope:window=256", 8),
    "extend/leakyrerope@bundled": extends("LeakyReRoPE", "leakyrerope:window=128,factor=24", 8),
    "extend/gali@bundled": extends(
        "GALI", "gali:trained=512,window=128,factor=16", 8, tax=0.01
    ),
    "extend/h2o": heavy("smollm2short", "h2o:heavy=14,recent=14,every=4", 32),
    "extend/h2o@bundled": heavy("bundled1", "h2o:heavy=28,recent=28,every=8", 64),
    "extend/tova": keeps("smollm2short", "TOVA", "tova:tokens=28,every=4", 32),
    "extend/tova@bundled": keeps("bundled1", "TOVA", "tova:tokens=56,every=8", 64),
    "extend/chelsea": keeps(
        "smollm2short", "Chelsea", "chelsea:tokens=28,recent=12,chunk=16,every=4", 32,
        flat("Chelsea", 128, 256, 0.1, PLAIN),
    ),
    "extend/chelsea@bundled": keeps(
        "bundled1", "Chelsea", "chelsea:tokens=56,recent=28,chunk=16,every=8", 64,
        flat("Chelsea", 256, 512, 0.1, PLAIN),
    ),
    "extend/ntk@bundled": trial(
        "bundled", {PLAIN: "", "PI": "pi:factor=4", "NTK": "ntk:factor=16"}, "plain attention",
        worse(PLAIN, "NTK", 1024, 2048, 0.2),
        flat("NTK", 1024, 2048, 0.2), below("NTK", "PI", 1024, 2048),
    ),
    "extend/dynamicntk@bundled": trial(
        "bundled", {PLAIN: "", "DynamicNTK": "dynamicntk"}, "plain attention",
        worse(PLAIN, "DynamicNTK", 512, 1024, 0.2),
        flat("DynamicNTK", 512, 1024, 0.2), flat("DynamicNTK", 0, 512, 0.01, PLAIN),
    ),
    "extend/logtemperature@bundled": trial(
        "bundled", {PLAIN: "", "LogTemperature": "logtemperature"}, "plain attention",
        worse(PLAIN, REFERENCE, 1024, 2048, 0.2),
        below("LogTemperature", PLAIN, 1024, 2048),
        flat("LogTemperature", 0, 512, 0.01, PLAIN),
    ),
    "extend/infllm@bundled": recalls(
        "InfLLM", "infllm:pages=8,page_size=32,sinks=4,window=256"
    ),
    "extend/longheads@bundled": recalls("LongHeads", "longheads:chunks=8,chunk=64"),
    "extend/longcache@bundled": recalls("LongCache", "longcache"),
    "extend/sirllm@bundled": trial(
        "bundled8",
        {PLAIN: "", "StreamingLLM": "streamingllm:sinks=4,window=380",
         "SirLLM": "sirllm:tokens=384,recent=128,every=128"},
        "StreamingLLM, which holds as many keys", misses("StreamingLLM", 2048),
        flat("SirLLM", 2048, 4096, 0.2), more("SirLLM", "StreamingLLM", 2048),
        constant("SirLLM"), passkeys=(2048,), caches=True,
    ),
}  # fmt: skip


def text_of(files: list[Path], real: bool) -> str:
    """The texts one after another."""
    if files:
        return "\n".join(read_text(path) for path in files)
    manual = "\n".join(topics.topics.values()) if real else ""
    return held_out_text() + "\n" + manual if manual else held_out_text()


def main() -> None:
    """Measure, judge, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=[*TRIALS], metavar="NAME")
    parser.add_argument("--evidence", type=Path, default=Path("evidence"))
    parser.add_argument("--out", type=Path, default=Path("runs/trials"))
    parser.add_argument("--text", type=Path, nargs="+", default=[], help="UTF-8 files to read")
    args = parser.parse_args()
    be_quiet()
    for name in args.names:
        one = TRIALS[name]
        bench = BENCHES[one.bench]
        real = bench.model in REAL
        if real:
            from real_models import get

        where = get(bench.model) if real else bench.model
        model, tokenizer = lw.load(where, dtype=getattr(torch, bench.dtype))
        text = text_of(args.text, real)
        made = carry_out(name, one, bench, (model.eval(), tokenizer), text, args.out / one.bench)
        Console(stderr=True).print(name, made.verdict, made.reason)
        for finding in made.findings:
            Console(stderr=True).print(str(finding))
        evidence.write(args.evidence, made)


if __name__ == "__main__":
    main()
