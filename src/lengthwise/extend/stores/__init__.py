"""Which keys are kept, in what form and where."""

from lengthwise.extend.stores.adakv import AdaKV
from lengthwise.extend.stores.chelsea import Chelsea
from lengthwise.extend.stores.fp8 import Fp8
from lengthwise.extend.stores.full import FullStore
from lengthwise.extend.stores.h2o import H2O
from lengthwise.extend.stores.int4 import Int4
from lengthwise.extend.stores.int8 import Int8
from lengthwise.extend.stores.keydiff import KeyDiff
from lengthwise.extend.stores.prefixkv import PrefixKV
from lengthwise.extend.stores.pyramidkv import PyramidKV
from lengthwise.extend.stores.sirllm import SirLLM
from lengthwise.extend.stores.snapkv import SnapKV
from lengthwise.extend.stores.streaming_llm import StreamingLLM
from lengthwise.extend.stores.think import ThinK
from lengthwise.extend.stores.tova import TOVA

__all__ = [
    "H2O",
    "TOVA",
    "AdaKV",
    "Chelsea",
    "Fp8",
    "FullStore",
    "Int4",
    "Int8",
    "KeyDiff",
    "PrefixKV",
    "PyramidKV",
    "SirLLM",
    "SnapKV",
    "StreamingLLM",
    "ThinK",
]
