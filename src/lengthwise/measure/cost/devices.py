"""What a device can do at most, from its maker's data sheet."""

import difflib
import re
from dataclasses import dataclass, replace
from typing import Any

UNITS = {"": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12, "kib": 2**10, "mib": 2**20,
         "gib": 2**30, "tib": 2**40, "b": 1}  # fmt: skip
MOST_BYTES = 2**50  # 1024TiB
MOST_RATE = 1e24  # of anything a second


@dataclass(frozen=True)
class Device:
    """Peak figures of one device; None is not known.

    Attributes:
        memory: Bytes.
        flops: Dense operations a second in bfloat16, a multiplication and an addition being two.
        bandwidth: Bytes a second between memory and processor.
        link: Bytes a second to the host, one way.
        source: Where the figures come from.
    """

    name: str
    memory: int
    flops: float | None
    bandwidth: float | None
    link: float | None
    source: str

    @property
    def gpu(self) -> bool:
        """Whether CUDA's kernels run on it."""
        return self.name != "cpu"


DEVICES = {
    one.name: one
    for one in (
        Device("a100-80", 80 * 10**9, 312e12, 2.039e12, 32e9,
               "NVIDIA A100 80GB SXM data sheet (PCIe 4.0 x16: 64 GB/s both ways)"),
        Device("h100", 80 * 10**9, 989e12, 3.35e12, 64e9,
               "NVIDIA H100 SXM data sheet (PCIe 5.0 x16: 128 GB/s both ways)"),
        Device("h200", 141 * 10**9, 989e12, 4.8e12, 64e9,
               "NVIDIA H200 SXM data sheet (PCIe 5.0 x16: 128 GB/s both ways)"),
        Device("rtx4090", 24 * 10**9, 165.2e12, 1.008e12, 32e9,
               "NVIDIA Ada GPU architecture paper, appendix (FP32 accumulate; PCIe 4.0 x16)"),
    )
}  # fmt: skip


def read_size(words: str) -> int | None:
    """Bytes from `80GB`, `24GiB`, `141e9`; None if it is no size, or beyond `MOST_BYTES`."""
    found = re.fullmatch(r"([0-9.]+(?:e[0-9]+)?) ?([kmgt]?i?b)?", words.strip().lower())
    if found is None or (found[2] or "") not in UNITS:
        return None
    try:
        count = float(found[1]) * UNITS[found[2] or ""]
    except ValueError:
        return None
    return int(count) if count <= MOST_BYTES else None


def find_device(words: str, cpu_memory: int) -> Device:
    """A device of the table, this machine's `cpu`, or any one with so many bytes.

    Args:
        cpu_memory: Bytes that are free on this machine.

    Raises:
        ValueError: If it is neither, with the nearest name.
    """
    name = words.strip().lower()
    if name == "cpu":
        return Device("cpu", cpu_memory, None, None, None, "free memory of this machine")
    if name in DEVICES:
        return DEVICES[name]
    size = read_size(name)
    if size is not None and size > 0:
        return Device(words, size, None, None, None, "as asked")
    names = ["cpu", *DEVICES]
    near = difflib.get_close_matches(name, names, 1, 0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ValueError(
        f"--device {words!r} is neither one of {', '.join(names)} nor bytes such as "
        f"48GB, at most 1024TiB{hint}"
    )


def override(
    device: Device,
    *,
    memory: int | None = None,
    flops: float | None = None,
    bandwidth: float | None = None,
    link: float | None = None,
) -> Device:
    """The device with other figures, each above 0 and finite.

    Raises:
        ValueError: If one is not.
    """
    given: dict[str, Any] = {"memory": memory, "flops": flops, "bandwidth": bandwidth, "link": link}
    known = {name: value for name, value in given.items() if value is not None}
    for name, value in known.items():
        if not 0 < value <= MOST_RATE:
            raise ValueError(f"--{name} must be above 0 and at most {MOST_RATE:g}, got {value}")
    return replace(device, **known)
