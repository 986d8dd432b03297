"""What reading a text and one step after it do, counted from a configuration: the quantities that
a calibrated machine turns into seconds.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from transformers import PreTrainedModel

from lengthwise.core.geometry import Geometry
from lengthwise.extend.engine import Engine
from lengthwise.hf.families import mlp_width, read_geometry
from lengthwise.measure.cost.plan import Weights, count_weights
from lengthwise.measure.engines.reading import CHUNK

LARGE = 32 << 20  # bytes from which glibc takes every block from the system and gives it back
SAMPLES = 17  # lengths at which what a query reads is counted; between them it is interpolated


@dataclass(frozen=True)
class Read:
    """Of reading one text.

    Attributes:
        products: Operations with weights.
        attention: Operations of attention over keys that a region shows.
        scores: Of those keys, the scores that become weights.
        paged: Operations of attention over keys that a selector chooses.
        gathered: Of those keys, the scores that become weights.
        scored: Products of a query with a page's representatives, in operations.
        activations: Numbers that layers hand on.
        moved: Bytes of keys that are turned or copied, over all chunks.
        renewed: Of copied ones, those in tensors so large that every copy gets new pages.
        forwards: Layers times chunks.
        parts: Regions of all layers, times chunks.
        choices: Layers in which a selector chooses, times chunks.
    """

    products: float
    attention: float
    scores: float
    paged: float
    gathered: float
    scored: float
    activations: float
    moved: float
    renewed: float
    forwards: float
    parts: float
    choices: float


@dataclass(frozen=True)
class Step:
    """Of one more token.

    Attributes:
        weights: Bytes of weights that are read.
        keys: Bytes of keys and values that a region shows.
        paged: Bytes of those that a selector chooses.
        scored: Bytes of the representatives of pages.
        moved: Bytes of keys that are turned or copied.
        renewed: Of copied ones, those in tensors so large that every copy gets new pages.
        layers: Of the model.
        parts: Regions of all layers.
        choices: Layers in which a selector chooses.
    """

    weights: float
    keys: float
    paged: float
    scored: float
    moved: float
    renewed: float
    layers: float
    parts: float
    choices: float


def count_read(
    model: PreTrainedModel, engine: Engine | None, tokens: int, item: int, chunk: int = CHUNK
) -> Read:
    """What reading `tokens` tokens in chunks does.

    Args:
        model: Of a supported family; it may lie on torch's meta device.
        engine: Of the adapted model; None for transformers' own attention and DynamicCache, which
            copies everything that it holds for each chunk.
        item: Bytes of a number.
    """
    geometry, weights = _geometry(model, engine), count_weights(model)
    ends = sorted({min(tokens, at) for at in range(chunk, tokens + chunk, chunk)})
    attention = scores = paged = gathered = scored = moved = renewed = 0.0
    head = 4 * geometry.heads * geometry.head_dim
    key = geometry.kv_heads * geometry.head_dim * item
    for layer, count in _layers(geometry, engine):
        exact, chosen, marks = _reads(geometry, engine, layer, tokens)
        attention += count * head * _area(exact, tokens)
        scores += count * geometry.heads * _area(exact, tokens)
        paged += count * head * _area(chosen, tokens)
        gathered += count * geometry.heads * _area(chosen, tokens)
        scored += count * head / 2 * _area(marks, tokens)
        if engine is None:
            copied = [key * min(end, exact[-1][1]) for end in ends]
            moved += count * 2 * sum(copied)
            renewed += count * 2 * sum(size for size in copied if size >= LARGE)
        else:
            turned = _sampled(tokens, lambda n, at=layer: engine.keys_turned(at, n))
            moved += count * key * _area(turned, tokens) / chunk
    config: Any = model.config
    width = 4 * config.hidden_size + 3 * mlp_width(config)
    layers = len(geometry.layers)
    return Read(
        products=2.0 * weights.used * tokens + 2.0 * weights.head * len(ends),
        attention=attention,
        scores=scores,
        paged=paged,
        gathered=gathered,
        scored=scored,
        activations=float(width) * tokens * layers,
        moved=moved,
        renewed=renewed,
        forwards=float(layers * len(ends)),
        parts=float(_parts(geometry, engine) * len(ends)),
        choices=float(_choices(engine) * len(ends)),
    )


def count_step(model: PreTrainedModel, engine: Engine | None, tokens: int, item: int) -> Step:
    """What one more token does after `tokens`; the arguments are those of `count_read`."""
    geometry, weights = _geometry(model, engine), count_weights(model)
    key = geometry.kv_heads * geometry.head_dim * item
    keys = paged = scored = moved = renewed = 0.0
    for layer, count in _layers(geometry, engine):
        exact, chosen, marks = (
            samples[-1][1] for samples in _reads(geometry, engine, layer, tokens)
        )
        keys += count * 2 * key * exact
        paged += count * 2 * key * chosen
        scored += count * key * marks
        if engine is None:
            moved += count * 2 * key * exact
            renewed += count * 2 * key * exact if key * exact >= LARGE else 0.0
        else:
            moved += count * key * engine.keys_turned(layer, tokens)
    return Step(
        weights=float(_read_weights(weights) * item),
        keys=keys,
        paged=paged,
        scored=scored,
        moved=moved,
        renewed=renewed,
        layers=float(len(geometry.layers)),
        parts=float(_parts(geometry, engine)),
        choices=float(_choices(engine)),
    )


def _geometry(model: PreTrainedModel, engine: Engine | None) -> Geometry:
    return read_geometry(model) if engine is None else engine.geometry


def _parts(geometry: Geometry, engine: Engine | None) -> int:
    return len(geometry.layers) if engine is None else sum(map(len, engine.regions))


def _choices(engine: Engine | None) -> int:
    layers = [] if engine is None else engine.layers
    return sum(axes.selector.state() is not None for axes in layers)


def _read_weights(weights: Weights) -> int:
    return weights.used + weights.head


Samples = list[tuple[int, float]]  # lengths, rising to the last, and something at each


def _layers(geometry: Geometry, engine: Engine | None) -> list[tuple[int, int]]:
    """A layer of each kind and how many are like it."""
    kinds: dict[str, list[int]] = {}
    for index, layer in enumerate(geometry.layers):
        axes = None if engine is None else engine.layers[index]
        kinds.setdefault(repr((layer.window, layer.rotary is None, axes)), []).append(index)
    return [(alike[0], len(alike)) for alike in kinds.values()]


def _reads(
    geometry: Geometry, engine: Engine | None, layer: int, tokens: int
) -> tuple[Samples, Samples, Samples]:
    """Keys that a query reads, keys that a selector gives it, and keys that stand for pages."""
    window = geometry.layers[layer].window
    none: Samples = [(1, 0.0), (tokens, 0.0)]
    if engine is None:
        most = tokens if window is None else window
        return _sampled(tokens, lambda n: min(n, most)), none, none
    read = _sampled(tokens, lambda n: engine.keys_read(layer, n))
    if not any(region.paged for region in engine.regions[layer]):
        return read, none, none
    compared = engine.layers[layer].selector.keys_compared
    return none, read, [(n, float(compared(n))) for n, _ in read]


def _sampled(tokens: int, value: Any) -> Samples:
    """Something at lengths that lie closer together where texts are short."""
    if tokens == 1:
        return [(1, float(value(1)))]
    steps = torch.logspace(0, 1, SAMPLES, base=float(tokens), dtype=torch.float64).round()
    even = torch.linspace(1, tokens, SAMPLES, dtype=torch.float64).round()
    return [(int(n), float(value(int(n)))) for n in torch.cat([steps, even]).unique().tolist()]


def _area(samples: Samples, tokens: int) -> float:
    """The sum over all queries of a text: exact where something rises evenly between samples."""
    if tokens == 1:
        return samples[0][1]
    pairs = pairwise(samples)
    ends = (samples[0][1] + samples[-1][1]) / 2
    return sum((b - a) * (x + y) / 2 for (a, x), (b, y) in pairs) + ends
