"""Masks of whole tiles: which blocks of queries see which blocks of keys, for a region's `also`."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tiles:
    """A query sees a key if the tile of both is `seen`; what no head sees is never computed.

        attend(q, k, v, [Region(also=Tiles(seen, size=128))])

    Source: block-sparse FlashAttention (Dao et al. 2022, arXiv:2205.14135, section 3.3).

    Args:
        seen: For heads, or one for all, tiles of queries and tiles of keys, counted by logical
            position.
        size: Tokens of a tile, at least 1.

    Raises:
        ValueError: A size below 1, or another shape or type.
    """

    seen: Bool[Tensor, "#h q k"]
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"Tiles: size must be at least 1 token, got {self.size!r}")
        if self.seen.ndim != 3 or self.seen.dtype is not torch.bool:
            raise ValueError(
                "Tiles: seen must be booleans of heads, tiles of queries and tiles of keys, got "
                f"{self.seen.dtype} of shape {tuple(self.seen.shape)}"
            )

    def __call__(self, b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        heads, rows, columns = self.seen.shape
        row = q.div(self.size, rounding_mode="floor")
        column = k.div(self.size, rounding_mode="floor")
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        head = h if heads > 1 else torch.zeros_like(h)
        return self.seen[head, row.clamp(0, rows - 1), column.clamp(0, columns - 1)] & inside

    def covers(self, q_low: int, q_high: int, k_low: int, k_high: int) -> str:
        """Whether `all`, `none` or `some` pairs of these positions are seen, ends included."""
        _, rows, columns = self.seen.shape
        last_row, last_column = q_high // self.size, k_high // self.size
        part = self.seen[:, q_low // self.size : last_row + 1, k_low // self.size : last_column + 1]
        if not bool(part.any()):
            return "none"
        return "all" if last_row < rows and last_column < columns and bool(part.all()) else "some"
