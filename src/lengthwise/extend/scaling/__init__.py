"""How an apparent position becomes an angle."""

from lengthwise.extend.scaling.dynamic_ntk import DynamicNTK
from lengthwise.extend.scaling.ntk import NTK
from lengthwise.extend.scaling.own import OwnScaling
from lengthwise.extend.scaling.pi import PI
from lengthwise.extend.scaling.yarn import YaRN

__all__ = ["NTK", "PI", "DynamicNTK", "OwnScaling", "YaRN"]
