"""Cross-entropy and log-probabilities of a linear head without all logits in memory."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lengthwise.core.attention.reference import at_least_float32

IGNORE = -100


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    count: Tensor | float | None = None,
    tokens: int = 1024,
) -> Tensor:
    """Mean cross-entropy of `hidden @ weight.T + bias` against labels, in nats per token.

    The gradient is computed on the way forward, tile by tile, so that logits are computed once.
    On a GPU where liger-kernel is installed its kernel computes both.

    Args:
        hidden: `[..., d]`.
        weight: `[v, d]`.
        labels: `[...]`, already shifted: `labels[i]` is what `hidden[i]` should predict; -100 is
            left out.
        bias: `[v]`.
        softcap: Logits become `softcap * tanh(logits / softcap)`, as in Gemma 2.
        count: What the sum is divided by, such as the labels of a whole accumulated batch; None
            is the number of labels here.
        tokens: Rows of logits in memory at once.

    Returns:
        A scalar; float32, or float64 if hidden is.

    Raises:
        ValueError: Labels that are not one per token, or outside the vocabulary.
    """
    flat, targets = _flat(hidden, weight, labels)
    flat, weight, bias = _as_autocast(flat, weight, bias)
    count = (targets != IGNORE).sum() if count is None else count
    share = torch.as_tensor(1.0, device=flat.device, dtype=torch.float64) / count
    share = share.to(at_least_float32(flat[:0]).dtype)
    if on_gpu(flat) and find_spec("liger_kernel") is not None:
        return _liger(flat, weight, targets, bias, softcap) * share
    wanted = torch.is_grad_enabled()
    out = _CrossEntropy.apply(flat, weight, targets, bias, share, softcap, tokens, wanted)
    assert isinstance(out, Tensor)
    return out


def linear_logps(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    softcap: float | None = None,
    tokens: int = 1024,
) -> Tensor:
    """The log-probability of every label under a linear head; 0 where the label is -100.

    What a loss will do with them is not known yet, so logits are computed again going back.

    Args:
        hidden, weight, labels, bias, softcap, tokens: As in `linear_cross_entropy`.

    Returns:
        Nats of the shape of labels; float32, or float64 if hidden is.

    Raises:
        ValueError: As in `linear_cross_entropy`.
    """
    flat, targets = _flat(hidden, weight, labels)
    flat, weight, bias = _as_autocast(flat, weight, bias)
    out = _LogProbabilities.apply(flat, weight, targets, bias, softcap, tokens)
    assert isinstance(out, Tensor)
    return out.view(labels.shape)


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        bias: Tensor | None,
        share: Tensor,
        softcap: float | None,
        tokens: int,
        wanted: bool,
    ) -> Tensor:
        needed = ctx.needs_input_grad if wanted else (False,) * 4
        grads = _Grads(hidden, weight, bias, needed)
        loss = torch.zeros_like(share)
        for rows in _tiles(len(hidden), tokens):
            tile = _Tile(hidden[rows], weight, labels[rows], bias, softcap)
            loss -= tile.logps().sum()
            if any(needed):
                grads.add(rows, tile, tile.grad(-share))
        ctx.sums = grads.sums
        ctx.dtypes = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return loss * share

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.sums is None:
            raise RuntimeError(
                "the tiled loss gives its gradients up in the first backward; compute the loss "
                "again for a second one"
            )
        # In place: a copy of the head's gradient would be the largest tensor of the step.
        d_hidden, d_weight, d_bias = (
            None if total is None else total.mul_(grads[0].to(total.dtype)).to(dtype)
            for total, dtype in zip(ctx.sums, ctx.dtypes, strict=True)
        )
        ctx.sums = None
        return d_hidden, d_weight, None, d_bias, None, None, None, None


class _LogProbabilities(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        tokens: int,
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, labels, bias)
        ctx.softcap, ctx.tokens = softcap, tokens
        out = at_least_float32(hidden.new_empty(len(hidden)))
        for rows in _tiles(len(hidden), tokens):
            out[rows] = _Tile(hidden[rows], weight, labels[rows], bias, softcap).logps()
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, bias = ctx.saved_tensors
        sums = _Grads(hidden, weight, bias, ctx.needs_input_grad)
        for rows in _tiles(len(hidden), ctx.tokens):
            tile = _Tile(hidden[rows], weight, labels[rows], bias, ctx.softcap)
            tile.logps()
            sums.add(rows, tile, tile.grad(grads[0][rows, None]))
        d_hidden, d_weight, d_bias = sums.finished()
        return d_hidden, d_weight, None, d_bias, None, None


class _Tile:
    """Logits of a few tokens; the one buffer turns from logits into probabilities and gradients."""

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
        labels: Tensor,
        bias: Tensor | None,
        softcap: float | None,
    ) -> None:
        self.hidden, self.weight = hidden, weight
        self.kept = (labels != IGNORE)[:, None]
        self.target = labels.clamp(min=0)[:, None]
        self.buffer = at_least_float32(torch.nn.functional.linear(hidden, weight, bias))
        self.softcap = softcap
        self.slope: Tensor | None = None
        if softcap is not None:
            bent = self.buffer.div_(softcap).tanh_()
            self.slope = 1 - bent * bent
            bent.mul_(softcap)

    def logps(self) -> Tensor:
        """`[tokens]`; the buffer is log-probabilities afterwards."""
        self.buffer = torch.log_softmax(self.buffer, dim=-1)
        return (self.buffer.gather(1, self.target) * self.kept).squeeze(1)

    def grad(self, upstream: Tensor) -> Tensor:
        """The gradient of `logps() * upstream` by the logits, in the type of hidden."""
        grad = self.buffer.exp_().neg_()
        grad.scatter_add_(1, self.target, torch.ones_like(grad[:, :1]))
        grad.mul_(upstream * self.kept)
        if self.slope is not None:
            grad.mul_(self.slope)
        return grad.to(self.hidden.dtype)


class _Grads:
    """Sums of gradients over tiles, for the inputs that need them."""

    def __init__(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, needed: tuple[bool, ...]
    ) -> None:
        self.like = (hidden, weight, bias)
        self.d_hidden = torch.empty_like(hidden) if needed[0] else None
        self.d_weight = at_least_float32(torch.zeros_like(weight)) if needed[1] else None
        self.d_bias = (
            at_least_float32(torch.zeros_like(bias)) if bias is not None and needed[3] else None
        )

    def add(self, rows: slice, tile: _Tile, d_logits: Tensor) -> None:
        if self.d_hidden is not None:
            torch.mm(d_logits, tile.weight, out=self.d_hidden[rows])
        if self.d_weight is not None:
            if self.d_weight.dtype == d_logits.dtype:
                self.d_weight.addmm_(d_logits.t(), tile.hidden)
            else:
                self.d_weight += d_logits.t() @ tile.hidden
        if self.d_bias is not None:
            self.d_bias += d_logits.sum(0, dtype=self.d_bias.dtype)

    @property
    def sums(self) -> tuple[Tensor | None, ...]:
        return self.d_hidden, self.d_weight, self.d_bias

    def finished(self) -> list[Tensor | None]:
        """The sums in the types of what they belong to."""
        return [
            None if total is None or like is None else total.to(like.dtype)
            for total, like in zip(self.sums, self.like, strict=True)
        ]


def _tiles(length: int, size: int) -> Iterator[slice]:
    return (slice(low, min(low + size, length)) for low in range(0, length, size))


def _flat(hidden: Tensor, weight: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if labels.shape != hidden.shape[:-1]:
        raise ValueError(
            f"the loss is per token: labels must have the shape {list(hidden.shape[:-1])} of the "
            f"hidden states' tokens, got {list(labels.shape)}"
        )
    labels = labels.to(hidden.device).reshape(-1)
    outside = (labels != IGNORE) & ((labels < 0) | (labels >= len(weight)))
    if bool(outside.any()):
        raise ValueError(
            f"labels must be {IGNORE} or in 0 .. {len(weight) - 1}, got {int(labels[outside][0])}"
        )
    return hidden.reshape(-1, hidden.shape[-1]), labels


def _as_autocast(
    hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What autocast would do to a linear layer; a custom function is invisible to it."""
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        low = torch.get_autocast_dtype(kind)
        hidden, weight = hidden.to(low), weight.to(low)
        bias = None if bias is None else bias.to(low)
    return hidden, weight, bias


def on_gpu(tensor: Tensor) -> bool:
    """Whether a kernel for GPUs can take it."""
    return tensor.is_cuda


def _liger(
    hidden: Tensor, weight: Tensor, labels: Tensor, bias: Tensor | None, softcap: float | None
) -> Tensor:
    from liger_kernel.transformers.fused_linear_cross_entropy import (  # type: ignore[import-not-found,unused-ignore]
        LigerFusedLinearCrossEntropyLoss,
    )

    # By default its sum of the head's gradient is kept in the type of the weight.
    fused = LigerFusedLinearCrossEntropyLoss(
        ignore_index=IGNORE, reduction="sum", softcap=softcap, accum_dtype=torch.float32
    )
    loss = fused(weight, hidden, labels, bias)
    assert isinstance(loss, Tensor)
    return loss
