"""What a decoder layer of each family allocates, operation by operation.

The forwards follow transformers' modeling files: which tensors exist, how wide they are, and which
of them autograd keeps. Sizes only; see `ledger`.
"""

import copy
from dataclasses import dataclass
from typing import Self

from lengthwise.train.plan import attention
from lengthwise.train.plan.ledger import FLOAT, Array, Tape
from lengthwise.train.plan.model import LayerShape, ModelShape
from lengthwise.train.plan.optimizers import Optimizer


@dataclass(frozen=True)
class Training:
    """What is trained, in which numbers, by which optimizer, where.

    Attributes:
        item: Bytes of a weight and of an activation.
        lora: Rank of the adapters (peft's, in float32) on every linear layer below the head; 0
            trains all parameters.
        gpu: Whether CUDA's kernels run, whose workspaces differ.
        threads: Of torch on a CPU; each has a tile of attention of its own.
    """

    item: int
    optimizer: Optimizer
    lora: int = 0
    gpu: bool = False
    threads: int = 1

    @property
    def full(self) -> bool:
        return not self.lora

    @property
    def parameter_item(self) -> int:
        """Bytes of one trained number."""
        return self.item if self.full else FLOAT

    def tensors(self, shape: ModelShape) -> list[int]:
        """Bytes of every tensor that is trained, in the optimizer's order."""
        if self.full:
            return [size * self.item for size in shape.sizes]
        return [self.lora * side * FLOAT for pair in shape.linear for side in pair]

    def trained_bytes(self, shape: ModelShape) -> int:
        """Bytes of the parameters that are trained, and so of their gradients."""
        return sum(self.tensors(shape))

    def weight_bytes(self, shape: ModelShape) -> int:
        """Bytes of all weights, adapters included."""
        adapters = 0 if self.full else self.trained_bytes(shape)
        return shape.parameters * self.item + adapters


