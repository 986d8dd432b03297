"""Numbers, names and texts as a report says them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lengthwise.measure.statistics.intervals import Interval

LONGEST = 4000  # characters of a text that are shown


def size(count: float | None) -> str:
    """Bytes in words: 950 B, 3.1 MB."""
    if count is None:
        return "not counted"
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def seconds(value: float) -> str:
    """Seconds in words: 350 µs, 25 ms, 1.2 s, 90 s."""
    if value < 1e-3:
        return f"{value * 1e6:.3g} µs"
    if value < 1:
        return f"{value * 1e3:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:,.0f} s"


def rate(value: float) -> str:
    """A number a second: 8.2, 1,250."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def signed(value: float) -> str:
    """A difference with its sign and two decimals; what rounds to zero is +0.00."""
    return f"{round(value, 2) + 0.0:+.2f}"


def share(interval: Interval) -> str:
    """`83% [61–95%]`: a score with its bounds."""
    return f"{interval.value:.0%} [{bounds(interval)}]"


def bounds(interval: Interval) -> str:
    """`61–95%`."""
    return f"{100 * interval.low:.0f}–{interval.high:.0%}"


def share_of(value: float, what: str) -> str:
    """`18% by all numbers`: what a way to answer scores."""
    return f"{value:.0%} by {what}"


def part_words(name: str, value: float) -> str:
    """A part of a score: a share, or a number of words."""
    return f"{value:,.0f}" if name == "words" else f"{value:.0%}"


def windows(length: int, window: int) -> str:
    """A length in windows: `half a window`, `1 window`, `8 windows`."""
    ratio = length / window
    if ratio == 0.5:
        return "half a window"
    return "1 window" if ratio == 1 else f"{ratio:.3g} windows"


def counted(count: int, name: str) -> str:
    """`1 item`, `1,250 items`."""
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"


def joined(parts: Sequence[str]) -> str:
    """`a, b and c`."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def cut(words: str, most: int) -> str:
    """A name that fits."""
    return words if len(words) <= most else words[: most - 1] + "…"


def visible(text: str) -> str:
    """Text with control characters as pictures of themselves, cut at `LONGEST`."""
    shown = "".join(chr(0x2400 + ord(c)) if c < " " and c not in "\n\t" else c for c in text)
    if len(shown) > LONGEST:
        shown = f"{shown[:LONGEST]}\n… and {len(shown) - LONGEST:,} more characters"
    return shown


def flat(values: Mapping[str, Any]) -> str:
    """`device cpu, threads 2`."""
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in values.items())
