"""Int4: a store whose keys and values take half a byte each."""

from dataclasses import dataclass
from typing import ClassVar

from lengthwise.extend.stores.quantised import Quantised


@dataclass(frozen=True)
class Int4(Quantised):
    """Keep what `store` keeps in half a byte a number.

    Channels of keys have a scale and a zero for every `group` tokens, because some are large in all
    of them; values have one for each token. The newest tokens lie as they came until their group is
    full, or until the wrapped store drops keys. Where keys are grouped anew, scales are powers of
    2: a number changes then only where its grid becomes coarser, and errors do not add up.

    Source: Liu et al. 2024, arXiv:2402.02750 (KIVI), section 3 (keys by channel, values by token, a
        rest in full precision).
    Differs from the source: the rest are the tokens of a group that is not full, so that nothing
        depends on how a text was cut into forwards.
    Reduces to: the wrapped store while the text is shorter than a group.

    Args:
        store: What is packed: FullStore, or a store that keeps the best-scored keys in slots.
        group: Tokens that share the scales of their keys, at least 1.

    Raises:
        ValueError: If `group` is out of its range, or `store` lays out its keys in another way.
    """

    kind: ClassVar[str] = "int4"
