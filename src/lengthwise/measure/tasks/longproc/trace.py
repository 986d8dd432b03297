"""What the procedures share: lines in tags, compared from the first one on."""

import re
from collections.abc import Callable, Sequence


def lines_in(text: str, tag: str) -> list[str]:
    """The lines between `<tag>` and its end; of a text without tags, all lines. No blank ones."""
    found = re.search(rf"<{tag}>(.*?)(?:</{tag}>|\Z)", text, re.DOTALL)
    inner = found.group(1) if found else text.split(f"</{tag}>")[0]
    return [line.strip() for line in inner.split("\n") if line.strip()]


def right_share(found: Sequence[str], wanted: Sequence[str]) -> float:
    """The share of lines before the first wrong one; lines too many count as wrong.

    Source: Ye et al., LongProc (arXiv:2501.05414), section 3, partial accuracy.
    Differs from the source: its code also counts the first wrong line as right.
    """
    right = 0
    for ours, theirs in zip(found, wanted, strict=False):
        if ours != theirs:
            break
        right += 1
    return right / max(len(found), len(wanted))


def check_level(name: str, budget: int) -> None:
    """Refuses a budget that holds no procedure."""
    if not 128 <= budget <= 65536:
        raise ValueError(
            f"{name}: budget must be from 128 to 65536 output tokens, got {budget!r}; the source's "
            "levels are 512, 2048 and 8192"
        )


def longest(answer: Callable[[int], str], tokens: Callable[[str], int], budget: int) -> int:
    """About the most steps whose answer stays within the budget, to a few per cent; at least 1."""
    steps, best = 16, 1
    for _ in range(6):
        size = tokens(answer(steps))
        if size <= budget:
            best = max(best, steps)
        steps = max(1, int(steps * 0.985 * budget / size))
        if steps <= best:
            break
    return best
