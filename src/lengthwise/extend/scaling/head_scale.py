"""HeadScale: a temperature for every attention head of a model without positions, tuned."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, float32, nn

from lengthwise.core.geometry import Geometry
from lengthwise.extend.method import Scaling, at_least, whole
from lengthwise.extend.scaling.over import Over
from lengthwise.extend.scaling.own import OwnScaling

if TYPE_CHECKING:
    from transformers import PreTrainedModel

OWN = OwnScaling()


@dataclass(frozen=True)
class HeadScale(Over):
    """Multiply the scores of every attention head by a number of its own.

    A model without positions fails beyond its window because its attention scatters over more
    keys than it knew; heads differ in how much sharper they must become. `tune_head_scale` finds
    the numbers: they are all that is trained. They multiply queries, so the cache is untouched.

    Source: Wang et al. 2024, arXiv:2404.12224, section 4 (head-based attention scale).
    Differs from the source: models with rotary layers are taken too; the paper finds that a
        temperature alone does not extend those.
    Reduces to: the scaling that it stands over, where every number is 1.

    Args:
        scales: For every layer a list with one number for each query head, above 0.
        over: The scaling of angles, for layers that rotate; by default the model's own.

    Raises:
        ValueError: If a number is not above 0, or their count is not the model's.
    """

    scales: tuple[tuple[float, ...], ...]
    over: Scaling = OWN

    def __post_init__(self) -> None:
        rows = tuple(tuple(float(scale) for scale in row) for row in self.scales)
        object.__setattr__(self, "scales", rows)
        if not rows or not all(rows):
            raise ValueError("HeadScale: scales must have a row of numbers for every layer")
        for scale in (scale for row in rows for scale in row):
            if not math.isfinite(scale) or scale <= 0:
                raise ValueError(f"HeadScale: scales must be above 0, got {scale!r}")
        self.check_over("lw.LogTemperature()")

    def check_geometry(self, geometry: Geometry) -> None:
        self.over.check_geometry(geometry)
        wanted, got = [geometry.heads] * len(geometry.layers), [len(row) for row in self.scales]
        if got != wanted:
            raise ValueError(
                f"HeadScale: this model has {len(wanted)} layers of {geometry.heads} heads, got "
                f"{len(got)} rows of {'/'.join(map(str, sorted(set(got))))} numbers; tune them on "
                "it with lengthwise.tune_head_scale"
            )

    def sharpness(self, layer: int, window: int, positions: Tensor) -> Tensor:
        scales = torch.tensor(self.scales[layer], dtype=float32, device=positions.device)
        return self.times_under(scales[None, :, None], layer, window, positions)


@dataclass(frozen=True, eq=False)
class _Tuned(HeadScale):
    """HeadScale whose numbers are a parameter `[layers, heads]` while they are tuned."""

    parameter: nn.Parameter | None = None

    def sharpness(self, layer: int, window: int, positions: Tensor) -> Tensor:
        assert self.parameter is not None
        return self.times_under(self.parameter[layer, None, :, None], layer, window, positions)


def tune_head_scale(
    model: "PreTrainedModel",
    batches: Sequence[Tensor],
    *,
    steps: int = 200,
    lr: float = 0.1,
    start: float = 1.6,
) -> HeadScale:
    """Find the numbers of `HeadScale`: the only ones that are trained, in float32.

    Next-token loss under Adam without weight decay; the rate rises over the first tenth of the
    steps and falls along a cosine to a tenth of `lr`. After every step each number is put back to
    at least 1: a head may become sharper than it was, never flatter.

    Source: Wang et al. 2024, arXiv:2404.12224, section 4; rates and start are those of the
        authors' code for 4 times the window.

    Args:
        model: A causal language model that is not adapted. Its weights stay as they are.
        batches: Token ids `[b, t]` of full rows, of the length to tune for; they are taken in
            turn.
        steps: Batches read in all, at least 1.
        lr: The highest rate, above 0.
        start: Every number at the beginning, at least 1.

    Raises:
        ValueError: If the model is adapted or cannot be, or an argument is out of its range.
    """
    from lengthwise.extend.adapt import adapted, binding_of, is_adapted  # they import the scalings

    whole("tune_head_scale", "steps", steps, 1)
    at_least("tune_head_scale", "start", start, 1)
    if not lr > 0:
        raise ValueError(f"tune_head_scale: lr must be above 0, got {lr!r}")
    if not batches or any(ids.ndim != 2 or ids.shape[1] < 2 for ids in batches):
        raise ValueError("tune_head_scale needs batches of token ids [b, t] with at least 2 tokens")
    if is_adapted(model):
        raise ValueError("tune_head_scale takes a model that is not adapted; restore it first")
    shape = (model.config.num_hidden_layers, model.config.num_attention_heads)
    parameter = nn.Parameter(torch.full(shape, float(start), device=model.device))
    tuned = _Tuned(tuple((float(start),) * shape[1] for _ in range(shape[0])), parameter=parameter)
    training = model.training
    frozen = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in frozen:
        weight.requires_grad_(False)
    try:
        with adapted(model.eval(), tuned), torch.enable_grad():
            assert binding_of(model).engine.geometry.heads == shape[1]
            _descend(model, parameter, batches, steps, lr)
    finally:
        model.train(training)
        for weight in frozen:
            weight.requires_grad_(True)
    return HeadScale(tuple(tuple(row) for row in parameter.detach().tolist()))


def _descend(
    model: "PreTrainedModel",
    parameter: nn.Parameter,
    batches: Sequence[Tensor],
    steps: int,
    lr: float,
) -> None:
    optimizer = torch.optim.Adam([parameter], lr=lr)
    warm = max(1, steps // 10)
    for step in range(steps):
        past = (step - warm) / max(1, steps - warm)
        share = (step + 1) / warm if step < warm else 0.1 + 0.45 * (1 + math.cos(math.pi * past))
        optimizer.param_groups[0]["lr"] = lr * share
        ids = batches[step % len(batches)].to(model.device)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            parameter.clamp_(min=1.0)
