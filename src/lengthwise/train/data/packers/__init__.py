"""Packers: functions from the lengths of documents to bins that hold them.

All have one signature, `packer(lengths, capacity) -> list[list[int]]`, but `StreamingPacker`,
which takes one document at a time.
"""

from collections.abc import Callable, Sequence

import numpy as np

from lengthwise.train.data.packers.best_fit import best_fit, best_fit_bins
from lengthwise.train.data.packers.exact import exact
from lengthwise.train.data.packers.first_fit import first_fit
from lengthwise.train.data.packers.greedy import greedy
from lengthwise.train.data.packers.nnlshp import nnlshp
from lengthwise.train.data.packers.spfhp import spfhp
from lengthwise.train.data.packers.streaming import StreamingPacker

Packer = Callable[[Sequence[int] | np.ndarray, int], list[list[int]]]

PACKERS: dict[str, Packer] = {
    "best_fit": best_fit,
    "first_fit": first_fit,
    "greedy": greedy,
    "spfhp": spfhp,
    "nnlshp": nnlshp,
    "exact": exact,
}

__all__ = [
    "PACKERS", "Packer", "StreamingPacker", "best_fit", "best_fit_bins", "exact", "first_fit",
    "greedy", "nnlshp", "spfhp",
]  # fmt: skip
