"""HiRoPE: far code is counted in functions, near code in tokens."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lengthwise.core.geometry import RotaryBase
from lengthwise.core.regions import Place, Region
from lengthwise.extend.method import Layout, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class HiRoPE(Layout):
    """Beyond `window`, fast pairs see places inside a function and slow pairs count functions.

    A token of code has two positions: its place in its unit (a function, or what stands between
    two of them), and the number of its unit. The first `split` pairs, which turn fast and have
    seen full periods in training, rotate by the one, the slower ones by the other. The layout
    belongs to one text: `lengthwise.hirope_positions` parses it, `HiRoPE.fitted` fills in the
    rest. What is generated after it continues its last unit.

    Source: Zhang et al. 2024, arXiv:2403.19115, section 3.
    Differs from the source: the paper's code is not public, and the numbers of its split and
        window could not be checked. By default `fitted` splits where a period outgrows the
        trained window, and takes half of that as the window: our choice.
    Reduces to: plain causal attention while the text is no longer than the window, and with one
        unit and `split` = `pairs`.

    Args:
        starts: Tokens at which units begin, rising whole numbers; the first unit begins at 0.
        pairs: Pairs of a head that the model rotates, at least 1.
        split: Pairs that rotate by the place inside a unit, from 0 to `pairs`.
        window: Nearest keys that keep true distances, at least 1; at most the trained window.

    Raises:
        ValueError: If a number is out of its range.
    """

    starts: tuple[int, ...]
    pairs: int
    split: int
    window: int = 1024

    def __post_init__(self) -> None:
        for start in self.starts:
            whole("HiRoPE", "each of starts", start, 0)
        # JSON has lists; and the first unit begins where the text does, said or not.
        object.__setattr__(self, "starts", (0, *(start for start in self.starts if start)))
        if any(a >= b for a, b in zip(self.starts, self.starts[1:], strict=False)):
            raise ValueError(
                "HiRoPE: starts must rise from unit to unit, got "
                f"{', '.join(map(str, self.starts[:6]))}…; take those of "
                "lengthwise.hirope_positions(text, tokenizer)"
            )
        whole("HiRoPE", "pairs", self.pairs, 1)
        whole("HiRoPE", "split", self.split, 0)
        whole("HiRoPE", "window", self.window, 1)
        if self.split > self.pairs:
            raise ValueError(f"HiRoPE: split must be at most pairs {self.pairs}, got {self.split}")

    def __str__(self) -> str:
        rest = f"pairs={self.pairs}, split={self.split}, window={self.window}"
        return f"HiRoPE({len(self.starts)} units, {rest})"

    @classmethod
    def fitted(cls, model: "PreTrainedModel", starts: tuple[int, ...]) -> "HiRoPE":
        """For a model that is not adapted yet: its pairs, and our defaults of split and window.

        Raises:
            ValueError: If the model has no rotary positions or is not supported.
        """
        from lengthwise.hf.families import read_geometry

        geometry = read_geometry(model)
        layers = [layer for i, layer in enumerate(geometry.layers) if not geometry.local(i)]
        bases = [layer.rotary for layer in layers if layer.rotary is not None]
        if not bases:
            raise ValueError(f"HiRoPE needs rotary positions; {geometry.family} has none")
        inv_freq, _ = bases[0].own(1)
        full_periods = int((2 * math.pi / inv_freq <= geometry.window).sum())
        return cls(starts, len(inv_freq), full_periods, max(1, geometry.window // 2))

    @property
    def key_place(self) -> Place:  # type: ignore[override]
        """Far keys are the many: they are stored where they are read."""
        return self._levels

    @cached_property
    def _levels(self) -> "TwoLevels":
        return TwoLevels(self.starts, self.pairs, self.split)

    def regions(self) -> tuple[Region, ...]:
        near = Region(far=self.window, paged=True)
        far = Region(near=self.window, q_place=self._levels, k_place=self._levels, paged=True)
        return near, far

    def reference(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        unit = [sum(start <= p for start in self.starts) - 1 for p in range(int(q.max()) + 1)]
        units = torch.tensor(unit)
        inside = torch.tensor([p - self.starts[u] for p, u in enumerate(unit)])
        fast = torch.arange(self.pairs) < self.split
        far = torch.where(
            fast, (inside[q] - inside[k])[..., None], (units[q] - units[k])[..., None]
        )
        d = (q - k)[..., None]
        return torch.ones_like(q - k, dtype=torch.bool), torch.where(d < self.window, d, far)

    def check(self, window: int) -> None:
        if self.window > window:
            raise ValueError(
                f"HiRoPE: window must be at most the trained window of {window} tokens, got "
                f"{self.window}; try {max(1, window // 2)}"
            )

    def check_base(self, base: RotaryBase) -> None:
        if base.dim != 2 * self.pairs:
            raise ValueError(
                f"HiRoPE: this model rotates {base.dim // 2} pairs of a head, got pairs "
                f"{self.pairs}; use HiRoPE.fitted(model, starts)"
            )


@dataclass(frozen=True)
class TwoLevels:
    """A position for each pair, in a last dimension: inside the unit, or the unit's number."""

    starts: tuple[int, ...]
    pairs: int
    split: int

    @cached_property
    def _table(self) -> Tensor:
        return torch.tensor(self.starts)

    def __call__(self, positions: Tensor) -> Tensor:
        table = self._table.to(positions.device)
        unit = (torch.searchsorted(table, positions.contiguous(), right=True) - 1).clamp(min=0)
        inside = positions - table[unit]
        fast = torch.arange(self.pairs, device=positions.device) < self.split
        return torch.where(fast, inside[..., None], unit[..., None])
