"""A long prefix as a state of fixed size: one more part of attention, whatever the prefix holds."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import elu

from lengthwise.core.partial import Partial


def positive(x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n d"]:
    """The features of the paper, `elu(x d^-1/4) + 1`: their products only rise with `exp(q k)`."""
    return elu(x * x.shape[-1] ** -0.25) + 1


def second_order(x: Float[Tensor, "b h n d"]) -> Float[Tensor, "b h n f"]:
    """`[1, x, x xᵀ / √2]` of `x d^-1/4`: their products are `exp(q k / √d)` up to its second order.

    There are `1 + d + d^2`.
    """
    x = x * x.shape[-1] ** -0.25
    pairs = (x[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(2)
    return torch.cat([torch.ones_like(x[..., :1]), x, pairs], dim=-1)


FEATURES = {"positive": positive, "second order": second_order}


@dataclass(frozen=True)
class PrefixState:
    """What queries read in the place of a prefix: `f d + f` numbers for each head.

    Source: Liang et al. 2024, Toward Infinite-Long Prefix in Transformer (arXiv:2406.14036),
    section 4 (NTK-Attention). Trained, both tensors are parameters and all else is frozen.

    Args:
        values: Sums of features of keys times values.
        weights: Sums of features of keys; above 0 where a query reads.
        features: One of `FEATURES`.

    Raises:
        ValueError: Unknown features.
    """

    values: Float[Tensor, "b h f e"]
    weights: Float[Tensor, "b h f"]
    features: str = "positive"

    def __post_init__(self) -> None:
        if self.features not in FEATURES:
            raise ValueError(
                f"PrefixState: features must be one of {', '.join(FEATURES)}, got {self.features!r}"
            )

    @classmethod
    def of(
        cls,
        keys: Float[Tensor, "b h n d"],
        values: Float[Tensor, "b h n e"],
        features: str = "second order",
    ) -> "PrefixState":
        """The state of a prefix's placed keys and values."""
        mapped = FEATURES[features](keys) if features in FEATURES else keys
        return cls(mapped.transpose(-1, -2) @ values, mapped.sum(-2), features)

    def read(self, queries: Float[Tensor, "b h t d"]) -> Partial:
        """The part of attention that stands for the prefix; `merge` joins it with the others.

        The cost does not depend on how long the prefix was. Where a weight is not above 0 a query
        reads nothing.
        """
        mapped = FEATURES[self.features](queries)
        total = (mapped @ self.weights[..., None]).squeeze(-1)
        seen = total > 0
        safe = torch.where(seen, total, 1.0)
        out = torch.where(seen[..., None], mapped @ self.values / safe[..., None], 0.0)
        return Partial(out, torch.where(seen, safe.log(), float("-inf")))
