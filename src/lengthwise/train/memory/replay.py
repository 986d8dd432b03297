"""Running a piece of a forward again: the same dropout, the same autocast, summed gradients."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from lengthwise.core.attention.reference import at_least_float32


@dataclass(frozen=True)
class Surroundings:
    """The state of the random generators and of autocast when a piece first ran."""

    device: torch.device
    cpu: Tensor
    cuda: Tensor | None
    autocast: bool
    dtype: torch.dtype

    @classmethod
    def now(cls, device: torch.device) -> "Surroundings":
        return cls(
            device,
            torch.get_rng_state(),
            torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            torch.is_autocast_enabled(device.type),
            torch.get_autocast_dtype(device.type),
        )

    @contextmanager
    def again(self) -> Iterator[None]:
        """The same state within the block; what follows it draws as if nothing had been drawn."""
        devices = [self.device] if self.cuda is not None else []
        with torch.random.fork_rng(devices=devices), self.casting():
            torch.set_rng_state(self.cpu)
            if self.cuda is not None:
                torch.cuda.set_rng_state(self.cuda, self.device)
            yield

    @contextmanager
    def casting(self) -> Iterator[None]:
        """Autocast as it was, without its cache.

        A weight cast while gradients are off is cached without its history, and whoever uses it
        next with gradients on would get none.
        """
        with torch.autocast(
            self.device.type, dtype=self.dtype, enabled=self.autocast, cache_enabled=False
        ):
            yield


class Sums:
    """Gradients of parameters, summed over pieces in at least float32."""

    def __init__(self, like: Sequence[Tensor]) -> None:
        self.like = like
        self.totals: list[Tensor | None] = [None] * len(like)

    def add(self, grads: Sequence[Tensor | None]) -> None:
        for index, grad in enumerate(grads):
            total = self.totals[index]
            if grad is None:
                continue
            if total is None:
                self.totals[index] = at_least_float32(grad)
            else:
                total += grad

    def finished(self) -> list[Tensor | None]:
        """One gradient for each parameter in its own type, None for what was not used."""
        return [
            None if total is None else total.to(tensor.dtype)
            for total, tensor in zip(self.totals, self.like, strict=True)
        ]


def spans(length: int, size: int) -> list[tuple[int, int]]:
    """`[0, length)` cut into pieces of `size`, the last one shorter."""
    return [(low, min(low + size, length)) for low in range(0, length, size)]


def per_row(tokens: int, rows: int) -> int:
    """Positions of every row that make up a piece of about `tokens` tokens, at least one."""
    return max(1, tokens // rows)
