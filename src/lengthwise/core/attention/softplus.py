"""Attention without exponentials that keeps its sharpness over length: LSSAR."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize, softplus

ROWS = 256  # queries at a time


def softplus_attention(
    q: Float[Tensor, "b h t d"],
    k: Float[Tensor, "b kv n d"],
    v: Float[Tensor, "b kv n e"],
    power: float = 15.0,
) -> Float[Tensor, "b h t e"]:
    """Causal attention by softplus, l1 norm, a scale that follows the length, and re-weighting.

    Queries are the last `t` tokens. `A = softplus(log d log N q kᵀ)` over its sum, for unit vectors
    `q` and `k` and `N` visible keys; then `relu(A N - 1) ** power` over its sum. A row in which
    nothing is above the mean is `A` itself. It is no softmax, so parts of it do not merge.

    Source: Gao and Spratling 2025, Softplus Attention with Re-weighting (arXiv:2501.13428),
    equations 5 to 9; the first three rows are not cut off by the mean.

    Args:
        power: Of the re-weighting, at least 1; 0 leaves it out.

    Raises:
        ValueError: A power out of range, or more queries than keys.
    """
    if not (power >= 1 or power == 0):
        raise ValueError(f"power must be 0 or at least 1, got {power!r}")
    t, n = q.shape[2], k.shape[2]
    if t > n:
        raise ValueError(f"there must be at least as many keys as queries, got {n} and {t}")
    group = q.shape[1] // k.shape[1]
    q, k = normalize(q, dim=-1), normalize(k, dim=-1)
    k, v = (x.repeat_interleave(group, dim=1) for x in (k, v))
    outs = [_rows(q[:, :, low : low + ROWS], k, v, n - t + low, power) for low in range(0, t, ROWS)]
    return torch.cat(outs, dim=2)


def _rows(q: Tensor, k: Tensor, v: Tensor, first: int, power: float) -> Tensor:
    """Queries that stand at `first` and behind."""
    last = first + q.shape[2]
    k, v = k[:, :, :last], v[:, :, :last]
    rows = torch.arange(first, last, device=q.device)[:, None]
    seen = torch.arange(last, device=q.device) <= rows
    visible = (rows + 1).to(q.dtype)
    scores = q @ k.transpose(-1, -2) * (math.log(q.shape[-1]) * visible.log())
    weights = softplus(scores).masked_fill(~seen, 0.0)
    weights = weights / weights.sum(-1, keepdim=True)
    if not power:
        return weights @ v
    above = weights * visible - (rows >= 3).to(q.dtype)
    sharp = above > 0
    # The power as a softmax of logarithms: 15th powers of small numbers would vanish.
    logs = torch.where(sharp, above, 1.0).log().mul(power)
    logs = logs.masked_fill(~sharp | ~seen, float("-inf"))
    some = sharp.any(-1, keepdim=True)
    again = torch.softmax(torch.where(some, logs, 0.0), dim=-1)
    return torch.where(some, again, weights) @ v
