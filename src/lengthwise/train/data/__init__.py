"""Documents of every length: pack them, bucket them, order them, waste nothing."""

from lengthwise.train.data.balance import balanced_batches, sorted_batches
from lengthwise.train.data.curriculum import Curriculum, GrowLinear, GrowP2, Plan, Step, Uniform
from lengthwise.train.data.decomposition import Buckets, bucket, decompose
from lengthwise.train.data.knots import Tangle, UntieTheKnots
from lengthwise.train.data.mix import PROLONG_64K, PROLONG_512K, PROLONG_SHORT, Mix, sweep
from lengthwise.train.data.packers import (
    PACKERS,
    StreamingPacker,
    best_fit,
    best_fit_bins,
    exact,
    first_fit,
    greedy,
    nnlshp,
    spfhp,
)
from lengthwise.train.data.staged import GrowLength, Stage, Staged, XGen

__all__ = [
    "PACKERS",
    "PROLONG_64K",
    "PROLONG_512K",
    "PROLONG_SHORT",
    "Buckets",
    "Curriculum",
    "GrowLength",
    "GrowLinear",
    "GrowP2",
    "Mix",
    "Plan",
    "Stage",
    "Staged",
    "Step",
    "StreamingPacker",
    "Tangle",
    "Uniform",
    "UntieTheKnots",
    "XGen",
    "balanced_batches",
    "best_fit",
    "best_fit_bins",
    "bucket",
    "decompose",
    "exact",
    "first_fit",
    "greedy",
    "nnlshp",
    "sorted_batches",
    "spfhp",
    "sweep",
]
