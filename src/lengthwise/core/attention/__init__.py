"""`attend`: softmax attention over blocks of keys through a layout's regions."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from lengthwise.core.attention.band import band, bands, triangle
from lengthwise.core.attention.choice import (
    DECODE_QUERIES,
    FEW,
    Choice,
    aligned,
    carried_out,
    choice_for,
    choose,
    needs_grad,
    only_bands,
    plain,
    record,
    recording,
    triangular,
)
from lengthwise.core.attention.chunked import chunked, coverage
from lengthwise.core.attention.decode import decode
from lengthwise.core.attention.documents import apart, each_alone
from lengthwise.core.attention.flex import flex
from lengthwise.core.attention.reference import reference, turn_keys
from lengthwise.core.keys import KeyBlock, Queries, concatenate
from lengthwise.core.partial import Partial, merge, nothing, with_sink
from lengthwise.core.regions import OWN, KeyRange, Place, Region
from lengthwise.core.rotary import Rotary

__all__ = [
    "IMPLEMENTATIONS",
    "Choice",
    "attend",
    "attend_blocks",
    "choose",
    "place_keys",
    "place_queries",
    "reachable",
    "recording",
    "settled",
]

IMPLEMENTATIONS = ("auto", "reference", "chunked", "sdpa", "flex", "decode", "triangle")


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    regions: Sequence[Region],
    *,
    q_positions: Tensor | None = None,
    k_positions: Tensor | None = None,
    q_segments: Tensor | None = None,
    k_segments: Tensor | None = None,
    rotary: Rotary | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    learned_sink: Tensor | None = None,
    impl: str = "auto",
) -> Partial:
    """Softmax attention of un-rotated queries over un-rotated keys through disjoint regions.

    Args:
        q: Queries `[b, heads, t, d]`.
        k, v: Keys `[b, kv_heads, n, d]` and values `[b, kv_heads, n, e]`; heads is a multiple
            of kv_heads.
        regions: Disjoint; each has its own apparent positions.
        q_positions, k_positions: Logical positions `[b, t]`, and `[b, n]` or
            `[b, kv_heads, n]`; -1 is padding. By default keys stand at 0 .. n - 1 and queries
            at the last t of them.
        q_segments, k_segments: Document numbers `[b, t]` and `[b, n]`; both or neither.
        rotary: Frequencies for the apparent positions; None for a layer without positions.
        scale: Multiplies scores; d ** -0.5 by default.
        softcap: Scores become softcap * tanh(score / softcap) (Gemma 2).
        learned_sink: One logit per head that takes part in the softmax with value 0 (gpt-oss).
        impl: One of `IMPLEMENTATIONS`.

    Raises:
        ValueError: For an unknown `impl`, head counts that do not divide, or one-sided segments.
    """
    b, heads, t, _ = q.shape
    n = k.shape[2]
    if heads % k.shape[1]:
        raise ValueError(f"heads must be a multiple of kv_heads {k.shape[1]}, got {heads}")
    if (q_segments is None) != (k_segments is None):
        raise ValueError("segments must be given for queries and keys, or for neither")
    q_start = k_start = None
    if k_positions is None:
        k_positions, k_start = torch.arange(n, device=k.device).expand(b, 1, n), 0
    elif k_positions.ndim == 2:
        k_positions = k_positions[:, None]
    if q_positions is None:
        q_positions, q_start = torch.arange(n - t, n, device=q.device).expand(b, t), n - t
    whole = attend_blocks(
        Queries(q, q_positions, q_segments, q_start),
        [KeyBlock(k, v, k_positions, k_segments, k_start)],
        regions,
        rotary=rotary,
        stored=None,
        scale=scale,
        softcap=softcap,
        impl=impl,
    )
    return with_sink(whole, learned_sink)


def attend_blocks(
    queries: Queries,
    blocks: Sequence[KeyBlock],
    regions: Sequence[Region],
    *,
    rotary: Rotary | None,
    stored: Place | None = OWN,
    scale: float | None = None,
    softcap: float | None = None,
    impl: str = "auto",
    need_lse: bool = True,
) -> Partial:
    """As `attend`, over keys that storage holds in blocks.

    Args:
        need_lse: Whether anybody reads the log-sum-exp; without it, it may be NaN where the
            attention was one part, which allows compiled FlexAttention on a CPU.
        stored: Where the keys of the blocks are rotated to already; None when they are not
            rotated. A region that places keys there reads them as they are.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"impl must be one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    scale = 1 / math.sqrt(queries.vectors.shape[-1]) if scale is None else scale
    if impl == "auto" and apart(queries, blocks, regions) and record() is None:
        kw: dict[str, Any] = {"stored": stored, "scale": scale, "softcap": softcap}

        def document(of: Queries, block: KeyBlock) -> Partial:
            return attend_blocks(of, [block], regions, rotary=rotary, need_lse=need_lse, **kw)

        found = each_alone(queries, blocks[0], document)
        if found is not None:
            return found
    if impl == "reference":
        whole = reference(
            queries, concatenate(blocks), regions,
            rotary=rotary, stored=stored, scale=scale, softcap=softcap,
        )  # fmt: skip
    else:
        seen = [
            (region, keys)
            for region in [settled(region, queries) for region in regions]
            for keys in [reachable(region, queries, block) for block in blocks]
            if keys is not None
        ]
        if not seen:
            return nothing(queries.vectors, blocks[0].values.shape[-1])
        few = _decodes(queries, blocks, impl)
        noted = record()
        if noted is not None and few:
            parts = [(region, queries, block) for region, block in seen]
            noted += [(part[0], carried_out(FEW, part, parts, softcap)) for part in parts]
            return nothing(queries.vectors, blocks[0].values.shape[-1])
        placed: dict[Place, Queries] = {}
        parts = []
        for region, block in seen:
            if region.q_place not in placed:
                placed[region.q_place] = place_queries(queries, region, rotary)
            keys = place_keys(block, region, rotary, stored)
            parts.append((region, placed[region.q_place], keys))
        if few:
            return decode(parts, scale=scale, softcap=softcap, need_lse=need_lse)
        parts = [(region, asked, keys.opened()) for region, asked, keys in parts]
        alone = len(parts) == 1 and not need_lse
        together = impl == "auto" and not need_lse and only_bands(parts, softcap)
        choice = choice_for(*parts[0], softcap, alone, together)
        if noted is None and choice.name == "bands":
            return bands(parts, scale=scale)
        whole = merge([_through(*part, scale, softcap, impl, alone, together) for part in parts])
    return whole


