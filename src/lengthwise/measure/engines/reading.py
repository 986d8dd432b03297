"""Feeding a long text to a model in chunks, so that memory grows with the cache alone."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lengthwise.extend.adapt import adapted
from lengthwise.extend.method import Method
from lengthwise.extend.whole import cache_for, goes_stale, steady
from lengthwise.hf.other import kind_of, read_other_geometry
from lengthwise.hf.release import CACHE, cache_of

CHUNK = 512  # tokens per forward pass


def with_methods(
    model: PreTrainedModel, methods: Sequence[Method]
) -> AbstractContextManager[PreTrainedModel]:
    """The model with methods, or as it is without any, for the length of a `with` block."""
    return adapted(model, *methods) if methods else steady(model)


def read(
    model: PreTrainedModel,
    ids: Tensor,
    chunk: int = CHUNK,
    every_logit: bool = False,
    skip: int = 0,
) -> Iterator[tuple[Tensor, Any]]:
    """Read `ids` `[b, t]` chunk by chunk; yield each chunk's logits and the cache so far.

    This reads with plain and with adapted models, and chunks give what one forward gives, also
    where the model's own frequencies follow the length. A plain model of that kind reads all in
    one forward, for its cache goes stale; within `lengthwise.extend.whole.steady` it reads in
    chunks too, and its cache can be gone on from.

    Args:
        chunk: Tokens per forward pass, at least 1.
        every_logit: Logits `[b, chunk, vocabulary]` of every token instead of the last one.
        skip: Tokens at the beginning whose logits nobody needs; a chunk that ends within them gives
            that of its last token alone.

    Raises:
        ValueError: No token, a chunk below 1, a model in training mode, whose dropout would be
            measured, or one whose logits are NaN.
    """
    if ids.shape[1] < 1:
        raise ValueError("there is no token to read")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1 token, got {chunk!r}")
    if model.training:
        raise ValueError("the model is in training mode; call model.eval() before measuring")
    if goes_stale(model):
        chunk = ids.shape[1]
    cache: Any = cache_for(model, ids.shape[1])
    done = 0
    for part in ids.to(model.device).split(chunk, dim=1):
        done += part.shape[1]
        out = model(
            input_ids=part,
            **{CACHE: cache},
            use_cache=True,
            logits_to_keep=0 if every_logit and done > skip else 1,
        )
        cache = cache_of(out)
        if not every_logit:  # else the caller sees each, and what of it is no number
            likeliest(out.logits, done)
        yield out.logits, cache


def likeliest(logits: Tensor, position: int) -> Tensor:
    """The likeliest tokens `[b]` by the last of logits `[b, t, vocabulary]`.

    Args:
        position: Of the tokens that they are, for the message.

    Raises:
        ValueError: If the logits are NaN; every token would be as likely as any other.
    """
    values, tokens = logits[:, -1].max(-1)  # a NaN is larger than every number
    if bool(values.isnan().any()):
        raise ValueError(
            f"the model's logits at position {position:,} are NaN: its weights are, or its numbers "
            "overflow; try another checkpoint, or --dtype float32"
        )
    return tokens


def read_to_end(model: PreTrainedModel, ids: Tensor, chunk: int = CHUNK) -> tuple[Tensor, Any]:
    """The logits `[b, 1, vocabulary]` after the last token of `ids` `[b, t]`, and the cache."""
    for logits, cache in read(model, ids, chunk):
        pass
    return logits, cache


def first_token(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The token that the tokenizer puts before every text (`<s>`), or None if it puts none."""
    ids = tokenizer("a")["input_ids"]
    return ids[0] if ids and ids[0] == tokenizer.bos_token_id else None


def trained_window(model: PreTrainedModel) -> int:
    """Tokens that the model was trained to read at once, before any extension.

    Raises:
        ValueError: The configuration does not say.
    """
    if kind_of(model) is not None:
        return read_other_geometry(model).window
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    window = rope.get("original_max_position_embeddings") or getattr(
        config, "max_position_embeddings", None
    )
    if not window:
        raise ValueError(
            f"{type(model).__name__} names no trained window (max_position_embeddings); "
            "give it with window="
        )
    return int(window)
