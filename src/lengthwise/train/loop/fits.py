"""Whether a step fits in memory, said before the run and not by the kernel in the middle of it."""

import ctypes
import sys
from collections.abc import Callable

import torch
from transformers import PreTrainedModel

from lengthwise.hf.families import UnsupportedModelError
from lengthwise.measure.report.words import size
from lengthwise.train.named import read_memory
from lengthwise.train.plan import OPTIMIZERS, Levers, ModelShape, Training, read_shape, step_peak
from lengthwise.train.recipe import Recipe

FOUR_BITS = 4.127 / 8  # bytes of a number in NF4 with doubly quantised constants (QLoRA, section 3)
TIGHT = 4  # a process grew to 3.6 times a step's bytes in benchmarks/train_plan.py
MMAP_THRESHOLD = -3  # of glibc's mallopt


def check_fits(
    model: PreTrainedModel,
    recipe: Recipe,
    length: int,
    room: int,
    gpu: bool,
    say: Callable[[str], None],
) -> None:
    """Refuse a run whose step needs more than `room` bytes.

    On a CPU where more than a quarter of them are needed, freed blocks go back to the system from
    then on: what glibc would keep of them is not in the prediction.

    Args:
        model: The base's skeleton: its weights are not in memory yet.
        length: Tokens of a row in training.
        gpu: Whether it will be trained on one.
        say: Told where a family's step cannot be worked out, and that blocks go back.

    Raises:
        ValueError: With the bytes, and the length that would fit.
    """
    try:
        shape = read_shape(model)
    except UnsupportedModelError as error:
        say(f"Whether a step fits is not known: {error}.")
        return
    named = recipe.dtype != "auto"
    dtype = getattr(torch, recipe.dtype) if named else model.config.dtype or torch.float32
    need = step_bytes(shape, recipe, dtype, gpu, length)
    if need <= room:
        if not gpu and TIGHT * need > room and give_blocks_back():
            say("Memory is tight: freed blocks go back to the system at once, which takes time.")
        return
    low, high = 0, length
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        fits = step_bytes(shape, recipe, dtype, gpu, middle) <= room
        low, high = (middle, high) if fits else (low, middle)
    way_out = f"length={low} would fit" if low > 1 else "not even one token would fit"
    levers = "checkpointing=true, memory=streambp+tiledloss or tune=lora need less"
    raise ValueError(
        f"a step of {recipe.rows} x {length:,} tokens needs about {size(need)} and {size(room)} "
        f"are free: {way_out}; {levers}"
    )


def give_blocks_back() -> bool:
    """Tell this process's allocator to give freed blocks from 1 MB on back to the system at once.

    Returns:
        Whether it could be told: glibc can.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and mallopt(MMAP_THRESHOLD, 1 << 20) == 1


def step_bytes(
    shape: ModelShape, recipe: Recipe, dtype: torch.dtype, gpu: bool, length: int
) -> int:
    """Bytes at the worst moment of a step, as `lengthwise plan --train` has them."""
    lora = recipe.rank if recipe.tune == "lora" else 0
    training = Training(
        dtype.itemsize, OPTIMIZERS[recipe.optimizer], lora, gpu, torch.get_num_threads()
    )
    levers = Levers(read_memory(recipe.memory), recipe.checkpointing)
    need = step_peak(shape, training, levers, length, recipe.rows).total
    if recipe.four_bit:
        need -= int(sum(a * b for a, b in shape.linear) * (dtype.itemsize - FOUR_BITS))
    if "embeddings" in recipe.also:  # their gradient and the optimizer's states, and a copy of them
        table = shape.vocabulary * shape.hidden * dtype.itemsize
        need += table * (2 + OPTIMIZERS[recipe.optimizer].states)
    return need
