"""What tells the weights of one model from those of another."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


def fingerprint(model: PreTrainedModel, dtype: torch.dtype | None = None) -> str:
    """Twelve hexadecimal digits that change with any number of any weight.

    From the position embedding's parameters and from the names, shapes, types and bytes of all
    weights. SHA-256 reads about 1 GB a second on a core, and cores share the tensors.

    Args:
        dtype: Weights are compared in this type, whatever they were loaded in; None tells types
            apart.
    """
    rope = getattr(model.config.get_text_config(), "rope_parameters", None)
    digest = hashlib.sha256(repr(rope).encode())

    def of(named: tuple[str, Tensor]) -> bytes:
        name, weight = named
        one = weight.detach().to("cpu", dtype).contiguous()
        about = f"{name} {tuple(one.shape)} {one.dtype}".encode()
        return hashlib.sha256(about + b"\0" + hashlib.sha256(_bytes(one)).digest()).digest()

    renew_threads()
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing lets go of the GIL
        for one in pool.map(of, model.state_dict().items()):
            digest.update(one)
    return digest.hexdigest()[:12]


def renew_threads() -> None:
    """To be called before several threads use torch: in a forked process the first to ask torch for
    its own threads makes them anew, and two at once break it ("Invalid thread pool").
    """
    torch.set_num_threads(torch.get_num_threads())


def _bytes(weight: Tensor) -> Any:
    """The tensor's memory, not copied."""
    return weight.reshape(-1).view(torch.uint8).numpy()
