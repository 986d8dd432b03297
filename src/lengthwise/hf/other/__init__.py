"""Models without rotary positions: what each kind of them lets a scaling change, by hooks alone.

An adapted model of these kinds keeps its own attention, masks and cache. Nothing is registered
and nothing is replaced, so taking the hooks off gives the model back bit for bit.
"""

from lengthwise.hf.other.alibi import AlibiBinding
from lengthwise.hf.other.binding import HookBinding
from lengthwise.hf.other.encoder import EncoderBinding
from lengthwise.hf.other.kinds import kind_of, read_other_geometry

__all__ = [
    "AlibiBinding",
    "EncoderBinding",
    "HookBinding",
    "kind_of",
    "read_other_geometry",
]
