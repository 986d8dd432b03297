"""Which keys a query sees, and how far away they seem."""

from lengthwise.extend.layouts.causal import Causal
from lengthwise.extend.layouts.dual_chunk import DualChunk
from lengthwise.extend.layouts.far_as_one import FarAsOne
from lengthwise.extend.layouts.gali import GALI
from lengthwise.extend.layouts.hirope import HiRoPE
from lengthwise.extend.layouts.lm_infinite import LMInfinite
from lengthwise.extend.layouts.rerope import LeakyReRoPE, ReRoPE
from lengthwise.extend.layouts.self_extend import SelfExtend
from lengthwise.extend.layouts.sliding_window import SlidingWindow
from lengthwise.extend.layouts.slots import CacheSlots
from lengthwise.extend.layouts.string import STRING

__all__ = [
    "GALI",
    "STRING",
    "CacheSlots",
    "Causal",
    "DualChunk",
    "FarAsOne",
    "HiRoPE",
    "LMInfinite",
    "LeakyReRoPE",
    "ReRoPE",
    "SelfExtend",
    "SlidingWindow",
]
