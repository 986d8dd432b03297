"""What a race over methods begins with: every method that needs no tuning, sized for a length."""

import math

from lengthwise.extend.layouts import GALI, DualChunk, LeakyReRoPE, LMInfinite, ReRoPE, SelfExtend
from lengthwise.extend.method import Method
from lengthwise.extend.scaling import NTK, PI, DynamicNTK, DynamicYaRN, Llama3, YaRN
from lengthwise.extend.selectors import InfLLM
from lengthwise.extend.stores import StreamingLLM

SINKS = 4
MOST_GROUPS = 16  # GALI costs one region a group


def candidates(window: int, length: int) -> list[tuple[Method, ...]]:
    """Methods, with arguments, that bring a trained window to a length; the untouched model first.

    Args:
        window: Trained window in tokens, at least 32.
        length: Target in tokens, above the window.

    Raises:
        ValueError: If a number is out of its range.
    """
    if window < 32:
        raise ValueError(f"a race needs a trained window of at least 32 tokens, got {window}")
    if length <= window:
        raise ValueError(
            f"the length must be above the window of {window:,} tokens, got {length:,}"
        )
    factor = length / window
    near = (window // 4, window // 2)
    scalings = [PI(factor), NTK(factor), NTK(2 * factor), DynamicNTK(), YaRN(factor)]
    scalings += [YaRN(1.5 * factor), DynamicYaRN(), Llama3(factor)]
    layouts: list[Method] = [LMInfinite(SINKS, window - SINKS)]
    for w in near:
        shrink = math.ceil((length - w) / (window - w))
        layouts += [
            *_grouped(window, length, w),
            ReRoPE(w),
            LeakyReRoPE(factor=float(shrink), window=w),
        ]
    layouts.append(DualChunk(3 * window // 4, window // 8))
    if factor <= MOST_GROUPS:
        layouts.append(GALI(window, window // 4, factor))
    page = max(8, window // 16)
    others = [
        StreamingLLM(SINKS, window - SINKS),
        InfLLM(pages=window // 2 // page, page_size=page, sinks=SINKS, window=window // 2),
    ]
    return [(), *((method,) for method in [*scalings, *layouts, *others])]


def _grouped(window: int, length: int, near: int) -> list[Method]:
    """Self-Extend with the smallest group that reaches the length, and with half as much again.

    Its window, about `near`, must be a multiple of the group; beyond some length there is none.
    """
    found: list[Method] = []
    group = 2
    while len(found) < 2 and group < window:
        wide = group * max(1, round(near / group))
        if wide + math.ceil((length - wide) / group) <= window:
            found.append(SelfExtend(group, wide))
            group = math.ceil(1.5 * group)
        else:
            group += 1
    return found
