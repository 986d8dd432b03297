"""A decoder layer that keeps its input alone, and goes back whole or a chunk at a time."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lengthwise.core.attention.reference import at_least_float32
from lengthwise.core.keys import KeyBlock
from lengthwise.extend.state import LayerState
from lengthwise.hf.binding import NAME as ADAPTED
from lengthwise.hf.binding import Call
from lengthwise.hf.documents import DOCUMENT_LENGTHS, document_lengths
from lengthwise.hf.release import CACHE
from lengthwise.hf.streaming import RowMask
from lengthwise.train.memory.host import Host
from lengthwise.train.memory.replay import Sums, Surroundings, spans

CACHES = (CACHE, "layer_past")  # names of the cache in a layer's arguments
DROPPED = ("shift_labels",)  # what reaches a layer and means nothing to it


class KeysKnown(Exception):
    """Ends a layer's forward of which only the keys and values were wanted."""


class Keys:
    """All keys and values of one layer, `[b, kv_heads, length, d]`, written chunk by chunk."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.both: tuple[Tensor, ...] = ()

    def write(self, start: int, *new: Tensor) -> None:
        if not self.both:
            self.both = tuple(x.new_empty(*x.shape[:2], self.length, x.shape[3]) for x in new)
        for all_of_it, x in zip(self.both, new, strict=True):
            all_of_it[:, :, start : start + x.shape[2]] = x

    def until(self, stop: int) -> tuple[Tensor, ...]:
        return tuple(x[:, :, :stop] for x in self.both)


class Writer:
    """Stands in for a cache going forward: remembers a chunk's keys, shows those so far."""

    def __init__(self, keys: Keys, start: int, *, alone: bool = False) -> None:
        self.keys, self.start, self.alone = keys, start, alone

    def update(self, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        self.keys.write(self.start, k, v)
        if self.alone:
            raise KeysKnown
        return self.keys.until(self.start + k.shape[2])


class Reader:
    """Stands in for a cache going back: the keys before a chunk are leaves with gradients."""

    def __init__(self, keys: Keys, start: int) -> None:
        self.past = tuple(x.detach().requires_grad_() for x in keys.until(start)) if start else ()
        self.new: tuple[Tensor, ...] = ()

    def update(self, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        self.new = (k, v)
        if not self.past:
            return self.new
        return tuple(torch.cat(pair, dim=2) for pair in zip(self.past, self.new, strict=True))


class LayerRun:
    """One call of one layer: how to do it again for some of its tokens.

    Args:
        forward: The layer's own forward, of hidden states `[b, t, d]` and `arguments`.
        index: Number of the layer.
        chunk: Positions of each row per chunk.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        arguments: dict[str, Any],
        index: int,
        chunk: int,
        x: Tensor,
    ) -> None:
        self.forward_of_layer, self.arguments, self.index = forward, arguments, index
        self.length = x.shape[1]
        self.chunks = spans(self.length, chunk)
        self.surroundings: list[Surroundings] = []
        if len(self.chunks) > 1:
            _refuse_arguments(arguments, self.length)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output without a graph."""
        keys = Keys(self.length)
        result: Tensor | None = None
        for low, high in self.chunks:
            self.surroundings.append(Surroundings.now(x.device))
            with self.surroundings[-1].casting():
                out = self._some(x[:, low:high], low, high, Writer(keys, low))
            if len(self.chunks) == 1:
                return out
            if result is None:
                result = out.new_empty(*x.shape[:2], out.shape[-1])
            result[:, low:high] = out
        assert result is not None
        return result

    def backward(
        self, x: Tensor, d_out: Tensor, parameters: Sequence[Tensor], needs_x: bool
    ) -> tuple[Tensor | None, list[Tensor | None]]:
        """Gradients of x and of the parameters."""
        keys = self._all_keys(x)
        d_keys = [torch.zeros_like(at_least_float32(both)) for both in keys.both]
        dx = torch.empty_like(x) if needs_x else None
        sums = Sums(parameters)
        # From the last chunk to the first: then every later chunk has had its say about a
        # chunk's keys and values when their own gradient is taken.
        for (low, high), surroundings in zip(
            reversed(self.chunks), reversed(self.surroundings), strict=True
        ):
            piece = x[:, low:high].detach().requires_grad_(needs_x)
            reader = Reader(keys, low)
            with torch.enable_grad(), surroundings.again():
                outputs = [self._some(piece, low, high, reader)]
            grads = [d_out[:, low:high]]
            if high < self.length:
                for new, total in zip(reader.new, d_keys, strict=True):
                    if new.requires_grad:
                        outputs.append(new)
                        grads.append(total[:, :, low:high].to(new.dtype))
            inputs = [*([piece] if needs_x else []), *reader.past, *parameters]
            found = list(torch.autograd.grad(outputs, inputs, grads, allow_unused=True))
            del outputs, reader.new
            if dx is not None:
                dx[:, low:high] = found.pop(0)
            for total in d_keys if low else []:
                share = found.pop(0)
                if share is not None:
                    total[:, :, :low] += share
            sums.add(found)
        return dx, sums.finished()

    def _all_keys(self, x: Tensor) -> Keys:
        """The keys and values that chunks see of each other; the last chunk is seen by none."""
        keys = Keys(self.length)
        for (low, high), surroundings in zip(self.chunks[:-1], self.surroundings, strict=False):
            with torch.no_grad(), surroundings.again():
                try:
                    self._some(x[:, low:high], low, high, Writer(keys, low, alone=True))
                except KeysKnown:
                    continue
            raise AssertionError("the layer never showed its keys")
        return keys

    def _some(self, x: Tensor, low: int, high: int, cache: Any) -> Tensor:
        """The layer's output for the tokens low .. high - 1."""
        if len(self.chunks) == 1:
            out = self.forward_of_layer(x, **self.arguments)
        else:
            arguments = {
                name: self._cut(name, value, low, high, cache)
                for name, value in self.arguments.items()
            }
            out = self.forward_of_layer(x, **arguments)
        assert isinstance(out, Tensor)
        return out

    def _cut(self, name: str, value: Any, low: int, high: int, cache: Any) -> Any:
        """One argument of the layer, for the tokens low .. high - 1."""
        if name in CACHES:
            return None if ADAPTED in self.arguments else cache
        if name == ADAPTED:
            return _cut_call(value, low, high, cache, self.index)
        if value is None or name in DROPPED:
            return None
        if name == "position_embeddings":
            # An adapted model has one angle, 0, for all positions.
            return tuple(part if part.shape[1] == 1 else part[:, low:high] for part in value)
        if name == "position_ids":
            return value[:, low:high]
        if name == "attention_mask":
            if isinstance(value, RowMask):
                return value.starting_at(low)
            return value[:, :, low:high, :high]
        return value


def _cut_call(call: Call, low: int, high: int, cache: Any, index: int) -> Call:
    """What an adapted layer is told: positions of the chunk, and a store that is our cache."""
    step = call.step
    piece = step.times(low, high)
    if step.segments is not None:
        piece.memo[DOCUMENT_LENGTHS] = document_lengths(step)[:, low:high]

    class Store:
        def extend(self, new: KeyBlock) -> list[KeyBlock]:
            keys, values = cache.update(new.keys, new.values)
            stop = keys.shape[2]
            if step.order is not None and call.engine.ordered[index]:
                return [KeyBlock(keys, values, step.order.keys[:, None, :stop])]
            documents = None if step.segments is None else step.segments[:, :stop]
            positions = step.positions[:, None, :stop]
            return [KeyBlock(keys, values, positions, documents, step.start)]

        def room(self, position: int) -> None:
            """Keys are live, so all go the long way."""

    state = SimpleNamespace(state=LayerState(cast(Any, Store()), None))
    layers: Any = SimpleNamespace(layers={index: state})
    return replace(call, step=piece, cache=layers)


def _refuse_arguments(arguments: dict[str, Any], length: int) -> None:
    """Raise ValueError for what cannot be cut into chunks."""
    known = (*CACHES, *DROPPED, ADAPTED, "position_embeddings", "position_ids", "attention_mask")
    for name, value in arguments.items():
        if name not in known and isinstance(value, Tensor) and value.ndim:
            raise ValueError(
                f"StreamBP does not know how to cut the argument {name!r} of shape "
                f"{list(value.shape)} into chunks; leave it out, or StreamBP"
            )
    mask = arguments.get("attention_mask")
    if isinstance(mask, Tensor) and (mask.ndim != 4 or mask.shape[2] != length):
        raise ValueError(
            f"StreamBP takes a 2-D attention mask, or a 4-D one of {length} queries, got "
            f"{list(mask.shape)}"
        )


class Recomputed(torch.autograd.Function):
    """A layer that keeps its input, on the device or with the host, and nothing else."""

    @staticmethod
    def forward(
        ctx: Any, run: LayerRun, host: Host | None, x: Tensor, *parameters: Tensor
    ) -> Tensor:
        ctx.run = run
        ctx.kept = None if host is None else host.keep(x)
        ctx.save_for_backward(*([x] if host is None else []), *parameters)
        return run.forward(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        saved = list(ctx.saved_tensors)
        x = saved.pop(0) if ctx.kept is None else ctx.kept.take()
        dx, found = ctx.run.backward(x, grads[0], saved, ctx.needs_input_grad[2])
        return None, None, dx, *found
