"""A page with the report's numbers and two histograms; nothing is fetched from anywhere."""

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --ink: #1c2330; --soft: #5c6675;
  --rule: #e4e6ea; --before: #a84300; --after: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --page: #12151b; --ink: #e8ebf0; --soft: #a9b2bf;
  --rule: #2b313c; --before: #ff8e4d; --after: #58b0f0; } }
body { margin: 0 auto; max-width: 1000px; padding: 40px 24px; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; overflow-wrap: anywhere; } h2 { font-size: 18px; margin-top: 36px; }
table { border-collapse: collapse; } td { padding: 5px 18px 5px 0; vertical-align: top;
  border-bottom: 1px solid var(--rule); }
td.number { text-align: right; font-variant-numeric: tabular-nums; font-weight: 600;
  white-space: nowrap; }
td:first-child { white-space: nowrap; } td.words, p, li { color: var(--soft); }
svg { width: 100%; height: auto; } svg text { font: 13px system-ui, sans-serif;
  fill: var(--soft); } svg .title { font-weight: 600; fill: var(--ink); }
svg .before { fill: var(--before); } svg .after { fill: var(--after); }
svg line { stroke: var(--rule); }
"""
WIDTH, LEFT, GAP, ROW, TOP = 960, 170, 30, 24, 56

# Name of the lengths, documents before, their tokens, pieces after, their tokens.
Octave = tuple[str, int, int, int, int]


def page(
    title: str,
    facts: Sequence[tuple[str, str, str]],
    notes: Sequence[str],
    octaves: Sequence[Octave],
) -> str:
    """The page as text.

    Args:
        facts: Name, number and explanation of each.
        notes: What could not be read.
    """
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{escape(number)}</td>'
        f'<td class="words">{escape(words)}</td></tr>'
        for name, number, words in facts
    )
    left_out = "".join(f"<li>{escape(note)}</li>" for note in notes)
    if left_out:
        left_out = f"<h2>Left out</h2><ul>{left_out}</ul>"
    counts = [(name, before, after) for name, before, _, after, _ in octaves]
    tokens = [(name, before, after) for name, _, before, _, after in octaves]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">"
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1><table>{rows}</table>"
        "<h2>Lengths before and after</h2>"
        "<p>Before: the documents of the corpus. After: what the rows hold, whole documents or "
        "pieces of those that are longer than a row. Each side is drawn to its own largest bar.</p>"
        f"{drawing('How many there are, by length in tokens', counts)}"
        f"{drawing('How many tokens they have together', tokens)}"
        f"{left_out}</body></html>\n"
    )


def drawing(title: str, rows: Sequence[tuple[str, int, int]]) -> str:
    """Two histograms side by side, as SVG: name of a bar, its number before and after."""
    width = (WIDTH - LEFT - GAP) / 2
    room = 110  # for the number beside a bar
    most = [max(values) or 1 for values in zip(*(values for _, *values in rows), strict=True)]
    parts = [_text(0, 16, title, "title")]
    for column, word in enumerate(("before", "after")):
        parts.append(_text(LEFT + column * (width + GAP), 42, word, "title"))
    for number, (name, *values) in enumerate(rows):
        top = TOP + number * ROW
        parts.append(f'<line x1="0" x2="{WIDTH}" y1="{top - 3}" y2="{top - 3}"/>')
        parts.append(_text(LEFT - 12, top + 14, name, "", "end"))
        for column, (word, value) in enumerate(zip(("before", "after"), values, strict=True)):
            x = LEFT + column * (width + GAP)
            long = (width - room) * value / most[column]
            if value:
                parts.append(
                    f'<rect x="{x:.1f}" y="{top + 2}" width="{max(long, 1):.1f}" '
                    f'height="{ROW - 9}" rx="2" class="{word}"/>'
                )
                parts.append(_text(x + long + 6, top + 14, f"{value:,}"))
    height = TOP + 24 + len(rows) * ROW
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(title)}, before '
        f'and after packing">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
        f"{escape(words)}</text>"
    )
