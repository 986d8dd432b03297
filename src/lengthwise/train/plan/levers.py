"""What each lever of `lengthwise.train.memory` allocates in place of the plain step."""

from collections.abc import Callable, Iterator
from typing import Any

from lengthwise.train.plan.layers import Forward, Training
from lengthwise.train.plan.ledger import ACTIVATIONS, FLOAT, GRADIENTS, Array, Held, Tape
from lengthwise.train.plan.model import LayerShape

LOGITS, CHECKPOINTS, KEYS = "logits", "checkpoints", "keys and values"

Run = Callable[[Forward, Array], Array]


def checkpointed(forward: Forward, x: Array, run: Run) -> Array:
    """torch's checkpoint (`use_reentrant=False`): keep the input, run again going back."""
    tape = forward.tape
    x.held.call(CHECKPOINTS)
    quiet = Tape(tape.ledger, tape.gradients, recording=False)
    y = run(forward.on(quiet), tape.alias(x, wants=x.wants))
    # Layers are computed again when a saved tensor is first asked for: by then the gradient has
    # passed the sum with the last adapter and its scaling, which save nothing.
    passed = x.rows * x.width * sum({FLOAT, x.item}) if forward.training.lora else 0
    enough = quiet.saves

    def replay(grad: Held) -> list[Held | None]:
        inner = Tape(tape.ledger, tape.gradients)
        inner.enough = enough
        again = tape.alias(x, wants=x.wants)
        early = Held(tape.ledger, passed, ACTIVATIONS)
        slot = run(forward.on(inner), again).slot
        del early
        found = inner.backward(slot, grad)
        return [found.get(again.slot)] if x.wants else []

    return tape.keep("layer", x, y, replay, x.held)


class Sums:
    """Gradients of parameters of several pieces, summed in float32.

    A piece's gradients are all there before they are added to the sums.
    """

    def __init__(self, tape: Tape, training: Training) -> None:
        self.tape, self.training = tape, training
        self.totals: dict[str, Held] = {}

    def add(self, found: dict[str, Held]) -> None:
        for name, grad in found.items():
            if name not in self.totals:
                self.totals[name] = self._as_float(grad)
            elif not self.training.gpu and self._factor > 1:
                self._as_float(grad)  # a sum on a CPU casts what it adds first

    @property
    def _factor(self) -> int:
        return FLOAT // self.training.parameter_item

    def _as_float(self, grad: Held) -> Held:
        if self._factor == 1:
            return grad
        return Held(self.tape.ledger, grad.size * self._factor, GRADIENTS)

    def finish(self) -> None:
        """Hand them over as the parameters' gradients."""
        for name, total in self.totals.items():
            size = total.size // self._factor
            given = total if size == total.size else Held(self.tape.ledger, size, GRADIENTS)
            self.tape.gradients.setdefault(name, given)


def spans(length: int, size: int) -> Iterator[tuple[int, int]]:
    return ((low, min(low + size, length)) for low in range(0, length, size))


def tiled_mlp(
    forward: Forward, x: Array, layer: LayerShape, tokens: int,
    mlp: Callable[[Any, Array, LayerShape], Array],
) -> Array:  # fmt: skip
    """`TiledMLP`: the MLP a tile of tokens at a time, and again going back."""
    tape = forward.tape
    if x.rows <= tokens:
        return mlp(forward, x, layer)
    # The third meets the sums and the gradients of the second; further ones hold no more.
    tiles = list(spans(x.rows, tokens))[:3]
    quiet = Tape(tape.ledger, recording=False)
    y: Array | None = None
    for low, high in tiles:
        out = mlp(forward.on(quiet), tape.alias(x, high - low), layer)
        y = y or tape.new(x.rows, x.width, x.item)
        del out
    assert y is not None

    def replay(grad: Held) -> list[Held | None]:
        dx = Held(tape.ledger, x.size, ACTIVATIONS)
        sums = Sums(tape, forward.training)
        before: dict[str, Held] = {}
        for low, high in tiles:
            inner = Tape(tape.ledger)
            tile = tape.alias(x, high - low)
            out = mlp(forward.on(inner), tile, layer)
            inner.backward(out.slot, grad)
            sums.add(inner.gradients)
            before = inner.gradients
            del inner, out
        del before
        sums.finish()
        return [dx] if x.wants else []

    return tape.keep("MLP", x, y, replay, x.held)


def whole_loss(forward: Forward, x: Array) -> tuple[object, Held]:
    """transformers' own: logits, a copy in float32, log-softmax, and their gradients."""
    tape, shape, training = forward.tape, forward.shape, forward.training
    rows, wide = x.rows, (x.rows, shape.vocabulary, FLOAT)
    logits = tape.apply(
        "logits", [x], (rows, shape.vocabulary, training.item), kind=LOGITS,
        saves=[x] if training.full else [],
        parameters=shape.vocabulary * shape.hidden * training.item if training.full else 0,
        owner="embedding" if shape.tied else "",
    )  # fmt: skip
    if shape.softcap:
        size = (rows, shape.vocabulary, training.item)
        logits = tape.apply("logits", [logits], size, kind=LOGITS)
        logits = tape.apply("logits", [logits], size, kind=LOGITS, saves_output=True)
        logits = tape.apply("logits", [logits], size, kind=LOGITS)
    floats = logits if training.item == FLOAT else tape.apply("loss", [logits], wide, kind=LOGITS)
    log_softmax = tape.apply("loss", [floats], wide, kind=LOGITS, saves_output=True)
    loss = tape.apply("loss", [log_softmax], (1, 1, FLOAT), saves=[log_softmax])
    return loss.slot, Held(tape.ledger, FLOAT, LOGITS)


def tiled_loss(forward: Forward, x: Array, tokens: int) -> tuple[object, Held]:
    """`TiledLoss`: a tile's logits, log-softmax and gradient at a time, all going forward."""
    tape, shape, training = forward.tape, forward.shape, forward.training
    ledger, item = tape.ledger, training.item
    tape.ledger.where = "tiled loss"
    weights = shape.vocabulary * shape.hidden if training.full else 0
    d_hidden = Held(ledger, x.size, ACTIVATIONS)
    d_weight = Held(ledger, weights * FLOAT, GRADIENTS)
    tile = min(tokens, x.rows) * shape.vocabulary
    # Logits and their log-softmax; then, the logits gone, the gradient cast to half precision and
    # its product with the hidden states (on a CPU cast to be summed) beside the log-softmax.
    cast = 0 if training.gpu else FLOAT
    later = 0 if item == FLOAT else tile * item + weights * (item + cast)
    slope = tile * FLOAT if shape.softcap else 0
    ledger.add(slope + tile * FLOAT + max(tile * FLOAT, later), LOGITS)
    ledger.remove(slope + tile * FLOAT + max(tile * FLOAT, later), LOGITS)

    def replay(grad: Held) -> list[Held | None]:
        dx, dw = (Held(ledger, one.size, one.kind) for one in (d_hidden, d_weight))
        if item != FLOAT:
            dw = Held(ledger, weights * item, GRADIENTS)
        tape.gradients.setdefault("embedding" if shape.tied else "logits", dw)
        return [dx]

    loss = tape.keep("tiled loss", x, tape.new(1, 1, FLOAT), replay, d_hidden, d_weight)
    return loss.slot, Held(ledger, FLOAT, LOGITS)
