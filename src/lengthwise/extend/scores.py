"""`adapt` for models without rotary positions: what fits them, how it is bound, what it says."""

from dataclasses import dataclass

from torch import Tensor
from transformers import PreTrainedModel

from lengthwise.core.geometry import Geometry
from lengthwise.extend.layouts import Causal
from lengthwise.extend.plan import Axes
from lengthwise.extend.scaling import OwnScaling
from lengthwise.extend.scaling.scores import ScoreScaling
from lengthwise.extend.selectors import AllPages
from lengthwise.extend.stores import FullStore
from lengthwise.hf.other import AlibiBinding, EncoderBinding, read_other_geometry

LENGTHS = (1, 2, 4, 8, 16)  # trained windows

POSITIONS = {
    "rotary": "rotary positions or none",
    "alibi": "linear biases (ALiBi)",
    "t5": "T5's relative biases",
    "absolute": "learned absolute positions",
}
FITTING = {
    "rotary": "lw.YaRN(factor=…) or lw.LogTemperature()",
    "alibi": "lw.ALiBiPI(factor=…) or lw.DynamicALiBiPI()",
    "t5": "lw.T5Align (from lw.align_t5) or lw.TempScale(temperature=…)",
    "absolute": "lw.TempScale(temperature=…)",
}
ONLY = {
    "alibi": "computes attention by itself and not through transformers' attention interface, so "
    "only the slopes of its biases can be scaled",
    "t5": "adds learned biases to its scores, so only its scores can be scaled",
    "absolute": "reads both ways with learned positions, so only its scores can be scaled",
}


@dataclass(frozen=True)
class ScoreEngine:
    """What the hooks of a model without rotary positions ask.

    Attributes:
        kind: The kind of its positions.
    """

    geometry: Geometry
    axes: Axes
    kind: str

    @property
    def layers(self) -> list[Axes]:
        """The axes of every layer: the same, and all keys are kept."""
        return [self.axes] * len(self.geometry.layers)

    @property
    def name(self) -> str:
        """Of the method, for people."""
        return type(self.axes.scaling).__name__

    @property
    def static(self) -> bool:
        """Whether the factor is one number whatever is read."""
        return self.axes.scaling.static

    def to_save(self) -> Axes:
        """The axes that a checkpoint can name."""
        return self.axes

    def factor(self, lengths: Tensor | None) -> float | Tensor:
        """What biases or scores of rows of `lengths` tokens are multiplied with."""
        scaling = self.axes.scaling
        if isinstance(scaling, ScoreScaling):
            return scaling.multipliers(self.geometry.window, lengths)
        return 1.0  # the identity


def check_fit(model: PreTrainedModel, kind: str, axes: Axes) -> None:
    """Raise ValueError for a scaling of other positions, and for other axes where none fits."""
    family, scaling = model.config.model_type, axes.scaling
    if kind not in scaling.fits and scaling != OwnScaling():
        fits = " or ".join(POSITIONS[one] for one in scaling.fits)
        raise ValueError(
            f"{type(scaling).__name__} is for models with {fits}, and {family} has "
            f"{POSITIONS[kind]}; use {FITTING[kind]}"
        )
    if kind == "rotary":
        return
    for given, identity in (  # those that bring a layout first: they are what was named
        (axes.store, FullStore()),
        (axes.selector, AllPages()),
        (axes.layout, Causal()),
    ):
        if given != identity:
            raise ValueError(
                f"{family} {ONLY[kind]}; leave out {type(given).__name__} and use {FITTING[kind]}"
            )


def bind_scores(model: PreTrainedModel, kind: str, axes: Axes) -> None:
    """Bind a scaling to a model without rotary positions."""
    check_fit(model, kind, axes)
    geometry = read_other_geometry(model)
    axes.scaling.check(geometry.window)
    engine = ScoreEngine(geometry, axes, kind)
    binding = AlibiBinding if kind == "alibi" else EncoderBinding
    binding(model, engine)


def explain_scores(engine: ScoreEngine) -> str:
    """What is multiplied by how much, at a few lengths."""
    geometry, scaling = engine.geometry, engine.axes.scaling
    lines = [
        f"{geometry.family}: {len(geometry.layers)} layers, {geometry.heads} heads of "
        f"{geometry.head_dim}, trained window {geometry.window:,}, {POSITIONS[engine.kind]}",
        f"  scaling   {scaling}",
        "  the model's own attention and cache: as fast as before, and as much memory",
    ]
    if isinstance(scaling, ScoreScaling):
        if scaling.static:
            times = scaling.multiplier_at(geometry.window, geometry.window)
            return "\n".join([*lines, f"  {scaling.what} times {times:.4g} at every length"])
        lines += ["", f"  {'tokens':>10}  {scaling.what} times"]
        for length in (geometry.window * windows for windows in LENGTHS):
            try:
                times = scaling.multiplier_at(geometry.window, length)
            except ValueError:  # it was not measured so far
                break
            lines.append(f"  {length:>10,}  {times:.4g}")
    return "\n".join(lines)
