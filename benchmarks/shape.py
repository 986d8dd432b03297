"""The model that every speed benchmark uses, and how a result is written down."""

import copy
import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from lengthwise.files import write_text

RESULTS = Path(__file__).parent / "results"


def model() -> LlamaForCausalLM:
    """Random weights, float32, 2 threads: vocabulary 8192, hidden 512, 8 layers, 8 over 2 heads."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8192, hidden_size=512, intermediate_size=1536, num_hidden_layers=8,
        num_attention_heads=8, num_key_value_heads=2, head_dim=64, max_position_embeddings=4096,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def median_seconds(step: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Median and spread of `repeats` timed calls; the caller warms up."""
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        step()
        times.append(time.perf_counter() - began)
    return {"median": statistics.median(times), "low": min(times), "high": max(times)}


def fill(model: LlamaForCausalLM, cache: Any, tokens: int, chunk: int = 2048) -> None:
    """Make a cache as if `tokens` tokens had been read: random keys and values, no forward.

    What decoding costs depends on how much is cached, not on what; reading 131,072 tokens with
    full attention would take an hour. Our caches are filled through the same `extend` that a
    forward calls, and selectors take in random queries with the keys. All layers hold the same.
    """
    config = model.config
    g = torch.Generator().manual_seed(1)
    for start in range(0, tokens, chunk):
        count = min(chunk, tokens - start)
        shape = (1, config.num_key_value_heads, count, config.head_dim)
        keys, values = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
        if hasattr(cache, "owner"):
            from lengthwise.core.keys import KeyBlock

            positions = torch.arange(start, start + count).expand(1, 1, -1)
            state = cache.layers[0].state
            state.store.extend(KeyBlock(keys, values, positions, None, start))
            if state.selector is not None:
                shape = (1, config.num_attention_heads, count, config.head_dim)
                _take_in(model, state, torch.randn(shape, generator=g), positions[0])
        else:
            for index in range(config.num_hidden_layers):
                cache.update(keys, values, index)
    if hasattr(cache, "owner"):
        for layer in cache.layers[1:]:
            layer.state = copy.deepcopy(cache.layers[0].state)
        cache.restart(tokens, torch.tensor([tokens]))


@torch.no_grad()
def _take_in(model: LlamaForCausalLM, state: Any, vectors: torch.Tensor, at: torch.Tensor) -> None:
    """Queries at positions `at`, whose keys are stored, come to a selector."""
    from lengthwise.core.keys import Queries
    from lengthwise.extend.adapt import binding_of
    from lengthwise.extend.state import Reading
    from lengthwise.hf.positions import Step

    engine, lengths = binding_of(model).engine, at[:, -1] + 1
    plan, step = engine.plans[0][0], Step(at, None, int(at[0, 0]), lengths)
    rotary = engine._rotary(plan, step)
    kw = {"scale": model.config.head_dim**-0.5, "softcap": None, "stored": plan.stored}
    reading = Reading(plan, step, rotary, state, None, kw)
    state.selector.take_in(reading.of(Queries(vectors, at, None, int(at[0, 0])), rotary))


def write(name: str, question: str, rows: list[dict[str, Any]], command: str = "") -> None:
    """Keep the rows with hardware, versions, commit and the command; that of the file's name."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    record = {
        "question": question,
        "command": command or f"python benchmarks/{name}.py",
        "hardware": {"processor": _processor(), "cores": os.cpu_count(),
                     "threads": torch.get_num_threads()},
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__,
                     "python": platform.python_version()},
        "commit": commit,
        "date": time.strftime("%Y-%m-%d"),
        "rows": rows,
    }  # fmt: skip
    write_text(RESULTS / f"{name}.json", json.dumps(record, indent=1) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