def _through(
    region: Region,
    queries: Queries,
    block: KeyBlock,
    scale: float,
    softcap: float | None,
    impl: str,
    alone: bool,
    together: bool,
) -> Partial:
    """One region; a range of keys becomes a plain band for each run of queries that share it."""
    if impl not in ("auto", "sdpa") or not splits(region, queries, block):
        return _partial(region, region, queries, block, scale, softcap, impl, alone, together)
    runs, outs = list(in_runs(region, queries, block)), []
    while runs:
        alike = _alike(runs, softcap) if alone and impl == "auto" else 1
        taken, runs = runs[:alike], runs[alike:]
        band_of_run, run, keys = taken[0]
        if keys is None:
            outs.append(nothing(run.vectors, block.values.shape[-1]))
            continue
        if alike > 1:
            size, first = len(run), run.start or 0
            behind, at, of = first + alike * size, queries.start or 0, block.start or 0
            whole = queries.times(first - at, behind - at), block.slots(first - of, behind - of)
            run, keys = _stacked(*whole, size)
        part = _partial(region, band_of_run, run, keys, scale, softcap, impl, alone)
        if alike > 1:
            part = Partial(
                *(x.unflatten(0, (-1, alike)).transpose(1, 2).flatten(2, 3) for x in part)
            )
        outs.append(part)
    if len(outs) == 1:
        return outs[0]
    return Partial(torch.cat([x.out for x in outs], 2), torch.cat([x.lse for x in outs], 2))


Run = tuple[Region, Queries, KeyBlock | None]


def _alike(runs: Sequence[Run], softcap: float | None) -> int:
    """How many of the first runs are triangles of one size, which can be rows of one batch."""
    size = len(runs[0][1])
    for count, (region, queries, block) in enumerate(runs):
        choice = block and choice_for(region, queries, block, softcap, True)
        if not choice or choice.name != "triangle" or len(queries) != size:
            return max(1, count)
    return len(runs)


def _stacked(queries: Queries, block: KeyBlock, size: int) -> tuple[Queries, KeyBlock]:
    """Pieces of `size` tokens as rows of a batch; all stand where the first of them does."""

    def rows(x: Tensor) -> Tensor:
        return x.unflatten(2, (-1, size)).transpose(1, 2).flatten(0, 1)

    asked = Queries(rows(queries.vectors), queries.positions[:, :size], None, queries.start)
    places = block.positions[:, :, :size]
    return asked, KeyBlock(rows(block.keys), rows(block.values), places, None, block.start)


def splits(region: Region, queries: Queries, block: KeyBlock) -> bool:
    """Whether a range of keys is read in runs of queries; a GPU has any mask in its kernel."""
    consecutive = queries.start is not None and block.start is not None
    return region.range_of is not None and consecutive and queries.vectors.device.type == "cpu"


def in_runs(region: Region, queries: Queries, block: KeyBlock) -> Iterator["Run"]:
    """A range of keys as a plain band for each run of queries that share it."""
    assert region.range_of is not None
    for low, high in _runs(region.range_of, queries):
        run = queries.times(low, high)
        band_of_run = settled(region, run)
        yield band_of_run, run, reachable(band_of_run, run, block)


def _runs(range_of: KeyRange, queries: Queries) -> list[tuple[int, int]]:
    """Runs of queries, as first and one past the last, that see the same range of keys."""
    firsts, lasts = range_of(queries.positions[0])
    moved = (firsts.diff() != 0) | (lasts.diff() != 0)
    cuts = [0, *(moved.nonzero()[:, 0] + 1).tolist(), len(queries)]
    return list(pairwise(cuts))


