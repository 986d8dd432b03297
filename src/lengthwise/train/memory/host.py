"""Tensors kept in host memory between the forward and the backward."""

import weakref
from typing import Any

import torch
from torch import Tensor


class Kept:
    """One tensor that was handed to the host; `take` gives it back once."""

    def __init__(self, host: "Host", tensor: Tensor, before: "Kept | None") -> None:
        self._host = host
        self._before = None if before is None else weakref.ref(before)
        self._away: Tensor | None = host.send(tensor)
        self._back: tuple[Tensor, Any] | None = None
        self.device = tensor.device

    def fetch(self) -> None:
        """Begin to copy it back; does nothing where it is on its way."""
        if self._away is not None and self._back is None:
            self._back = self._host.receive(self._away, self.device)

    def take(self) -> Tensor:
        """The tensor on its device; the one handed over before it begins to come back.

        Raises:
            RuntimeError: If it was taken already.
        """
        if self._away is None:
            raise RuntimeError(
                "Offload gives its checkpoints up in the first backward; compute the loss again "
                "for a second one"
            )
        self.fetch()
        assert self._back is not None
        tensor, arrived = self._back
        self._host.wait(tensor, arrived)
        self._host.release(self._away)
        self._away = self._back = None
        before = None if self._before is None else self._before()
        if before is not None:
            before.fetch()
        return tensor


class Host:
    """The host's memory next to one device.

    On a CUDA device, copies run on a stream of their own: the copy away beside the layers that
    follow, the copy back beside the layer that is going back. Pinned buffers are used again. On
    a CPU the host's memory is the device's: nothing is copied.
    """

    def __init__(self, device: torch.device) -> None:
        self.streams = device.type == "cuda"
        self.stream = torch.cuda.Stream(device) if self.streams else None
        self._free: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
        self._last: weakref.ref[Kept] | None = None

    def keep(self, tensor: Tensor) -> Kept:
        """Hand a tensor over."""
        kept = Kept(self, tensor, None if self._last is None else self._last())
        self._last = weakref.ref(kept)
        return kept

    def send(self, tensor: Tensor) -> Tensor:
        if not self.streams:
            return tensor
        pool = self._free.get((tensor.shape, tensor.dtype), [])
        away = pool.pop() if pool else self._pinned(tensor)
        self.stream.wait_stream(torch.cuda.current_stream(tensor.device))  # type: ignore[union-attr]
        with torch.cuda.stream(self.stream):
            away.copy_(tensor, non_blocking=True)
        tensor.record_stream(self.stream)  # type: ignore[arg-type]
        return away

    def receive(self, away: Tensor, device: torch.device) -> tuple[Tensor, Any]:
        if not self.streams:
            return away, None
        with torch.cuda.stream(self.stream):
            back = torch.empty_like(away, device=device)
            back.copy_(away, non_blocking=True)
            arrived = torch.cuda.Event()
            arrived.record(self.stream)
        return back, arrived

    def wait(self, tensor: Tensor, arrived: Any) -> None:
        if arrived is not None:
            current = torch.cuda.current_stream(tensor.device)
            current.wait_event(arrived)
            tensor.record_stream(current)

    def release(self, away: Tensor) -> None:
        # The buffer is written next by this same stream, after the copy back that it has queued.
        if self.streams:
            self._free.setdefault((away.shape, away.dtype), []).append(away)

    @staticmethod
    def _pinned(tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
