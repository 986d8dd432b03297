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
from torch.nn.attention.flex_attention import AuxRequest, BlockMask, flex_attention

from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial
from lengthwise.core.regions import Region, same_segment, visible_pairs

TILE = 128  # pairs are skipped or masked in squares of this size


@functools.cache
def has_compiler(device: str = "cpu") -> bool:
    """Whether torch.compile can build FlexAttention here; for a CPU it writes vectors of AVX2."""
    vectors = device != "cpu" or torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return vectors and any(shutil.which(name) for name in ("g++", "clang++"))


@functools.cache
def _compiled() -> Any:
    # torch keeps what it compiles and finds it again by its settings, not by the processor: code
    # for AVX-512, loaded where there is AVX2 (a home on several machines), kills the process.
    bits = 512 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 256
    return torch.compile(flex_attention, dynamic=False, options={"cpp.simdlen": bits})


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
    bias = None if block.bias is None else block.bias.expand(b, kv, n)

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
        return score if bias is None else score + bias[b, h // group, k_index]

    changed = softcap is not None or region.score is not None or bias is not None
    mask, blind = _block_mask(queries, block, region, mask_mod)
    on_cpu = queries.vectors.device.type == "cpu"
    out = _compiled()(
        queries.vectors.contiguous(),
        block.keys.contiguous(),
        block.values.contiguous(),
        score_mod=score_mod if changed else None,
        block_mask=mask,
        scale=scale,
        enable_gqa=group > 1,
        return_aux=None if on_cpu else AuxRequest(lse=True),
    )
    # A row without keys: FlexAttention's own convention differs between releases.
    if on_cpu:
        return Partial(
            out.masked_fill(blind[..., None], 0.0), out.new_full((b, h, t), float("nan"))
        )
    out, aux = out
    return Partial(
        out.masked_fill(blind[..., None], 0.0), aux.lse.masked_fill(blind, float("-inf"))
    )


def _block_mask(
    queries: Queries, block: KeyBlock, region: Region, mask_mod: Any
) -> tuple[BlockMask, Tensor]:
    """The tiles to visit, and `[b, heads or 1, t]`: which queries see no key.

    Made from one row of tiles at a time: `create_block_mask` holds a number for every pair, which
    is hundreds of gigabytes where FlexAttention pays on a CPU.
    """
    t, n = len(queries), len(block)
    some, full, blind = [], [], []
    for low in range(0, t, TILE):
        tile = queries.times(low, min(low + TILE, t))
        seen = visible_pairs(region, tile.positions, block.positions, queries.vectors.shape[1])
        together = same_segment(tile.segments, block.segments)
        if together is not None:
            seen = seen & together
        blind.append(~seen.any(-1))
        # What is filled up is unseen, so the last tiles count as seen in part.
        seen = torch.nn.functional.pad(seen, (0, -n % TILE, 0, TILE - len(tile)))
        cells = seen.unflatten(-1, (-1, TILE))
        some.append(cells.any(-1).any(-2))
        full.append(cells.all(-1).all(-2))
    whole = torch.stack(full, dim=2)
    parts = torch.stack(some, dim=2) & ~whole
    mask = BlockMask.from_kv_blocks(
        *_listed(parts), *_listed(whole), BLOCK_SIZE=TILE, mask_mod=mask_mod, seq_lengths=(t, n)
    )
    return mask, torch.cat(blind, dim=2)


def _listed(tiles: Tensor) -> tuple[Tensor, Tensor]:
    """How many tiles of each row are true, and their indices, those first."""
    count = tiles.sum(-1, dtype=torch.int32)
    return count, tiles.int().argsort(dim=-1, descending=True, stable=True).int()
