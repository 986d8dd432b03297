"""What reading a text costs: seconds to the first token, tokens a second, bytes."""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.extend.whole import steady
from lengthwise.measure.cost.peak import PeakBytes
from lengthwise.measure.engines.greedy import likeliest_tokens
from lengthwise.measure.engines.reading import CHUNK, read, read_to_end


@dataclass(frozen=True)
class Cost:
    """The cost of one text, batch 1.

    Attributes:
        first_token_seconds: Reading the text in chunks, until the first new token is chosen.
        tokens_per_second: From the median of the decoding steps after that.
        cache_bytes: Allocated by the cache after the text and the decoded tokens.
        peak_bytes: Most bytes of tensors alive while reading and decoding, cache included,
            weights not; None where the device does not count.
    """

    first_token_seconds: float
    tokens_per_second: float
    cache_bytes: int
    peak_bytes: int | None


def cache_bytes(cache: Any) -> int:
    """Bytes allocated by a cache: what ours says, or the tensors of a transformers cache."""
    if hasattr(cache, "bytes"):
        return int(cache.bytes())
    # By storage, so that a view of a larger tensor counts as what it keeps alive.
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for layer in cache.layers
        for tensor in vars(layer).values()
        if isinstance(tensor, Tensor)
    }
    return sum(storages.values())


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@torch.no_grad()
def reading_cost(model: PreTrainedModel, ids: Tensor, steps: int = 16, chunk: int = CHUNK) -> Cost:
    """Measure the cost of reading `ids` `[1, t]` and decoding `steps` tokens.

    On a CPU the text is read twice: counting bytes would disturb the clock.

    Raises:
        ValueError: Fewer than one step, or no token to read.
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps!r}")
    with steady(model):
        return _cost(model, ids, steps, chunk)


def _cost(model: PreTrainedModel, ids: Tensor, steps: int, chunk: int) -> Cost:
    device = model.device
    _settle(model, ids)
    if device.type == "cuda":
        with PeakBytes(device) as counting:
            first, seconds, held = _timed(model, ids, steps, chunk)
        peak = counting.bytes
    else:
        first, seconds, held = _timed(model, ids, steps, chunk)
        peak = peak_bytes(model, ids, chunk)
    return Cost(first, 1 / median(seconds), held, peak)


@torch.no_grad()
def peak_bytes(model: PreTrainedModel, ids: Tensor, chunk: int) -> int | None:
    """Most bytes alive while `ids` `[b, t]` are read and a token is decoded."""
    _settle(model, ids)
    with PeakBytes(model.device) as counting:
        for logits, cache in read(model, ids, chunk):
            counting.mark()
        decoding = likeliest_tokens(model, logits, cache, ids.shape[1])
        next(decoding), next(decoding)
    return counting.bytes


def _settle(model: PreTrainedModel, ids: Tensor) -> None:
    """Read two tokens: pays for thread pools and kernels, and lets go of an earlier cache."""
    read_to_end(model, ids[:, :2])


def _timed(
    model: PreTrainedModel, ids: Tensor, steps: int, chunk: int
) -> tuple[float, list[float], int]:
    """Seconds to the first token, seconds of each step, bytes of the cache."""
    device = model.device
    _wait(device)
    began = time.perf_counter()
    logits, cache = read_to_end(model, ids, chunk)
    decoding = likeliest_tokens(model, logits, cache, ids.shape[1])
    next(decoding)
    _wait(device)
    first = time.perf_counter() - began
    seconds: list[float] = []
    for _ in range(steps):
        began = time.perf_counter()
        _, cache = next(decoding)
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return first, seconds, cache_bytes(cache)