def settled(region: Region, queries: Queries) -> Region:
    """The region as a plain band, where all these queries share its range of keys."""
    if region.range_of is None or queries.start is None:
        return region
    if len(_runs(region.range_of, queries)) > 1:
        return region
    first, last = region.range_of(queries.positions[0, :1])
    cut = region.within(first=int(first), last=int(last))
    return replace(cut, range_of=None)


def _decodes(queries: Queries, blocks: Sequence[KeyBlock], impl: str) -> bool:
    """Whether all parts go into one softmax of a few queries."""
    if impl not in ("auto", "decode"):
        return False
    live = needs_grad(queries, *blocks)
    if impl == "decode" and live:
        raise ValueError("impl='decode' has no gradient; use 'chunked'")
    return impl == "decode" or (len(queries) <= DECODE_QUERIES and not live)


def _partial(
    whole: Region,
    region: Region,
    queries: Queries,
    block: KeyBlock,
    scale: float,
    softcap: float | None,
    impl: str,
    alone: bool,
    together: bool = False,
) -> Partial:
    """One band; `whole` is the region that it was cut from."""
    noted, few = record(), _decodes(queries, [block], impl)
    if noted is not None:
        choice = FEW if few else choice_for(region, queries, block, softcap, alone, together)
        part = (region, queries, block)
        noted.append((whole, carried_out(choice, part, [part], softcap)))
        return nothing(queries.vectors, block.values.shape[-1])
    if few:  # a short run of a longer text
        return decode([(region, queries, block)], scale=scale, softcap=softcap)
    if impl == "auto":
        impl = choice_for(region, queries, block, softcap, alone).name
    if impl == "triangle":
        if not (alone and triangular(region, queries, block)):
            raise ValueError(
                "impl='triangle' takes plain causal attention of tokens to themselves with "
                "need_lse=False; use 'chunked'"
            )
        return triangle(queries, block, scale=scale)
    if impl == "sdpa":
        if needs_grad(queries, block):
            raise ValueError("impl='sdpa' has no gradient; use 'chunked'")
        fits = aligned(queries, block) and plain(region, queries, block, softcap)
        if not (fits and queries.vectors.device.type == "cpu"):
            raise ValueError(
                "impl='sdpa' takes plain bands at consecutive positions, keys as wide as values, "
                "on a CPU; use 'chunked'"
            )
        return band(queries, block, region, scale=scale)
    if impl == "flex" and queries.vectors.device.type == "cpu" and not alone:
        raise ValueError(
            "impl='flex' on a CPU returns no log-sum-exp, so it takes one region over one block "
            "with need_lse=False; use 'chunked'"
        )
    run = {"chunked": chunked, "flex": flex}[impl]
    return run(queries, block, region, scale=scale, softcap=softcap)


def place_queries(queries: Queries, region: Region, rotary: Rotary | None) -> Queries:
    """The queries rotated to their apparent positions in a region."""
    if rotary is None:
        return queries
    turned = rotary.rotate(
        queries.vectors,
        lambda: region.q_place(queries.positions)[:, None],
        (region.q_place, queries.called),
    )
    return Queries(turned, queries.positions, queries.segments, queries.start)


def place_keys(
    block: KeyBlock, region: Region, rotary: Rotary | None, stored: Place | None
) -> KeyBlock:
    """The keys rotated to their apparent positions in a region."""
    if rotary is None or (block.places is None and stored == region.k_place):
        return block
    block = block.opened()
    return replace(block, keys=turn_keys(block, region, rotary, stored))


def reachable(region: Region, queries: Queries, block: KeyBlock) -> KeyBlock | None:
    """The run of slots that any of the queries may see, or None if there is none."""
    n = len(block)
    covered = "none" if n == 0 or region.empty else coverage(region, queries, block)
    if covered != "some":
        return block if covered == "all" else None
    if region.range_of is not None:
        firsts, lasts = region.range_of(queries.positions[queries.positions >= 0])
        if not len(firsts):
            return None
        region = region.within(first=int(firsts.min()), last=int(lasts.max()))
        if region.empty:
            return None
    if queries.start is not None and block.start is not None:
        low, high = 0, n
        if region.far is not None:
            low = max(low, queries.start - region.far + 1 - block.start)
        high = min(high, queries.start + len(queries) - region.near - block.start)
        low = max(low, region.first - block.start)
        if region.last is not None:
            high = min(high, region.last - block.start)
    else:
        positions = queries.positions
        real = positions >= 0
        lowest = torch.where(real, positions, positions.new_tensor(1 << 62)).amin(1)[:, None, None]
        highest = positions.amax(1)[:, None, None]
        seen = (block.positions >= region.first) & (block.positions <= highest - region.near)
        if region.far is not None:
            seen &= block.positions > lowest - region.far
        if region.last is not None:
            seen &= block.positions < region.last
        slots = seen.any(0).any(0).nonzero()
        if not len(slots):
            return None
        low, high = int(slots[0]), int(slots[-1]) + 1
    if high <= low:
        return None
    return block if (low, high) == (0, n) else block.slots(low, high)
