"""T5 attention alignment: temperatures that undo the dispersion of attention over long inputs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from lengthwise.extend.method import at_least
from lengthwise.extend.scaling.scores import ScoreScaling
from lengthwise.extend.scaling.temp_scale import TempScale, check_temperature

if TYPE_CHECKING:
    from transformers import PreTrainedModel

STEPS = 12  # halvings: temperatures to 1 / 4096
LOWEST = 0.02

Strategy = Literal["maximum", "entropy"]


@dataclass(frozen=True)
class T5Align(ScoreScaling):
    """Divide the scores of T5's encoder, its relative bias included, by a temperature for length.

    The longer the input, the flatter T5's attention. A temperature below 1 makes it as sharp as
    it is at the trained length; `align_t5` measures it on the model's own attention, without
    tuning. Between measured lengths it is interpolated over the logarithm of the length. The
    decoder, which reads the encoder's output, is left alone. The trained length is `n_positions`
    of the configuration, 512 where it has none.

    Source: Chi et al. 2023, arXiv:2311.00684, section 4.
    Differs from the source: temperatures come from bisection over whole forwards rather than from
        the logits of an unchanged model; each row of a batch has the temperature of its length.
    Reduces to: the model itself, bit for bit, up to the trained length.

    Args:
        factors: Lengths at which temperatures were measured, divided by the trained length; they
            rise from above 1.
        temperatures: One for each of them, above 0.

    Raises:
        ValueError: If the numbers do not fit each other, and for an input longer than the last
            factor reaches.
    """

    what = "scores"
    fits = ("t5",)
    factors: tuple[float, ...]
    temperatures: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in ("factors", "temperatures"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for factor in self.factors:
            at_least("T5Align", "factors", factor, 1)
        for temperature in self.temperatures:
            check_temperature("T5Align", temperature)
        if not self.factors or len(self.factors) != len(self.temperatures):
            raise ValueError(
                "T5Align needs one temperature for each of at least one factor, got "
                f"{len(self.factors)} factors and {len(self.temperatures)} temperatures"
            )
        if any(later <= sooner for sooner, later in pairwise((1.0, *self.factors))):
            raise ValueError(
                f"T5Align: factors must rise from above 1, got {'/'.join(map(str, self.factors))}"
            )

    @property
    def static(self) -> bool:
        return False

    def multiplier_at(self, window: int, length: int) -> float:
        return 1.0 / self.temperature_at(length / window)

    def temperature_at(self, factor: float) -> float:
        """The temperature for an input `factor` times as long as the trained length.

        Raises:
            ValueError: If no temperature was measured at such a length or above.
        """
        sooner, cool = 1.0, 1.0
        if factor <= sooner:
            return cool
        for later, cooler in zip(self.factors, self.temperatures, strict=True):
            if factor <= later:
                part = math.log(factor / sooner) / math.log(later / sooner)
                return cool + part * (cooler - cool)
            sooner, cool = later, cooler
        raise ValueError(
            f"T5Align knows temperatures up to {self.factors[-1]:g} times the trained length, got "
            f"an input of {factor:g} times; measure them up to there with lengthwise.align_t5"
        )

    def reach(self, window: int) -> int:
        return int(window * self.factors[-1])


def align_t5(
    model: "PreTrainedModel",
    input_ids: Tensor,
    factors: Sequence[float],
    *,
    strategy: Strategy = "entropy",
) -> T5Align:
    """Measure the temperatures of `T5Align` on a T5 that is not adapted.

    At every length the temperature is sought at which a statistic of the encoder's attention,
    averaged over layers, heads and queries, is what it is at the trained length without one.

    Args:
        model: A T5 or mT5: with a decoder, or its encoder alone.
        input_ids: Token ids of one text `[n]`; as many whole pieces as fit are read at each length.
        factors: Lengths to align for, divided by the trained length; they rise from above 1.
        strategy: `maximum` aligns the mean largest probability of a query, the milder of the two;
            `entropy` the mean entropy.

    Raises:
        ValueError: If the model is no T5 or is adapted, the text is shorter than the longest
            length, or no temperature aligns the statistic.
    """
    # transformers stays unloaded until there is a model.
    from lengthwise.hf.other import kind_of, read_other_geometry

    if kind_of(model) != "t5" or "_lengthwise" in model.__dict__:
        raise ValueError("align_t5 takes a T5 or mT5 that is not adapted; restore it first")
    if strategy not in ("maximum", "entropy"):
        raise ValueError(f"align_t5: strategy must be maximum or entropy, got {strategy!r}")
    longest = T5Align(tuple(factors), (1.0,) * len(factors)).reach(
        trained := read_other_geometry(model).window
    )
    if input_ids.ndim != 1 or len(input_ids) < longest:
        raise ValueError(
            f"align_t5 needs at least {longest:,} token ids in one row to measure at that length, "
            f"got shape {tuple(input_ids.shape)}"
        )
    training, attention = model.training, model.config._attn_implementation
    model.eval()
    model.set_attn_implementation("eager")  # the only one that shows its probabilities
    try:
        wanted = attention_statistic(model, input_ids, trained, 1.0, strategy)
        lengths = [int(factor * trained) for factor in factors]
        found = [_aligned(model, input_ids, length, strategy, wanted) for length in lengths]
    finally:
        model.set_attn_implementation(attention)
        model.train(training)
    return T5Align(tuple(factors), tuple(found))


def _aligned(
    model: "PreTrainedModel", ids: Tensor, length: int, strategy: Strategy, wanted: float
) -> float:
    """The temperature in (0, 1] at which the statistic is `wanted`, by bisection."""
    sharper = 1.0 if strategy == "maximum" else -1.0  # how the statistic moves as it gets cooler

    def too_flat(temperature: float) -> bool:
        now = attention_statistic(model, ids, length, temperature, strategy)
        return sharper * (wanted - now) > 0

    low, high = LOWEST, 1.0
    if not too_flat(high):
        return high
    if too_flat(low):
        raise ValueError(
            f"no temperature above {LOWEST} makes attention over {length:,} tokens as sharp as at "
            f"the trained length (strategy {strategy}); try the other strategy"
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if too_flat(middle) else (middle, high)
    return (low + high) / 2


@torch.no_grad()
def attention_statistic(
    model: "PreTrainedModel", ids: Tensor, length: int, temperature: float, strategy: Strategy
) -> float:
    """The mean over pieces of `length` tokens, layers, heads and queries of T5's encoder.

    The model must run eager attention.

    Returns:
        The largest probability of a query (`maximum`), or the entropy in nats (`entropy`).
    """
    from lengthwise.extend.adapt import adapted, binding_of  # which imports the scalings

    means: list[float] = []

    def note(module: nn.Module, args: Any, output: tuple[Any, ...]) -> None:
        p = output[-1].float()
        each = p.amax(-1) if strategy == "maximum" else torch.special.entr(p).sum(-1)
        means.append(each.mean().item())

    with adapted(model, TempScale(temperature)):
        binding = binding_of(model)
        from lengthwise.hf.other import EncoderBinding

        assert isinstance(binding, EncoderBinding)
        hooks = [layer.register_forward_hook(note) for layer in binding.attentions]
        try:
            for start in range(0, len(ids) - length + 1, length):
                piece = ids[start : start + length][None].to(model.device)
                model.get_encoder()(input_ids=piece)
        finally:
            for hook in hooks:
                hook.remove()
    return sum(means) / len(means)
