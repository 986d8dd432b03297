"""Searches for the numbers of a scaling: stopped at any time, gone on with later."""

from lengthwise.search.evolution import Evolution, Genome, Trial
from lengthwise.search.longrope import (
    LongRoPESearch,
    SecondStageSearch,
    ShortSearch,
    longrope_search,
)
from lengthwise.search.longrope2 import LongRoPE2Search, longrope2_search
from lengthwise.search.windows import Windows, needle_windows, text_windows

__all__ = [
    "Evolution",
    "Genome",
    "LongRoPE2Search",
    "LongRoPESearch",
    "SecondStageSearch",
    "ShortSearch",
    "Trial",
    "Windows",
    "longrope2_search",
    "longrope_search",
    "needle_windows",
    "text_windows",
]
