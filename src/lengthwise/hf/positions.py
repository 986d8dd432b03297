"""Logical positions of the tokens of one forward, from what transformers was given."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Order:
    """Where tokens stand in their row, in a step whose positions do not say it.

    transformers masks by columns and turns by `position_ids`: columns count tokens whatever their
    positions, windows are counted in columns, and padding behind a token asks like one but is
    never seen. Layers that can tell the two apart, all plain causal ones, do likewise.

    Attributes:
        queries: Columns `[b, t]` from the row's first token on, at its position; -1 before it.
        keys: The same, -1 for all padding.
        angles: Positions of all of them, padding too.
    """

    queries: Tensor
    keys: Tensor
    angles: Tensor

    def times(self, low: int, high: int) -> "Order":
        """That of the tokens low .. high - 1."""
        return Order(*(x[:, low:high] for x in (self.queries, self.keys, self.angles)))


@dataclass(frozen=True)
class Step:
    """What all layers of one forward share.

    Attributes:
        positions: Logical positions of the new tokens `[b, t]`, -1 for padding.
        segments: Documents of the new tokens `[b, t]`, or None.
        start: The first position, if every row holds start, start + 1, ...; else None.
        lengths: Position after the last token of every row so far, the new ones included, `[b]`:
            its real tokens, unless positions have gaps.
        whole: Tokens of the text that this is a part of, where that was announced; else 0.
        order: Where the tokens stand, if their positions do not say it; else None.
        rises: Whether positions rise within every row (and document).
        memo: What layers work out once for all of them. It lives as long as the forward, so that
            forwards of other threads and on other caches never meet it.
    """

    positions: Tensor
    segments: Tensor | None
    start: int | None
    lengths: Tensor
    whole: int = 0
    order: Order | None = None
    rises: bool = True
    memo: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def times(self, low: int, high: int) -> "Step":
        """The step of the tokens low .. high - 1, with the lengths of the whole."""
        return replace(
            self,
            positions=self.positions[:, low:high],
            segments=None if self.segments is None else self.segments[:, low:high],
            start=None if self.start is None else self.start + low,
            order=None if self.order is None else self.order.times(low, high),
        )

    @property
    def reach(self) -> Tensor:
        """Tokens `[b]` to whose length frequencies belong: those so far, or of the whole text."""
        return self.lengths.clamp(min=self.whole)


@dataclass(frozen=True)
class Past:
    """What the rows of a cache hold.

    Attributes:
        seen: Columns: tokens of every row, padding too.
        lengths: As in `Step`, `[b]`; None before the first forward.
        places: Positions of all columns `[b, seen]`, -1 for padding; None for 0, 1, … everywhere.
        offsets: Padding in front of every row that `position_ids` count in, `[b]`; None as long
            as none were given beside a padded mask.
    """

    seen: int = 0
    lengths: Tensor | None = None
    places: Tensor | None = None
    offsets: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether all rows hold the positions 0 to `seen` - 1."""
        return self.places is None and self.offsets is None

    def all_places(self, rows: int, device: torch.device) -> Tensor:
        """`places`, also where they are 0, 1, …"""
        if self.places is not None:
            return self.places
        return torch.arange(self.seen, device=device).expand(rows, -1)

    def after(self, step: Step, offsets: Tensor | None) -> "Past":
        """The same with the tokens of a step."""
        rows, count = step.positions.shape
        if self.places is None and step.start == self.seen:
            places = None
        else:
            before = self.all_places(rows, step.positions.device)
            places = torch.cat([before, step.positions], dim=1)
        return Past(self.seen + count, step.lengths, places, offsets)

    def cut(self, seen: int) -> "Past":
        """The same with its first `seen` columns only."""
        if self.lengths is None:
            return self
        places = self.all_places(len(self.lengths), self.lengths.device)[:, :seen]
        kept = None if self.places is None or not seen else places
        return replace(self, seen=seen, lengths=_ends(places), places=kept)

    def hide(self, hidden: Tensor) -> "Past":
        """The same with padding where `hidden [b, seen]` says so."""
        places = self.all_places(len(hidden), hidden.device).masked_fill(hidden, -1)
        return replace(self, lengths=_ends(places), places=places)

    def select_rows(self, index: Tensor) -> "Past":
        """The rows `index`, in that order."""
        named = {"lengths": self.lengths, "places": self.places, "offsets": self.offsets}
        rows = {k: None if v is None else v.index_select(0, index) for k, v in named.items()}
        return replace(self, **rows)  # type: ignore[arg-type]


