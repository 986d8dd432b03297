"""How an apparent position becomes an angle, and how sharp the softmax is."""

from lengthwise.extend.scaling.abf import ABF
from lengthwise.extend.scaling.clex import CLEX
from lengthwise.extend.scaling.dynamic_ntk import DynamicNTK
from lengthwise.extend.scaling.dynamic_yarn import DynamicYaRN
from lengthwise.extend.scaling.giraffe import Giraffe, GiraffeLinear
from lengthwise.extend.scaling.llama3 import Llama3
from lengthwise.extend.scaling.log_temperature import LogTemperature
from lengthwise.extend.scaling.longrope import LongRoPE
from lengthwise.extend.scaling.longrope2 import LongRoPE2
from lengthwise.extend.scaling.ntk import NTK
from lengthwise.extend.scaling.own import OwnScaling
from lengthwise.extend.scaling.pi import PI
from lengthwise.extend.scaling.yarn import YaRN

__all__ = [
    "ABF",
    "CLEX",
    "NTK",
    "PI",
    "DynamicNTK",
    "DynamicYaRN",
    "Giraffe",
    "GiraffeLinear",
    "Llama3",
    "LogTemperature",
    "LongRoPE",
    "LongRoPE2",
    "OwnScaling",
    "YaRN",
]