class Forward:
    """The forward of one model on a tape, in pieces that the levers put together.

    Args:
        length, batch: Tokens of a sequence, and sequences.

    Attributes:
        number: Of the layer that runs, for the names of its parameters.
        streaming: Whether StreamBP's attention is called instead of transformers'.
        masks: What was made before the first layer, for as long as a layer may run again.
    """

    def __init__(
        self, tape: Tape, shape: ModelShape, training: Training, length: int, batch: int
    ) -> None:
        self.tape, self.shape, self.training = tape, shape, training
        self.length, self.batch = length, batch
        self.number: int | None = None
        self.streaming = False
        self.masks: list[Array] = []

    def on(self, tape: Tape) -> Self:
        """The same on another tape."""
        other = copy.copy(self)
        other.tape = tape
        return other

    @property
    def prefix(self) -> str:
        return "" if self.number is None else f"layer {self.number} "

    def layer(self, x: Array, layer: LayerShape, angles: list[Array]) -> Array:
        """One decoder layer."""
        residual = x
        x = self.norm(x, "input norm")
        x = self.attention(x, layer, angles)
        residual = x = self.add(residual, x)
        x = self.norm(x, "MLP norm")
        x = self.mlp(x, layer)
        return self.add(residual, x)

    def attention(self, x: Array, layer: LayerShape, angles: list[Array]) -> Array:
        q, k, v = self.heads(x, layer)
        q, k = self.rotate(q, layer, angles), self.rotate(k, layer, angles)
        k, v = self.cached(k, v)
        x = self.softmax_attention(q, k, v, layer)
        del q, k, v
        return self.linear(x, self.shape.hidden, "o", bias=layer.output_bias)

    def heads(self, x: Array, layer: LayerShape) -> tuple[Array, Array, Array]:
        """Queries, keys and values before they are rotated."""
        q_width, kv_width = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
        bias = layer.attention_bias
        q = self.linear(x, q_width, "q", bias=bias)
        if layer.qk_norm:
            q = self.norm(q, "q norm", groups=layer.heads)
        k = self.linear(x, kv_width, "k", bias=bias)
        if layer.qk_norm:
            k = self.norm(k, "k norm", groups=layer.kv_heads)
        return q, k, self.linear(x, kv_width, "v", bias=bias)

    def cached(self, k: Array, v: Array) -> tuple[Array, Array]:
        """The keys and values to attend to, when these are the new ones."""
        return k, v

    def softmax_attention(self, q: Array, k: Array, v: Array, layer: LayerShape) -> Array:
        masked = 0 < layer.window <= self.length
        if self.streaming and (masked or layer.eager):
            return attention.tiled(self, q, k, v, layer)
        if layer.eager:
            return attention.eager(self, q, k, v, layer)
        if masked:
            return attention.masked(self, q, k, v, layer)
        return attention.fused(self, q, k, v, layer)

    def mlp(self, x: Array, layer: LayerShape) -> Array:
        inner, bias = layer.inner, layer.mlp_bias
        gate = self.linear(x, inner, "gate", bias=bias)
        gate = self.pointwise(gate, "activation function")
        up = self.linear(x, inner, "up", bias=bias)
        x = self.times(gate, up, "gate times up")
        del gate, up
        return self.linear(x, self.shape.hidden, "down", bias=bias)

    def norm(self, x: Array, name: str, groups: int = 1) -> Array:
        """RMSNorm as transformers writes it, in float32."""
        even = self.even(self.cast(x, FLOAT, name), name, groups)
        return self.weighted(self.cast(even, x.item, name), name, groups)

    def weighted(self, x: Array, name: str, groups: int) -> Array:
        """Times the weight of a norm."""
        full = self.training.full
        return self.tape.apply(
            f"{self.prefix}{name}",
            [x],
            (x.rows, x.width, x.item),
            saves=[x] if full else [],
            work_backward=x.size if full else 0,
            parameters=x.width // groups * self.training.item if full else 0,
        )

    def even(self, wide: Array, name: str, groups: int) -> Array:
        """`wide` over its root mean square."""
        tape, out = self.tape, (wide.rows, wide.width, FLOAT)
        square = tape.apply(name, [wide], out, saves=[wide], work_backward=2 * wide.size)
        mean = tape.apply(name, [square], (wide.rows, groups, FLOAT))
        del square
        root = tape.apply(name, [mean], (wide.rows, groups, FLOAT), saves_output=True)
        del mean
        return tape.apply(name, [wide, root], out, saves=[wide, root], work_backward=wide.size)

    def rotate(self, x: Array, layer: LayerShape, angles: list[Array]) -> Array:
        """`x * cos + rotate_half(x) * sin`."""
        if not layer.rotary:
            return x
        name = "rotary embedding"
        size, out = x.size, (x.rows, x.width, x.item)
        # Not in a node of their own: the halves that are turned round, alive while they are read.
        turned = self.tape.apply(
            name, [x], out, work_forward=size // 2, work_backward=size // 2 + size
        )
        straight = self.tape.apply(name, [x], out, saves=angles[:1])
        turned = self.tape.apply(name, [turned], out, saves=angles[1:])
        return self.tape.apply(name, [straight, turned], out, passes=True)

    def linear(
        self, x: Array, width: int, name: str, *, bias: bool = False, adapted: bool = True
    ) -> Array:
        """A linear layer, with an adapter beside it where LoRA is trained."""
        tape, item, rank = self.tape, self.training.item, self.training.lora
        out = (x.rows, width, item)
        name = f"{self.prefix}{name}"
        if not rank:
            weights = (x.width * width + (width if bias else 0)) * item
            return tape.apply(name, [x], out, saves=[x], parameters=weights)
        y = tape.apply(name, [x], out)
        if not adapted:
            return y
        # peft keeps the adapters, and what goes through them, in float32.
        wide = self.cast(x, FLOAT, name)
        low = tape.apply(
            f"{name} A", [wide], (x.rows, rank, FLOAT), saves=[wide],
            parameters=rank * x.width * FLOAT,
        )  # fmt: skip
        high = tape.apply(
            f"{name} B", [low], (x.rows, width, FLOAT), saves=[low],
            parameters=rank * width * FLOAT,
        )  # fmt: skip
        high = tape.apply(name, [high], (x.rows, width, FLOAT))  # times the scaling
        same = self.cast(y, FLOAT, name)  # inside the addition, which promotes
        sum_ = tape.apply(name, [same, high], (x.rows, width, FLOAT), passes=True)
        del same, high, y
        return self.cast(sum_, item, name)

    def cast(self, x: Array, item: int, name: str) -> Array:
        if x.item == item:
            return x
        return self.tape.apply(name, [x], (x.rows, x.width, item))

    def pointwise(self, x: Array, name: str) -> Array:
        return self.tape.apply(name, [x], (x.rows, x.width, x.item), saves=[x])

    def times(self, a: Array, b: Array, name: str) -> Array:
        return self.tape.apply(name, [a, b], (a.rows, a.width, a.item), saves=[a, b])

    def add(self, a: Array, b: Array) -> Array:
        return self.tape.apply("residual", [a, b], (a.rows, a.width, a.item), passes=True)
