"""Position interpolation for ALiBi: distances divided, which is slopes divided."""

from dataclasses import dataclass

from lengthwise.extend.method import at_least
from lengthwise.extend.scaling.scores import ScoreScaling


@dataclass(frozen=True)
class ALiBiPI(ScoreScaling):
    """Divide the slopes of linear biases by one factor.

    The farthest key of a text `factor` times as long as the trained window then gets the penalty
    that the farthest key of the window got. For Bloom, MPT, and Falcon with `alibi=True`. Keys
    hold no position, so a cache stays valid.

    Source: Al-Khateeb et al. 2023, arXiv:2310.13017: slopes times L/L', with a fixed ratio as the
        authors' code has it (`factor` of `alibi_scaling`).
    Differs from the source: biases are scaled after transformers rounded them to the model's
        precision, Falcon's always to bfloat16.
    Reduces to: the model itself, bit for bit, at factor 1.

    Args:
        factor: Target length divided by the trained window, at least 1.

    Raises:
        ValueError: If `factor` is below 1 or not a number.
    """

    what = "slopes"
    fits = ("alibi",)
    factor: float

    def __post_init__(self) -> None:
        at_least("ALiBiPI", "factor", self.factor, 1)

    def multiplier_at(self, window: int, length: int) -> float:
        return 1.0 / self.factor

    def reach(self, window: int) -> int:
        return int(window * self.factor)


@dataclass(frozen=True)
class DynamicALiBiPI(ScoreScaling):
    """Divide the slopes of linear biases by the factor that the text so far needs.

    The factor is the length over the trained window, at least 1: short texts are read as the
    model reads them, and no length has to be chosen beforehand.

    Source: Al-Khateeb et al. 2023, arXiv:2310.13017: slopes times min(1, L/L') at inference, as
        the authors' code does where its `train_seq_len` is set.
    Differs from the source: each row of a batch has its own factor. Hidden states were computed
        under the factor of their time: a text read in two forwards differs from the same text
        read in one. MPT's layers take one bias for all rows, so there rows must be equally long.
    Reduces to: the model itself, bit for bit, up to the trained window.
    """

    what = "slopes"
    fits = ("alibi",)

    @property
    def static(self) -> bool:
        return False

    def multiplier_at(self, window: int, length: int) -> float:
        return min(1.0, window / max(1, length))
