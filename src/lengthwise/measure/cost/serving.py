"""What serving a length costs with each method, from a configuration."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel

from lengthwise.extend.adapt import adapted, binding_of
from lengthwise.extend.method import Method
from lengthwise.hf.families import read_geometry
from lengthwise.measure.cost.devices import Device
from lengthwise.measure.cost.plan import count_weights, kv_bytes, store_bytes
from lengthwise.measure.cost.work import Step, count_read, count_step

if TYPE_CHECKING:
    from lengthwise.measure.cost.calibration import Rates


@dataclass(frozen=True)
class MethodCost:
    """Bytes and seconds of one length with some methods; None where the device is not known.

    Attributes:
        kv_user: Bytes that the cache allocates for one sequence's keys and values.
        users: Sequences whose keys and values fit beside the weights.
        prefill: Seconds to read one sequence.
        decode: Seconds for one more token of every sequence of the batch.
    """

    kv_user: int
    users: int
    prefill: float | None
    decode: float | None


def method_cost(
    model: PreTrainedModel,
    methods: Sequence[Method] | None,
    device: Device,
    tokens: int,
    batch: int,
    dtype: torch.dtype,
    rates: "Rates | None" = None,
) -> MethodCost:
    """The cost of `tokens` tokens with methods.

    Args:
        model: Not adapted, of a supported family; it may lie on torch's meta device.
        methods: As `adapt` takes them; None for transformers' own attention and DynamicCache.
        rates: Of a calibrated machine. Without them, times are lower bounds from the device's
            figures: operations and bytes that are read, each at its peak.

    Raises:
        ValueError: If the methods do not fit the model.
    """
    item = dtype.itemsize
    weights = count_weights(model)
    with nullcontext() if methods is None else adapted(model, *methods):
        engine: Any = None if methods is None else binding_of(model).engine
        user = (
            kv_bytes(read_geometry(model), tokens, item)
            if engine is None
            else store_bytes(engine, tokens, dtype)
        )
        read = count_read(model, engine, tokens, item)
        step = _of_batch(count_step(model, engine, tokens, item), batch)
    prefill = decode = None
    products = 2.0 * (weights.used + weights.head)
    if rates is not None:
        plain = methods is None
        prefill = rates.seconds(read, plain)
        more = (batch - 1) * products * rates.read["plain" if plain else "adapted"]["products"]
        decode = rates.seconds(step, plain) + more
    elif device.flops and device.bandwidth:
        operations = read.products + read.attention + read.paged + read.scored
        prefill = max(operations / device.flops, (step.weights + user) / device.bandwidth)
        geometry = read_geometry(model)
        keys = (step.keys + step.paged) / (2 * item)  # numbers of keys, of all KV heads
        work = batch * products + 4 * keys * geometry.heads / geometry.kv_heads
        moved = step.weights + step.keys + step.paged + step.scored
        decode = max(moved / device.bandwidth, work / device.flops)
    stored = weights.total * item
    return MethodCost(user, max(0, device.memory - stored) // user, prefill, decode)


def _of_batch(step: Step, batch: int) -> Step:
    """One more token of every sequence: weights are read once, caches each."""
    each = ("keys", "paged", "scored", "moved", "renewed")
    return replace(step, **{name: batch * getattr(step, name) for name in each})
