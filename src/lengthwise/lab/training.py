"""The loop for small models that are trained here, whatever they are and whatever stops it.

    optimizer = torch.optim.AdamW(model.parameters())
    learned = learn(model, batches, loss, one_cycle(optimizer, 800, 2e-3), 800, Path("runs/bloom"))

Batches are drawn anew from their beginning when a run goes on, and those that it has read are
passed over. So weights, optimizers and the number of steps are all that a checkpoint must hold, and
a run that was killed ends with the same bits as one that was not. For checkpoints from the hub
there is `lengthwise.train`, whose files these are.
"""

import json
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from lengthwise.files import hold, write_text
from lengthwise.train.loop.checkpoint import load_checkpoint, save_checkpoint
from lengthwise.train.loop.metrics import Metrics
from lengthwise.train.places import CHECKPOINTS, METRICS, RUN

CONSOLE = Console(stderr=True)
Batch = TypeVar("Batch")
Found = TypeVar("Found")


@dataclass
class Learned:
    """What a run did.

    Attributes:
        losses: Of every step, in nats.
        seconds, cpu_seconds: Of all parts of the run.
    """

    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def tenths(self) -> list[float]:
        """Mean losses of every tenth of the steps."""
        size = -(-len(self.losses) // 10)
        parts = [self.losses[i : i + size] for i in range(0, len(self.losses), size)]
        return [sum(part) / len(part) for part in parts]


def learn(
    model: nn.Module,
    batches: Iterable[Batch],
    loss: Callable[[Batch], Tensor | Iterable[Tensor]],
    schedules: Sequence[LRScheduler],
    steps: int,
    folder: Path | None = None,
    *,
    about: Mapping[str, Any] | None = None,
    save_every: int = 100,
    clip: float = 1.0,
    seed: int = 0,
    name: str = "training",
) -> Learned:
    """Train a model in place, and leave it in evaluation mode.

    Args:
        batches: At least `steps`; the same ones whenever they are gone through from the beginning.
        loss: Of a batch, in nats. Several, whose sum is the step's, are gone back through one by
            one as they come, so that memory holds the activations of one.
        schedules: Of the learning rates; their optimizers are those that step.
        folder: Holds `run.json`, `metrics.jsonl` and `checkpoints/`; without one a run that is
            stopped is lost.
        about: What else a run must agree in to be gone on with: settings, data, seed. JSON.
        clip: The largest norm of the gradients.
        seed: Of dropout, which is drawn for every step by itself.

    Raises:
        ValueError: A loss that is no number, which leaves the last checkpoint; too few batches; a
            folder with another run.
    """
    learned, done = Learned(), 0
    optimizers = [schedule.optimizer for schedule in schedules]
    stateful: list[Any] = [model, *optimizers, *schedules]
    with ExitStack() as stack:
        metrics = None
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(folder))
            _check_same(folder / RUN, {"steps": steps, **(about or {})})
            found = load_checkpoint(folder / CHECKPOINTS, CONSOLE.print, torch.device("cpu"))
            if found is not None:
                done, state = found
                learned = Learned(**state["learned"])
                for one, kept in zip(stateful, state["states"], strict=True):
                    one.load_state_dict(kept)
            metrics = Metrics(folder / METRICS, done)
            stack.callback(metrics.close)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(model.eval)
        model.train()
        left = iter(islice(batches, done, steps))
        began = time.perf_counter(), time.process_time()
        # Two bars would write over each other.
        beside = multiprocessing.parent_process() is not None
        for _ in track(range(done, steps), name, console=CONSOLE, disable=beside):
            batch = next(left, None)
            if batch is None:
                raise ValueError(f"there are {done:,} batches, and {steps:,} steps are wanted")
            torch.manual_seed(seed * 1_000_003 + done)
            parts = _step(model, loss(batch), optimizers, clip, done)
            learned.losses.append(sum(parts))
            for schedule in schedules:
                schedule.step()
            done += 1
            if metrics is not None:
                each = {"parts": [round(part, 5) for part in parts]} if parts[1:] else {}
                metrics.write(done, loss=round(learned.losses[-1], 5), **each)
            if done == steps or (folder is not None and done % save_every == 0):
                now = time.perf_counter(), time.process_time()
                learned.seconds += now[0] - began[0]
                learned.cpu_seconds += now[1] - began[1]
                began = now
                if folder is not None and metrics is not None:
                    metrics.to_disk()
                    states = [one.state_dict() for one in stateful]
                    state = {"learned": vars(learned), "states": states}
                    save_checkpoint(folder / CHECKPOINTS, done, state)
    return learned


