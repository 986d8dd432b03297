"""What an adapted model does and what it costs, in words and numbers."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.core.attention import Choice, attend_blocks, recording
from lengthwise.core.attention.choice import choice_for_pages
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.extend import quick
from lengthwise.extend.adapt import binding_of, unwrapped
from lengthwise.extend.engine import Engine
from lengthwise.extend.plan import Plan
from lengthwise.extend.scores import ScoreEngine, explain_scores
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
        return explain_scores(binding.engine)
    engine = binding.engine
    geometry = engine.geometry
    lines = [
        f"{geometry.family}: {len(geometry.layers)} layers, {geometry.heads} heads over "
        f"{geometry.kv_heads} KV heads of {geometry.head_dim}, trained window {geometry.window:,}"
    ]
    for axis in ("scaling", "layout", "selector", "store"):
        lines.append(f"  {axis:<9} {getattr(engine.axes, axis)}")
    rotaries = (x.rotary for i, x in enumerate(geometry.layers) if not geometry.local(i))
    carried = next((rotary for rotary in rotaries if rotary is not None), None)
    if carried is not None and engine.axes.scaling.replaces(carried):
        lines.append(
            f"  rope_type {carried.kind!r} of the model is replaced, from its unscaled "
            f"frequencies: factors count from the {geometry.window:,} tokens before it"
        )
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
    for what, queries, training in (
        (f"prefill of {LENGTH:,}", LENGTH, False),
        (f"decoding at {LENGTH:,}", 1, False),
        (f"training on {LENGTH:,}", LENGTH, True),
    ):
        named = implementations(engine, facts, queries, training=training)
        lines += [f"  {what:<18} {words}" for words in named]
    lines += [
        "",
        f"  {'tokens':>10}  {'keys per query':>14}  {'turned to read':>14}  {'cache bytes':>14}  "
        "bytes a token",
    ]
    layers = range(len(geometry.layers))
    for length in (geometry.window * times for times in LENGTHS):
        reads = sum(engine.keys_read(i, length) for i in layers) / len(layers)
        turned = sum(engine.keys_turned(i, length) for i in layers) / len(layers)
        held = cache_bytes(engine, [length])
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


def implementations(
    engine: Engine, facts: Facts, queries: int, length: int = LENGTH, *, training: bool = False
) -> list[str]:
    """What computes the layers without a window of their own, for the last of so many tokens.

    Attention itself is called, about a text without padding, and notes what it would do.
    """
    lines: list[str] = []
    for mine in engine.plans:
        for plan in mine if not engine.geometry.local(mine[0].layer) else ():
            for count, choice in _choices(plan, facts, queries, length, training):
                regions = f"{count} region{'s' if count > 1 else ''}, "
                lines.append(f"{plan.words}{regions}{choice.name}: {choice.reason}")
    return list(dict.fromkeys(lines))


def _choices(
    plan: Plan, facts: Facts, queries: int, length: int, training: bool
) -> list[tuple[int, Choice]]:
    """Implementations of one plan's regions, and how many of them each computes."""
    store, shape = plan.axes.store, plan.shape
    if store.every:  # a forward is read in pieces, behind what was kept
        queries = min(queries, store.every)
        # No more than its slots before any key is packed: what is packed is read in the same way.
        length = min(store.kept(length - queries), store.slots([0]) - queries) + queries
    first = length - queries
    with torch.set_grad_enabled(training):
        like = facts.like.new_empty(1, 1, 1, shape.head_dim).requires_grad_(training)
        blocks = [
            replace(block, keys=wide, values=wide)
            for block in _stored(plan, facts, queries, length, training)
            for wide in [like.expand(1, shape.kv_heads, len(block), -1)]
        ]
        places = torch.arange(first, length, device=like.device)[None]
        asked = Queries(like.expand(1, shape.heads, queries, -1), places, None, first)
        merged = facts.sinks or plan.pages
        with recording() as found:
            attend_blocks(
                asked, blocks, plan.exact, rotary=None, softcap=facts.softcap, need_lse=merged
            )
        short = None
        if queries == 1 and not facts.sinks and facts.softcap is None and not training:
            short = quick.carried_out(plan, facts.like)
            found = [(region, short or choice) for region, choice in found]
        by_region = {(id(region), choice): choice for region, choice in found}
        counted = Counter(by_region.values())
        for _ in range(len(plan.regions) - len(plan.exact)):
            counted[short or choice_for_pages(queries)] += 1
    return [(count, choice) for choice, count in counted.items()]


def _stored(plan: Plan, facts: Facts, queries: int, length: int, training: bool) -> list[KeyBlock]:
    """Blocks as the store hands them out to the last queries, with vectors of one number.

    Training keeps no cache.
    """
    store, done = plan.axes.store.state(plan.layer, len(plan.geometry.layers)), 0
    blocks: list[KeyBlock] = []
    for count in (length - queries, queries):
        if count:
            vectors = facts.like.expand(1, 1, count, 1)
            places = torch.arange(done, done + count, device=vectors.device)[None, None]
            new = KeyBlock(vectors, vectors, places, None, done)
            blocks = [new] if training else store.extend(new)
            done += count
    return blocks


def cache_bytes(engine: Engine | ScoreEngine, ends: Sequence[int]) -> int:
    """Bytes that the cache allocates for one row, over all layers; of a model that keeps
    transformers' own, bytes of its keys and values.

    Args:
        ends: Tokens read after each forward, rising.
    """
    if isinstance(engine, ScoreEngine):
        return ends[-1] * engine.geometry.token_bytes * len(engine.geometry.layers)
    return sum(plan.allocated(ends) for mine in engine.plans for plan in mine)
