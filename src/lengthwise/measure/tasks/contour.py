"""Where a score falls below a threshold: the effective length of Needle Threading."""

from collections.abc import Mapping
from itertools import pairwise
from math import log2


def contour(scores: Mapping[int, float], threshold: float = 0.75) -> float:
    """The effective length: where the score first falls below the threshold.

    Source: Roberts et al. (arXiv:2411.05000), section 4.3, effective context limits.
    Differs from the source: between two lengths it is interpolated in the logarithm of the length.

    Args:
        scores: From lengths in tokens to mean scores; at least one.
        threshold: The score that still counts as effective, above 0 to 1.

    Returns:
        Tokens; 0 if the shortest length already fails, the longest length if none fails. One value
        per depth, number of needles or method makes the contour.
    """
    if not scores or not 0 < threshold <= 1:
        raise ValueError(
            f"contour: needs scores and a threshold above 0 to 1, got {len(scores)} scores and "
            f"{threshold!r}"
        )
    lengths = sorted(scores)
    if scores[lengths[0]] < threshold:
        return 0.0
    for shorter, longer in pairwise(lengths):
        if scores[longer] < threshold:
            share = (scores[shorter] - threshold) / (scores[shorter] - scores[longer])
            return float(2 ** (log2(shorter) + share * (log2(longer) - log2(shorter))))
    return float(lengths[-1])
