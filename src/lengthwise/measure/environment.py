"""What a number depends on besides the model: versions and hardware."""

import hashlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for package in ("lengthwise", "torch", "transformers", "tokenizers"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            found[package] = "source"
    return found


def hardware(device: torch.device) -> dict[str, Any]:
    """The device that computes, in words."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "device": device.type,
        "name": name,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def fingerprint(model: PreTrainedModel) -> str:
    """Twelve hexadecimal digits that tell one checkpoint from another.

    From the position embedding's parameters, the shapes and types of all weights and the first
    64 numbers of each: enough to notice another checkpoint, quick for large ones.
    """
    rope = getattr(model.config.get_text_config(), "rope_parameters", None)
    digest = hashlib.sha256(repr(rope).encode())
    for name, weight in model.state_dict().items():
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(str(weight.flatten()[:64].float().tolist()).encode())
    return digest.hexdigest()[:12]
