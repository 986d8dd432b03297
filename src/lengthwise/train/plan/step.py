"""One training step of a model, as sizes: forward, loss, backward and optimizer, with levers."""

from dataclasses import dataclass
from typing import Any

from lengthwise.train.memory.methods import Memory, Offload, StreamBP, TiledLoss, TiledMLP
from lengthwise.train.plan import attention
from lengthwise.train.plan.families import FORWARDS, mixed
from lengthwise.train.plan.layers import Forward, Training
from lengthwise.train.plan.ledger import Array, Held, Ledger, Moment, Tape
from lengthwise.train.plan.levers import checkpointed, tiled_loss, tiled_mlp, whole_loss
from lengthwise.train.plan.model import LayerShape, ModelShape
from lengthwise.train.plan.stream import Host, recomputed

WEIGHTS, STATES, INPUTS = "weights", "optimizer", "inputs"
LONG = 8


@dataclass(frozen=True)
class Levers:
    """How a step is run.

    Attributes:
        methods: Of `lengthwise.train.memory`, at most one of each.
        checkpointing: Whether transformers' gradient checkpointing is on.
    """

    methods: tuple[Memory, ...] = ()
    checkpointing: bool = False

    def tokens(self, kind: type[Memory], name: str) -> int:
        """A method's size, 0 without that method."""
        return next((getattr(one, name) for one in self.methods if isinstance(one, kind)), 0)

    @property
    def offload(self) -> bool:
        return any(isinstance(one, Offload) for one in self.methods)


@dataclass(frozen=True)
class Peak:
    """The worst moment of a step, in bytes.

    Attributes:
        host: Bytes of checkpoints in host memory.
    """

    moment: Moment
    host: int = 0

    @property
    def total(self) -> int:
        return self.moment.total


class TiledForward(Forward):
    """A family's forward whose MLPs run in tiles."""

    tokens = 0

    def mlp(self, x: Array, layer: LayerShape) -> Array:
        return tiled_mlp(self, x, layer, self.tokens, TiledForward.whole_mlp)

    def whole_mlp(self, x: Array, layer: LayerShape) -> Array:
        return super().mlp(x, layer)


def step_peak(
    shape: ModelShape, training: Training, levers: Levers, length: int, batch: int = 1
) -> Peak:
    """The most bytes that the second step of a training and all later ones hold at once.

    Weights and the optimizer's states are there throughout, gradients from their making to the
    end. What Python, torch's libraries and the CUDA context take is not in it.

    Args:
        length: Tokens of a sequence.
        batch: Sequences.
    """
    ledger, host = Ledger(), Host()
    trained = training.trained_bytes(shape)
    ledger.add(training.weight_bytes(shape), WEIGHTS)
    ledger.add(training.optimizer.state_bytes(trained), STATES)
    ledger.add(4 * length * batch * LONG, INPUTS)  # ids, labels, shifted labels and their padding
    tape = Tape(ledger)
    tape.backward(*_forward(tape, shape, training, levers, length, batch, host))
    ledger.where = "optimizer"
    work = training.optimizer.work_bytes(training.tensors(shape), training.gpu)
    ledger.add(work, STATES)
    ledger.remove(work, STATES)
    return Peak(ledger.peak, host.held)


def _forward(
    tape: Tape,
    shape: ModelShape,
    training: Training,
    levers: Levers,
    length: int,
    batch: int,
    host: Host,
) -> tuple[object, Held]:
    """The slot of the loss and its gradient; the backward then walks the tape."""
    rows, item = length * batch, training.item
    kind = FORWARDS[shape.family]
    tiles = levers.tokens(TiledMLP, "tokens")
    if tiles:
        kind = mixed(TiledForward, kind)
    forward: Any = kind(tape, shape, training, length, batch)
    forward.tokens = tiles
    table = shape.vocabulary * shape.hidden * item if training.full else 0
    x = tape.apply("embedding", [], (rows, shape.hidden, item), parameters=table)
    embedded = x  # the decoder's forward holds it to its end  # noqa: F841
    angles = [tape.new(length, shape.layers[0].head_dim, item) for _ in range(2)]
    chunk = levers.tokens(StreamBP, "chunk")
    forward.streaming = bool(chunk)
    forward.masks = [] if chunk else attention.masks(forward)
    for forward.number, layer in enumerate(shape.layers):

        def run(f: Forward, y: Array, layer: LayerShape = layer) -> Array:
            return f.layer(y, layer, angles)

        if chunk or levers.offload:
            x = recomputed(forward.on(tape), x, run, chunk, host if levers.offload else None)
        elif levers.checkpointing:
            x = checkpointed(forward.on(tape), x, run)
        else:
            x = run(forward, x)
    forward.number = None
    x = forward.norm(x, "last norm")
    tokens = levers.tokens(TiledLoss, "tokens")
    return tiled_loss(forward, x, tokens) if tokens else whole_loss(forward, x)
