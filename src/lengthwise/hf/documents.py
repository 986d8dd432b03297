"""An attention function for transformers that runs the fused kernel on one document at a time.

A mask over a packed row costs the square of the row, however short its documents are: torch's
fused CPU kernel reads every masked pair. Here a document costs its own square, halved by causality.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from lengthwise.hf.positions import Step

NAME = "lengthwise_documents"
DOCUMENT_LENGTHS = "tokens of documents"

Document = tuple[int, int, int]  # row, first token, the one after the last


def document_lengths(step: Step) -> Tensor:
    """Tokens so far of the document of every new token `[b, t]`, packed by `segments`.

    A piece of a step is told those of the whole, by this name in its `memo`.
    """
    assert step.segments is not None
    if DOCUMENT_LENGTHS in step.memo:
        return step.memo[DOCUMENT_LENGTHS]
    rows = torch.arange(len(step.segments), device=step.segments.device)
    named = torch.stack([rows[:, None].expand_as(step.segments), step.segments], dim=-1)
    documents, of = named.flatten(0, 1).unique(dim=0, return_inverse=True)
    longest = of.new_zeros(len(documents)).scatter_reduce(
        0, of, step.positions.flatten() + 1, "amax"
    )
    step.memo[DOCUMENT_LENGTHS] = longest[of].view_as(step.segments)
    return step.memo[DOCUMENT_LENGTHS]


def documents_of(segments: Tensor) -> list[Document]:
    """The runs of equal numbers in every row of `segments [b, t]`; padding is a document too.

    Raises:
        ValueError: If a document is interrupted by another one.
    """
    found = []
    for row, numbers in enumerate(segments.tolist()):
        starts = [at for at, x in enumerate(numbers) if at == 0 or x != numbers[at - 1]]
        if len({numbers[at] for at in starts}) < len(starts):
            raise ValueError(
                f"a document of row {row} is interrupted by another one and cannot be run alone; "
                "use the sdpa or eager kernel"
            )
        found += [
            (row, start, stop)
            for start, stop in zip(starts, [*starts[1:], len(numbers)], strict=True)
        ]
    return found


def attend_documents(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    *,
    lengthwise_documents: list[Document],
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention `[b, t, heads, d]` of q, k and v `[b, heads or kv_heads, t, d]`.

    Raises:
        ValueError: For soft caps and learned sinks, which the fused kernel does not know.
    """
    if softcap is not None or s_aux is not None:
        raise ValueError(
            "the fused kernel knows no soft cap and no learned sink; use the eager kernel"
        )
    group = query.shape[1] // key.shape[1]
    out = []
    for row, start, stop in lengthwise_documents:
        q, k, v = (x[row : row + 1, :, start:stop] for x in (query, key, value))
        mask = None
        if sliding_window is not None and stop - start > sliding_window:
            index = torch.arange(stop - start, device=q.device)
            distance = index[:, None] - index
            mask = (distance >= 0) & (distance < sliding_window)
        out.append(
            scaled_dot_product_attention(
                q,
                k.repeat_interleave(group, dim=1),
                v.repeat_interleave(group, dim=1),
                attn_mask=mask,
                dropout_p=dropout,
                scale=scaling,
                is_causal=mask is None,
            )
        )
    b, heads, t, _ = query.shape
    flat = torch.cat([x.transpose(1, 2) for x in out], dim=1)
    return flat.view(b, t, heads, value.shape[-1]), None


def _no_mask(*args: Any, **kwargs: Any) -> None:
    return None


AttentionInterface.register(NAME, attend_documents)
AttentionMaskInterface.register(NAME, _no_mask)
