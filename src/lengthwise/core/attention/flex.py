"""Attention through one region with compiled FlexAttention: any predicate, one fused kernel.

On a GPU it runs forward and backward and returns the log-sum-exp. On a CPU (torch 2.13) it runs
forward only, after tens of seconds of C++ compilation, and keeps the log-sum-exp to itself: there
it serves attention that is one part and needs no merge.
"""

import functools
import shutil
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, create_block_mask, flex_attention

from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial
from lengthwise.core.regions import Region


def has_compiler() -> bool:
    """Whether torch.compile can build CPU kernels here."""
    return any(shutil.which(name) for name in ("g++", "clang++"))


@functools.cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=False)


def flex(
    queries: Queries, block: KeyBlock, region: Region, *, scale: float, softcap: float | None
) -> Partial:
    """Attention of placed queries over placed keys through one region."""
    b, h, t, _ = queries.vectors.shape
    kv, n = block.keys.shape[1], len(block)
    q_positions = queries.positions
    k_positions = block.positions.expand(b, kv, n)
    q_segments, k_segments = queries.segments, block.segments
    group = h // kv

    def mask_mod(b: Tensor, h: Tensor, q_index: Tensor, k_index: Tensor) -> Tensor:
        seen = region.visible(b, h, q_positions[b, q_index], k_positions[b, h // group, k_index])
        if q_segments is not None and k_segments is not None:
            seen = seen & (q_segments[b, q_index] == k_segments[b, k_index])
        return seen

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_index: Tensor, k_index: Tensor) -> Tensor:
        if softcap is not None:
            score = torch.tanh(score / softcap) * softcap
        if region.score is not None:
            q_position, k_position = q_positions[b, q_index], k_positions[b, h // group, k_index]
            score = region.score(score, b, h, q_position, k_position)
        return score

    device = queries.vectors.device
    mask = create_block_mask(mask_mod, b, h, t, n, device=device)
    on_cpu = device.type == "cpu"
    out = _compiled()(
        queries.vectors.contiguous(),
        block.keys.contiguous(),
        block.values.contiguous(),
        score_mod=score_mod if softcap is not None or region.score is not None else None,
        block_mask=mask,
        scale=scale,
        enable_gqa=group > 1,
        return_aux=None if on_cpu else AuxRequest(lse=True),
    )
    # A row without keys: FlexAttention's own convention differs between releases.
    blind = ~_sees_something(mask_mod, b, h, t, n, device)
    if on_cpu:
        return Partial(out.masked_fill(blind[..., None], 0.0), out.new_full((b, h, t), float("nan")))
    out, aux = out
    return Partial(out.masked_fill(blind[..., None], 0.0), aux.lse.masked_fill(blind, float("-inf")))


def _sees_something(mask_mod: Any, b: int, h: int, t: int, n: int, device: torch.device) -> Tensor:
    """`[b, h, t]`: whether a query sees any key, in tiles of queries."""
    bs = torch.arange(b, device=device)[:, None, None, None]
    hs = torch.arange(h, device=device)[None, :, None, None]
    ks = torch.arange(n, device=device)[None, None, None, :]
    rows = []
    for low in range(0, t, 256):
        ts = torch.arange(low, min(low + 256, t), device=device)[None, None, :, None]
        rows.append(mask_mod(bs, hs, ts, ks).any(-1).expand(b, h, -1))
    return torch.cat(rows, dim=2)
