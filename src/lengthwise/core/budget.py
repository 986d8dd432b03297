"""One vocabulary for how much may be kept: tokens, bytes or a ratio; per layer and per head."""

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How many tokens each KV head of each layer may keep. Name exactly one of the three amounts.

    Args:
        tokens: Tokens per KV head, at least 1.
        bytes: Bytes of keys and values over all layers, heads and rows of the batch.
        kept_ratio: Share of the tokens seen that is KEPT, in (0, 1].
        weights: Relative shares, `weights[layer][head]` or `weights[layer]`; the mean share gets
            the amount itself. Equal shares when left out.

    Raises:
        ValueError: If not exactly one amount is named, or an amount or weight is out of range.
    """

    tokens: int | None = None
    bytes: int | None = None
    kept_ratio: float | None = None
    weights: Sequence[float] | Sequence[Sequence[float]] | None = None

    def __post_init__(self) -> None:
        named = [n for n in ("tokens", "bytes", "kept_ratio") if getattr(self, n) is not None]
        if len(named) != 1:
            said = ", ".join(named) or "none"
            raise ValueError(f"a Budget names exactly one of tokens, bytes, kept_ratio; got {said}")
        if self.tokens is not None and self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")
        if self.bytes is not None and self.bytes < 1:
            raise ValueError(f"bytes must be at least 1, got {self.bytes}")
        if self.kept_ratio is not None and not 0 < self.kept_ratio <= 1:
            raise ValueError(f"kept_ratio must be above 0 and at most 1, got {self.kept_ratio}")
        flat = [
            w for row in self.weights or [] for w in (row if isinstance(row, Sequence) else [row])
        ]
        if any(not 0 <= w < math.inf for w in flat) or (flat and not sum(flat) > 0):
            raise ValueError(f"weights must be 0 or more, finite and not all 0, got {self.weights}")

    def per_head(
        self, *, seen: int, layers: int, kv_heads: int, bytes_per_token: int
    ) -> list[list[int]]:
        """Tokens for every layer and KV head, `[layers][kv_heads]`, each at least 1.

        Args:
            seen: Tokens read so far; `kept_ratio` is a share of it, and nothing exceeds it.
            bytes_per_token: Bytes of one key and one value of one head, times the rows.

        Raises:
            ValueError: If `weights` has another number of layers or heads, or bytes buy no token.
        """
        if self.tokens is not None:
            mean = float(self.tokens)
        elif self.kept_ratio is not None:
            mean = self.kept_ratio * seen
        else:
            assert self.bytes is not None
            mean = self.bytes / (bytes_per_token * layers * kv_heads)
            if mean < 1:
                least = bytes_per_token * layers * kv_heads
                raise ValueError(f"bytes must be at least {least} (one token), got {self.bytes}")
        shares = self._shares(layers, kv_heads)
        # 0.29 of 100 tokens are 28.999999999999996 in binary fractions, and 29 in words.
        return [
            [max(1, min(seen, math.floor(mean * share + 1e-9))) for share in row] for row in shares
        ]

    def _shares(self, layers: int, kv_heads: int) -> list[list[float]]:
        if self.weights is None:
            return [[1.0] * kv_heads for _ in range(layers)]
        rows = [list(w) if isinstance(w, Sequence) else [w] * kv_heads for w in self.weights]
        if len(rows) != layers or any(len(row) != kv_heads for row in rows):
            raise ValueError(
                f"weights must have {layers} layers of {kv_heads} heads, got "
                f"{len(rows)} layers of {sorted({len(row) for row in rows})} heads"
            )
        mean = sum(map(sum, rows)) / (layers * kv_heads)
        return [[w / mean for w in row] for row in rows]
