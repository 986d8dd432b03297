"""Dynamic YaRN: the factor follows the text, and no cached key goes stale."""

from dataclasses import dataclass

from torch import Tensor, float32

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling
from lengthwise.extend.scaling.frequencies import unscaled
from lengthwise.extend.scaling.yarn import YaRN


@dataclass(frozen=True)
class DynamicYaRN(Scaling):
    """YaRN with the factor that the text so far needs.

    The factor is the length over the window, at least 1. Short texts are read as the model reads
    them, and no length has to be chosen beforehand.

    Source: Peng et al. 2023, arXiv:2309.00071, section 3.3 (dynamic scaling) with 3.2.
    Differs from the source: each row of a batch has its own factor, and keys are rotated when
        they are read, so a cached key never keeps an old factor. Hidden states still were
        computed under the factor of their time: a text read in two forwards differs from the
        same text read in one.
    Reduces to: the model's own frequencies up to the trained window.

    Args:
        beta_fast: Turns within the window above which a pair is kept, above `beta_slow`.
        beta_slow: Turns within the window below which a pair is interpolated, above 0.

    Raises:
        ValueError: If a number is out of its range.
    """

    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def __post_init__(self) -> None:
        YaRN(1.0, self.beta_fast, self.beta_slow)

    @property
    def static(self) -> bool:
        return False

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        factors = lengths.to(float32).clamp(min=window) / window
        interpolated = YaRN(1.0, self.beta_fast, self.beta_slow).interpolated(base, window)
        kept = 1 - interpolated.to(lengths.device) * (1 - 1 / factors[:, None])
        inv_freq = unscaled(base).to(lengths.device) * kept
        return Rotary(inv_freq, 0.1 * factors.log() + 1, base.pairing)
