"""Ada-KV: SnapKV whose budget goes to the heads that need it, kept without padding."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.extend.method import at_least
from lengthwise.extend.stores.ragged import Ragged
from lengthwise.extend.stores.snapkv import SnapKV


@dataclass(frozen=True)
class AdaKV(Ragged, SnapKV):
    """SnapKV in which the KV heads of a layer share one budget, `tokens` for each on average.

    The best keys of a layer are found over all its heads together. A head keeps as many as it has
    among them, mixed with an equal share: `safe` of its budget is certain. Keys of all heads lie
    behind each other, so what is allocated is what is kept.

    Source: Feng et al. 2024, arXiv:2407.11550, section 3.3, algorithms 1 and 2.
    Differs from the source: as SnapKV does; heads are KV heads, where the authors' code repeats
        keys for every query head first.
    Reduces to: SnapKV at `safe` 1.

    Args:
        tokens, recent, kernel, every: As of SnapKV.
        safe: Share of the mean budget that every head keeps, from 0 to 1.

    Raises:
        ValueError: If a number is out of its range.
    """

    packable = False
    kernel: int = 7
    safe: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("AdaKV", "safe", self.safe, 0)
        if self.safe > 1:
            raise ValueError(f"AdaKV: safe must be at most 1, got {self.safe}")

    def shares(self, score: Tensor) -> Tensor:
        kv = score.shape[1]
        mean = self.tokens - self.recent
        # What is safe anyway has an infinite score and is counted apart.
        finite = score.masked_fill(score.isposinf(), float("-inf"))
        best = finite.flatten(1).topk(min(kv * mean, finite[0].numel()), dim=1)
        real = best.values > float("-inf")
        mine = torch.zeros_like(score[:, :, 0]).scatter_add_(
            1, best.indices // score.shape[2], real.to(score.dtype)
        )
        kept = ((1 - self.safe) * mine + int(self.safe * mean)).round()
        return kept.long() + score.isposinf().sum(-1)
