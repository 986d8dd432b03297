"""The longest sequence that a device can train on, by lever, and what the next one would give."""

from collections.abc import Callable
from dataclasses import dataclass

from lengthwise.train.memory.methods import Offload, StreamBP, TiledLoss, TiledMLP
from lengthwise.train.plan.layers import Training
from lengthwise.train.plan.model import ModelShape
from lengthwise.train.plan.step import Levers, Peak, step_peak

LADDER: dict[str, Levers] = {
    "plain": Levers(),
    "checkpointing": Levers(checkpointing=True),
    "checkpointing + TiledLoss": Levers((TiledLoss(),), checkpointing=True),
    "checkpointing + TiledLoss + TiledMLP": Levers((TiledLoss(), TiledMLP()), checkpointing=True),
    "StreamBP": Levers((StreamBP(),)),
    "StreamBP + TiledLoss": Levers((StreamBP(), TiledLoss())),
    "Offload + TiledLoss + TiledMLP": Levers((Offload(), TiledLoss(), TiledMLP())),
    "all (StreamBP + TiledLoss + Offload)": Levers((StreamBP(), TiledLoss(), Offload())),
}
# The lever to pull next, and the row that has it. Inside a chunk of StreamBP, TiledMLP frees
# nothing that a smaller chunk would not.
NEXT = {
    "plain": ("checkpointing", "checkpointing"),
    "checkpointing": ("TiledLoss", "checkpointing + TiledLoss"),
    "checkpointing + TiledLoss": ("TiledMLP", "checkpointing + TiledLoss + TiledMLP"),
    "checkpointing + TiledLoss + TiledMLP": ("StreamBP", "StreamBP + TiledLoss"),
    "StreamBP": ("TiledLoss", "StreamBP + TiledLoss"),
    "StreamBP + TiledLoss": ("Offload", "all (StreamBP + TiledLoss + Offload)"),
    "Offload + TiledLoss + TiledMLP": ("StreamBP", "all (StreamBP + TiledLoss + Offload)"),
}
MOST = 1 << 30  # tokens that are looked at


@dataclass(frozen=True)
class Longest:
    """What one lever can do.

    Attributes:
        tokens: The longest sequence whose step fits; 0 if not even one token does.
        peak: The worst moment at that length.
    """

    name: str
    levers: Levers
    tokens: int
    peak: Peak


def longest(
    shape: ModelShape,
    training: Training,
    name: str,
    memory: int,
    *,
    batch: int = 1,
    host: int | None = None,
) -> Longest:
    """The longest sequence under one row of `LADDER`.

    Args:
        memory: Bytes that tensors may take on the device.
        host: Bytes that checkpoints may take in host memory; None sets no limit.
    """
    levers = LADDER[name]

    def spare(tokens: int) -> int:
        peak = step_peak(shape, training, levers, tokens, batch)
        left = memory - peak.total
        return left if host is None else min(left, host - peak.host)

    tokens = _last_zero(spare)
    return Longest(name, levers, tokens, step_peak(shape, training, levers, max(tokens, 1), batch))


def _last_zero(spare: Callable[[int], int]) -> int:
    """The largest number of tokens that leaves something spare, to a part in 256.

    What is spare falls nearly along a line, so the line through the best known lengths is tried
    first and half of the stretch between them only where that did not help.
    """
    low, left = 1, spare(1)
    if left < 0:
        return 0
    high, missing = 4096, spare(4096)
    while missing >= 0 and high < MOST:
        low, left = high, missing
        high *= 8
        missing = spare(high)
    if missing >= 0:
        return high
    by_line = True
    while high - low > max(1, low // 256):
        middle = (low + high) // 2
        if by_line:
            middle = low + (high - low) * left // (left - missing)
            middle = min(max(middle, low + 1), high - 1)
            # A little to the side that is farther away, so that both sides close in.
            step = max(1, low // 512)
            middle = middle - step if middle - low > high - middle else middle + step
            middle = min(max(middle, low + 1), high - 1)
        by_line = not by_line
        found = spare(middle)
        if found >= 0:
            low, left = middle, found
        else:
            high, missing = middle, found
    return low


def offloads(name: str) -> bool:
    """Whether a row of `LADDER` moves checkpoints to the host, which is no help on a CPU."""
    return LADDER[name].offload
