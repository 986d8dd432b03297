"""Attention that never crosses documents in plain transformers models, by segments alone.

transformers 5 guesses documents from jumps in `position_ids`: positions that skip on purpose (PoSE,
CREAM) lose their past without a word. It does not guess at all where there is a mask or a cache,
and `use_cache` is on unless Trainer turns it off: then documents are mixed. Here `segment_ids` say
what a document is, and positions are left to the rotary embedding.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_masks_for_generate

from lengthwise.hf import documents
from lengthwise.hf.families import FAMILIES, decoder
from lengthwise.hf.release import CACHE, take_cache

KERNELS = ("sdpa", "eager", "flex_attention")
PER_DOCUMENT = "per_document"


@contextmanager
def document_attention(
    model: PreTrainedModel, kernel: str | None = None, *, by_positions: bool = False
) -> Iterator[PreTrainedModel]:
    """Let a plain transformers model take `segment_ids [b, t]` within a `with` block.

    A token then attends to earlier tokens of its own document, in the window of its layer. Padding
    (segment -1) attends to padding, so that no row of a softmax is empty. No cache is made. A
    forward without `segment_ids` is what it always was; only `per_document` asks for them.

    Packed equals separate but for models whose frequencies follow the length (longrope, dynamic
    NTK): they take the longest document's for all.

    A model that `lengthwise.adapt` changed takes `segment_ids` by itself and needs no context,
    unless documents are to be read from positions.

    Args:
        kernel: `sdpa` or `eager` under a mask; `flex_attention`, which skips what a mask hides and
            has no backward on a CPU (torch 2.13); `per_document`, the fused sdpa kernel on each
            document alone, for long rows on a CPU. None takes what the model is set to.
        by_positions: Say that `position_ids` are packed: where `segment_ids` are missing, a
            document begins at every position 0. For collators that give nothing else, as TRL's does
            with `padding_free`. Within a document positions must rise.

    Raises:
        ValueError: For no transformers model (peft's are unwrapped, others are not), an adapted
            model without `by_positions`, or another kernel; and in a forward, for segments of
            another shape than the tokens, a mask that is not 2-D, a filled cache, or positions that
            do not begin at 0 or fall to something else.
    """
    wrapped = model
    if hasattr(model, "get_base_model"):  # of peft
        model = model.get_base_model()
    if not isinstance(model, PreTrainedModel):
        raise ValueError(
            f"document_attention takes a transformers model, got {type(model).__name__}; give it "
            "the model inside the wrapper"
        )
    before_us = model.config._attn_implementation
    if before_us == "lengthwise":
        if not by_positions:
            raise ValueError("an adapted model takes segment_ids by itself; leave the context out")
        if kernel is not None:
            raise ValueError(f"an adapted model has its own attention; leave kernel={kernel!r} out")
        with _by_positions(model):
            yield wrapped
        return
    kernel = before_us if kernel is None else kernel
    if kernel not in (*KERNELS, PER_DOCUMENT):
        raise ValueError(
            f"kernel must be one of {', '.join((*KERNELS, PER_DOCUMENT))} to attend within "
            f"documents, got {kernel!r}"
        )
    family = model.config.model_type
    unable = {
        "llama4_text": "transformers counts Llama 4's chunks from the beginning of a row",
        "falcon": "Falcon's head keeps segment_ids from its layers",
    }
    if family in unable:
        raise ValueError(
            f"{unable[family]}; adapt the model (lengthwise.adapt(model)), which then takes "
            "segment_ids by itself"
        )
    if kernel == PER_DOCUMENT and family in FAMILIES and FAMILIES[family].by_mask:
        raise ValueError(f"{family} hands its layers no documents; use the sdpa or eager kernel")
    base = decoder(model)
    signature = inspect.signature(base.forward)

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        segments = kwargs.get("segment_ids")
        if segments is None:
            if kernel == PER_DOCUMENT:
                raise ValueError("the per_document kernel needs segment_ids in every forward")
            return None
        given = signature.bind_partial(*args, **kwargs).arguments
        extra = dict(given.pop("kwargs", {}))
        del extra["segment_ids"]
        extra[CACHE] = given.pop(CACHE, None)
        cache = take_cache(extra)
        if cache is not None and cache.get_seq_length():
            raise ValueError(
                "segment_ids go with training forwards, not with tokens in a cache; leave "
                f"{CACHE} out"
            )
        ids, embeds = given.get("input_ids"), given.get("inputs_embeds")
        tokens = embeds if ids is None else ids
        if tokens is None:
            return None  # transformers refuses it in its own words
        segments = _real_segments(segments, tokens, given.get("attention_mask"))
        given["use_cache"] = False
        if kernel == PER_DOCUMENT:
            given["attention_mask"] = None
            extra[documents.NAME] = documents.documents_of(segments)
        else:
            given["attention_mask"] = document_masks(model, segments)
        return (), {**given, **extra}

    model.set_attn_implementation(documents.NAME if kernel == PER_DOCUMENT else kernel)
    handle = base.register_forward_pre_hook(before, with_kwargs=True)
    try:
        with _by_positions(model) if by_positions else nullcontext():
            yield wrapped
    finally:
        handle.remove()
        model.set_attn_implementation(before_us)


@contextmanager
def _by_positions(model: PreTrainedModel) -> Iterator[None]:
    """Give forwards without `segment_ids` those that their positions say, before all else."""
    base = decoder(model)
    signature = inspect.signature(base.forward)

    def before(module: nn.Module, args: Any, kwargs: Any) -> Any:
        if kwargs.get("segment_ids") is not None:
            return None
        given = signature.bind_partial(*args, **kwargs).arguments
        positions = given.get("position_ids")
        if positions is None:
            raise ValueError(
                "by_positions reads documents from position_ids, and a forward came without; with "
                "TRL set padding_free=True"
            )
        tokens = given.get("input_ids")
        tokens = given["inputs_embeds"] if tokens is None else tokens
        segments = documents_at(positions.expand(tokens.shape[:2]))
        return args, {**kwargs, "segment_ids": segments}

    handle = base.register_forward_pre_hook(before, with_kwargs=True, prepend=True)
    try:
        yield
    finally:
        handle.remove()


def documents_at(positions: Tensor) -> Tensor:
    """The documents `[b, t]` of positions that start again at 0 with each of them.

    Raises:
        ValueError: If a row does not begin at 0, or positions fall to anything but 0.
    """
    begins = positions == 0
    wrong = ~begins
    wrong[:, 1:] &= positions.diff(dim=1) <= 0
    if bool(wrong.any()):
        row, at = (int(n) for n in wrong.nonzero()[0])
        raise ValueError(
            "packed positions begin at 0 with every document and rise within it, got "
            f"{int(positions[row, at])} at token {at} of row {row}; pass segment_ids instead"
        )
    return begins.cumsum(1) - 1


def document_masks(model: PreTrainedModel, segments: Tensor) -> Any:
    """What `attention_mask` must be for attention within documents.

    Made by transformers' own mask builders, so that every layer keeps its window: booleans
    `[b, 1, t, t]` for sdpa, 0 and the lowest number for eager, a `BlockMask` for FlexAttention, and
    a dictionary of these by layer type where a model mixes types.

    Args:
        segments: Document numbers `[b, t]`, compared within a row; -1 is padding.
    """

    def together(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        return segments[b, q] == segments[b, k]

    shape_only = torch.empty(*segments.shape, 0, dtype=model.dtype, device=segments.device)
    return create_masks_for_generate(
        config=model.config,
        inputs_embeds=shape_only,
        attention_mask=None,
        and_mask_function=together,
        **{CACHE: None},
    )


def _real_segments(segments: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
    shape = tuple(tokens.shape[:2])
    if tuple(segments.shape) != shape:
        raise ValueError(
            f"segment_ids must hold a document number for each of {shape[0]} x {shape[1]} tokens, "
            f"got shape {tuple(segments.shape)}"
        )
    segments = segments.to(tokens.device)
    if mask is None:
        return segments
    if not isinstance(mask, Tensor) or tuple(mask.shape) != shape:
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"attention_mask beside segment_ids must be {shape[0]} x {shape[1]} ones and zeros, "
            f"got {got}; leave it out"
        )
    return segments.masked_fill(~mask.to(device=segments.device, dtype=torch.bool), -1)
