"""What every packer asks of its lengths, and the two forms of its answer."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def checked_lengths(lengths: Sequence[int] | np.ndarray, capacity: int) -> NDArray[np.int64]:
    """The lengths as `[documents]` int64.

    Raises:
        ValueError: If the capacity is below 2 tokens, or a length is no integer in 1..capacity.
    """
    if capacity < 2:
        raise ValueError(f"capacity must be at least 2 tokens (one to predict), got {capacity}")
    given = np.asarray(lengths)
    if given.size == 0:
        return np.zeros(0, dtype=np.int64)
    if given.ndim != 1 or given.dtype.kind not in "iu":
        raise ValueError(
            "lengths must be one row of integers, got "
            f"{given.dtype} of shape {given.shape}: count the tokens of every document first"
        )
    wrong = (given < 1) | (given > capacity)
    if wrong.any():
        at = int(wrong.argmax())
        raise ValueError(
            f"length {int(given[at])} of document {at} is outside 1..{capacity} (the capacity): "
            "split, truncate or drop long documents and leave out empty ones before packing"
        )
    return given.astype(np.int64)


def as_lists(bins: NDArray[np.int64]) -> list[list[int]]:
    """From the bin number of every document to the documents of every bin, both ascending."""
    order = np.argsort(bins, kind="stable").tolist()
    ends = np.cumsum(np.bincount(bins)).tolist() if len(bins) else []
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]
