"""What does a training step need, by length, plain, checkpointed and with each way to need less?

Every row is a process of its own: the peak of its resident memory during one forward and backward,
above what it held before the step (the model, no gradients yet), and the step's seconds, by the
clock and of the processor. One thread, so that the second holds on a machine that does other work
too. The model is that of `shape.py` with a vocabulary of 32,768, one row of tokens, float32, on a
CPU.

    python benchmarks/train_memory.py                               # every length and way
    python benchmarks/train_memory.py --lengths 2048 --ways all     # some; the others stay

A step that would take more than the machine has free, judged by twice the peak of half as many
tokens, is not begun; the row says so. `docs/generate.py` draws the figure.

glibc keeps freed blocks below 32 MB for itself, in pieces that the next tensor may not fit into. A
way that ends in "returned" runs with MALLOC_MMAP_THRESHOLD_=1048576: blocks from 1 MB on go back to
the system at once. `predicted_bytes` is what `lengthwise.train.plan` says of a step's tensors,
without those of the model.
"""

import argparse
import contextlib
import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from shape import RESULTS, write
from transformers import LlamaConfig, LlamaForCausalLM

from lengthwise.train.memory import Memory, Offload, StreamBP, TiledLoss, TiledMLP, fit
from lengthwise.train.plan import OPTIMIZERS, Levers, Training, read_shape, step_peak

NAME = "train_memory"
VOCABULARY = 32_768
CHUNK, LOSS, MLP = 1024, 256, 1024
LENGTHS = (2048, 4096, 8192, 16_384, 32_768, 65_536)
QUESTION = "What does a training step need, by length, with each way to need less?"
WAYS: dict[str, tuple[Memory, ...]] = {
    "plain": (),
    "checkpointing": (),
    "TiledLoss": (TiledLoss(LOSS),),
    "TiledMLP": (TiledMLP(MLP),),
    "StreamBP": (StreamBP(CHUNK),),
    "Offload": (Offload(),),
    "checkpointing + TiledLoss": (TiledLoss(LOSS),),
    "all": (StreamBP(CHUNK), TiledLoss(LOSS), TiledMLP(MLP), Offload()),
}
RETURNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
WAYS |= {f"{way}, returned": WAYS[way] for way in ("checkpointing + TiledLoss", "all")}


def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=2, head_dim=64, max_position_embeddings=65_536,
    )  # fmt: skip
    return LlamaForCausalLM(config).train()


def resident() -> dict[str, int]:
    """Bytes resident now and at the highest since the mark was reset."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kept = dict(line.split(":", 1) for line in lines if line.startswith(("VmRSS", "VmHWM")))
    return {name: int(value.split()[0]) * 1024 for name, value in kept.items()}


@contextlib.contextmanager
def way(net: LlamaForCausalLM, name: str) -> Iterator[None]:
    if name.startswith("checkpointing"):
        net.activation_checkpointing_enable()
    with fit(net, *WAYS[name]):
        yield


def child(name: str, tokens: int) -> None:
    """Measure one row and print it."""
    net = model()
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(VOCABULARY, (1, tokens), generator=g)

    def step(length: int) -> None:
        net(input_ids=ids[:, :length], labels=ids[:, :length], use_cache=False).loss.backward()

    with way(net, name):
        step(64)  # threads and libraries are there before the mark is set
        net.zero_grad()
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forgets the highest
        held = resident()["VmRSS"]
        clock, processor = time.perf_counter(), time.process_time()
        step(tokens)
        seconds = {
            "seconds": time.perf_counter() - clock,
            "processor_seconds": time.process_time() - processor,
        }
        print(json.dumps({"peak_bytes": resident()["VmHWM"] - held, **seconds}))


@functools.cache
def predicted(name: str, tokens: int) -> int:
    """Bytes that a step's tensors take at most, without the model's."""
    with torch.device("meta"):
        shape = read_shape(model())
    training = Training(4, OPTIMIZERS["sgd"])
    levers = Levers(WAYS[name], checkpointing=name.startswith("checkpointing"))
    peak = step_peak(shape, training, levers, tokens)
    return peak.total + peak.host - training.weight_bytes(shape)


def free() -> int:
    """Bytes that the machine could still give."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def row(name: str, tokens: int) -> dict[str, Any]:
    """Measure in a fresh process; a step that memory does not suffice for says so."""
    half = measured().get((name, tokens // 2), {})
    least = 2 * half.get("peak_bytes", half.get("least_bytes", 0))
    if least > 0.9 * free():
        return {"way": name, "tokens": tokens, "least_bytes": least, "free_bytes": free()}
    command = [sys.executable, __file__, "--child", name, str(tokens)]
    env = os.environ | (RETURNED if name.endswith("returned") else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        words = done.stderr.strip().splitlines()
        why = words[-1] if words else f"killed by signal {-done.returncode}"
        return {"way": name, "tokens": tokens, "failed": why}
    return {"way": name, "tokens": tokens, **json.loads(done.stdout.splitlines()[-1])}


def measured() -> dict[tuple[str, int], dict[str, Any]]:
    """The rows of the result file, by way and length."""
    path = RESULTS / f"{NAME}.json"
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    return {(one["way"], one["tokens"]): one for one in rows}


def run(names: list[str], lengths: list[int]) -> None:
    """Measure, and keep every row as soon as it is there."""
    for tokens in lengths:
        for name in names:
            for key in product(WAYS, LENGTHS):
                predicted(*key)  # now, so that nothing comes between reading and writing rows
            found = row(name, tokens)
            rows = measured()  # after the step: another run may have written rows meanwhile
            rows[name, tokens] = found
            order = sorted(rows, key=lambda key: (key[1], list(WAYS).index(key[0])))
            kept = [{**rows[key], "predicted_bytes": predicted(*key)} for key in order]
            write(NAME, QUESTION, kept)
            print(found, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.child:
        child(given.child[0], int(given.child[1]))
    else:
        run(given.ways, given.lengths)
