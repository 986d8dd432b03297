"""The most memory that tensors held during a piece of work."""

import gc
from contextlib import suppress
from types import TracebackType

import torch


class PeakBytes:
    """Bytes of tensors alive at the worst moment, above those alive before the work began.

    The meaning is that of `torch.cuda.max_memory_allocated`, on a CPU as well: there, the
    allocator's own reports are summed up. (The process's resident size would also hold imported
    libraries and memory that earlier work freed and the C library kept.)

        with PeakBytes(device) as peak:
            ...
            peak.mark()     # on a CPU: adds up what was reported so far; call it now and then
        peak.bytes          # None on devices that do not count, such as MPS
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.bytes: int | None = None
        self._alive = 0

    def __enter__(self) -> "PeakBytes":
        # What earlier work left in reference cycles must not be freed, and counted, later on.
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._alive = torch.cuda.memory_allocated(self.device)
        elif self.device.type == "cpu":
            self.bytes = 0
            _start_reports()
        return self

    def mark(self) -> None:
        """Empty the list of reports, which grows with the work."""
        if self.device.type == "cpu":
            self._add_reports()
            _start_reports()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._alive
        elif self.device.type == "cpu":
            # An interruption between two reports finds the counting already off.
            with suppress(RuntimeError):
                self._add_reports()

    def _add_reports(self) -> None:
        for thread in torch.autograd._disable_profiler_legacy():
            for event in thread:
                if str(event.kind()) == "memory_alloc":
                    self._alive += event.cpu_memory_usage()
                    self.bytes = max(self.bytes or 0, self._alive)


def _start_reports() -> None:
    # The public torch.profiler counts the same events, but torch 2.13's writes two lines to
    # stderr at every start and takes two seconds for the first.
    config = torch.autograd.ProfilerConfig(
        torch.autograd.ProfilerState.CPU,
        False,  # shapes
        True,  # memory
        False,  # stack
        False,  # flops
        False,  # modules
        torch._C._profiler._ExperimentalConfig(),
    )
    torch.autograd._enable_profiler_legacy(config)
