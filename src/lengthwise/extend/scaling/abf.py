"""A larger rotary base: adjusted base frequency, and published models that used it."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, arange, float32

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.rotary import Rotary
from lengthwise.extend.method import Scaling, at_least


@dataclass(frozen=True)
class ABF(Scaling):
    """Put another base into the model, to be tuned at the length that is wanted.

    `ABF.published("llama-3-80k")` gives the base of a published model; `PUBLISHED` says how each
    was tuned. `lengthwise.extend.extrapolation` says which base suits which length. Untuned, a base
    change is what NTK does, and costs accuracy inside the window.

    Source: Xiong et al. 2023, arXiv:2309.16039, section 4.1.
    Reduces to: the model's own frequencies at the model's own base.

    Args:
        base: The new base, above 1.

    Raises:
        ValueError: If `base` is not a finite number above 1.
    """

    base: float

    def __post_init__(self) -> None:
        at_least("ABF", "base", self.base, 1)
        if self.base == 1:
            raise ValueError("ABF: base must be above 1, got 1: all pairs would turn alike")

    @classmethod
    def published(cls, name: str) -> "ABF":
        """The base of a published model.

        Raises:
            ValueError: For a name that `PUBLISHED` lacks.
        """
        if name not in PUBLISHED:
            raise ValueError(
                f"ABF: a published model must be one of {', '.join(PUBLISHED)}, got {name!r}"
            )
        return cls(PUBLISHED[name].base)

    def rotary(self, base: RotaryBase, window: int, lengths: Tensor) -> Rotary:
        inv_freq = self.base ** -(arange(0, base.dim, 2, dtype=float32) / base.dim)
        return Rotary(inv_freq, pairing=base.pairing)

    def rope_parameters(self, base: RotaryBase, window: int) -> dict[str, Any]:
        return {"rope_type": "default", "rope_theta": self.base}


@dataclass(frozen=True)
class Published:
    """How a published model was brought to a longer window by a base change and tuning.

    Attributes:
        length: Tokens of a training sequence; 0 where it is not published.
        tokens: Tokens seen in tuning, about; 0 where they are not published.
        learning_rate: 0 where it is not published.
        source: Who says so.
    """

    base: float
    length: int
    tokens: float
    learning_rate: float
    source: str


PUBLISHED = {
    "llama-long": Published(
        500_000.0, 32_768, 400e9, 2e-5, "Xiong et al. 2023, arXiv:2309.16039, section 2 (7B, 13B)"
    ),
    "yi-200k": Published(
        10_000_000.0, 0, 10e9, 0.0,
        "01.AI 2024, arXiv:2403.04652, section 7.1; base by the released configuration",
    ),
    "llama-3-80k": Published(
        200_000_000.0, 81_920, 0.0, 5e-5, "Zhang et al. 2024, arXiv:2404.19553, section 2"
    ),
}  # fmt: skip
