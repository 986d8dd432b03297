"""An MLP in tiles of tokens: what it computes inside is never there for the whole sequence."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lengthwise.train.memory.replay import Sums, Surroundings, per_row, spans


def tiled(module: nn.Module, tokens: int) -> Callable[..., Any]:
    """A forward for `module` that runs it in tiles of `tokens` tokens, and again going back.

    Takes and gives `[b, t, d]`. Where all tokens fit in one tile it is the module's own forward.
    A mixture of experts that also returns scores returns None in their place: its layer drops them.
    """
    whole = module.forward

    @functools.wraps(whole)
    def forward(x: Tensor) -> Any:
        pieces = spans(x.shape[1], per_row(tokens, x.shape[0]))
        if len(pieces) == 1:
            return whole(x)
        parameters = [p for p in module.parameters() if p.requires_grad]
        out, scores = _Tiled.apply(whole, pieces, x, *parameters)
        return (out, None) if scores else out

    return forward


class _Tiled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        whole: Callable[[Tensor], Any],
        pieces: list[tuple[int, int]],
        x: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, bool]:
        ctx.whole, ctx.pieces, ctx.surroundings = whole, pieces, []
        ctx.save_for_backward(x, *parameters)
        result: Tensor | None = None
        for low, high in pieces:
            ctx.surroundings.append(Surroundings.now(x.device))
            with ctx.surroundings[-1].casting():
                got = whole(x[:, low:high])
            out = got[0] if isinstance(got, tuple) else got
            if result is None:
                result = out.new_empty(*x.shape[:2], out.shape[-1])
            result[:, low:high] = out
        assert result is not None
        return result, isinstance(got, tuple)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
        x, *parameters = ctx.saved_tensors
        needs_x = ctx.needs_input_grad[2]
        dx = torch.empty_like(x) if needs_x else None
        sums = Sums(parameters)
        for (low, high), surroundings in zip(ctx.pieces, ctx.surroundings, strict=True):
            tile = x[:, low:high].detach().requires_grad_(needs_x)
            with torch.enable_grad(), surroundings.again():
                got = ctx.whole(tile)
            out = got[0] if isinstance(got, tuple) else got
            inputs = [tile, *parameters] if needs_x else parameters
            found = torch.autograd.grad(out, inputs, grads[0][:, low:high], allow_unused=True)
            if dx is not None:
                dx[:, low:high] = found[0]
                found = found[1:]
            sums.add(found)
        return None, None, dx, *sums.finished()
