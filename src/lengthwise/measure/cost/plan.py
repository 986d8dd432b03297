"""What a context costs to serve: bytes, and the least time that the hardware allows.

Source: Fu 2024, Challenges in Deploying Long-Context Transformers: A Theoretical Peak Performance
Analysis, arXiv:2405.08944, section 2: four costs, each bound by one figure of the device.
Differs from the source: attention is counted from the model's own heads and windows, the head for
    the last token alone, a prompt also has to read the weights once, and decoding is bound by
    arithmetic too where a large batch makes it so.
"""

from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from lengthwise.core.geometry import Geometry
from lengthwise.extend.adapt import compose
from lengthwise.extend.engine import Engine
from lengthwise.hf.families import read_geometry
from lengthwise.measure.cost.devices import Device
from lengthwise.measure.engines.reading import CHUNK


@dataclass(frozen=True)
class Weights:
    """Numbers of parameters.

    Attributes:
        total: All of them, shared ones once.
        used: That a token is multiplied with below the head; of experts, those that it visits.
        head: Of the head.
        table: Of an embedding that is not the head: looked up, never multiplied or read whole.
    """

    total: int
    used: int
    head: int
    table: int


@dataclass(frozen=True)
class Cost:
    """Bytes and seconds of serving; a time is None where the device's figure is not known.

    Attributes:
        weights: Bytes of all parameters.
        kv_token: Bytes that one more token adds where no layer's window is full.
        kv_user: Bytes of one sequence's keys and values, as transformers' DynamicCache has them.
        kv_lengthwise: Bytes that `lengthwise.new_cache` allocates for it when it is read in chunks
            of `CHUNK` tokens: blocks of slots, with 8 bytes for the position of every slot.
        users: Sequences whose keys and values fit beside the weights.
        prefill: Seconds to read one sequence, at least.
        decode: Seconds for one more token of every sequence of the batch, at least.
        swap: Seconds to bring one sequence's keys and values to the host and another's back.
        flops: Operations of reading one sequence.
    """

    weights: int
    kv_token: int
    kv_user: int
    kv_lengthwise: int
    users: int
    flops: int
    prefill: float | None
    decode: float | None
    swap: float | None


def count_weights(model: PreTrainedModel) -> Weights:
    """Parameters by what they cost; the model may lie on torch's meta device."""
    embedding = model.get_input_embeddings().weight
    head = model.get_output_embeddings().weight
    total = used = 0
    for name, parameter in model.named_parameters():
        total += parameter.numel()
        if parameter is embedding or parameter is head:
            continue
        share = 1.0
        if ".experts." in name:
            config = model.config
            experts = getattr(config, "num_local_experts", None) or config.num_experts
            share = config.num_experts_per_tok / experts
        used += int(parameter.numel() * share)
    table = 0 if embedding is head else embedding.numel()
    return Weights(total, used, head.numel(), table)


def kv_bytes(geometry: Geometry, tokens: int, item: int) -> int:
    """Bytes of keys and values of one sequence in transformers' DynamicCache.

    A layer with a window of w keys keeps w - 1: the next token brings its own.
    """
    # Of a Falcon whose query heads share keys in groups it keeps a copy for every query head.
    copied = geometry.family == "falcon" and geometry.kv_heads > 1
    token = 2 * (geometry.heads if copied else geometry.kv_heads) * geometry.head_dim * item
    windows = (layer.window for layer in geometry.layers)
    return sum(token * (tokens if w is None else min(tokens, w - 1)) for w in windows)


def lengthwise_kv_bytes(
    geometry: Geometry, tokens: int, dtype: torch.dtype, chunk: int = CHUNK
) -> int:
    """Bytes that our cache allocates for one sequence read in chunks, without methods."""
    return store_bytes(Engine(geometry, compose(())), tokens, dtype, chunk)


def store_bytes(engine: Engine, tokens: int, dtype: torch.dtype, chunk: int = CHUNK) -> int:
    """Bytes that our cache allocates for one sequence: keys, values, positions, and what selectors
    note of pages.

    Args:
        chunk: Tokens of every forward but the last; `tokens` for one that reads all at once.
    """
    ends = [*range(chunk, tokens, chunk), tokens]
    each = (plan for mine in engine.plans for plan in mine)
    return sum(plan.allocated(ends, dtype.itemsize) for plan in each)


def prefill_flops(geometry: Geometry, weights: Weights, tokens: int) -> int:
    """Operations of reading a sequence: 2 for each weight and token, 4 for each number of a head
    and each pair of a query and a key that it sees; the head once.
    """
    pairs = 0
    for layer in geometry.layers:
        seen = tokens if layer.window is None else min(tokens, layer.window)
        pairs += seen * (seen + 1) // 2 + (tokens - seen) * seen
    attention = 4 * geometry.heads * geometry.head_dim * pairs
    return 2 * weights.used * tokens + attention + 2 * weights.head


def serving_cost(
    model: PreTrainedModel, device: Device, tokens: int, batch: int, dtype: torch.dtype
) -> Cost:
    """The costs of serving `batch` sequences of `tokens` tokens.

    Args:
        model: Of a supported family; it may lie on torch's meta device.

    Raises:
        ValueError: If tokens or batch are below 1.
    """
    for name, value in (("tokens", tokens), ("batch", batch)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, got {value}")
    geometry, weights, item = read_geometry(model), count_weights(model), dtype.itemsize
    user = kv_bytes(geometry, tokens, item)
    flops = prefill_flops(geometry, weights, tokens)
    # What one token more costs: the difference of two prompts, less the head that both have.
    step = prefill_flops(geometry, weights, tokens + 1) - flops + 2 * weights.head
    read = (weights.used + weights.head) * item
    stored = weights.total * item
    prefill = decode = None
    if device.flops and device.bandwidth:
        prefill = max(flops / device.flops, (read + user) / device.bandwidth)
        decode = max((read + batch * user) / device.bandwidth, batch * step / device.flops)
    return Cost(
        weights=stored,
        kv_token=kv_bytes(geometry, 1, item),
        kv_user=user,
        kv_lengthwise=lengthwise_kv_bytes(geometry, tokens, dtype),
        users=max(0, device.memory - stored) // user,
        flops=flops,
        prefill=prefill,
        decode=decode,
        swap=2 * user / device.link if device.link else None,
    )
