"""StreamingLLM: the first tokens and the newest ones, in memory that never grows."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lengthwise.core.regions import Region
from lengthwise.extend.layouts.slots import CacheSlots
from lengthwise.extend.method import Method, Store, whole
from lengthwise.extend.stores.rolling import RollingState, grown


@dataclass(frozen=True)
class StreamingLLM(Store):
    """Keep the first `sinks` and the newest `window` tokens; drop what lies between.

    Brings the layout `CacheSlots` (positions inside the cache) where no layout is named.

    Source: Xiao et al. 2023, arXiv:2309.17453, section 3.2.
    Differs from the source: every query sees exactly `window` newest keys, also inside a chunk
        (the public code evicts before a chunk, so what a token sees depends on the chunking);
        the distances are the same.
    Reduces to: keeping everything while the text is no longer than `sinks + window`.

    Args:
        sinks: First tokens kept, at least 0.
        window: Newest tokens kept, the query itself included, at least 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    sinks: int = 4
    window: int = 508

    def __post_init__(self) -> None:
        whole("StreamingLLM", "sinks", self.sinks, 0)
        whole("StreamingLLM", "window", self.window, 1)

    @classmethod
    def within(cls, budget: int, sinks: int = 4) -> "StreamingLLM":
        """The store that keeps `budget` tokens per KV head, sinks included.

        Raises:
            ValueError: If it holds no token beside the sinks.
        """
        if budget <= sinks:
            raise ValueError(
                f"StreamingLLM: budget must be above the {sinks} sinks, got {budget} tokens"
            )
        return cls(sinks, budget - sinks)

    def brings(self) -> tuple[Method, ...]:
        return (CacheSlots(self.sinks, self.window),)

    def restrict(self, regions: Sequence[Region]) -> list[Region]:
        near = [region.within(far=self.window) for region in regions]
        sinks = [
            region.within(near=self.window, last=self.sinks, paged=False) for region in regions
        ]
        return [region for region in near + sinks if not region.empty]

    def state(self, layer: int = 0, layers: int = 1) -> RollingState:
        return RollingState(self.sinks, self.window)

    def reference(self, q: Tensor, k: Tensor) -> Tensor:
        return (k < self.sinks) | (q - k < self.window)

    def kept(self, length: int) -> int:
        return min(length, self.sinks + self.window)

    def slots(self, ends: Sequence[int]) -> int:
        slots, most = 0, self.sinks + self.window
        for end in ends:
            slots = grown(slots, end, most)
        return slots
