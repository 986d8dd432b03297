"""A few queries over rows of different lengths, shared out evenly among threads."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lengthwise.core import operators
from lengthwise.core.partial import Partial

TILE = 256  # keys


def ragged_decode(
    q: Float[Tensor, "b h t d"],
    keys: Sequence[Float[Tensor, "kv n d"]],
    values: Sequence[Float[Tensor, "kv n e"]],
    scale: float,
    workers: int | None = None,
    tile: int = TILE,
) -> tuple[Partial, Int[Tensor, " workers"]]:
    """Attention of every row's queries over all of its own keys, and the tiles of each worker.

    The tiles of all rows and heads are one list, of which every worker takes an equal run; parts of
    a head are merged exactly. Without C code torch computes row after row, with loads that say so.

    Source: Sanovar et al. 2024, Lean Attention (arXiv:2405.10480), section 4 (stream-K).

    Args:
        q: Placed queries of all rows.
        keys, values: Placed keys and values of each row; a row may have none.
        workers: Threads, at least 1; None for as many as torch uses.
        tile: Keys of a tile, at least 1.

    Raises:
        ValueError: A number out of range, or keys for another number of rows.
    """
    workers = torch.get_num_threads() if workers is None else workers
    for name, value in (("workers", workers), ("tile", tile)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    if not len(q) == len(keys) == len(values) > 0:
        raise ValueError(
            f"there must be keys and values for each of {len(q)} rows, got {len(keys)} and "
            f"{len(values)}"
        )
    fits = (
        q.is_cpu and q.dtype in operators.STEPS and all(x.stride(-1) == 1 for x in [*keys, *values])
    )
    if fits and operators.steps(q.shape[-1], values[0].shape[-1]):
        out, lse, loads = operators.ragged(q, keys, values, scale, tile, workers)
        return Partial(out, lse), loads
    outs, sums = [], []
    for x, k, v in zip(q, keys, values, strict=True):
        k, v = (y.repeat_interleave(len(x) // len(y), 0) for y in (k, v))
        scores = (x * scale) @ k.transpose(-1, -2)
        sums.append(
            scores.logsumexp(-1) if k.shape[1] else scores.new_full(x.shape[:2], -torch.inf)
        )
        outs.append(torch.softmax(scores, -1) @ v)
    tiles = sum(-(-k.shape[1] // tile) * len(k) for k in keys)
    return Partial(torch.stack(outs), torch.stack(sums)), torch.tensor([tiles])
