"""Families whose layer is not Llama's: what each allocates in another place or order."""

from typing import Any

from lengthwise.train.plan.layers import Forward
from lengthwise.train.plan.ledger import FLOAT, Array
from lengthwise.train.plan.model import LayerShape


class WideNorm(Forward):
    """RMSNorm whose weight is multiplied in float32, before the result is cast."""

    def norm(self, x: Array, name: str, groups: int = 1) -> Array:
        even = self.even(self.cast(x, FLOAT, name), name, groups)
        wide = self.weighted(even, name, groups)
        del even
        return self.cast(wide, x.item, name)


class Olmo2(WideNorm):
    """Norms after attention and MLP instead of before; those of queries and keys span all heads."""

    def layer(self, x: Array, layer: LayerShape, angles: list[Array]) -> Array:
        residual = x
        x = self.norm(self.attention(x, layer, angles), "attention norm")
        residual = x = self.add(residual, x)
        x = self.norm(self.mlp(x, layer), "MLP norm")
        return self.add(residual, x)

    def heads(self, x: Array, layer: LayerShape) -> tuple[Array, Array, Array]:
        q_width, kv_width = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
        bias = layer.attention_bias
        q = self.norm(self.linear(x, q_width, "q", bias=bias), "q norm")
        k = self.norm(self.linear(x, kv_width, "k", bias=bias), "k norm")
        return q, k, self.linear(x, kv_width, "v", bias=bias)


class PartlyRotated(Forward):
    """The rotated numbers of every head are joined to the others, be there any or not."""

    def rotate(self, x: Array, layer: LayerShape, angles: list[Array]) -> Array:
        name = "rotary embedding"
        turning = x.width // layer.head_dim * layer.rotary
        if turning == x.width:
            turned, (rest,) = x, self.tape.columns(name, x, 0, split=False)
        else:
            turned, rest = self.tape.columns(name, x, turning, x.width - turning, split=False)
        turned = super().rotate(turned, layer, angles)
        return self.tape.apply(name, [turned, rest], (x.rows, x.width, x.item), passes=True)

    def softmax_attention(self, q: Array, k: Array, v: Array, layer: LayerShape) -> Array:
        """The kernel's output lies head by head, as joined queries do, and is copied row by row."""
        x = super().softmax_attention(q, k, v, layer)
        return self.tape.apply("attention", [x], (x.rows, x.width, x.item), passes=True)


class Phi3(PartlyRotated):
    """One projection to queries, keys and values, one to both halves of the MLP."""

    def heads(self, x: Array, layer: LayerShape) -> tuple[Array, Array, Array]:
        q_width, kv_width = layer.heads * layer.head_dim, layer.kv_heads * layer.head_dim
        qkv = self.linear(x, q_width + 2 * kv_width, "qkv")
        q, k, v = self.tape.columns("qkv", qkv, q_width, kv_width, kv_width, split=False)
        return q, k, v

    def mlp(self, x: Array, layer: LayerShape) -> Array:
        both = self.linear(x, 2 * layer.inner, "gate and up")
        gate, up = self.tape.columns("gate and up", both, layer.inner, layer.inner, split=True)
        del both
        up = self.times(up, self.pointwise(gate, "activation function"), "gate times up")
        del gate
        return self.linear(up, self.shape.hidden, "down")


class GPTNeoX(PartlyRotated):
    """LayerNorm, one projection to queries, keys and values, and an MLP without a gate."""

    def layer(self, x: Array, layer: LayerShape, angles: list[Array]) -> Array:
        attended = self.attention(self.norm(x, "input norm"), layer, angles)
        if not layer.parallel:
            attended = self.add(attended, x)
            return self.add(self.mlp(self.norm(attended, "MLP norm"), layer), attended)
        out = self.mlp(self.norm(x, "MLP norm"), layer)
        out = self.add(out, attended)
        return self.add(out, x)

    def heads(self, x: Array, layer: LayerShape) -> tuple[Array, Array, Array]:
        width = layer.heads * layer.head_dim
        qkv = self.linear(x, 3 * width, "qkv", bias=layer.attention_bias)
        q, k, v = self.tape.columns("qkv", qkv, width, width, width, split=True)
        return q, k, v

    def mlp(self, x: Array, layer: LayerShape) -> Array:
        x = self.linear(x, layer.inner, "up", bias=layer.mlp_bias)
        x = self.pointwise(x, "activation function")
        return self.linear(x, self.shape.hidden, "down", bias=layer.mlp_bias)

    def norm(self, x: Array, name: str, groups: int = 1) -> Array:
        """torch's LayerNorm, one operation."""
        moments = self.tape.new(x.rows, 2, FLOAT)
        return self.tape.apply(
            f"{self.prefix}{name}",
            [x],
            (x.rows, x.width, x.item),
            saves=[x, moments],
            parameters=2 * x.width * x.item if self.training.full else 0,
        )


