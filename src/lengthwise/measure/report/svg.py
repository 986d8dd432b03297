"""Small pieces of SVG. Colours come from the page's style sheet, so they follow its mode."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from lengthwise.html import drawing_style


@dataclass(frozen=True)
class Scale:
    """From data to pixels; `log` spaces powers of two evenly."""

    low: float
    high: float
    first: float
    last: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log2(low), math.log2(high), math.log2(value)
        return self.first + (value - low) / (high - low) * (self.last - self.first)


def round_steps(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers from `low` to `high`."""
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places near the wanted ones, at least `gap` apart, within `low` and `high` if they fit.

    Labels that would overlap are pushed apart around their common middle.
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[list[int], float]] = []  # members in order, place of the first one

    def place(members: list[int]) -> float:
        offsets = [wanted[i] - k * gap for k, i in enumerate(members)]
        start = sum(offsets) / len(offsets)
        return max(low, min(start, high - (len(members) - 1) * gap))

    for i in order:
        members = [i]
        while groups and groups[-1][1] + len(groups[-1][0]) * gap > place(members):
            members = groups.pop()[0] + members
        groups.append((members, place(members)))
    out = [0.0] * len(wanted)
    for members, start in groups:
        for k, i in enumerate(members):
            out[i] = start + k * gap
    return out


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def rectangle(
    x: float, y: float, width: float, height: float, kind: str, extra: str = "", title: str = ""
) -> str:
    inner = f"<title>{escape(title)}</title>" if title else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" '
        f'class="{kind}" {extra}>{inner}</rect>'
    )


def path(points: Sequence[tuple[float, float]], kind: str, close: bool = False) -> str:
    steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return f'<path d="M{steps}{" Z" if close else ""}" class="{kind}"/>'


def dot(x: float, y: float, kind: str, title: str) -> str:
    inner = f"<title>{escape(title)}</title>"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="{kind}">{inner}</circle>'


def mark(x: float, y: float, shape: int, kind: str, title: str) -> str:
    """A filled mark; four shapes tell methods apart where colours do not."""
    inner = f"<title>{escape(title)}</title>"
    if shape % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" class="{kind}">{inner}</circle>'
    corners = (
        [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        [(0, -5.5), (5, 3.5), (-5, 3.5)],
        [(0, -5.8), (5.8, 0), (0, 5.8), (-5.8, 0)],
    )[shape % 4 - 1]
    steps = " L".join(f"{x + dx:.1f} {y + dy:.1f}" for dx, dy in corners)
    return f'<path d="M{steps} Z" class="{kind}">{inner}</path>'


def picture(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """A whole drawing that shrinks with the page; `title` is what a screen reader says."""
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{escape(title, quote=True)}">{"".join(parts)}</svg>'
    )


def alone(drawing: str) -> str:
    """A picture as a file of its own: with its style, on a card that is legible on any page."""
    head, rest = drawing.split(">", 1)
    head = head.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    card = '<rect width="100%" height="100%" fill="#ffffff" rx="10"/>'
    return f"{head}><style>{drawing_style()}</style>{card}{rest}\n"