def _step(
    model: nn.Module,
    losses: Tensor | Iterable[Tensor],
    optimizers: Sequence[torch.optim.Optimizer],
    clip: float,
    done: int,
) -> list[float]:
    for optimizer in optimizers:
        optimizer.zero_grad()
    parts = []
    for part in [losses] if isinstance(losses, Tensor) else losses:
        part.backward()
        parts.append(part.item())
    if not math.isfinite(sum(parts)):
        raise ValueError(f"the loss of step {done + 1} is {sum(parts)}")
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    for optimizer in optimizers:
        optimizer.step()
    return parts


def _check_same(file: Path, about: Mapping[str, Any]) -> None:
    """Note what a run is, or refuse a folder that holds another one."""
    words = json.dumps(about, indent=1, sort_keys=True) + "\n"
    if not file.is_file():
        write_text(file, words)
    elif file.read_text(encoding="utf-8") != words:
        raise ValueError(f"{file.parent} holds another run; see {file.name} there, or remove it")


def one_cycle(
    optimizer: torch.optim.Optimizer, steps: int, peaks: float | list[float]
) -> list[LRScheduler]:
    """Up over a tenth of the steps, then down by a cosine, to nearly nothing."""
    return [OneCycleLR(optimizer, peaks, total_steps=steps, pct_start=0.1)]


def held(
    optimizers: Sequence[torch.optim.Optimizer], steps: int, warmup: int, fall: float = 0.4
) -> list[LRScheduler]:
    """Up over `warmup` steps, then held, and to zero over the last share `fall` of the steps."""

    def share(step: int) -> float:
        return min(1.0, (step + 1) / warmup, (steps - step) / (fall * steps))

    return [LambdaLR(optimizer, share) for optimizer in optimizers]


@dataclass(frozen=True)
class Best(Generic[Found]):
    """The best of several learning rates.

    Attributes:
        found: What the run with that rate gave.
        losses: Of every rate.
        at_edge: Whether it is the lowest or the highest: a rate beyond may be better still.
    """

    rate: float
    found: Found
    losses: Mapping[float, float]

    @property
    def at_edge(self) -> bool:
        return self.rate in (min(self.losses), max(self.losses))


def best_of(found: Mapping[float, Found], loss: Callable[[Found], float]) -> Best[Found]:
    """The run of lowest loss among runs by rate; a loss that is no number is the highest."""
    losses = {rate: loss(one) for rate, one in found.items()}
    losses = {rate: one if math.isfinite(one) else math.inf for rate, one in losses.items()}
    rate = min(losses, key=lambda rate: losses[rate])
    return Best(rate, found[rate], losses)


def side_by_side(
    jobs: Mapping[str, Callable[[], Any]], folder: Path | None, processes: int = 2
) -> dict[str, Any]:
    """What every job gives, as JSON; kept in `folder/NAME.json` it is not done again.

    Each job has a process of one thread, and so gives what it would give alone.

    Args:
        jobs: By name; functions of a module's top level, or `functools.partial` of one.
        processes: At a time.

    Raises:
        Exception: Of the first job that fails; those that run are waited for, and kept.
    """
    files = {name: folder / f"{name}.json" for name in jobs} if folder else {}
    found = {name: json.loads(file.read_text()) for name, file in files.items() if file.is_file()}
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # what all need is imported once
    failed: BaseException | None = None
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        running = {pool.submit(job): name for name, job in jobs.items() if name not in found}
        for future in as_completed(running):
            if future.cancelled():
                continue
            if error := future.exception():
                failed = failed or error
                pool.shutdown(wait=False, cancel_futures=True)
                continue
            name = running[future]
            words = json.dumps(future.result(), indent=1) + "\n"
            found[name] = json.loads(words)
            if folder is not None:
                write_text(files[name], words)
    if failed is not None:
        raise failed
    return {name: found[name] for name in jobs}