class Gemma(WideNorm):
    """Norms before and after attention and MLP."""

    def layer(self, x: Array, layer: LayerShape, angles: list[Array]) -> Array:
        residual = x
        x = self.attention(self.norm(x, "input norm"), layer, angles)
        residual = x = self.add(residual, self.norm(x, "attention norm"))
        x = self.mlp(self.norm(x, "MLP norm"), layer)
        return self.add(residual, self.norm(x, "last norm"))


class GptOss(WideNorm):
    """Halves rotated one by one, and a mixture of experts through torch's grouped products."""

    def rotate(self, x: Array, layer: LayerShape, angles: list[Array]) -> Array:
        tape, name = self.tape, "rotary embedding"
        half = (x.rows, x.width // 2, x.item)
        first, second = tape.columns(name, x, half[1], half[1], split=True)

        def turned(a: Array, b: Array) -> Array:
            a = tape.apply(name, [a], half, saves=angles[:1])
            b = tape.apply(name, [b], half, saves=angles[1:])
            return tape.apply(name, [a, b], half, work_backward=a.size, passes=True)

        both = [turned(first, second), turned(second, first)]
        return tape.apply(name, both, (x.rows, x.width, x.item), passes=True)

    def mlp(self, x: Array, layer: LayerShape) -> Array:
        tape, item, hidden = self.tape, x.item, self.shape.hidden
        experts = layer.experts
        table = (hidden + 1) * experts * item if self.training.full else 0
        scores = tape.apply(
            f"{self.prefix}router", [x], (x.rows, experts, item), saves=[x], parameters=table
        )
        weights = tape.apply("router", [scores], (x.rows * layer.chosen, 1, item))
        rows, inner = x.rows * layer.chosen, (x.rows * layer.chosen, layer.inner, item)
        picked = tape.apply("choice of experts", [x], (rows, hidden, item))
        bias = tape.new(rows, 2 * layer.inner, item)
        both = self.grouped(picked, 2 * layer.inner, "gate and up", layer)
        gate, up = tape.columns("gate and up", both, layer.inner, layer.inner, split=False)
        gate = tape.apply("clamp", [gate], inner, saves=[both], work_backward=gate.rows * inner[1])
        up = tape.apply("clamp", [up], inner, saves=[both], work_backward=up.rows * inner[1])
        swish = tape.apply("activation function", [gate], inner)
        swish = tape.apply("activation function", [swish], inner, saves_output=True)
        swish = self.times(gate, swish, "activation function")
        del both
        more = tape.apply("up plus one", [up], inner, passes=True)
        out = self.times(more, swish, "gate times up")
        del gate, up, swish, more
        bias = tape.new(rows, hidden, item)
        out = self.grouped(out, hidden, "down", layer)
        size = (rows, hidden, item)
        out = tape.apply(
            "routing weights", [out, weights], size, saves=[out], work_backward=out.size
        )
        out = tape.apply("tokens in order", [out], size)
        del bias, picked
        return tape.apply("sum of experts", [out], (x.rows, hidden, item), passes=True)

    def grouped(self, x: Array, width: int, name: str, layer: LayerShape) -> Array:
        """A product of every row with the matrix of its expert, and a bias added in place."""
        full, item = self.training.full, x.item
        return self.tape.apply(
            f"{self.prefix}{name}",
            [x],
            (x.rows, width, item),
            saves=[x] if full else [],
            parameters=layer.experts * (x.width + 1) * width * item if full else 0,
        )


FORWARDS: dict[str, type[Forward]] = {
    "llama": Forward,
    "mistral": Forward,
    "qwen2": Forward,
    "qwen3": Forward,
    "smollm3": Forward,
    "olmo2": Olmo2,
    "phi3": Phi3,
    "gpt_neox": GPTNeoX,
    "gemma2": Gemma,
    "gemma3_text": Gemma,
    "gpt_oss": GptOss,
}


_MIXED: dict[tuple[type, type], Any] = {}


def mixed(first: type, second: type) -> Any:
    """The class of `first`, a way to run a layer, over `second`, a family."""
    if (first, second) not in _MIXED:
        _MIXED[first, second] = type(f"{first.__name__}{second.__name__}", (first, second), {})
    return _MIXED[first, second]
