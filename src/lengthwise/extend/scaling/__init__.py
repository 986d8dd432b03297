"""How an apparent position becomes an angle, and how sharp the softmax is."""

from lengthwise.extend.scaling.abf import ABF
from lengthwise.extend.scaling.alibi_pi import ALiBiPI, DynamicALiBiPI
from lengthwise.extend.scaling.clex import CLEX
from lengthwise.extend.scaling.dynamic_ntk import DynamicNTK
from lengthwise.extend.scaling.dynamic_yarn import DynamicYaRN
from lengthwise.extend.scaling.giraffe import Giraffe, GiraffeLinear
from lengthwise.extend.scaling.head_scale import HeadScale
from lengthwise.extend.scaling.llama3 import Llama3
from lengthwise.extend.scaling.log_temperature import LogTemperature
from lengthwise.extend.scaling.longrope import LongRoPE
from lengthwise.extend.scaling.longrope2 import LongRoPE2
from lengthwise.extend.scaling.ntk import NTK
from lengthwise.extend.scaling.own import OwnScaling
from lengthwise.extend.scaling.pi import PI
from lengthwise.extend.scaling.t5_align import T5Align
from lengthwise.extend.scaling.temp_scale import TempScale
from lengthwise.extend.scaling.yarn import YaRN

__all__ = [
    "ABF",
    "CLEX",
    "NTK",
    "PI",
    "ALiBiPI",
    "DynamicALiBiPI",
    "DynamicNTK",
    "DynamicYaRN",
    "Giraffe",
    "GiraffeLinear",
    "HeadScale",
    "Llama3",
    "LogTemperature",
    "LongRoPE",
    "LongRoPE2",
    "OwnScaling",
    "T5Align",
    "TempScale",
    "YaRN",
]
