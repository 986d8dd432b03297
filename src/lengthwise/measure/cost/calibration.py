"""How fast this machine really is: small models are read with, and rates fitted to their times.

A data sheet's peaks are what no program reaches, and a CPU's are rarely known. Here models with
random weights of a few shapes read texts of a few lengths, plain and with methods of every kind;
`rates` are the non-negative seconds for each quantity of `work.py` that explain the times best,
each time counting alike. What is predicted with them is what `lengthwise measure` would find: one
text, read in its chunks.
"""

import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

import lengthwise.measure.run.environment as environment
from lengthwise.core import native
from lengthwise.core.keys import KeyBlock
from lengthwise.extend.adapt import adapted, binding_of
from lengthwise.extend.layouts.dual_chunk import DualChunk
from lengthwise.extend.layouts.self_extend import SelfExtend
from lengthwise.extend.method import Method
from lengthwise.extend.selectors.infllm import InfLLM
from lengthwise.extend.stores.streaming_llm import StreamingLLM
from lengthwise.files import write_text
from lengthwise.hf.release import CACHE
from lengthwise.measure.cost.work import Read, Step, count_read, count_step
from lengthwise.measure.engines.reading import read_to_end

VOCABULARY = 4096
# Hidden and intermediate size, heads, KV heads, their size and layers.
SHAPES = (
    (128, 384, 4, 2, 32, 4), (256, 768, 4, 2, 64, 4), (512, 1536, 8, 2, 64, 4),
    (1024, 2816, 8, 2, 128, 3),
)  # fmt: skip
TEXTS = (512, 2048, 6144)
CACHED = (16_384, 65_536)  # without reading: a step alone
STEPS = 16
READINGS, ENOUGH = 3, 2.0  # a text is read so often, but not again after so many seconds
PLAIN = "plain"  # transformers' own attention and cache
ADAPTED = "adapted"
# A method of every kind that is computed in a way of its own; None is plain.
METHODS: tuple[tuple[Method, ...] | None, ...] = (
    None, (), (StreamingLLM(sinks=4, window=508),), (SelfExtend(group=8, window=256),),
    (DualChunk(chunk=320, window=96),), (InfLLM(),), (InfLLM(pages=6, page_size=64, window=128),),
)  # fmt: skip
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Timed:
    """One text: what it took, and what was done."""

    plain: bool
    read: Read | None
    read_seconds: float
    step: Step
    step_seconds: float


@dataclass(frozen=True)
class Rates:
    """Seconds for one of each quantity of `Read` and `Step`, plain and adapted.

    Attributes:
        machine: What they hold for: the processor, threads, dtype and versions.
        read, step: By `plain` and `adapted`, then by the quantity's name.
        worst: Of the times that were fitted, the largest relative error.
    """

    machine: dict[str, Any]
    read: dict[str, dict[str, float]]
    step: dict[str, dict[str, float]]
    worst: float

    def seconds(self, work: Read | Step, plain: bool) -> float:
        """How long the work takes."""
        known = self.read if isinstance(work, Read) else self.step
        rates = known[_side(plain)]
        return sum(rates[name] * value for name, value in asdict(work).items())


def machine(dtype: torch.dtype) -> dict[str, Any]:
    """What rates hold for."""
    words = environment.hardware(torch.device("cpu"))
    code = native.why(64, 64)  # the same processor with and without its widest vectors
    return {**words, "dtype": str(dtype), "attention": code, **environment.versions()}


def calibrate(dtype: torch.dtype, progress: Progress | None = None) -> Rates:
    """Measure this machine's processor; about four minutes on two cores.

    Args:
        progress: Called with how many models were read with, and of how many.
    """
    plan = [(shape, methods) for shape in SHAPES for methods in METHODS]
    timed: list[Timed] = []
    for done, (shape, methods) in enumerate(plan):
        if progress is not None:
            progress(done, len(plan))
        timed += _times(model_of(shape, dtype), methods, dtype.itemsize)
    return fit(timed, machine(dtype))


def model_of(shape: Sequence[int], dtype: torch.dtype) -> PreTrainedModel:
    """A Llama with random weights; see `SHAPES`."""
    hidden, intermediate, heads, kv_heads, size, layers = shape
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=kv_heads,
        head_dim=size, max_position_embeddings=512,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=False
        ).eval()
    assert isinstance(model, PreTrainedModel)
    return model


