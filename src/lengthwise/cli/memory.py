"""Whether a text fits in memory, said before it is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers import PreTrainedModel

from lengthwise.core.geometry import Geometry
from lengthwise.extend.adapt import binding_of
from lengthwise.extend.engine import Engine
from lengthwise.extend.explain import cache_bytes
from lengthwise.extend.scores import ScoreEngine
from lengthwise.measure.report.words import size

SPARE = 0.1  # of the free memory stays free
TILE_QUERIES, TILE_KEYS = 512, 1024  # scores that attention holds at once, at most


@dataclass(frozen=True)
class Need:
    """Bytes, beyond the weights.

    Attributes:
        cache: Keys, values, positions and summaries of all layers.
        work: One chunk on its way through one layer, at its widest.
    """

    cache: int
    work: int

    @property
    def total(self) -> int:
        return self.cache + self.work


def need(
    engine: Engine | ScoreEngine, config: Any, length: int, chunk: int, every_logit: bool
) -> Need:
    """What reading `length` tokens will take, one row, from the shapes alone.

    Args:
        config: transformers' configuration of the model.
        chunk: Tokens per forward pass.
        every_logit: Whether logits of the whole chunk are wanted, or of its last token.
    """
    shape: Geometry = engine.geometry
    kept = [axes.store.kept(length) for axes in engine.layers]
    # As after one token more: by then blocks have grown, as they may have anywhere in a text.
    cache = cache_bytes(engine, [length - 1, length] if length > 1 else [length])
    # Keys and values of one layer may be copied while they are read: rotated to another place,
    # gathered from pages, or joined to the past.
    token = 2 * shape.kv_heads * shape.head_dim * shape.dtype_bytes
    copies = 3 * max(kept) * token
    rows = min(chunk, length)
    hidden = config.hidden_size
    inner = getattr(config, "intermediate_size", None) or 4 * hidden
    width = 8 * hidden + 3 * inner + 8 * shape.heads * shape.head_dim
    scores = 3 * 4 * shape.heads * min(rows, TILE_QUERIES) * min(length, TILE_KEYS)
    logits = 3 * 4 * config.vocab_size * (rows if every_logit else 1)
    return Need(cache, copies + rows * width * shape.dtype_bytes + scores + logits)


def check_memory(
    model: PreTrainedModel, length: int, chunk: int, *, every_logit: bool = False, by: str = ""
) -> None:
    """Refuse a length that memory will not hold.

    Args:
        model: Adapted; its engine knows what the methods keep.
        by: What reads the text, for the message.

    Raises:
        ValueError: With the bytes needed and free, and the length that would fit.
    """
    engine = binding_of(model).engine
    free = int((1 - SPARE) * free_bytes(model.device))

    def fits(tokens: int) -> bool:
        return need(engine, model.config, tokens, chunk, every_logit).total <= free

    if fits(length):
        return
    low, high = 0, length
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    wanted = need(engine, model.config, length, chunk, every_logit)
    way_out = f"up to {low:,} tokens would fit" if low else "not even one token would fit"
    raise ValueError(
        f"{by + ': ' if by else ''}{length:,} tokens need about {size(wanted.total)} of memory "
        f"(cache {size(wanted.cache)}, work {size(wanted.work)}) and {size(free)} are free: "
        f"{way_out}; a store such as streamingllm keeps less"
    )


def free_bytes(device: torch.device) -> int:
    """Bytes that can still be taken on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = psutil.virtual_memory().available
    limit = _container_limit()
    return free if limit is None else min(free, limit)


def _container_limit(files: Path = Path("/")) -> int | None:
    """Bytes left under the control group's limit, which psutil does not see; None without one."""
    try:
        own = (files / "proc/self/cgroup").read_text().strip().rpartition("::")[2].lstrip("/")
        group = files / "sys/fs/cgroup" / own
        most = (group / "memory.max").read_text().strip()
        # File caches are given back under pressure: count what is not.
        held = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except OSError:
        return None
    return None if most == "max" else max(0, int(most) - int(held["anon"]))
