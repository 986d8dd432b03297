"""What a suite's page needs beyond the style sheet of all reports."""

from lengthwise.measure.report.style import STYLE

SUITE_STYLE = (
    STYLE
    + """
details.part { border-top: 1px solid var(--rule); padding: 10px 0 6px; }
details.part > summary { color: var(--ink); }
summary small { color: var(--soft); }
pre.text { overflow-wrap: anywhere; unicode-bidi: isolate; max-height: 24em; overflow-y: auto; }
td:first-child { white-space: normal; overflow-wrap: anywhere; min-width: 18em; }
svg .whisker { stroke-width: 1.6; opacity: .6; }
svg .band.solid { opacity: .85; }
svg .none { fill: none; stroke: var(--edge); stroke-dasharray: 2 3; }
"""
    + "\n".join(f"svg .whisker.c{i} {{ stroke: var(--c{i}); }}" for i in range(8))
)
