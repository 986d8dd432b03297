"""Rows on training in little memory: are gradients the plain ones, and what is held at the worst?

    python experiments/memory_rows.py memory/alst

A Llama of four layers with weights as they are drawn, which gradients and bytes do not care about.
Gradients are compared in float64 on 512 tokens, bytes of tensors are counted in float32.
"""

from collections.abc import Callable
from typing import Any

import torch
from exact_rows import Row, far, gradients, main
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from lengthwise.hf.weights import fingerprint
from lengthwise.lab.evidence import at_least, at_most, exact
from lengthwise.measure.cost.peak import PeakBytes
from lengthwise.train.memory import Memory, Offload, StreamBP, TiledLoss, TiledMLP, fit
from lengthwise.train.memory.preference import dpo_loss, grpo_loss, token_logps

VOCABULARY, SHORT, LONG = 8192, 2048, 4096
ALL: tuple[Memory, ...] = (StreamBP(512), TiledLoss(128), TiledMLP(512), Offload())
Step = Callable[[Any, Tensor], Tensor]


def made(dtype: torch.dtype) -> tuple[Any, dict[str, Any]]:
    """The model, and what the file says of it."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=128, intermediate_size=384, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=32, max_position_embeddings=LONG,
    )  # fmt: skip
    model = LlamaForCausalLM(config).train()
    about = {"name": "a Llama of four layers, untrained", "fingerprint": fingerprint(model)}
    return model.to(dtype), {**about, "window": LONG}


def ids_of(rows: int, tokens: int) -> Tensor:
    return torch.randint(VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(1))


def tuning(model: Any, ids: Tensor) -> Tensor:
    """The loss of the next token."""
    loss: Tensor = model(input_ids=ids, labels=ids, use_cache=False).loss
    return loss


def logps_of(model: Any, ids: Tensor) -> Tensor:
    return token_logps(model, ids, ids, tokens=128)


def preferring(model: Any, ids: Tensor) -> Tensor:
    """DPO: the first half of the rows rather than the second."""
    logps = logps_of(model, ids)
    half, known = len(ids) // 2, torch.full_like(logps, -9.0)
    return dpo_loss(logps[:half], logps[half:], known[:half], known[half:])


def rewarded(model: Any, ids: Tensor) -> Tensor:
    """GRPO, with advantages of either sign."""
    logps = logps_of(model, ids)
    gains = torch.linspace(-1, 1, len(ids)).to(logps)
    old = logps.detach() + 0.05
    return grpo_loss(logps, old, gains, torch.ones_like(logps), beta=0.1, reference=old)


def off(step: Step, ids: Tensor, *ways: Memory) -> dict[str, float]:
    """How far loss and gradient are from the plain ones."""
    model, _ = made(torch.float64)
    plain = step(model, ids)
    plain.backward()
    wanted = gradients(model)
    with fit(model, *ways):
        loss = step(model, ids)
        loss.backward()
    return {"loss": abs(loss.item() - plain.item()), "gradient": far(gradients(model), wanted)}


def peak(step: Step, ids: Tensor, *ways: Memory, checkpoints: bool = False) -> int:
    """Bytes of tensors at the worst moment of a step, above the model's."""
    model, _ = made(torch.float32)
    if checkpoints:
        model.activation_checkpointing_enable()
    with fit(model, *ways), PeakBytes(torch.device("cpu")) as counted:
        step(model, ids).backward()
    assert counted.bytes is not None
    return counted.bytes


def alst() -> Row:
    """All levers together, beside plain steps and checkpoints alone."""
    kept = off(tuning, ids_of(1, 512), *ALL)
    ways: dict[str, dict[str, Any]] = {
        "plain": {}, "checkpoints": {"checkpoints": True}, "all": {"ways": ALL}
    }  # fmt: skip
    held = {
        name: [peak(tuning, ids_of(1, n), *how.get("ways", ()),
                    checkpoints=how.get("checkpoints", False)) for n in (SHORT, LONG)]
        for name, how in ways.items()
    }  # fmt: skip
    longest = {name: reach(two[0], two[1], held["plain"][1]) / LONG for name, two in held.items()}
    return {
        "model": made(torch.float32)[1],
        "items": {"texts": 2},
        "numbers": {"off by": kept, "bytes at 2,048 and 4,096 tokens": held, "reach": longest},
        "control": "plain steps, and checkpoints alone",
        "premise": exact(
            at_most("in the same memory checkpoints alone train texts so many times as long",
                    longest["checkpoints"], 4)
        ),
        "findings": [
            exact(at_most("the loss is off by, nats (the plain one is rounded to float32)",
                          kept["loss"], 1e-6)),
            exact(at_most("the gradient is off by, of its largest entry", kept["gradient"], 1e-6)),
            exact(
                at_least("in the memory of a plain step, texts are so many times as long",
                         longest["all"], 8, "plain steps")
            ),
        ],
    }  # fmt: skip


def reach(short: int, long: int, memory: int) -> float:
    """Tokens that a memory holds, if bytes go on growing as between the two lengths."""
    return LONG + (memory - long) * (LONG - SHORT) / (long - short)


def streambp() -> Row:
    """Tuning, DPO and GRPO."""
    ways = (StreamBP(256), TiledLoss(128))
    kinds: dict[str, tuple[Step, int]] = {
        "tuning": (tuning, 1), "DPO": (preferring, 2), "GRPO": (rewarded, 2)
    }  # fmt: skip
    kept = {name: off(step, ids_of(rows, 512), *ways) for name, (step, rows) in kinds.items()}
    held = {
        name: {
            "plain": peak(step, ids_of(rows, SHORT)),
            "checkpoints": peak(step, ids_of(rows, SHORT), checkpoints=True),
            "StreamBP": peak(step, ids_of(rows, SHORT), *ways),
        }
        for name, (step, rows) in kinds.items()
    }
    most = {name: one["plain"] / one["StreamBP"] for name, one in held.items()}
    return {
        "model": made(torch.float32)[1],
        "items": {"texts": 2},
        "numbers": {"off by": kept, "bytes at 2,048 tokens": held},
        "control": "plain steps, and checkpoints alone",
        "premise": exact(
            at_least(
                "with checkpoints alone tuning holds of the bytes of StreamBP",
                held["tuning"]["checkpoints"] / held["tuning"]["StreamBP"], 1.5,
            )
        ),
        "findings": [
            *(exact(at_most(f"{name}: the gradient is off by, of its largest entry",
                            one["gradient"], 1e-6)) for name, one in kept.items()),
            *(exact(at_least(f"{name}: plain steps hold so many times the bytes", value, 3,
                             "plain steps")) for name, value in most.items()),
        ],
    }  # fmt: skip


ROWS = {
    "memory/alst": alst,
    "memory/streambp": streambp,
}

if __name__ == "__main__":
    main(ROWS)
