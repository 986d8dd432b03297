"""Which implementation computes a call, and the facts that this follows from."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace

import torch

from lengthwise.core import native
from lengthwise.core.attention.decode import Part, in_c
from lengthwise.core.attention.flex import has_compiler
from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.regions import Region

# Queries up to which a step counts as decoding, and pairs from which compiling for a CPU pays.
DECODE_QUERIES = 16
FLEX_CPU_PAIRS = 1 << 36


@dataclass(frozen=True)
class Choice:
    """An implementation's name and the reason for it."""

    name: str
    reason: str


FEW = Choice("decode", "few queries: one product that reads keys once per KV head")

# Where somebody asks what a call chooses: which of its regions, and what for it.
_record: ContextVar[list[tuple[Region, Choice]] | None] = ContextVar("record", default=None)


@contextmanager
def recording() -> Iterator[list[tuple[Region, Choice]]]:
    """Inside, calls of attention compute nothing and note what they would be computed by."""
    found: list[tuple[Region, Choice]] = []
    token = _record.set(found)
    try:
        yield found
    finally:
        _record.reset(token)


def record() -> list[tuple[Region, Choice]] | None:
    """Where a call notes its choices instead of carrying them out; None where it computes."""
    return _record.get()


def choose(
    *,
    device: str,
    queries: int,
    keys: int,
    heads: int,
    aligned: bool,
    plain: bool,
    needs_grad: bool,
    compiler: bool,
    one_part: bool = False,
    triangle: bool = False,
    bands: bool = False,
) -> Choice:
    """The fastest implementation proven for a call; a pure function of its arguments.

    Args:
        device: `cpu` or `cuda`.
        queries, keys: Of one row.
        heads: Query heads times the rows of the batch.
        aligned: Whether positions are consecutive on both sides, without padding or documents.
        plain: Whether the region is only a band: no predicate, score change or soft cap.
        needs_grad: Whether anybody will differentiate.
        compiler: Whether torch.compile can build kernels here.
        one_part: Whether nothing will be merged, so that nobody reads the log-sum-exp.
        triangle: Whether each query sees the keys of the same tokens up to itself, and no others,
            and the C code does not read them.
        bands: Whether everything that is merged with this is a plain band at consecutive positions,
            and nobody reads the log-sum-exp of all.
    """
    if queries <= DECODE_QUERIES and not needs_grad:
        return FEW
    if device == "cpu" and aligned and plain and triangle and one_part:
        return Choice("triangle", "plain causal: torch's fused kernel, which has a backward")
    if device == "cpu" and aligned and plain and not needs_grad:
        return Choice(
            "sdpa", "consecutive positions: torch's fused kernel on rectangles and triangles"
        )
    if device == "cpu" and bands and needs_grad:
        return Choice("bands", "consecutive positions: torch's fused kernel, forward and backward")
    if device == "cuda" and compiler:
        return Choice("flex", "one fused kernel for any predicate, forward and backward")
    heavy = queries * heads * keys >= FLEX_CPU_PAIRS
    if device == "cpu" and heavy and one_part and not needs_grad:
        if compiler:
            return Choice("flex", "the work ahead pays for tens of seconds of compilation")
        return Choice("chunked", "FlexAttention would pay, but needs a C++ compiler and AVX2")
    why = "it has a backward" if needs_grad else "padding, documents, a predicate or a soft cap"
    return Choice("chunked", f"plain torch tiles: {why}")


def choice_for(
    region: Region,
    queries: Queries,
    block: KeyBlock,
    softcap: float | None,
    alone: bool,
    bands: bool = False,
) -> Choice:
    """What `auto` takes for one region over one block of keys, placed or not.

    Args:
        bands: As in `choose`.
    """
    b, h, t, _ = queries.vectors.shape
    return choose(
        device=queries.vectors.device.type,
        queries=t,
        keys=len(block),
        heads=b * h,
        aligned=aligned(queries, block),
        plain=plain(region, queries, block, softcap),
        needs_grad=needs_grad(queries, block),
        compiler=has_compiler(queries.vectors.device.type),
        one_part=alone,
        triangle=triangular(region, queries, block) and not _by_c(queries, block),
        bands=bands,
    )


def only_bands(parts: Sequence[Part], softcap: float | None) -> bool:
    """Whether somebody differentiates by queries over parts that are plain bands at consecutive
    positions, which `bands` reads together.
    """
    if not needs_grad(parts[0][1]):
        return False
    return all(
        aligned(queries, block)
        and plain(region, queries, block, softcap)
        and region.range_of is None
        for region, queries, block in parts
    )


def carried_out(
    choice: Choice, part: Part, together: Sequence[Part], softcap: float | None
) -> Choice:
    """A choice for one part, with who carries it out on a CPU.

    Args:
        together: All parts that one softmax reads with it.
    """
    _, queries, block = part
    q, k, v = queries.vectors, block.keys, block.values
    if choice.name not in ("decode", "sdpa", "bands") or k.device.type != "cpu":
        return choice
    band = choice.name != "decode"
    by_c = native.takes_band(q, k, v) if band else in_c(together, softcap)
    by = native.why(k.shape[-1], v.shape[-1], band=band)
    if not by_c and k.dtype != torch.float32:
        by = f"torch: {str(k.dtype).removeprefix('torch.')}"
    elif not by_c and not by.startswith("torch"):
        by = "torch: scores are changed or keys hidden"
    return replace(choice, reason=f"{choice.reason} ({by})")


def choice_for_pages(queries: int) -> Choice:
    """What `auto` takes for pages that queries chose: a table of choices is never compiled, for it
    is another one at every call.
    """
    if queries <= DECODE_QUERIES and not torch.is_grad_enabled():
        return Choice("decode", "few queries over the pages that they chose")
    return Choice("chunked", "plain torch tiles: every query reads the pages that it chose")


def aligned(queries: Queries, block: KeyBlock) -> bool:
    return queries.start is not None and block.start is not None and queries.segments is None


def plain(region: Region, queries: Queries, block: KeyBlock, softcap: float | None) -> bool:
    only_a_band = region.also is None and region.score is None and softcap is None
    only_a_band = only_a_band and block.bias is None
    return only_a_band and block.values.shape[-1] == queries.vectors.shape[-1]


def _by_c(queries: Queries, block: KeyBlock) -> bool:
    read = native.takes_band(queries.vectors, block.keys, block.values)
    return read and not needs_grad(queries, block)


def triangular(region: Region, queries: Queries, block: KeyBlock) -> bool:
    """Whether each query sees the keys of the same tokens up to itself, and no others."""
    n, start = len(queries), queries.start
    if start is None or start != block.start or n != len(block) or region.range_of is not None:
        return False
    nobody_beyond = region.far is None or region.far >= n
    nobody_beyond = nobody_beyond and (region.last is None or region.last >= start + n)
    return region.near == 0 and region.first <= start and nobody_beyond


def needs_grad(queries: Queries, *blocks: KeyBlock) -> bool:
    if not torch.is_grad_enabled():
        return False
    return queries.vectors.requires_grad or any(block.live for block in blocks)
