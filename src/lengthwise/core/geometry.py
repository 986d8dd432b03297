"""What a method must know of a model: its layers, heads, positions and trained window."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lengthwise.core.rotary import Pairing


@dataclass(frozen=True)
class RotaryBase:
    """The rotary embedding that a layer was trained with.

    Attributes:
        dim: Dimensions of a head that are rotated, even.
        theta: The base of the geometric series of frequencies.
        kind: transformers' name for its scaling; `default` means none.
        own: From the longest sequence length to (inv_freq `[pairs]`, attention factor).
        static: Whether `own` ignores the length.
        trained: Tokens of the window before its scaling, where the configuration says so.
    """

    dim: int
    theta: float
    kind: str
    own: Callable[[int], tuple[Tensor, float]]
    static: bool
    pairing: Pairing = "half"
    trained: int | None = None


@dataclass(frozen=True)
class LayerGeometry:
    """One attention layer.

    Attributes:
        rotary: Its rotary embedding, or None for a layer without positions.
        window: Keys that a query sees by the model's own design, itself included; None for all.
        chunk: Tokens of the chunks within which it attends (Llama 4); None for no chunks.
        sharpness: From positions `[b, t]` to the model's own factors on scores of their queries;
            None for 1.
    """

    rotary: RotaryBase | None
    window: int | None
    chunk: int | None = None
    sharpness: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Geometry:
    """One model.

    Attributes:
        window: Tokens of context that the model was trained with.
        dtype_bytes: Bytes of one number in the cache.
    """

    family: str
    window: int
    layers: tuple[LayerGeometry, ...]
    heads: int
    kv_heads: int
    head_dim: int
    dtype_bytes: int

    @property
    def token_bytes(self) -> int:
        """Bytes of a token's keys and values in one layer."""
        return 2 * self.kv_heads * self.head_dim * self.dtype_bytes

    @property
    def turns(self) -> bool:
        """Whether a layer that methods change has rotary positions."""
        return any(one.rotary and not self.local(i) for i, one in enumerate(self.layers))

    def local(self, layer: int) -> bool:
        """Whether a layer has a window of its own beside layers that see everything.

        Such a layer never meets a distance it was not trained for, so methods leave it alone.
        Where every layer has a window (Mistral), methods work inside it.
        """
        mixed = any(one.window is None for one in self.layers)
        mine = self.layers[layer]
        return mine.chunk is not None or (mixed and mine.window is not None)
