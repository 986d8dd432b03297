"""LongHeads: every head reads the few chunks that it wants, at positions that the model knows."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from lengthwise.core.attention import place_keys
from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.geometry import Geometry
from lengthwise.core.regions import OWN, AllWhileFew, ByRank, InChunk, Region, Squeezed
from lengthwise.extend.layouts.far_as_one import FarAsOne
from lengthwise.extend.method import Method, whole
from lengthwise.extend.read import Read
from lengthwise.extend.selectors.paged import LONG, Paged, PagedState, Rule, mapped_slots


@dataclass(frozen=True)
class LongHeads(Paged):
    """Read the first chunk, the last two, and those of the others that a head wants most.

    A text is cut into chunks of `chunk` tokens. The `chunks` of them that a query reads seem to
    stand in a row, in their order, so no distance is longer than `chunks * chunk` tokens, however
    long the text. A chunk is known to a head by one vector: the head's queries of the chunk
    attend all its keys, and the mean of what they get attends the keys once more and gathers
    those keys. Its score is the product of that vector with the query, un-rotated. Heads that
    share a KV head add up their scores and read the same chunks.

    Brings the layout `FarAsOne(2 * chunk + 1)` where no layout is named, for its un-rotated keys in
    the cache.

    Source: Lu et al. 2024, arXiv:2402.10685, section 2, with details of the authors' code: the
        positions inside a chunk in its vector, and which chunks are always read.
    Differs from the source: every query chooses by the same rule, where the source reads the
        first tokens with full attention and a generated token counts the last whole chunk as the
        one before, so decoding equals prefill here; and grouped KV heads, which it does not know.
    Reduces to: the untouched model, up to `chunks * chunk` tokens.

    Args:
        chunks: Chunks that a query reads, its own included, at least 4; the source takes 16.
        chunk: Tokens in a chunk, at least 2; the source takes 256. `chunks * chunk` is at most
            the trained window.

    Raises:
        ValueError: If a number is out of its range.
    """

    chunks: int = 8
    chunk: int = 64
    by_rank = True
    rule = Rule(turned=False)

    def __post_init__(self) -> None:
        whole("LongHeads", "chunks", self.chunks, 4)
        whole("LongHeads", "chunk", self.chunk, 2)

    def brings(self) -> tuple[Method, ...]:
        return (FarAsOne(2 * self.chunk + 1),)

    def check(self, window: int) -> None:
        if self.chunks * self.chunk > window:
            raise ValueError(
                f"LongHeads: chunks * chunk must be at most the trained window of {window} tokens, "
                f"got {self.chunks} * {self.chunk} = {self.chunks * self.chunk}"
            )

    @property
    def page_size(self) -> int:  # type: ignore[override]
        return self.chunk

    @property
    def sinks(self) -> int:  # type: ignore[override]
        return self.chunk

    @property
    def window(self) -> int:  # type: ignore[override]
        # The last token of the chunk before the last is so far from any query, and no nearer one.
        return self.chunk + 1

    @property
    def open_for(self) -> int:
        return 0

    @property
    def chooses_from(self) -> int:
        return self.chunks * self.chunk

    @property
    def choose(self) -> int:
        return self.chunks - 3

    @property
    def end(self) -> int:
        return (self.chunks - 2) * self.chunk

    def of_sinks(self, region: Region) -> Region:
        return replace(region, q_place=Squeezed(self.chunk, self.chunks - 1), k_place=OWN)

    def restrict(self, regions: Sequence[Region]) -> list[Region]:
        cut = super().restrict(regions)
        paged = [region for region in cut if region.paged]
        if not paged:
            return cut
        # Pages stand in their row however far they are: the layout's regions are one.
        fars = [region.far for region in paged if region.far is not None]
        last = InChunk(self.chunk, shift=(self.chunks - 1) * self.chunk)
        row = Region(
            near=self.window, far=max(fars) if len(fars) == len(paged) else None, first=self.sinks,
            q_place=last, k_place=ByRank(), paged=True,
        )  # fmt: skip
        # Where all are read, they stand where they are.
        few = replace(
            row,
            q_place=OWN,
            k_place=OWN,
            paged=False,
            range_of=AllWhileFew(self.chunk, self.chunks),
        )
        return [*(region for region in cut if not region.paged), few, row]

    def state(self) -> "LongHeadsState":
        return LongHeadsState(self)

    def keys_read(self, length: int) -> int:
        number, rest = divmod(length - 1, self.chunk)
        return min(number, self.chunks - 1) * self.chunk + rest + 1

    def keys_compared(self, length: int) -> int:
        return max(0, length // self.chunk - 1)

    def noted_bytes(self, ends: Sequence[int], geometry: Geometry) -> int:
        noted, pages = self.pages_made(ends)
        vectors = noted * geometry.dtype_bytes + pages * max(geometry.dtype_bytes, 4)
        return (mapped_slots(ends) + 2) * LONG + geometry.heads * geometry.head_dim * vectors


class LongHeadsState(PagedState):
    """Noted of a token are its queries; of a chunk, one vector for each query head."""

    kv_heads = 1

    def note(self, read: Read, first: int) -> tuple[int, Tensor]:
        positions, vectors = read.queries.positions, read.queries.vectors
        rows, times = (positions >= first).nonzero(as_tuple=True)
        at = positions[rows, times]
        start, stop = int(at.min()), int(at.max()) + 1
        new = vectors.new_zeros(*vectors.shape[:2], stop - start, vectors.shape[3])
        new[rows, :, at - start] = vectors[rows, :, times]
        return start, new

    def sum_up(
        self, read: Read, noted: Tensor | None, pages: Tensor, slots: Tensor
    ) -> tuple[Tensor, ...]:
        assert noted is not None
        b, count, size = slots.shape
        heads = noted.shape[1]
        block, rotary = read.store.gather(slots.flatten(1)[:, None]), read.rotary
        placed = place_keys(block, Region(k_place=InChunk(size)), rotary, read.stored)
        self.kv_heads = block.keys.shape[1]
        queries = noted.flatten(2, 3)
        if rotary is not None:
            places = torch.arange(count * size, device=slots.device) % size
            queries = rotary.rotate(queries, places.expand(b, 1, -1))

        def chunks(x: Tensor) -> Tensor:
            x = at_least_float32(x).repeat_interleave(heads // x.shape[1], dim=1)
            return x.unflatten(2, (count, size)).flatten(1, 2)  # [b, heads * chunks, size, d]

        q, k, v = chunks(queries), chunks(placed.keys), chunks(block.values)
        real = (slots >= 0)[:, None, :, None].expand(-1, heads, -1, -1, -1).flatten(1, 2)
        mask = None if bool(real.all()) else real
        got = scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=read.scale)
        mean = (got * real.transpose(2, 3)).sum(2, keepdim=True) / real.sum(3, keepdim=True)
        made = scaled_dot_product_attention(mean, k, k, attn_mask=mask, scale=read.scale)
        return (made.nan_to_num(0.0).view(b, heads, count, -1),)  # 0 where no token arrived

    @property
    def choices(self) -> int:
        return self.kv_heads
