"""`edit`: change text in the middle of a cached context without reading the rest again."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lengthwise.core.keys import KeyBlock, concatenate
from lengthwise.extend.engine import Engine
from lengthwise.extend.layouts import HiRoPE
from lengthwise.extend.stores.full import FullState
from lengthwise.hf.binding import Binding
from lengthwise.hf.cache import LengthwiseCache
from lengthwise.hf.release import CACHE


@torch.no_grad()
def edit(
    cache: LengthwiseCache, span: tuple[int, int], new_tokens: Tensor | Sequence[int]
) -> LengthwiseCache:
    """Insert, delete or replace tokens of a cached text, in place (Positional Integrity Encoding).

    The model reads the new tokens alone, after what stands before them. The keys of what stands
    behind them turn to their new positions, once for every layer; their values stay as they were
    read, with the old text in mind. That is the method's one approximation: in the first layer,
    and where nothing stands behind the edit, the cache is what reading everything again gives.

        cache = lw.new_cache(model)
        model(ids, past_key_values=cache)
        lw.edit(cache, (100, 120), new_ids)   # tokens 100 .. 119 become new_ids

    To predict what comes next, read the last token again: `cache.crop(-1)`, then pass it to the
    model; or pass all tokens of the edited text to `generate` together with the cropped cache.
    Tokens at the border of an edit may merge with their neighbours: tokenize with a margin.

    Source: He et al. 2024, arXiv:2407.03157, section 3.2, equations 4 and 5.
    Reduces to: reading on, for an insertion at the end.

    Args:
        cache: The cache of an adapted model whose layers keep everything (`FullStore`). Rows of a
            batch must be equally long and without padding; all get the edit at the same place.
        span: First token that goes, and one past the last one; equal for an insertion. Within
            the tokens of the cache.
        new_tokens: What comes instead: ids `[m]`, the same for all rows, or `[b, m]`; none for a
            deletion.

    Returns:
        The cache.

    Raises:
        ValueError: For a span outside the cache, tokens of another shape or unknown to the
            model, or a cache that cannot be edited; the message says why. The cache is then as
            it was, and so it is after any interruption.
    """
    binding = _owner(cache)
    cache.settle()
    length = cache.get_seq_length()
    first, stop = _checked(span, length)
    ids = _ids(binding, cache, new_tokens)
    if not length:
        raise ValueError("the cache is empty; pass the tokens to the model instead of an edit")
    moved = ids.shape[1] - (stop - first)
    if first == stop and not ids.shape[1]:
        return cache
    states = _full_states(binding.engine, cache)
    tails = [_cut(state, length - first) for state in states]
    seen = cache.lengths
    try:
        _forget(cache, first)
        if ids.shape[1]:
            binding.decoder(input_ids=ids, use_cache=True, **{CACHE: cache})
        for index, (state, tail) in enumerate(zip(states, tails, strict=True)):
            if stop < length:
                behind = tail.slots(stop - first, len(tail))
                _append(state, binding.engine.moved(index, behind, moved))
    except BaseException:
        for state, tail in zip(states, tails, strict=True):
            _keep_first(state, first)
            _append(state, tail)
        cache.restart(length, seen)
        raise
    cache.restart(length + moved, None if seen is None else seen + moved)
    return cache


def _owner(cache: LengthwiseCache) -> Binding[Engine]:
    if not isinstance(cache, LengthwiseCache) or not isinstance(cache.owner, Binding):
        raise ValueError(
            f"edit takes the cache of an adapted model, got {type(cache).__name__}; start with "
            "lengthwise.new_cache(model)"
        )
    return cache.owner


def _checked(span: tuple[int, int], length: int) -> tuple[int, int]:
    whole = isinstance(span, tuple) and len(span) == 2 and all(type(x) is int for x in span)
    if not whole or not 0 <= span[0] <= span[1] <= length:
        raise ValueError(
            f"span must be (first, stop) with 0 <= first <= stop <= {length}, the tokens of the "
            f"cache, got {span!r}"
        )
    return span


def _ids(binding: Binding[Engine], cache: LengthwiseCache, new_tokens: Any) -> Tensor:
    words = binding.decoder.get_input_embeddings()  # type: ignore[operator]
    rows = 1 if cache.lengths is None else len(cache.lengths)
    ids = torch.as_tensor(new_tokens, dtype=torch.long, device=words.weight.device)
    if ids.ndim == 1:
        ids = ids.expand(rows, -1)
    if ids.ndim != 2 or ids.shape[0] != rows:
        raise ValueError(
            f"new_tokens must be ids [m] or [{rows}, m] for the {rows} rows of the cache, got "
            f"shape {tuple(ids.shape)}"
        )
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < words.num_embeddings:
        raise ValueError(
            f"new_tokens must be between 0 and {words.num_embeddings - 1}, the vocabulary, got "
            f"{int(ids.min())} to {int(ids.max())}"
        )
    return ids


def _full_states(engine: Engine, cache: LengthwiseCache) -> list[FullState]:
    """The stores of all layers, if they can be edited."""
    if cache.packed:
        raise ValueError("edit works on one text a row; this cache holds packed documents")
    if engine.axes.scaling.absolute:
        raise ValueError(
            f"{type(engine.axes.scaling).__name__} gives the first tokens angles of their own, so "
            "keys cannot be moved; use start_tokens=0"
        )
    if isinstance(engine.axes.layout, HiRoPE):
        raise ValueError("edit cannot move keys whose places HiRoPE took from the old text")
    states = []
    for index, layer in enumerate(cache.layers):
        if not hasattr(layer.state, "store"):
            raise ValueError(
                f"edit cannot move the keys of layer {index}, whose heads have layouts of their "
                "own; read the text again"
            )
        axes, store = engine.layers[index], layer.state.store
        if layer.state.selector is not None:
            raise ValueError(
                f"edit cannot move the page summaries of {type(axes.selector).__name__}; leave it "
                "out or read the text again"
            )
        if not isinstance(store, FullState):
            raise ValueError(
                f"layer {index} keeps its keys in a {type(axes.store).__name__}, so what an edit "
                "needs may be gone; use FullStore on a model without local layers"
            )
        at = 0
        for buffer in store.buffers:
            if buffer.start != at:
                raise ValueError(
                    "edit needs rows of one length without padding, at positions 0, 1, …; edit "
                    "padded rows one by one"
                )
            at += buffer.used
        states.append(store)
    return states


def _cut(state: FullState, tokens: int) -> KeyBlock:
    """A copy of the newest tokens: what is appended next may be written over them."""
    pieces: list[KeyBlock] = []
    for buffer in reversed(state.buffers):
        block = buffer.block()
        count = min(tokens, len(block))
        if count:
            pieces.insert(0, block.slots(len(block) - count, len(block)))
        tokens -= count
    if not pieces:
        last = state.buffers[-1].block()
        return last.slots(len(last), len(last))
    whole = concatenate(pieces)
    return KeyBlock(whole.keys.clone(), whole.values.clone(), whole.positions.clone())


def _append(state: FullState, block: KeyBlock) -> None:
    if len(block):
        start = int(block.positions[0, 0, 0])
        state.extend(KeyBlock(block.keys, block.values, block.positions, None, start))


def _keep_first(state: FullState, tokens: int) -> None:
    state.crop(state.held - tokens)


def _forget(cache: LengthwiseCache, length: int) -> None:
    for layer in cache.layers:
        _keep_first(layer.state.store, length)
    cache.restart(length, None if cache.lengths is None else cache.lengths * 0 + length)
