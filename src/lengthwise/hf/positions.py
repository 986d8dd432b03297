"""Logical positions of the tokens of one forward, from what transformers was given."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Step:
    """What all layers of one forward share.

    Attributes:
        positions: Logical positions of the new tokens `[b, t]`, -1 for padding.
        segments: Documents of the new tokens `[b, t]`, or None.
        start: The first position, if every row holds start, start + 1, ...; else None.
        lengths: Real tokens of every row so far, the new ones included, `[b]`.
        whole: Tokens of the text that this is a part of, where that was announced; else 0.
        memo: What layers work out once for all of them. It lives as long as the forward, so that
            forwards of other threads and on other caches never meet it.
    """

    positions: Tensor
    segments: Tensor | None
    start: int | None
    lengths: Tensor
    whole: int = 0
    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def reach(self) -> Tensor:
        """Tokens `[b]` to whose length frequencies belong: those so far, or of the whole text."""
        return self.lengths.clamp(min=self.whole)


def read_mask(mask: Any, rows: int, seen: int, count: int, device: torch.device) -> Tensor | None:
    """Which of the tokens seen and new are no padding, `[rows, seen + count]`; None without a mask.

    Raises:
        ValueError: For a mask that is not 2-D, or of another shape.
    """
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.ndim != 2:
        shape = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(
            f"an adapted model takes a 2-D attention mask of ones and zeros, got {shape}; "
            "pass documents as segment_ids"
        )
    if mask.shape[1] != seen + count:
        raise ValueError(
            f"attention_mask must cover the {seen} tokens seen and the {count} new ones, "
            f"got {mask.shape[1]} columns"
        )
    if mask.shape[0] != rows:
        raise ValueError(
            f"attention_mask must have a row for each of the {rows} rows of tokens, got "
            f"{mask.shape[0]}"
        )
    return mask.to(device=device, dtype=torch.bool)


def make_step(
    *,
    rows: int,
    count: int,
    lengths: Tensor | None,
    real: Tensor | None,
    position_ids: Tensor | None,
    segments: Tensor | None,
    device: torch.device,
) -> Step:
    """Positions by these rules, first match wins:

    1. `segment_ids` alone: the real tokens of every document count from 0, padding is -1. Which
       of them goes on with a document of an earlier forward only `position_ids` can say;
    2. a 2-D mask with zeros beside `position_ids` and `segment_ids`, a padded batch of packed rows:
       positions are taken as they are where tokens are real, padding is -1;
    3. a 2-D mask with zeros: real tokens of a row count from 0, padding is -1. `position_ids`
       are not needed then and may only count the same tokens from elsewhere, as those that
       transformers derives in `generate` do;
    4. `position_ids`: taken as they are;
    5. otherwise rows go on from the tokens seen.

    Positions never stand for documents: `segment_ids` do.

    Args:
        lengths: Tokens of each row so far, `[b]`; None for none.
        real: What `read_mask` says.

    Raises:
        ValueError: For positions that disagree with a padded mask or that come again without
            `segment_ids`, and for `segment_ids` of another shape than the tokens, or without
            `position_ids` after tokens that were seen.
    """
    if segments is not None:
        if tuple(segments.shape) != (rows, count):
            raise ValueError(
                f"segment_ids must hold a document number for each of {rows} x {count} tokens, "
                f"got shape {tuple(segments.shape)}"
            )
        segments = segments.to(device)
        if position_ids is None:
            return _by_document(segments, real, lengths)
    before = torch.zeros(rows, dtype=torch.long, device=device) if lengths is None else lengths
    if real is not None and not bool(real.all()):
        # Counting goes on from the row's own length: the past of the mask may be padded.
        fresh = real[:, real.shape[1] - count :]
        if position_ids is not None and segments is not None:
            given = position_ids.to(device).expand(rows, count).masked_fill(~fresh, -1)
            return Step(given, segments, None, torch.maximum(before, given.amax(1) + 1))
        positions = (before[:, None] + fresh.cumsum(1) - 1).masked_fill(~fresh, -1)
        if position_ids is not None:
            _agree(position_ids.to(device).expand(rows, count) - positions, fresh)
        return Step(positions, segments, None, before + fresh.sum(1))
    if position_ids is not None:
        positions = position_ids.to(device).expand(rows, count)
        return _explicit(positions, segments, before)
    agreed = lengths is None or bool((before == before[0]).all())
    positions = before[:, None] + torch.arange(count, device=device)
    start = int(before[0]) if agreed else None
    return Step(positions, segments, start, before + count)


def document_lengths(step: Step) -> Tensor:
    """Tokens so far of the document of every new token `[b, t]`, packed by `segments`."""
    assert step.segments is not None
    rows = torch.arange(len(step.segments), device=step.segments.device)
    named = torch.stack([rows[:, None].expand_as(step.segments), step.segments], dim=-1)
    documents, of = named.flatten(0, 1).unique(dim=0, return_inverse=True)
    longest = of.new_zeros(len(documents)).scatter_reduce(
        0, of, step.positions.flatten() + 1, "amax"
    )
    return longest[of].view_as(step.segments)


def _by_document(segments: Tensor, real: Tensor | None, lengths: Tensor | None) -> Step:
    if lengths is not None and bool(lengths.any()):
        raise ValueError(
            "segment_ids on a cache that holds tokens need position_ids, which say what goes on "
            "with a document that has begun; count the tokens of every document from 0"
        )
    fresh = torch.ones_like(segments, dtype=torch.bool) if real is None else real
    positions = torch.full_like(segments, -1, dtype=torch.long)
    rows, _ = fresh.nonzero(as_tuple=True)
    positions[fresh] = _count(rows, segments[fresh])
    return Step(positions, segments, None, positions.amax(1) + 1)


def _count(rows: Tensor, segments: Tensor) -> Tensor:
    """How many tokens of the same row and document stand before each token of a flat batch."""
    index = torch.arange(len(rows), device=rows.device)
    # A stable sort brings a document together even where another one interrupts it, and keeps
    # rows that share its number apart.
    order = segments.argsort(stable=True)
    fresh = torch.ones_like(rows, dtype=torch.bool)
    fresh[1:] = (rows[order].diff() != 0) | (segments[order].diff() != 0)
    first = torch.where(fresh, index, 0).cummax(0).values
    return torch.empty_like(index).scatter_(0, order, index - first)


def _agree(shift: Tensor, fresh: Tensor) -> None:
    """Raise unless the real tokens of every row are shifted by one number."""
    highest = shift.masked_fill(~fresh, torch.iinfo(shift.dtype).min).amax(1)
    lowest = shift.masked_fill(~fresh, torch.iinfo(shift.dtype).max).amin(1)
    if bool((highest > lowest).any()):
        raise ValueError(
            "position_ids and a padded attention_mask disagree: real tokens of a row follow each "
            "other without gaps; leave one of the two out"
        )


def _explicit(positions: Tensor, segments: Tensor | None, before: Tensor) -> Step:
    steps = positions.diff(dim=1)
    lengths = torch.maximum(before, positions.amax(1) + 1)
    again = bool((steps <= 0).any()) or bool((positions[:, 0] < before).any())
    if segments is None and again:
        raise ValueError(
            "position_ids start again, within a row or below the tokens seen; pass segment_ids to "
            "say where documents begin, or train within document_attention(model, "
            "by_positions=True) of lengthwise.train.data.segments"
        )
    first = int(positions[0, 0])
    consecutive = bool((steps == 1).all()) and bool((positions[:, 0] == first).all())
    return Step(positions, segments, first if consecutive else None, lengths)
