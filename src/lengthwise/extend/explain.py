"""What an adapted model does and what it costs, in words and numbers."""

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from lengthwise.core import native
from lengthwise.core.attention import Choice, choose
from lengthwise.core.attention.flex import has_compiler
from lengthwise.extend.adapt import binding_of
from lengthwise.extend.engine import Engine
from lengthwise.extend.scores import explain_scores
from lengthwise.hf.other import HookBinding

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
    device = next(model.parameters()).device.type
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
    lines += ["", "implementation"]
    for what, queries in (("prefill of 8,192", 8192), ("decoding at 8,192", 1)):
        for count, choice in _choices(engine, device, queries):
            regions = f"{count} region{'s' if count > 1 else ''}, "
            lines.append(f"  {what:<18} {regions}{choice.name}: {choice.reason}")
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


def _choices(engine: Engine, device: str, queries: int) -> list[tuple[int, Choice]]:
    """What computes the regions of a layer without a window of its own, and how many of them."""
    geometry = engine.geometry
    whole = [i for i in range(len(geometry.layers)) if not geometry.local(i)]
    counted: dict[Choice, int] = {}
    for region in engine.regions[whole[0]]:
        choice = choose(
            device=device, queries=queries, keys=8192, heads=geometry.heads, aligned=True,
            plain=region.also is None and region.score is None, needs_grad=False,
            compiler=has_compiler(),
        )  # fmt: skip
        if choice.name in ("decode", "sdpa") and device == "cpu":
            half = 2 if choice.name == "sdpa" else 1
            by = native.why(geometry.head_dim, geometry.head_dim // half)
            choice = replace(choice, reason=f"{choice.reason} ({by})")
        counted[choice] = counted.get(choice, 0) + 1
    return [(count, choice) for choice, count in counted.items()]


def keys_turned(engine: Engine, layer: int, length: int) -> int:
    """Keys that the last of `length` tokens reads elsewhere than where the cache holds them."""
    base, axes = engine.geometry.layers[layer].rotary, engine.layers[layer]
    if base is None:
        return 0
    stored = axes.layout.key_place if axes.scaling.storable(base) else None
    positions, zero = torch.arange(length), torch.zeros((), dtype=torch.long)
    moved = [region for region in engine.regions[layer] if region.k_place != stored]
    exact = sum(
        int(region.visible(zero, zero, positions[-1], positions).sum())
        for region in moved
        if not region.paged
    )
    paged = any(region.paged for region in moved)
    return min(length, exact + axes.selector.keys_read(length)) if paged else exact


def cache_bytes(engine: Engine, length: int) -> int:
    """Bytes of keys and values that one row holds after `length` tokens, over all layers."""
    geometry = engine.geometry
    token = 2 * geometry.kv_heads * geometry.head_dim * geometry.dtype_bytes
    return sum(axes.store.kept(length) * token for axes in engine.layers)
