"""Autograd with sizes and no numbers: which bytes are alive when, and at which moment the most.

An `Array` holds bytes of a `Ledger` for as long as Python holds the array, as a tensor holds its
memory. Operations note what their backward will read, as torch's do, and `backward` runs them in
torch's order: a node makes the gradients of its inputs, then lets go of what it saved and of the
gradient that it was given; gradients that meet are added in place.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

FLOAT = 4
ACTIVATIONS, GRADIENTS = "activations", "gradients"


@dataclass(frozen=True)
class Moment:
    """Bytes alive at one moment, what was being done, and the bytes of each kind."""

    total: int = 0
    where: str = ""
    kinds: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Counts bytes by kind and remembers the worst moment. `where` says what is being done."""

    def __init__(self) -> None:
        self.alive: Counter[str] = Counter()
        self.total = 0
        self.where = ""
        self.peak = Moment()

    def add(self, size: int, kind: str) -> None:
        self.alive[kind] += size
        self.total += size
        if self.total > self.peak.total:
            self.peak = Moment(self.total, self.where, dict(self.alive))

    def remove(self, size: int, kind: str) -> None:
        self.alive[kind] -= size
        self.total -= size


class Held:
    """Bytes that are alive as long as this object."""

    __slots__ = ("kind", "ledger", "size")

    def __init__(self, ledger: Ledger, size: int, kind: str) -> None:
        self.ledger, self.size, self.kind = ledger, size, kind
        ledger.add(size, kind)

    def __del__(self) -> None:
        self.ledger.remove(self.size, self.kind)

    def call(self, kind: str) -> None:
        """Count them as another kind."""
        self.ledger.alive[self.kind] -= self.size
        self.kind = kind
        self.ledger.alive[kind] += self.size


class Array:
    """A matrix `[rows, width]` of numbers of `item` bytes, or a view of one.

    Attributes:
        slot: What gradients are sent to; a view has its own.
        wants: Whether a gradient is wanted.
    """

    __slots__ = ("held", "item", "rows", "slot", "wants", "width")

    def __init__(self, held: Held, rows: int, width: int, item: int, wants: bool) -> None:
        self.held, self.rows, self.width, self.item = held, rows, width, item
        self.slot, self.wants = object(), wants

    @property
    def size(self) -> int:
        return self.rows * self.width * self.item


# From the gradient of a node's output to those of its inputs, where that is more than bytes.
Replay = Callable[[Held], Sequence[Held | None]]


@dataclass(frozen=True)
class _Grad:
    """The gradient of an input: a new one, or the output's handed on."""

    slot: object
    size: int
    kind: str
    passes: bool


@dataclass
class _Node:
    name: str
    outs: tuple[object, ...]
    to: list[_Grad]
    saved: list[Held]
    work: int
    parameters: int
    owner: str
    replay: Replay | None


