"""Which keys a query sees, and how far away they seem."""

from lengthwise.extend.layouts.causal import Causal
from lengthwise.extend.layouts.far_as_one import FarAsOne
from lengthwise.extend.layouts.lm_infinite import LMInfinite
from lengthwise.extend.layouts.self_extend import SelfExtend
from lengthwise.extend.layouts.sliding_window import SlidingWindow
from lengthwise.extend.layouts.slots import CacheSlots

__all__ = ["CacheSlots", "Causal", "FarAsOne", "LMInfinite", "SelfExtend", "SlidingWindow"]
