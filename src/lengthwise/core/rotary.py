"""Rotary position embedding by apparent positions, whole or fractional.

Where the numbers go, once for the whole project:
- angle of pair n at position p is `p * inv_freq[n]`, computed in float64: float32 would be off by
  0.06 at position 10^6, and with it every distance; what is left of it after whole turns is exact
  in float32 again;
- below `rounded_below` it is rounded to float32, which is what transformers computes and what the
  model was trained with, right or wrong;
- a query and a key are both rotated by their own positions, so a score depends on p_q - p_k only;
- `attention_factor` multiplies cos and sin of queries and of keys, hence scores by its square;
- the softmax scale (usually head_dim ** -0.5) is no business of this file: `attend` applies it.
"""

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from lengthwise.core import native

Pairing = Literal["half", "interleaved"]

TURN = 2 * math.pi
REMEMBERED = 8  # circles of a step, the newest: a layout reads at few places

Circle = tuple[Tensor, Tensor]  # cosines and sines
Places = Tensor | Callable[[], Tensor]  # positions, or what works them out


@dataclass(frozen=True)
class Rotary:
    """Frequencies, and how dimensions are paired.

    Args:
        inv_freq: Radians per token of each pair, `[pairs]`, or one row for each sequence of a
            batch, `[b, pairs]`. The first `2 * pairs` dimensions of a head are rotated, the
            others pass through.
        attention_factor: Multiplies cos and sin (YaRN's temperature); 1 changes nothing. One
            number, or one for each sequence of a batch, `[b]`.
        pairing: `half` pairs dimension n with n + pairs (Llama), `interleaved` 2n with 2n + 1
            (GPT-J).
        rounded_below: Positions nearer to 0 than this have angles rounded to float32.
        known: Circles that were worked out and have a name; None where nothing is remembered.
    """

    inv_freq: Float[Tensor, "*b pairs"]
    attention_factor: float | Float[Tensor, " b"] = 1.0
    pairing: Pairing = "half"
    rounded_below: int = field(default=0, kw_only=True)
    known: dict[Hashable, Circle] | None = field(
        default=None, repr=False, compare=False, kw_only=True
    )

    def remembering(self) -> "Rotary":
        """The same for one step, whose layers turn by the same angles: they are worked out once.

        Frequencies that are learned are turned by anew, so that each layer has its own gradient.
        """
        factor = self.attention_factor
        learned = isinstance(factor, Tensor) and factor.requires_grad
        return self if learned or self.inv_freq.requires_grad else replace(self, known={})

    def rotate(
        self, x: Float[Tensor, "b h t d"], positions: Places, name: Hashable = None
    ) -> Float[Tensor, "b h t d"]:
        """Rotate every vector of `x` by its position; the result has the type of `x`.

        Args:
            positions: `[b, #h, t]`.
            name: Of these positions, where the same ones come again; see `remembering`.
        """
        factor = self.attention_factor
        if isinstance(factor, float) and factor == 1.0:
            return self._turn(x, positions, name)
        # A half type is rounded once, after both.
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        return self._scaled(self._turn(exact, positions, name)).to(x.dtype)

    def shift(
        self, x: Float[Tensor, "b h t d"], offsets: Places, name: Hashable = None
    ) -> Float[Tensor, "b h t d"]:
        """Move vectors that are rotated already by `offsets` more tokens; else as `rotate`.

        The attention factor is in them since `rotate`, so it is not applied again.
        """
        return self._turn(x, offsets, name)

    def circle(self, positions: Tensor) -> Circle:
        """Cosines and sines `[b, #h, t, pairs]` at positions `[b, #h, t]`, in float32; 1 for `b`
        where all rows share them. The attention factor is not in them.
        """
        return self._circle(positions, positions.device, torch.float32)

    def same(self, other: "Rotary") -> bool:
        """Whether another rotation by the same rule turns by the same angles."""
        mine, theirs = (torch.as_tensor(x.attention_factor) for x in (self, other))
        return torch.equal(self.inv_freq, other.inv_freq) and torch.equal(mine, theirs)

    def repeated(self, times: int) -> "Rotary":
        """For a batch in which every row of this one stands `times` times, one after the other."""
        inv_freq, factor = self.inv_freq, self.attention_factor
        if inv_freq.ndim == 2:
            inv_freq = inv_freq.repeat_interleave(times, 0)
        if isinstance(factor, Tensor):
            factor = factor.repeat_interleave(times, 0) if factor.ndim else factor
        elif inv_freq is self.inv_freq:
            return self
        return replace(self, inv_freq=inv_freq, attention_factor=factor)

    def _scaled(self, x: Float[Tensor, "b h t d"]) -> Float[Tensor, "b h t d"]:
        width = 2 * self.inv_freq.shape[-1]
        factor = self.attention_factor
        if isinstance(factor, Tensor):
            factor = factor.to(torch.promote_types(x.dtype, torch.float32))[:, None, None, None]
        head = (x[..., :width] * factor).to(x.dtype)
        return head if width == x.shape[-1] else torch.cat([head, x[..., width:]], dim=-1)

    def _turn(
        self, x: Float[Tensor, "b h t d"], positions: Places, name: Hashable
    ) -> Float[Tensor, "b h t d"]:
        exact = torch.promote_types(x.dtype, torch.float32)
        cos, sin = self._named(positions, name, x.device, exact)
        if cos.shape[1] == 1 and cos.shape[2] == x.shape[2] and native.takes_turn(x, cos):
            return native.turn(x, cos, sin, self.pairing == "interleaved")
        pairs = self.inv_freq.shape[-1]
        head = x[..., : 2 * pairs].to(exact)
        if self.pairing == "half":
            a, b = head[..., :pairs], head[..., pairs:]
            turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
        else:
            a, b = head[..., 0::2], head[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        turned = turned.to(x.dtype)
        rest = x[..., 2 * pairs :]
        return torch.cat([turned, rest], dim=-1) if rest.shape[-1] else turned

    def _named(
        self, positions: Places, name: Hashable, device: torch.device, exact: torch.dtype
    ) -> Circle:
        """Cosines and sines at positions, remembered by their name where they have one."""
        key = None if self.known is None or name is None else (name, device, exact)
        if key is not None and self.known is not None and key in self.known:
            return self.known[key]
        places = positions if isinstance(positions, Tensor) else positions()
        circle = self._circle(places, device, exact)
        if key is not None and self.known is not None:
            while len(self.known) >= REMEMBERED:
                self.known.pop(next(iter(self.known)))
            self.known[key] = circle
        return circle

    def _circle(self, positions: Tensor, device: torch.device, exact: torch.dtype) -> Circle:
        """Cosines and sines `[b, #h, t, pairs]`; 1 for `b` where all rows share positions."""
        where = "cpu" if device.type == "mps" else device  # Apple's GPUs have no float64
        at = positions.to(where, torch.float64)
        if at.ndim == 3:  # otherwise a position for each pair, in a last dimension
            at = at.unsqueeze(-1)
        angles = self._angles(at)
        if exact is torch.float32:
            near = at.abs() < self.rounded_below
            if at.device.type == "cpu" and bool(near.all()):
                angles = angles.float()
            elif self.rounded_below:
                angles = torch.where(near, angles.float(), angles)
            turns = (angles.detach().double() / TURN).round_().mul_(TURN)
            angles = (angles - turns).float()
        angles = angles.to(device)
        return angles.cos(), angles.sin()

    def _angles(self, at: Tensor) -> Tensor:
        """Angles at positions `[b, #h, t, 1 or pairs]`, in float64 as they are."""
        return at * self._by_row(self.inv_freq.to(at))

    @staticmethod
    def _by_row(inv_freq: Tensor) -> Tensor:
        return inv_freq[:, None, None, :] if inv_freq.ndim == 2 else inv_freq
