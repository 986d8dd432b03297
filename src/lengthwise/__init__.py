"""lengthwise: language models at lengths they were not built for."""

from lengthwise.extend.adapt import adapt, adapted, new_cache, restore
from lengthwise.extend.layouts import (
    CacheSlots,
    Causal,
    FarAsOne,
    LMInfinite,
    SelfExtend,
    SlidingWindow,
)
from lengthwise.extend.scaling import NTK, PI, DynamicNTK, OwnScaling, YaRN
from lengthwise.extend.selectors import AllPages, InfLLM
from lengthwise.extend.stores import FullStore, StreamingLLM
