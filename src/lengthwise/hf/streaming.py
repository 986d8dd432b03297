"""A mask that is written down a few rows at a time, and the attention that asks for it.

transformers builds masks of all queries times all keys before the first layer. Under the name
`lengthwise_streaming` it builds a `RowMask` instead, which holds the same rule and the padding.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, causal_mask_function, sdpa_mask

NAME = "lengthwise_streaming"


@dataclass(frozen=True)
class RowMask:
    """Which keys every query sees, as a rule.

    Attributes:
        rows: Rows of the batch.
        q_offset, kv_offset: Index of the first query and of the first key in the text.
        rule: transformers' mask function of batch, head, query and key indices.
        padding: `[b, n]`, or None.
        window: Keys that a query sees at most, itself included; None for all.
        vmap: Whether the rule takes single indices only.
    """

    rows: int
    q_offset: int
    kv_offset: int
    rule: Callable[..., Any]
    padding: Tensor | None
    window: int | None
    vmap: bool
    device: torch.device

    def starting_at(self, query: int) -> "RowMask":
        """The mask of the queries from number `query` on."""
        return replace(self, q_offset=self.q_offset + query)

    def first_key(self, query: int) -> int:
        """The first key, counted from 0, that the query may see."""
        if self.window is None:
            return 0
        return max(0, self.q_offset + query - self.window + 1 - self.kv_offset)

    def visible(self, queries: slice, keys: slice) -> Tensor:
        """`[b, 1, queries, keys]`, True where a query sees a key."""
        mask = sdpa_mask(
            batch_size=self.rows,
            q_length=queries.stop - queries.start,
            kv_length=keys.stop - keys.start,
            q_offset=self.q_offset + queries.start,
            kv_offset=self.kv_offset + keys.start,
            mask_function=self.rule,
            attention_mask=self.padding,
            allow_is_causal_skip=False,
            use_vmap=self.vmap,
            device=self.device,
        )
        assert isinstance(mask, Tensor)
        return mask


def row_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    **kwargs: Any,
) -> RowMask | None:
    """transformers' mask interface; None where every query sees all keys up to its own."""
    padded = attention_mask is not None and not bool(attention_mask.all())
    windowed = local_size is not None and kv_length > local_size
    last_queries = q_offset + q_length == kv_offset + kv_length
    if allow_is_causal_skip and not padded and not windowed and last_queries:
        return None
    return RowMask(
        rows=batch_size,
        q_offset=int(q_offset),
        kv_offset=kv_offset,
        rule=mask_function,
        padding=attention_mask,
        window=local_size,
        vmap=use_vmap,
        device=torch.device(device),
    )


def register(attention: Callable[..., Any]) -> None:
    """Make `attention` what transformers calls under `NAME`."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, row_mask)