class Tape:
    """Makes arrays and notes how to go back. Without `recording`, nothing is noted (no_grad).

    Args:
        gradients: Bytes of parameters' gradients that exist, by the name of the operation; tapes
            of one step share it.

    Attributes:
        saves: Operations so far that had something to save.
        enough: After so many of them, operations are noted and hold nothing (a checkpoint stops
            computing again when it has all that was saved).
    """

    def __init__(
        self, ledger: Ledger, gradients: dict[str, Held] | None = None, *, recording: bool = True
    ) -> None:
        self.ledger = ledger
        self.gradients = {} if gradients is None else gradients
        self.recording = recording
        self.saves, self.enough = 0, -1
        self._nodes: list[_Node] = []

    def new(
        self, rows: int, width: int, item: int, *, wants: bool = False, kind: str = ACTIVATIONS
    ) -> Array:
        """A tensor without a past."""
        return Array(Held(self.ledger, rows * width * item, kind), rows, width, item, wants)

    def apply(
        self,
        name: str,
        inputs: Sequence[Array],
        out: tuple[int, int, int],
        *,
        saves: Sequence[Array] = (),
        saves_output: bool = False,
        work_forward: int = 0,
        work_backward: int = 0,
        parameters: int = 0,
        passes: bool = False,
        kind: str = ACTIVATIONS,
        owner: str = "",
    ) -> Array:
        """The output `(rows, width, item)` of an operation.

        Args:
            saves: What its backward reads, beside the output where `saves_output`.
            work_forward: Bytes that live only while it runs.
            work_backward: Bytes that live only while its backward runs, beside the gradients.
            parameters: Bytes of the gradients of its parameters.
            passes: Whether the gradient is handed on as it is (an addition, a view).
            owner: The name of its parameters, where another operation has them too.
        """
        ledger = self.ledger
        ledger.where = name
        wants = parameters > 0 or any(x.wants for x in inputs)
        self.saves += wants and bool(saves or saves_output)
        over = 0 <= self.enough <= self.saves
        rows, width, item = out
        held = Held(ledger, 0 if over else rows * width * item, kind)
        y = Array(held, rows, width, item, wants)
        if work_forward and not over:
            ledger.add(work_forward, ACTIVATIONS)
            ledger.remove(work_forward, ACTIVATIONS)
        if wants and self.recording:
            grads = [_Grad(x.slot, x.size, x.held.kind, passes) for x in inputs if x.wants]
            kept = [x.held for x in saves] + ([y.held] if saves_output else [])
            owner = owner or name
            node = _Node(name, (y.slot,), grads, kept, work_backward, parameters, owner, None)
            self._nodes.append(node)
        return y

    def columns(self, name: str, x: Array, *widths: int, split: bool) -> list[Array]:
        """Views of neighbouring columns of `x`, whose gradients are as wide as `x`.

        Args:
            split: One operation makes all views, and one gradient of theirs (torch.split);
                otherwise each is an operation (indexing).
        """
        views = [Array(x.held, x.rows, width, x.item, x.wants) for width in widths]
        if x.wants and self.recording:
            grad = _Grad(x.slot, x.size, ACTIVATIONS, False)
            slots = [view.slot for view in views]
            for outs in [tuple(slots)] if split else [(slot,) for slot in slots]:
                self._nodes.append(_Node(name, outs, [grad], [], 0, 0, name, None))
        return views

    def alias(self, x: Array, rows: int = 0, *, wants: bool = True) -> Array:
        """The same bytes, or `rows` rows of them, without a past (detach)."""
        return Array(x.held, rows or x.rows, x.width, x.item, wants)

    def keep(self, name: str, x: Array, y: Array, replay: Replay, *saved: Held) -> Array:
        """`y`, made from `x` elsewhere, as one operation that keeps bytes and has its own way back.

        It has parameters of its own, so a gradient always reaches it.
        """
        out = Array(y.held, y.rows, y.width, y.item, True)
        self.saves += 1
        if self.recording:
            to = [_Grad(x.slot, x.size, ACTIVATIONS, False)] if x.wants else []
            self._nodes.append(_Node(name, (out.slot,), to, list(saved), 0, 0, name, replay))
        return out

    def backward(self, slot: object, grad: Held) -> dict[object, Held]:
        """Go back from the array of a slot; the gradients of arrays without a past, by slot."""
        ledger = self.ledger
        found = {slot: grad}
        del grad
        while self._nodes:
            node = self._nodes.pop()
            given = [found.pop(slot) for slot in node.outs if slot in found]
            if not given:
                continue
            ledger.where = f"{node.name} backward"
            made: list[Held | None]
            if node.replay is not None:
                made = list(node.replay(given[0]))
            else:
                made = [given[0] if to.passes else Held(ledger, to.size, to.kind) for to in node.to]
            if node.work:
                ledger.add(node.work, ACTIVATIONS)
                ledger.remove(node.work, ACTIVATIONS)
            if node.parameters:
                fresh = Held(ledger, node.parameters, GRADIENTS)
                self.gradients.setdefault(node.owner, fresh)
                del fresh
            node.saved.clear()
            del given
            for to in node.to:
                piece = made.pop(0)
                if piece is not None:
                    found.setdefault(to.slot, piece)
                del piece
        return found
