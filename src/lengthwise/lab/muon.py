"""The optimizers that the bundled model was trained with."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by five Newton-Schulz steps, in float32.

    Source: K. Jordan et al., Muon (2024); step scaled by 0.2 sqrt(max(rows, columns)) as in
    Moonlight (arXiv:2502.16982), so that AdamW's learning rates fit. torch.optim.Muon iterates
    in bfloat16, which a CPU without bfloat16 units emulates about fifty times more slowly.
    """

    def __init__(self, parameters: Sequence[Tensor], lr: float, weight_decay: float) -> None:
        super().__init__([*parameters], {"lr": lr, "weight_decay": weight_decay, "momentum": 0.95})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step by the gradients that are there."""
        for group in self.param_groups:
            for p in group["params"]:
                buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
                buffer.lerp_(p.grad, 1 - group["momentum"])
                update = p.grad.lerp(buffer, group["momentum"])
                x = update.T if p.shape[0] > p.shape[1] else update
                x = x / (x.norm() + 1e-7)
                for _ in range(5):
                    gram = x @ x.T
                    x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
                update = x.T if p.shape[0] > p.shape[1] else x
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(p.shape)))


def muon_and_adamw(model: nn.Module, muon: float, adamw: float) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for embeddings and all else, with these learning rates."""
    named = list(model.named_parameters())
    hidden = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in named if p.ndim != 2 or "embed" in n]
    return [
        Muon(hidden, lr=muon, weight_decay=0.05),
        torch.optim.AdamW(others, lr=adamw, betas=(0.9, 0.95), weight_decay=0.0),
    ]
