"""What an adapted model does and what it costs, in words and numbers."""

from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.core import native
from lengthwise.core.attention import Choice, choice_for, in_runs, reachable, settled, splits
from lengthwise.core.attention.choice import choice_for_pages
from lengthwise.core.attention.decode import Part, in_c
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.extend.adapt import binding_of, unwrapped
from lengthwise.extend.engine import Engine
from lengthwise.extend.scores import explain_scores
from lengthwise.hf.families import has_sinks, read_softcap
from lengthwise.hf.other import HookBinding

LENGTH = 8192  # of which implementations are named
LENGTHS = (1, 4, 16, 64)  # trained windows


def explain(model: PreTrainedModel) -> str:
    """Axes, implementations and their reasons, keys read and bytes held at a few lengths.

    Raises:
        ValueError: If the model is not adapted.
    """
    binding = binding_of(model)
    if isinstance(binding, HookBinding):
        return explain_scores(binding)
    engine: Engine = binding.engine
    geometry = engine.geometry
    lines = [
        f"{geometry.family}: {len(geometry.layers)} layers, {geometry.heads} heads over "
        f"{geometry.kv_heads} KV heads of {geometry.head_dim}, trained window {geometry.window:,}"
    ]
    for axis in ("scaling", "layout", "selector", "store"):
        lines.append(f"  {axis:<9} {getattr(engine.axes, axis)}")
    local = [i for i in range(len(geometry.layers)) if geometry.local(i)]
    if local:
        lines.append(
            f"  layers {', '.join(map(str, local))} have a window of their own and keep it"
        )
    for layout, own in _own_layouts(engine).items():
        lines.append(f"  layers {', '.join(map(str, own))}: {layout}")
    blind = [str(i) for i, layer in enumerate(geometry.layers) if layer.rotary is None]
    if blind:
        lines.append(
            f"  layers {', '.join(blind)} have no positions: layouts only choose keys there"
        )
    facts = read_facts(unwrapped(model))
    lines += ["", "implementation"]
    for what, queries in (("prefill of 8,192", LENGTH), ("decoding at 8,192", 1)):
        lines += [f"  {what:<18} {words}" for words in implementations(engine, facts, queries)]
    altered = facts.softcap is not None or facts.sinks
    whole = [i for i in range(len(geometry.layers)) if not geometry.local(i)]
    apart = dict.fromkeys(engine.without_cache(i, altered=altered) for i in whole)
    lines += [f"  {'without a cache':<18} {words}" for words in apart if words]
    lines += [
        "",
        f"  {'tokens':>10}  {'keys per query':>14}  {'turned to read':>14}  {'cache bytes':>14}  "
        "bytes a token",
    ]
    layers = range(len(geometry.layers))
    for length in (geometry.window * times for times in LENGTHS):
        reads = sum(engine.keys_read(i, length) for i in layers) / len(layers)
        turned = sum(keys_turned(engine, i, length) for i in layers) / len(layers)
        held = cache_bytes(engine, length)
        lines.append(
            f"  {length:>10,}  {reads:>14,.0f}  {turned:>14,.0f}  {held:>14,}  {held / length:,.0f}"
        )
    return "\n".join(lines)


def _own_layouts(engine: Engine) -> dict[str, list[int]]:
    """Layers whose layout is another than the model's, by its words; not those with a window."""
    found: dict[str, list[int]] = {}
    for index, axes in enumerate(engine.layers):
        if not engine.geometry.local(index) and axes.layout != engine.axes.layout:
            found.setdefault(repr(axes.layout), []).append(index)
    return found


@dataclass(frozen=True)
class Facts:
    """What attention of a model is called with, beside its regions.

    Attributes:
        like: A number of the model's type, where the model is.
        softcap: What scores are capped at.
        sinks: Whether heads have a learned sink.
    """

    like: Tensor
    softcap: float | None
    sinks: bool


def read_facts(model: PreTrainedModel) -> Facts:
    """Those of a model."""
    like = torch.empty((), dtype=model.dtype, device=model.device)
    return Facts(like, read_softcap(model), has_sinks(model))


@torch.no_grad()
def implementations(engine: Engine, facts: Facts, queries: int, length: int = LENGTH) -> list[str]:
    """What computes the layers without a window of their own, for the last of so many tokens.

    The same functions are asked that choose when a layer runs, about a text without padding.
    """
    geometry = engine.geometry
    lines: list[str] = []
    for layer in range(len(geometry.layers)):
        if geometry.local(layer):
            continue
        for words, heads, part in engine.parts(layer):
            for count, choice in _choices(part, layer, heads, facts, queries, length):
                regions = f"{count} region{'s' if count > 1 else ''}, "
                lines.append(f"{words}{regions}{choice.name}: {choice.reason}")
    return list(dict.fromkeys(lines))