def _ends(places: Tensor) -> Tensor:
    """The position after the last token of every row of `places [b, n]`."""
    if not places.shape[1]:
        return places.new_zeros(len(places))
    last = (torch.arange(places.shape[1], device=places.device) * (places >= 0)).amax(1)
    return places.gather(1, last[:, None])[:, 0] + 1


def read_mask(
    mask: Any, rows: int, seen: int, count: int, device: torch.device, *, plain: bool = False
) -> Tensor | None:
    """Which of the tokens seen and new are no padding, `[rows, seen + count]`; None without a mask.

    Args:
        plain: Whether a mask that hides nothing is like none.

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
    if plain and bool(mask.all()):
        return None
    return mask.to(device=device, dtype=torch.bool)


def make_step(
    *,
    rows: int,
    count: int,
    past: Past,
    real: Tensor | None,
    position_ids: Tensor | None,
    segments: Tensor | None,
    device: torch.device,
) -> tuple[Step, Past]:
    """Positions by these rules, first match wins, and what rows hold afterwards:

    1. `segment_ids` alone: the real tokens of every document count from 0, padding is -1. Which
       of them goes on with a document of an earlier forward only `position_ids` can say;
    2. a 2-D mask with zeros beside `position_ids` and `segment_ids`, a padded batch of packed rows:
       positions are taken as they are where tokens are real, padding is -1;
    3. a 2-D mask with zeros beside `position_ids`, as in `generate`: they are taken as they are
       where tokens are real, less the padding in front of a row where they count it in;
    4. a 2-D mask with zeros: real tokens of a row count from 0, padding is -1. Between real tokens
       padding is refused: transformers counts it in a forward and not in `generate`;
    5. `position_ids`: taken as they are;
    6. otherwise rows go on from the tokens seen.

    Positions rise within a run of tokens, and never stand for documents: `segment_ids` do. Behind
    padding they may start again, as `generate` has it for rows that are padded on the right.

    Args:
        real: What `read_mask` says; None where nothing was ever hidden.

    Raises:
        ValueError: For positions that come again without `segment_ids`, for masks without
            positions that hide tokens between others, for other shapes than the tokens', and for
            `segment_ids` without `position_ids` after tokens that were seen.
    """
    if segments is not None:
        if tuple(segments.shape) != (rows, count):
            raise ValueError(
                f"segment_ids must hold a document number for each of {rows} x {count} tokens, "
                f"got shape {tuple(segments.shape)}"
            )
        segments = segments.to(device)
        if position_ids is None:
            step = _by_document(segments, real, past.lengths)
            return step, past.after(step, past.offsets)
    if segments is None and real is None and past.plain:
        on = _going_on(rows, count, past.seen, position_ids, device)
        if on is not None:
            return on, Past(past.seen + count, on.lengths)
    before = torch.zeros(rows, dtype=torch.long, device=device)
    before = before if past.lengths is None else past.lengths
    given = None if position_ids is None else _read_positions(position_ids, rows, count, device)
    offsets, padded = past.offsets, real is not None and not bool(real.all())
    if real is not None and padded:
        fresh = real[:, past.seen :]
        counted = (before[:, None] + fresh.cumsum(1) - 1).masked_fill(~fresh, -1)
        if given is not None and segments is not None:
            positions = given.masked_fill(~fresh, -1)
            lengths = torch.maximum(before, positions.amax(1) + 1)
            step = Step(positions, segments, None, lengths)
            return step, past.after(step, offsets)
        if given is None:
            _refuse_holes(real)
            step = Step(counted, segments, None, before + fresh.sum(1))
        else:
            offsets = _offsets(given, counted, real, before, past)
            given = given - offsets[:, None]
            positions = given.masked_fill(~fresh, -1)
            rises = _check_runs(positions, real, before, past.seen)
            lengths = torch.where(fresh.any(1), _ends(positions), before)
            step = Step(positions, segments, None, lengths, rises=rises)
    elif given is not None:
        given = given if offsets is None else given - offsets[:, None]
        step = _explicit(given, segments, before)
    else:
        agreed = past.lengths is None or bool((before == before[0]).all())
        positions = before[:, None] + torch.arange(count, device=device)
        step = Step(positions, segments, int(before[0]) if agreed else None, before + count)
    if segments is None and (padded or given is not None or past.places is not None):
        step = replace(step, order=_order(step.positions, given, real if padded else None, past))
    return step, past.after(step, offsets)


def _going_on(
    rows: int, count: int, seen: int, position_ids: Tensor | None, device: torch.device
) -> Step | None:
    """The step of rows that go on from the tokens seen; None where `position_ids` say otherwise.

    One short way for most forwards, and for every token that is generated from one prompt.
    """
    if count == 1:
        positions = torch.full((rows, 1), seen, device=device)
    else:
        positions = torch.arange(seen, seen + count, device=device).expand(rows, count)
    if position_ids is not None:
        given = _read_positions(position_ids, rows, count, device)
        alike = given.item() == seen if given.numel() == 1 else torch.equal(given, positions)
        if not alike:
            return None
    lengths = torch.full((rows,), seen + count, device=device)
    return Step(positions, None, seen, lengths)


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


def _read_positions(position_ids: Tensor, rows: int, count: int, device: torch.device) -> Tensor:
    shape = tuple(position_ids.shape)
    if shape not in ((rows, count), (1, count)):
        raise ValueError(
            f"position_ids must hold a position for each of {rows} x {count} tokens, got shape "
            f"{shape}"
        )
    given = position_ids if position_ids.device == device else position_ids.to(device)
    return given if shape == (rows, count) else given.expand(rows, count)


def _refuse_holes(real: Tensor) -> None:
    """Raise for padding between real tokens, which may or may not count."""
    holes = ~real & (real.cumsum(1) > 0) & (real.flip(1).cumsum(1).flip(1) > 0)
    if bool(holes.any()):
        row, column = holes.nonzero()[0].tolist()
        raise ValueError(
            f"attention_mask hides token {column} of row {row} between others, so their positions "
            "are open: pass position_ids, for instance attention_mask.cumsum(1) - 1 of the new "
            "tokens"
        )


def _offsets(given: Tensor, counted: Tensor, real: Tensor, before: Tensor, past: Past) -> Tensor:
    """The padding in front of every row that `position_ids` count in, `[b]`: all of it, or none."""
    fresh = real[:, past.seen :]
    at = fresh.int().argmax(1, keepdim=True)
    first, own = given.gather(1, at)[:, 0], counted.gather(1, at)[:, 0]
    leading = real.int().argmax(1)
    begins = (before == 0) & fresh.any(1)
    counts_in = torch.where(begins, first == leading, first != own)
    found = torch.where(counts_in & fresh.any(1), leading, 0)
    # A row that has begun goes on as it began.
    return found if past.offsets is None else torch.where(before == 0, found, past.offsets)


def _check_runs(positions: Tensor, real: Tensor, before: Tensor, seen: int) -> bool:
    """Whether positions rise all along; within a run of real tokens they must.

    Raises:
        ValueError: If they do not.
    """
    fresh = positions >= 0
    last = before[:, None] - 1
    previous = torch.cat([last, positions[:, :-1]], dim=1)
    joined = real[:, seen - 1 : -1] if seen else torch.cat([fresh[:, :1] & False, fresh[:, :-1]], 1)
    falls = fresh & joined & (positions <= previous)
    negative = real[:, seen:] & ~fresh
    if bool((falls | negative).any()):
        raise ValueError(
            "position_ids and a padded attention_mask disagree: the positions of real tokens that "
            "follow each other must rise; leave one of the two out"
        )
    highest = torch.cat([last, positions], dim=1).cummax(1).values[:, :-1]
    return not bool((fresh & (positions <= highest)).any())


def _order(
    positions: Tensor, given: Tensor | None, real: Tensor | None, past: Past
) -> Order | None:
    """Where tokens stand in their rows; None where their positions say it."""
    rows, count = positions.shape
    if real is None:
        known = positions >= 0
        if past.seen:
            known = torch.cat([past.all_places(rows, positions.device) >= 0, known], dim=1)
        real = known
    first = real.int().argmax(1, keepdim=True)
    inside = torch.where(first < past.seen, 0, first - past.seen)
    base = positions.gather(1, inside)
    if past.places is not None:
        earlier = past.places.gather(1, first.clamp(max=past.seen - 1))
        base = torch.where(first < past.seen, earlier, base)
    elif past.seen:
        base = torch.where(first < past.seen, first, base)
    columns = torch.arange(past.seen, past.seen + count, device=positions.device) - first
    begun = (columns >= 0) & real.any(1, keepdim=True)
    queries = torch.where(begun, columns + base, -1)
    keys = queries.masked_fill(~real[:, past.seen :], -1)
    if torch.equal(keys, positions) and torch.equal(queries, keys):
        return None
    elsewhere = queries if given is None else given
    return Order(queries, keys, torch.where(positions >= 0, positions, elsewhere))


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
