"""How far a rotary model extrapolates: a calculator of the scaling laws of its base.

    d = critical_dimension(128, 4096)            # 92: pairs below it saw a full turn
    reach(128, 4096, tuned=4096, base=1e6)       # 129,000 tokens, and then it breaks
    base_for(131_072, 128, 4096)                 # the base whose limit that is

All of it concerns models that are tuned with the new base; an untuned base change is NTK.
Source: Liu et al. 2023, "Scaling laws of RoPE-based extrapolation", arXiv:2310.05209; the bound
on bases is Xu et al. 2024, "Base of RoPE bounds context length", arXiv:2405.14591.
"""

import math
from dataclasses import dataclass

from lengthwise.extend.method import at_least, whole


def critical_dimension(dim: int, window: int, theta: float = 10_000.0) -> int:
    """Dimensions whose pairs turned at least once in pretraining; at most `dim`.

    Source: Liu et al. 2023: `2 * ceil(dim / 2 * log_theta(window / (2 pi)))`.

    Args:
        dim: Rotated dimensions of a head, even, at least 2.
        window: Tokens of a training text, at least 7 (one turn of the fastest pair).
        theta: The base of pretraining, above 1.
    """
    _check(dim, window, theta)
    return min(dim, 2 * math.ceil(dim / 2 * math.log(window / (2 * math.pi)) / math.log(theta)))


def critical_base(window: int, tuned: int, theta: float = 10_000.0) -> float:
    """The base that makes the critical pair turn just once in texts of `tuned` tokens.

    Above it, extrapolation has a hard limit that grows with the base; below it, none, but a loss
    that grows slowly.

    Source: Liu et al. 2023: `theta ** log_(window / (2 pi))(tuned / (2 pi))`.
    """
    _check(2, window, theta)
    whole("critical_base", "tuned", tuned, 7)
    return theta ** (math.log(tuned / (2 * math.pi)) / math.log(window / (2 * math.pi)))


@dataclass(frozen=True)
class Reach:
    """How far a tuned model goes.

    Attributes:
        tokens: Up to here it works as in its tuning.
        breaks: Whether it collapses beyond, or decays slowly.
        critical: The critical dimension after tuning.
    """

    tokens: int
    breaks: bool
    critical: int


def reach(dim: int, window: int, tuned: int, base: float, theta: float = 10_000.0) -> Reach:
    """How far a model goes that was pretrained at `window` and tuned at `tuned` with `base`.

    A base above the critical one has the hard limit `2 pi base ** (critical / dim)`; any other
    goes as far as it was tuned and decays slowly beyond.

    Source: Liu et al. 2023; the rounding up is that of the authors' published script.

    Args:
        dim: Rotated dimensions of a head, even, at least 2.
        window: Tokens of a text in pretraining, at least 7.
        tuned: Tokens of a text in tuning, at least 7.
        base: The base in tuning, above 1.
        theta: The base of pretraining, above 1.
    """
    critical = critical_dimension(dim, window, theta)
    whole("reach", "tuned", tuned, 7)
    _above_1("base", base)
    if base > critical_base(window, tuned, theta):
        limit = int(2 * math.pi * base ** (critical / dim))
        return Reach(max(limit, tuned), True, critical)
    seen = 2 * math.ceil(dim / 2 * math.log(tuned / (2 * math.pi)) / math.log(base))
    return Reach(tuned, False, min(dim, max(critical, seen)))


def base_for(length: int, dim: int, window: int, theta: float = 10_000.0) -> float:
    """The smallest base whose hard limit is `length` tokens or more.

    Raises:
        ValueError: If `length` is below the window.
    """
    critical = critical_dimension(dim, window, theta)
    if length < window:
        raise ValueError(
            f"base_for: length must be at least the window of {window} tokens, got {length}"
        )
    return float((length / (2 * math.pi)) ** (dim / critical))


def turning_bases(tuned: int) -> tuple[float, float, float]:
    """The bases below which every pair makes a quarter, a half and a whole turn in `tuned` tokens.

    Tuning with a smaller base than pretraining's helps in jumps at these.

    Source: Liu et al. 2023.
    """
    whole("turning_bases", "tuned", tuned, 7)
    return 2 * tuned / math.pi, tuned / math.pi, tuned / (2 * math.pi)


def least_base(length: int) -> float:
    """The base below which a model of `length` tokens reads fluently but retrieves nothing.

    Source: Xu et al. 2024, arXiv:2405.14591, a fit to their measured bounds:
        `0.0424 * length ** 1.628`.
    """
    whole("least_base", "length", length, 1)
    return float(0.0424 * length**1.628)


def _check(dim: int, window: int, theta: float) -> None:
    whole("extrapolation", "dim", dim, 2)
    if dim % 2:
        raise ValueError(f"extrapolation: dim must be even, got {dim}")
    whole("extrapolation", "window", window, 7)
    _above_1("theta", theta)


def _above_1(name: str, value: float) -> None:
    at_least("extrapolation", name, value, 1)
    if value == 1:
        raise ValueError(f"extrapolation: {name} must be above 1, got {value!r}")