def _choices(
    engine: Engine, layer: int, heads: int, facts: Facts, queries: int, length: int
) -> list[tuple[int, Choice]]:
    """Implementations of one layer's regions, and how many of them each computes."""
    store = engine.layers[layer].store
    if store.every:  # a forward is read in pieces, behind what was kept
        queries = min(queries, store.every)
        length = store.kept(length - queries) + queries
    d = engine.geometry.head_dim
    q = facts.like.expand(1, 1, 1, 1).repeat(1, 1, 1, d).expand(1, heads, queries, d)
    blocks = [
        replace(block, keys=wide, values=wide)
        for block in _stored(engine, layer, facts, queries, length)
        for wide in [q[:, :1, :1].expand(1, 1, len(block), d)]
    ]
    first = length - queries
    places = torch.arange(first, length, device=q.device)[None]
    asked = Queries(q, places, None, first)
    regions = [settled(region, asked) for region in engine.regions[layer]]
    exact = [region for region in regions if not region.paged]
    parts: list[list[Part]] = []
    for region in exact:
        reached = [reachable(region, asked, block) for block in blocks]
        parts.append([(region, asked, keys) for keys in reached if keys is not None])
    together = [part for of_region in parts for part in of_region]
    alone = len(together) == 1 == len(regions) and not facts.sinks
    counted: Counter[Choice] = Counter()
    for of_region in parts:
        runs = [_longest(part) for part in of_region]
        counted.update({_choice(run, facts, alone, together) for run in runs if run is not None})
    for _ in range(len(regions) - len(exact)):
        counted[choice_for_pages(queries)] += 1
    return [(count, choice) for choice, count in counted.items()]


def _stored(engine: Engine, layer: int, facts: Facts, queries: int, length: int) -> list[KeyBlock]:
    """Blocks as the store hands them out to the last queries, with vectors of one number."""
    store, done = engine.new_state(layer).store, 0
    blocks: list[KeyBlock] = []
    for count in (length - queries, queries):
        if count:
            vectors = facts.like.expand(1, 1, count, 1)
            places = torch.arange(done, done + count, device=vectors.device)[None, None]
            blocks = store.extend(KeyBlock(vectors, vectors, places, None, done))
            done += count
    return blocks


def _longest(part: Part) -> Part | None:
    """A part; of one that is read in runs, such a run as most queries are in."""
    if not splits(*part) or len(part[1]) == 1:
        return part
    runs = [(band, run, keys) for band, run, keys in in_runs(*part) if keys is not None]
    lengths = Counter(n for _, run, _ in runs for n in [len(run)] * len(run))
    usual = max(lengths, key=lengths.__getitem__, default=0)
    return next((run for run in runs if len(run[1]) == usual), None)


def _choice(part: Part, facts: Facts, alone: bool, together: list[Part]) -> Choice:
    """The choice for one part, with who carries it out on a CPU.

    Args:
        together: All parts of the layer, which a few queries read in one softmax.
    """
    region, queries, block = part
    choice = choice_for(region, queries, block, facts.softcap, alone)
    if choice.name not in ("decode", "sdpa") or facts.like.device.type != "cpu":
        return choice
    d = block.values.shape[-1]
    x, k, v = (t[..., :1, :].contiguous() for t in (queries.vectors, block.keys, block.values))
    if choice.name == "sdpa":
        by_c, by = native.takes_band(x, k, v), native.why(d, d, band=True)
    else:
        few = together if queries is together[0][1] else [part]  # a run is by itself
        by_c, by = in_c(few, facts.softcap), native.why(d, d)
    if not by_c and facts.like.dtype != torch.float32:
        by = f"torch: {str(facts.like.dtype).removeprefix('torch.')}"
    elif not by_c and not by.startswith("torch"):
        by = "torch: scores are changed or keys hidden"
    return replace(choice, reason=f"{choice.reason} ({by})")


def keys_turned(engine: Engine, layer: int, length: int) -> int:
    """Keys that the last of `length` tokens reads elsewhere than where the cache holds them."""
    axes = engine.layers[layer]
    if engine.geometry.layers[layer].rotary is None:
        return 0
    stored = engine.stored_at(layer)
    positions, zero = torch.arange(length), torch.zeros((), dtype=torch.long)
    moved = [region for region in engine.regions[layer] if region.k_place != stored]
    exact = sum(
        int(region.visible(zero, zero, positions[-1], positions).sum())
        for region in moved
        if not region.paged
    )
    paged = any(region.paged for region in moved)
    exact = min(exact, axes.store.kept(length))
    return min(length, exact + axes.selector.keys_read(length)) if paged else exact


def cache_bytes(engine: Engine, length: int) -> int:
    """Bytes of keys and values that one row holds after `length` tokens, over all layers."""
    geometry = engine.geometry
    token = 2 * geometry.kv_heads * geometry.head_dim * geometry.dtype_bytes
    return sum(axes.store.kept(length) * token for axes in engine.layers)
