"""What an adapted model does and what it costs, in words and numbers."""

from transformers import PreTrainedModel

from lengthwise.core.attention import choose
from lengthwise.core.attention.flex import has_compiler
from lengthwise.extend.adapt import binding_of
from lengthwise.extend.engine import Engine

LENGTHS = (1, 4, 16, 64)  # trained windows


def explain(model: PreTrainedModel) -> str:
    """Axes, implementations and their reasons, keys read and bytes held at a few lengths.

    Raises:
        ValueError: If the model is not adapted.
    """
    engine: Engine = binding_of(model).engine
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
    blind = [str(i) for i, layer in enumerate(geometry.layers) if layer.rotary is None]
    if blind:
        lines.append(
            f"  layers {', '.join(blind)} have no positions: layouts only choose keys there"
        )
    lines += ["", "implementation"]
    for what, queries in (("prefill of 8,192", 8192), ("decoding at 8,192", 1)):
        choice = choose(
            device=device, queries=queries, keys=8192, heads=geometry.heads, aligned=True,
            plain=True, needs_grad=False, compiler=has_compiler(),
        )  # fmt: skip
        lines.append(f"  {what:<18} {choice.name}: {choice.reason}")
    lines += ["", f"  {'tokens':>10}  {'keys per query':>14}  {'cache bytes':>14}  bytes a token"]
    for length in (geometry.window * times for times in LENGTHS):
        reads = sum(engine.keys_read(i, length) for i in range(len(geometry.layers)))
        held = cache_bytes(engine, length)
        lines.append(
            f"  {length:>10,}  {reads / len(geometry.layers):>14,.0f}  {held:>14,}  "
            f"{held / length:,.0f}"
        )
    return "\n".join(lines)


def cache_bytes(engine: Engine, length: int) -> int:
    """Bytes of keys and values that one row holds after `length` tokens, over all layers."""
    geometry = engine.geometry
    token = 2 * geometry.kv_heads * geometry.head_dim * geometry.dtype_bytes
    return sum(axes.store.kept(length) * token for axes in engine.layers)