@torch.no_grad()
def _times(
    model: PreTrainedModel, methods: tuple[Method, ...] | None, item: int
) -> Iterator[Timed]:
    """Texts that are read, and caches that are filled without reading where a store will do."""
    plain = methods is None
    draw = torch.Generator().manual_seed(0)
    with nullcontext() if methods is None else adapted(model, *methods):
        engine: Any = None if plain else binding_of(model).engine
        ids = torch.randint(VOCABULARY, (1, max(TEXTS)), generator=draw)
        read_to_end(model, ids[:, :600])  # threads and kernels are there before the clock runs
        for tokens in TEXTS:
            seconds, cache = _read_seconds(model, ids[:, :tokens])
            yield Timed(
                plain,
                count_read(model, engine, tokens, item), seconds,
                count_step(model, engine, tokens, item), _step_seconds(model, cache, tokens),
            )  # fmt: skip
        if engine is not None and engine.axes.selector.state() is not None:
            return  # a selector knows only what it has read
        for tokens in CACHED:
            _, cache = read_to_end(model, ids[:, :2])
            _fill(model, cache, tokens, draw)
            step = count_step(model, engine, tokens, item)
            yield Timed(plain, None, 0.0, step, _step_seconds(model, cache, tokens))


def _read_seconds(model: PreTrainedModel, ids: Tensor) -> tuple[float, Any]:
    """The median of a few readings, and the cache of the last."""
    seconds: list[float] = []
    while len(seconds) < READINGS and sum(seconds) < ENOUGH:
        cache = None  # before another is filled
        began = time.perf_counter()
        _, cache = read_to_end(model, ids)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), cache


def _step_seconds(model: PreTrainedModel, cache: Any, tokens: int) -> float:
    seconds = []
    for at in range(tokens, tokens + STEPS):
        began = time.perf_counter()
        model(
            input_ids=torch.tensor([[5]]), position_ids=torch.tensor([[at]]),
            use_cache=True, **{CACHE: cache},
        )  # fmt: skip
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _fill(model: PreTrainedModel, cache: Any, tokens: int, draw: torch.Generator) -> None:
    """Random keys and values up to `tokens`: what a step costs depends on how many there are."""
    config: Any = model.config
    held = cache.get_seq_length() if not hasattr(cache, "owner") else int(cache.lengths.max())
    shape = (1, config.num_key_value_heads, tokens - held, config.head_dim)
    for index in range(config.num_hidden_layers):
        keys, values = (torch.randn(shape, generator=draw).to(model.dtype) for _ in range(2))
        if hasattr(cache, "owner"):
            positions = torch.arange(held, tokens).expand(1, 1, -1)
            layer = cache.layers[index]
            layer.state.store.extend(KeyBlock(keys, values, positions, None, held))
        else:
            cache.update(keys, values, index)
    if hasattr(cache, "owner"):
        cache.restart(tokens, torch.tensor([tokens]))


def fit(timed: Sequence[Timed], machine: dict[str, Any]) -> Rates:
    """The non-negative rates with the least squares of relative errors."""
    read: dict[str, dict[str, float]] = {}
    step: dict[str, dict[str, float]] = {}
    worst = 0.0
    for plain in (True, False):
        own = [one for one in timed if one.plain is plain]
        reads = [(one.read, one.read_seconds) for one in own if one.read is not None]
        steps = [(one.step, one.step_seconds) for one in own]
        read[_side(plain)], first = _solve(reads)
        step[_side(plain)], second = _solve(steps)
        worst = max(worst, first, second)
    return Rates(machine, read, step, worst)


def _solve(rows: Sequence[tuple[Read | Step, float]]) -> tuple[dict[str, float], float]:
    """Rates by name, and the largest relative error."""
    work = np.array([astuple(one) for one, _ in rows])
    seconds = np.array([took for _, took in rows])
    scale = work.max(axis=0)
    scale[scale == 0] = 1.0
    found, _ = nnls(work / scale / seconds[:, None], np.ones(len(rows)))
    error = float(np.abs(work / scale @ found / seconds - 1).max())
    names = asdict(rows[0][0])
    return {name: float(x) for name, x in zip(names, found / scale, strict=True)}, error


def _side(plain: bool) -> str:
    return PLAIN if plain else ADAPTED


def _path(dtype: torch.dtype) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lengthwise"
    return home / f"rates-{str(dtype).removeprefix('torch.')}.json"


def save(rates: Rates, dtype: torch.dtype) -> Path:
    """Keep rates for later plans in the user's cache, whole or not at all."""
    path = _path(dtype)
    write_text(path, json.dumps(asdict(rates), indent=1) + "\n")
    return path


def load(dtype: torch.dtype) -> Rates | None:
    """The rates of this machine; None where there are none, or of another one or version."""
    try:
        found = Rates(**json.loads(_path(dtype).read_text(encoding="utf-8")))
        known = [(set(found.read[side]), set(found.step[side])) for side in (PLAIN, ADAPTED)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    wanted = ({field.name for field in fields(Read)}, {field.name for field in fields(Step)})
    return found if found.machine == machine(dtype) and known == [wanted, wanted] else None
