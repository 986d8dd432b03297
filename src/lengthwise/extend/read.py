"""What selectors and stores choose by."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lengthwise.core.attention.mass import drawn_mass
from lengthwise.core.keys import Queries
from lengthwise.core.regions import Place, Region
from lengthwise.core.rotary import Rotary

if TYPE_CHECKING:
    from lengthwise.extend.method import StoreState


@dataclass(frozen=True)
class Tokens:
    """Tokens, and how likely the model found them.

    Attributes:
        ids: `[b, t]`.
        surprise: Minus the log-probability of every token given those before, in nats, `[b, t]`;
            0 for the first of a row and for padding.
    """

    ids: Tensor
    surprise: Tensor


@dataclass(frozen=True)
class Read:
    """One piece of a forward as one layer reads it: what selectors and stores choose by.

    Attributes:
        layer: Index of the layer.
        queries: The queries with their positions, not rotated.
        lengths: Tokens of every row so far, the new ones included, `[b]`.
        store: Holds all keys that the queries can see.
        regions: Of the layer; together they say which of them.
        rotary, stored, scale, softcap, impl: As for `attend_blocks`.
        due: Rows `[b]` whose store is to drop keys now.
        lse: Log-sum-exp of the queries `[b, h, t]`, where `mass` is needed.
        tokens: The tokens themselves, where `logits` are needed.
    """

    layer: int
    queries: Queries
    lengths: Tensor
    store: "StoreState"
    regions: Sequence[Region]
    rotary: Rotary | None
    stored: Place | None
    scale: float
    softcap: float | None
    impl: str = "auto"
    due: Tensor | None = None
    lse: Tensor | None = None
    tokens: Tokens | None = None

    @property
    def how(self) -> dict[str, Any]:
        """What scores are made of, as keyword arguments."""
        return {name: getattr(self, name) for name in ("rotary", "stored", "scale", "softcap")}

    def mass(self, counted: Tensor | None = None) -> Tensor:
        """Softmax weights that every key drew, `[b, kv, n]`, summed over queries and heads.

        For methods that need `mass`.

        Args:
            counted: Which queries count `[b, t]`; None for all.
        """
        assert self.lse is not None, "it does not need mass"
        real = self.queries.positions >= 0
        counted = real if counted is None else real & counted
        block = self.store.whole()
        return drawn_mass(self.queries, block, self.regions, self.lse, counted, **self.how)
