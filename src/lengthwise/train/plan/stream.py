"""What `StreamBP` and `Offload` allocate: layers that keep their input, run whole or in chunks."""

from dataclasses import dataclass
from typing import Any

from lengthwise.train.plan.attention import tiled, workspace
from lengthwise.train.plan.families import mixed
from lengthwise.train.plan.layers import Forward
from lengthwise.train.plan.ledger import ACTIVATIONS, FLOAT, Array, Held, Tape
from lengthwise.train.plan.levers import CHECKPOINTS, KEYS, Run, Sums, spans
from lengthwise.train.plan.model import LayerShape


class Chunk(Forward):
    """A chunk of a layer's tokens, `past` tokens after the first, that sees the keys before it."""

    past = 0
    keys: tuple[Array, Array] | None = None  # of the whole sequence
    back = False  # whether the chunk goes back afterwards

    def cached(self, k: Array, v: Array) -> tuple[Array, Array]:
        assert self.keys is not None
        tape, rows = self.tape, self.past + k.rows
        if not self.back:
            return tape.alias(self.keys[0], rows), tape.alias(self.keys[1], rows)
        if not self.past:
            return k, v
        # The keys before are leaves, joined to the new ones; their gradients are views of one.
        leaves = [tape.alias(one, self.past) for one in self.keys]
        k, v = (
            tape.apply("keys", [leaf, new], (rows, new.width, new.item), passes=True)
            for leaf, new in zip(leaves, (k, v), strict=True)
        )
        return k, v

    def softmax_attention(self, q: Array, k: Array, v: Array, layer: LayerShape) -> Array:
        """A rectangle over the keys before the chunk and a triangle over its own."""
        if layer.eager or 0 < layer.window <= self.length:
            return tiled(self, q, k, v, layer, self.past)
        rows, past, half = q.rows, self.past, q.item != FLOAT
        wide = rows * q.width * FLOAT
        before, both = (2 * n * k.width * FLOAT for n in (past, past + rows))
        # A rectangle folds the query heads of a group into its queries.
        tile = workspace(self, rows * (layer.heads // layer.kv_heads if past else 1))
        lse = self.tape.new(rows, layer.heads, FLOAT)
        out = (rows, q.width, q.item)
        if self.training.gpu:
            # FlashAttention 2 makes gradients of keys and values for every query head.
            work = wide + rows * layer.heads * FLOAT
            if layer.heads > layer.kv_heads:
                work += 2 * k.rows * q.width * q.item
            return self.tape.apply(
                "attention", [q, k, v], out, saves=[q, k, v, lse], saves_output=True,
                work_backward=work,
            )  # fmt: skip
        # On a CPU: numbers in float32, queries folded, keys of the triangle repeated, two parts
        # and their merge; going back also the gradients of both parts' keys before they are
        # joined, and that sum in float32 before it is cast.
        kept = self.tape.new(rows, q.width, FLOAT) if half else None
        return self.tape.apply(
            "attention",
            [q, k, v],
            out,
            saves=[q, k, v, lse, *([kept] if kept else [])],
            saves_output=not half,
            work_forward=(4 + half) * wide + half * before + tile,
            work_backward=7 * wide + before + half * both + 2 * tile,
        )


@dataclass
class Host:
    """Bytes that `Offload` keeps in host memory."""

    held: int = 0


def recomputed(forward: Forward, x: Array, run: Run, chunk: int, host: Host | None) -> Array:
    """A layer that keeps its input, on the device or the host, and goes back chunk by chunk.

    Args:
        run: The layer, of a forward and an input.
        chunk: Tokens of all sequences together; 0 runs the whole layer at once.
        host: Where inputs are kept; None keeps them on the device.
    """
    away = host is not None and forward.training.gpu
    if host is not None and away:
        host.held += x.size
    else:
        x.held.call(CHECKPOINTS)
    layer = _Layer(forward, run, x, chunk)
    y = layer.forward(forward.tape, x)
    # What is sent to the host must not be held here.
    kept = None if away else x.held

    def replay(grad: Held) -> list[Held | None]:
        return layer.backward(forward.tape, kept, grad)

    return forward.tape.keep("layer", x, y, replay, *([kept] if kept else []))


class _Layer:
    """One layer and the shape of its input; holds no bytes.

    Of many chunks, four are gone through: the first, and the last three, which see most, and of
    which the third meets the sums and the gradients of the second.
    """

    def __init__(self, forward: Forward, run: Run, x: Array, chunk: int) -> None:
        self.whole, self.run = forward, run
        self.rows, self.width, self.item, self.wants = x.rows, x.width, x.item, x.wants
        self.pieces = list(spans(x.rows, chunk or x.rows))
        self.widest = sorted({*self.pieces[:1], *self.pieces[-3:]})

    @property
    def chunked(self) -> bool:
        return len(self.pieces) > 1

    def forward(self, tape: Tape, x: Array) -> Array:
        """The output, without a graph."""
        quiet = Tape(tape.ledger, recording=False)
        if not self.chunked:
            return self.run(self.whole.on(quiet), tape.alias(x, wants=x.wants))
        keys = self._keys(tape, self.item)
        y: Array | None = None
        for low, high in self.widest:
            out = self.run(self._chunk(quiet, low, keys, back=False), tape.alias(x, high - low))
            y = y or tape.new(x.rows, x.width, x.item)
            del out
        assert y is not None
        return y

    def backward(self, tape: Tape, kept: Held | None, grad: Held) -> list[Held | None]:
        """The gradient of the input; `kept` is None if the input must come from the host."""
        ledger, size = tape.ledger, self.rows * self.width * self.item
        # It comes back while the one below it is on its way.
        coming = None if kept else Held(ledger, size, CHECKPOINTS)
        source = kept or Held(ledger, size, CHECKPOINTS)
        dx = Held(ledger, size, ACTIVATIONS) if self.wants else None
        sums = Sums(tape, self.whole.training)
        keys = self._keys(tape, self.item) if self.chunked else None
        d_keys = self._keys(tape, FLOAT) if self.chunked else None
        # What a chunk found lives until the next one has found its own.
        before: list[Held] = []
        for low, high in reversed(self.widest):
            inner = Tape(ledger)
            here = self._chunk(inner, low, keys, back=True) if keys else self.whole.on(inner)
            piece = Array(source, high - low, self.width, self.item, self.wants)
            out = self.run(here, piece)
            found = inner.backward(out.slot, grad)
            sums.add(inner.gradients)
            found.pop(piece.slot, None)
            before = [*inner.gradients.values(), *list(found.values())[-1:]]
            del found, inner, here, out
        del before
        del keys, d_keys, coming
        sums.finish()
        return [dx] if self.wants else []

    def _keys(self, tape: Tape, item: int) -> tuple[Array, Array]:
        layer = self.whole.shape.layers[self.whole.number or 0]
        width = layer.kv_heads * layer.head_dim
        first, second = (tape.new(self.rows, width, item, kind=KEYS) for _ in range(2))
        return first, second

    def _chunk(self, tape: Tape, past: int, keys: tuple[Array, Array], *, back: bool) -> Chunk:
        # A copy of the family's forward that runs its layers as a chunk does.
        some: Any = self.whole.on(tape)
        some.__class__ = mixed(Chunk, type(some))
        some.past, some.keys, some.back = past, keys, back
        assert isinstance(some, Chunk)
        return some
