"""The loop: from a recipe to a tuned checkpoint, whatever stops it on the way.

    result = train(recipe, "runs/longer")

    runs/longer/run.json         the recipe, and what it was started on
                metrics.jsonl    a line a step, and the evaluations
                checkpoints/     the last two
                model/, adapter/ what comes out
                result.json      written last: the run is finished

Everything that is drawn is a function of (seed, step): rows, transforms, dropout. So weights,
optimizer and the number of steps are all that a checkpoint must hold, and a run that was killed
ends with the same bits as one that was not.
"""

import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lengthwise.files import hold, write_text
from lengthwise.hf.skeleton import read_config, skeleton
from lengthwise.train.data.pipeline import Progress as Packing
from lengthwise.train.data.reading import first_line
from lengthwise.train.loop.evaluate import make_evaluation
from lengthwise.train.loop.finish import write_result
from lengthwise.train.loop.fits import check_fits
from lengthwise.train.loop.folder import check_same_run, clear, sweep
from lengthwise.train.loop.metrics import Metrics, evaluation_before
from lengthwise.train.loop.parts import build_parts
from lengthwise.train.loop.rows import Plan, open_pairs, open_source
from lengthwise.train.loop.steps import Progress, Steps
from lengthwise.train.loop.subject import open_reference, open_subject, read_facts
from lengthwise.train.places import CHECKPOINTS, METRICS, RESULT, ROWS, TRACKER, check_folder
from lengthwise.train.recipe import Recipe
from lengthwise.train.tuning import LongPO

LAUNCHED = ("NO", "MULTI_CPU", "MULTI_GPU")  # ways of accelerate that checkpoints cover


@dataclass(frozen=True)
class Result:
    """What a run did.

    Attributes:
        steps, tokens: Done, and read by the model.
        seconds: Of training alone, over all parts of the run.
        before, after: Evaluations: `loss` and `passkey` by length.
        note: Who reads `folder/model` as meant.
    """

    folder: Path
    steps: int
    tokens: int
    seconds: float
    before: dict[str, Any]
    after: dict[str, Any]
    note: str


def train(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    device: str = "",
    tracker: Any = "",
    room: Callable[[torch.device], int] | None = None,
    force: bool = False,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
    packing: Packing | None = None,
) -> Result:
    """Tune a model as a recipe says; the same call after an interruption goes on.

    Under `accelerate launch` or `torchrun` the processes share every step.

    Args:
        output: A directory that does not exist, is empty, or holds this run.
        device: `cpu`, or empty for what accelerate finds.
        tracker: tensorboard, wandb, or whatever else accelerate knows, or a tracker of its kind.
        room: From a device to the bytes that a step may take; None does not ask.
        force: Begin anew where a run is.
        say: Told what a person should know.
        progress: Called after every step.
        packing: Called while text is packed.

    Raises:
        ValueError: For a recipe that does not fit its base, its data or the memory, a directory
            that must not be replaced, and a loss that is no number.
        OSError: When the disk is full; free some space and call again.
    """
    recipe.ready()
    folder = Path(output)
    with ExitStack() as stack:
        stack.callback(_tidy, folder)
        accelerator = _accelerator(recipe, device, tracker, folder)
        stack.callback(_forget)
        main = bool(accelerator.is_main_process)
        if main:
            check_folder(folder, force)
            stack.enter_context(hold(folder))
            clear(folder) if force else sweep(folder)
        accelerator.wait_for_everyone()
        say = say if main else (lambda _: None)
        # Adapters and dropout draw from torch's own generators: those are given back as they were.
        gpus = [accelerator.device] if accelerator.device.type == "cuda" else []
        stack.enter_context(torch.random.fork_rng(devices=gpus))

        if room is not None:
            bare = skeleton(read_config(recipe.base))
            trained = build_parts(recipe, read_facts(bare, recipe)).trained
            gpu = accelerator.device.type == "cuda"
            check_fits(bare, recipe, trained, room(accelerator.device), gpu, say)
        subject = open_subject(recipe, accelerator.device)
        parts = build_parts(recipe, subject.facts)
        if parts.objective is not None and accelerator.num_processes > 1:
            raise ValueError(
                f"{type(parts.objective).__name__} reads the model below its wrapper for several "
                "processes; run it in one"
            )
        if isinstance(parts.objective, LongPO):
            parts.objective.reference = open_reference(recipe, accelerator.device)
        evaluation = make_evaluation(recipe, subject.tokenizer, subject.facts)
        with accelerator.main_process_first():
            if parts.pairs:
                source = open_pairs(recipe)
            else:
                source = open_source(
                    recipe, parts.source, parts.trained, parts.least, folder / ROWS, packing
                )
        window = subject.facts.window
        plan = Plan(recipe, source.usable, parts.source, window, parts.trained)
        plan.check(accelerator.num_processes)
        if main:
            check_same_run(folder, recipe, subject.fingerprint, source.identity)
        if tracker:
            accelerator.init_trackers("lengthwise", _trackable(recipe))
            stack.callback(accelerator.end_training)

        steps = Steps(recipe, subject, parts, source, plan, evaluation, accelerator, say)
        steps.resume(folder / CHECKPOINTS)
        if main:
            if steps.done:
                evaluation_before(folder / METRICS)
            steps.metrics = Metrics(folder / METRICS, steps.done)
            stack.callback(steps.metrics.close)
        steps.run(folder / CHECKPOINTS, progress)
        if main:
            after = evaluation(subject.inner)
            before = evaluation_before(folder / METRICS)
            steps.unwrap()
            record = {
                "steps": steps.done, "tokens": steps.tokens, "seconds": round(steps.seconds, 1),
                "before": before, "after": after, "note": write_result(subject, recipe, folder),
            }  # fmt: skip
            write_text(folder / RESULT, json.dumps(record, indent=1) + "\n")
        accelerator.wait_for_everyone()
        return read_result(folder)


def read_result(folder: Path) -> Result:
    """The result of a finished run.

    Raises:
        ValueError: If the directory holds none.
    """
    file = folder / RESULT
    if not file.is_file():
        raise ValueError(f"{folder} holds no finished run")
    try:
        return Result(folder, **json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {first_line(error)}") from error


def _accelerator(recipe: Recipe, device: str, tracker: Any, folder: Path) -> Any:
    from accelerate import Accelerator

    try:
        accelerator = Accelerator(
            mixed_precision=recipe.precision,
            cpu=device == "cpu",
            log_with=tracker or None,
            project_dir=folder / TRACKER,
        )
    except (ImportError, ValueError) as error:
        raise ValueError(f"accelerate: {' '.join(str(error).split())}") from None
    if tracker and not accelerator.log_with:  # accelerate leaves it out without a word
        raise ValueError(f"the tracker {tracker!r} is not installed; pip install it, or another")
    kind = accelerator.distributed_type.name
    if kind not in LAUNCHED:
        raise ValueError(
            f"training under {kind} is not covered, for checkpoints hold whole weights; launch "
            "with plain data parallel: torchrun or accelerate launch --multi_gpu"
        )
    return accelerator


def _tidy(folder: Path) -> None:
    """Leave no empty directory behind a run that was refused."""
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _forget() -> None:
    """Let the next run of this process have other settings; accelerate keeps them for good."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()


def _trackable(recipe: Recipe) -> dict[str, Any]:
    """The recipe as trackers take it: numbers and texts."""
    return {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in recipe.settings().items()
    }
