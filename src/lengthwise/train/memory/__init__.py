"""Exact gradients that fit: a training step in less memory, with the gradients of the plain step.

    from lengthwise.train.memory import Offload, StreamBP, TiledLoss, TiledMLP, fit

    with fit(model, StreamBP(chunk=2048), TiledLoss()):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()

Methods are frozen dataclasses; at most one of each, in any order. What a step holds, for `n` tokens
in all rows, width `d`, KV width `k`, MLP width `m`, vocabulary `v` and `l` layers:

| method | replaces | by |
| --- | --- | --- |
| plain | everything every layer computes, logits `n v` three times | |
| gradient checkpointing | the layers' insides | inputs of layers `l n d` and one layer's inside |
| `StreamBP(chunk)` | one layer's inside, `n` tokens | keys, values and their gradients `4 n k`, and the inside of `chunk` tokens; it holds `l n d` as checkpointing does |
| `Offload()` | `l n d` on the device | `l n d` in host memory, two inputs on the device |
| `TiledMLP(tokens)` | an MLP's inside `n m` | `tokens m` |
| `TiledLoss(tokens)` | logits `n v` | `tokens v`, and one gradient of the head in float32 |

For a loss on log-probabilities (DPO, GRPO, or one of your own), `token_logps(model, ids, labels)`
is the streaming forward, and `dpo_loss`, `grpo_loss` take what it returns.
"""  # noqa: E501

from lengthwise.train.memory.fit import fit
from lengthwise.train.memory.loss import linear_cross_entropy, linear_logps
from lengthwise.train.memory.methods import Memory, Offload, StreamBP, TiledLoss, TiledMLP
from lengthwise.train.memory.preference import dpo_loss, grpo_loss, token_logps

__all__ = [
    "Memory",
    "Offload",
    "StreamBP",
    "TiledLoss",
    "TiledMLP",
    "dpo_loss",
    "fit",
    "grpo_loss",
    "linear_cross_entropy",
    "linear_logps",
    "token_logps",
]
