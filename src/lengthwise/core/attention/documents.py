"""Documents that are packed into rows, each attended alone: no pair of two is ever computed."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from lengthwise.core.keys import KeyBlock, Queries
from lengthwise.core.partial import Partial, nothing
from lengthwise.core.regions import Region


def apart(queries: Queries, blocks: Sequence[KeyBlock], regions: Sequence[Region]) -> bool:
    """Whether these are the same tokens of packed rows, whose documents can be read one by one.

    Predicates and scores of a region's own may ask which row they are in, so they need all of it.
    """
    return (
        queries.segments is not None
        and len(blocks) == 1
        and queries.segments is blocks[0].segments
        and len(queries) == len(blocks[0])
        and queries.vectors.device.type == "cpu"
        and all(region.also is None and region.score is None for region in regions)
    )


def each_alone(
    queries: Queries, block: KeyBlock, attend: Callable[[Queries, KeyBlock], Partial]
) -> Partial | None:
    """What `attend` makes of every document by itself, put together; None where one is in pieces.

    A mask over a packed row costs the square of the row; so it costs that of each document.
    """
    rows = runs_of(queries, block)
    if rows is None:
        return None
    outs: list[Partial] = []
    for row, found in enumerate(rows):
        parts: list[Partial] = []
        for low, high, start in found:
            x = queries.vectors[row : row + 1, :, low:high]
            if start is None:  # padding
                parts.append(nothing(x, block.values.shape[-1]))
                continue
            places = queries.positions[row : row + 1, low:high]
            bias = None
            if block.bias is not None:
                bias = block.bias[row : row + 1, :, low:high]
            keys, values = (y[row : row + 1, :, low:high] for y in (block.keys, block.values))
            document = KeyBlock(keys, values, places[:, None], None, start, None, bias)
            parts.append(attend(Queries(x, places, None, start), document))
        outs.append(_joined(parts, 2))
    return _joined(outs, 0)


def runs_of(queries: Queries, block: KeyBlock) -> list[list[tuple[int, int, int | None]]] | None:
    """For every row the runs of tokens of one document, as first, one past the last, and where the
    first stands (None for padding); None where a document is not one run of rising positions.
    """
    assert queries.segments is not None
    if block.positions.shape[1] != 1 or not torch.equal(block.positions[:, 0], queries.positions):
        return None
    found = []
    for places, names in zip(queries.positions, queries.segments, strict=True):
        padding = places < 0
        moved = (names.diff() != 0) | (padding.diff() != 0)
        cuts = [0, *(moved.nonzero()[:, 0] + 1).tolist(), len(names)]
        row: list[tuple[int, int, int | None]] = []
        known = set()
        for low, high in pairwise(cuts):
            if bool(padding[low]):
                row.append((low, high, None))
                continue
            name, start = int(names[low]), int(places[low])
            here = places[low:high]
            if name in known or not torch.equal(
                here, torch.arange(start, start + high - low, device=here.device)
            ):
                return None
            known.add(name)
            row.append((low, high, start))
        found.append(row)
    return found


def _joined(parts: list[Partial], dim: int) -> Partial:
    if len(parts) == 1:
        return parts[0]
    return Partial(*(torch.cat(list(_all(parts, i)), dim) for i in range(2)))


def _all(parts: list[Partial], index: int) -> Iterator[Tensor]:
    return (part[index] for part in parts)
