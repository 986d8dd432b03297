"""A small Llama's training in bfloat16, several times as fast where a processor has units for it.

Weights, norms, the residual stream and the losses are float32; products are bfloat16. torch's own
attention on a CPU multiplies in float32 whatever it is given, so here is one that does not.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, rms_norm, silu
from transformers import LlamaForCausalLM

from lengthwise.lab.muon import Muon

BLOCK = 128  # queries whose scores are in memory at a time


class CausalAttention(torch.autograd.Function):
    """Causal attention of grouped heads by blocks of queries; keeps weights for the way back."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`q` [n, heads, t, d]; `k`, `v` [n, of keys, t, d]; of one type.

        Returns:
            What is read, `[n, heads, t, d]`, and the weight of the first key, `[n, heads, t]`.
        """
        n, heads, t, d = q.shape
        rows = n * k.shape[1]
        q = q * d**-0.5
        out, kept = torch.empty_like(q), []
        first = q.new_empty(n, heads, t)
        for a in range(0, t, BLOCK):
            b = min(a + BLOCK, t)
            asked = q[:, :, a:b].reshape(rows, -1, d)
            scores = asked @ k[:, :, :b].reshape(rows, b, d).mT
            later = torch.ones(b - a, b - a, dtype=torch.bool).triu(1)
            scores.view(n * heads, b - a, b)[:, :, a:].masked_fill_(later, -math.inf)
            weights = scores.softmax(-1)
            mixed = weights @ v[:, :, :b].reshape(rows, b, d)
            out[:, :, a:b] = mixed.view(n, heads, b - a, d)
            first[:, :, a:b] = weights[..., 0].view(n, heads, b - a)
            kept.append(weights)
        ctx.save_for_backward(q, k, v, *kept)
        return out, first

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, grad: Tensor, grad_first: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """By the same blocks."""
        q, k, v, *kept = ctx.saved_tensors
        n, heads, t, d = q.shape
        rows = n * k.shape[1]
        of_q, of_k, of_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for i, weights in enumerate(kept):
            a, b = i * BLOCK, min((i + 1) * BLOCK, t)
            came = grad[:, :, a:b].reshape(rows, -1, d)
            asked = q[:, :, a:b].reshape(rows, -1, d)
            of_v[:, :, :b] += (weights.mT @ came).view(n, -1, b, d)
            slope = came @ v[:, :, :b].reshape(rows, b, d).mT
            slope[..., 0] += grad_first[:, :, a:b].reshape(rows, -1)
            slope = torch._softmax_backward_data(slope, weights, -1, slope.dtype)
            of_q[:, :, a:b] = (slope @ k[:, :, :b].reshape(rows, b, d)).view(n, heads, b - a, d)
            of_k[:, :, :b] += (slope.mT @ asked).view(n, -1, b, d)
        return of_q * d**-0.5, of_k, of_v


def hidden(
    model: LlamaForCausalLM, ids: Tensor, low: torch.dtype = torch.bfloat16
) -> tuple[Tensor, Tensor]:
    """The last hidden state, as the model's own, with products in `low`.

    Returns:
        States `[n, length, width]`, and the weight that queries give to the first token,
        `[layers, n, heads, length]`.
    """
    config = model.config
    n, length = ids.shape
    size, theta = config.head_dim, config.rope_parameters["rope_theta"]
    angles = torch.outer(torch.arange(length), theta ** (-torch.arange(0, size, 2) / size))
    cos, sin = angles.cos(), angles.sin()

    def product(x: Tensor, module: Any) -> Tensor:
        return linear(x, module.weight.to(low))

    def normed(x: Tensor, module: Any) -> Tensor:
        return rms_norm(x, x.shape[-1:], module.weight, config.rms_norm_eps)

    def split(x: Tensor) -> Tensor:
        return x.view(n, length, -1, size).transpose(1, 2)

    def turned(x: Tensor) -> Tensor:
        one, two = split(x).float().chunk(2, -1)
        return torch.cat([one * cos - two * sin, two * cos + one * sin], -1).to(low)

    firsts: list[Tensor] = []
    x = model.model.embed_tokens(ids)
    for layer in model.model.layers:
        own, mlp = layer.self_attn, layer.mlp
        y = normed(x, layer.input_layernorm).to(low)
        q, k = turned(product(y, own.q_proj)), turned(product(y, own.k_proj))
        mixed, first = CausalAttention.apply(q, k, split(product(y, own.v_proj)))
        firsts.append(first)
        x = x + product(mixed.transpose(1, 2).reshape(n, length, -1), own.o_proj)
        y = normed(x, layer.post_attention_layernorm).to(low)
        x = x + product(silu(product(y, mlp.gate_proj)) * product(y, mlp.up_proj), mlp.down_proj)
    return normed(x, model.model.norm), torch.stack(firsts)


def loss_of(
    model: LlamaForCausalLM, states: Tensor, targets: Tensor, low: torch.dtype = torch.bfloat16
) -> Tensor:
    """The mean loss of targets `[m]` after states `[m, width]`, in nats."""
    logits = linear(states.to(low), model.lm_head.weight.to(low))
    return cross_entropy(logits.float(), targets)


class QuickMuon(Muon):
    """Muon with matrices of one shape side by side, and its iteration in bfloat16."""

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """One step by the gradients that are there."""
        for group in self.param_groups:
            alike = defaultdict[torch.Size, list[Tensor]](list)
            for p in group["params"]:
                alike[p.shape].append(p)
            for shape, parameters in alike.items():
                updates = self._orthogonal([self._momentum(p, group) for p in parameters])
                rate = group["lr"] * 0.2 * math.sqrt(max(shape))
                torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(parameters, updates, alpha=-rate)

    def _momentum(self, p: Tensor, group: dict[str, Any]) -> Tensor:
        assert p.grad is not None
        buffer = self.state[p].setdefault("momentum", torch.zeros_like(p))
        buffer.lerp_(p.grad, 1 - group["momentum"])
        return p.grad.lerp(buffer, group["momentum"])

    def _orthogonal(self, updates: Sequence[Tensor]) -> list[Tensor]:
        x = torch.stack([*updates])
        tall = x.shape[1] > x.shape[2]
        x = x.mT if tall else x
        x = (x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
        for _ in range(5):
            gram = x @ x.mT
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=-4.775, alpha=2.0315), x,
                              beta=3.4445)  # fmt: skip
        return [*(x.mT if tall else x).float()]


def optimizers(
    model: nn.Module, name: str, rate: float, decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW, under which attention sinks grow; or Muon, which learns in half as many tokens.

    Sinks grow with the rate and with the decay of weights, up to 0.5 of it (arXiv:2410.10781,
    tables 2 and 9); under Muon they hardly do (arXiv:2506.19697).
    """
    if name == "adamw":
        return [torch.optim.AdamW(model.parameters(), rate, betas=(0.9, 0.95), weight_decay=decay)]
    named = [*model.named_parameters()]
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in named if p.ndim != 2 or "embed" in n]
    return [
        QuickMuon(matrices, lr=rate, weight_decay=decay),
        torch.optim.AdamW(others, rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]
