"""One token more of every row, in one call of C for each layer.

`Engine.attend` says the same in blocks, placed queries and parts, which cost several times what the
attention of one token over a short text does. What they come to is worked out here for `AHEAD`
positions at once, and what remains for a token is where keys lie.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from lengthwise.core import native
from lengthwise.core.attention.choice import FEW, Choice, record
from lengthwise.core.keys import Run
from lengthwise.core.regions import Region
from lengthwise.core.rotary import Rotary
from lengthwise.extend.plan import Plan
from lengthwise.extend.quick_pages import QuickPages, in_one_call, quick_pages
from lengthwise.extend.state import LayerState

AHEAD = 64  # positions


@dataclass(frozen=True)
class Quick:
    """How the layers of one kind read a token at some positions.

    Attributes:
        first: Of these positions.
        circles: Of angles at them, as `native.step` has them.
        regions: What it sees, each with the number of the circle of its query.
        factor: The attention factor.
    """

    first: int
    circles: Tensor
    regions: tuple[tuple[Region, int], ...]
    factor: float
    interleaved: bool

    def seen(self, position: int, run: Run, buffer: int) -> list[int]:
        """The parts of a run that the token at a position sees, as `native.step` has them."""
        _, _, first, count, start = run
        parts: list[int] = []
        for region, circle in self.regions:
            low, high = region.first - start, position - region.near + 1 - start
            if region.far is not None:
                low = max(low, position - region.far + 1 - start)
            if region.last is not None:
                high = min(high, region.last - start)
            low, high = max(low, 0), min(high, count)
            if high > low:
                parts += (buffer, first + low, high - low, circle)
        return parts

    def attend(
        self, position: int, q: Tensor, k: Tensor, v: Tensor, state: LayerState, scale: float
    ) -> Tensor | None:
        """Attention `[b, h, 1, e]` of one token of every row over what the layer holds, which holds
        the token then. None, and nothing is changed, where it takes more than one call.
        """
        live = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
        room = None if live or record() is not None else state.store.room(position)
        if room is None:
            return None
        parts: list[int] = []
        others: list[Tensor] = []
        for run in room.runs:
            if run.keys is not room.keys:
                others += run[:2]
            buffer = 0 if run.keys is room.keys else len(others) // 2
            parts += self.seen(position, run, buffer)
        out = native.step(
            q, k, v, room, position, self.circles, position - self.first, parts, others,
            factor=self.factor, interleaved=self.interleaved, scale=scale,
        )  # fmt: skip
        if out is not None:
            state.store.took()
        return out


def carried_out(plan: Plan, like: Tensor) -> Choice | None:
    """What computes a token of a text without padding here, for people; None for the long way.

    Args:
        like: Anything of the model's type, where the model is.
    """
    d = plan.geometry.head_dim
    by = native.why(d, d)
    short = in_one_call(plan) if plan.pages else plan.plain
    short = short and plan.heads is None and like.is_cpu and like.dtype in native.STEPS
    if not short or plan.stored is None or by.startswith("torch"):
        return None
    return replace(FEW, reason=f"{FEW.reason} ({by})")


def quick(plan: Plan, rotary: Rotary | None, first: int) -> Quick | QuickPages | None:
    """How layers like that of a plan read tokens at `first` to `first + AHEAD - 1`; None where
    keys are turned when they are read, or scores are not those of bands.

    Args:
        rotary: That of the plan, which stays.
    """
    stored = plan.stored
    factor = 1.0 if rotary is None else rotary.attention_factor
    if stored is None or isinstance(factor, Tensor):
        return None
    if rotary is not None and (rotary.inv_freq.ndim > 1 or not rotary.inv_freq.is_cpu):
        return None
    if plan.pages:
        return quick_pages(plan, rotary, torch.arange(first, first + AHEAD))
    if not plan.plain:
        return None
    ahead = torch.arange(first, first + AHEAD)[None, None]
    circles: dict[object, Tensor] = {}
    for place in (stored, *(region.q_place for region in plan.exact)):
        if place not in circles:
            circles[place] = _circle(rotary, place(ahead))
    numbers = {place: number for number, place in enumerate(circles)}
    regions = tuple((region, numbers[region.q_place]) for region in plan.exact)
    interleaved = rotary is not None and rotary.pairing == "interleaved"
    return Quick(first, torch.stack(list(circles.values())), regions, factor, interleaved)


def _circle(rotary: Rotary | None, places: Tensor) -> Tensor:
    """Cosines and sines `[2, positions, pairs]` at places `[1, 1, positions]`."""
    if rotary is None:
        return torch.empty(2, places.shape[-1], 0)
    return torch.stack([x[0, 0] for x in rotary.circle(places)])
