"""What is the longest exact training step of a Llama-3.1-8B-shaped model on one GPU?

Random weights in bfloat16, one row of tokens, one forward and backward, with all parameters
(gradients are held, optimizer states are not) and with LoRA of rank 16 on every linear layer. For
each way the length is doubled until memory runs out, then halved in between to 5 percent; every
length is tried in a process of its own. Tokens a second and model FLOPs utilisation are those of
the longest step that fitted.

    python benchmarks/train_memory_gpu.py --peak-tflops 989     # the GPU's dense bfloat16 peak
"""

import argparse
import json
import subprocess
import sys
import time
from contextlib import nullcontext
from typing import Any

import torch
from shape import write
from transformers import LlamaConfig, LlamaForCausalLM

from lengthwise.train.memory import Memory, Offload, StreamBP, TiledLoss, TiledMLP, fit

NAME = "train_memory_gpu"
QUESTION = "What is the longest exact training step of a Llama-3.1-8B-shaped model on one GPU?"
WAYS: dict[str, tuple[Memory, ...]] = {
    "checkpointing": (),
    "checkpointing + TiledLoss": (TiledLoss(),),
    "checkpointing + TiledLoss + TiledMLP": (TiledLoss(), TiledMLP(8192)),
    "StreamBP + TiledLoss": (StreamBP(8192), TiledLoss()),
    "StreamBP + TiledLoss + Offload": (StreamBP(8192), TiledLoss(), Offload()),
}
SHAPE: dict[str, Any] = {
    "vocab_size": 128_256, "hidden_size": 4096, "intermediate_size": 14_336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    "rope_theta": 500_000.0, "max_position_embeddings": 1 << 22,
}  # fmt: skip
FIRST, CLOSE = 16_384, 1.05


def model(trained: str) -> torch.nn.Module:
    with torch.device("cuda"):
        torch.set_default_dtype(torch.bfloat16)
        net = LlamaForCausalLM(LlamaConfig(**SHAPE)).train()
    if trained == "full":
        return net
    from peft import LoraConfig, get_peft_model

    return get_peft_model(net, LoraConfig(r=16, target_modules="all-linear"))


def flops(tokens: int, trained: str) -> float:
    """Of one step, without what is computed again: 2 per weight and token and pass, and attention.

    Back through a frozen weight only the gradient of its input is computed.
    """
    d, m, layers, heads = 4096, 14_336, 32, 32 * 128
    weights = layers * (2 * d * heads + 2 * d * 8 * 128 + 3 * d * m) + 128_256 * d
    passes = 3 if trained == "full" else 2
    attention = (
        layers * 2 * heads * tokens**2
    )  # queries by keys and weights by values, half of each
    return 2.0 * passes * weights * tokens + 3.0 * attention


def child(name: str, trained: str, tokens: int) -> None:
    """Two steps of one length; the second is timed."""
    torch.manual_seed(0)
    net: Any = model(trained)
    ids = torch.randint(SHAPE["vocab_size"], (1, tokens), device="cuda")
    if name.startswith("checkpointing"):
        net.activation_checkpointing_enable({"use_reentrant": False})
    with fit(net, *WAYS[name]) if WAYS[name] else nullcontext():
        for _ in range(2):
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            began = time.perf_counter()
            net(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            net.zero_grad(set_to_none=False)
    peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"peak_bytes": peak, "seconds": seconds, "tokens": tokens}))


def tried(name: str, trained: str, tokens: int) -> dict[str, Any] | None:
    """One length in a process of its own; None if memory ran out.

    Raises:
        RuntimeError: If it ended for another reason.
    """
    command = [sys.executable, __file__, "--child", name, trained, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found
    if "OutOfMemoryError" in done.stderr:
        return None
    raise RuntimeError(done.stderr[-2000:])


def longest(name: str, trained: str) -> dict[str, Any] | None:
    """The longest step that fits, to 5 percent; None if the first length does not."""
    best, low, high = None, 0, FIRST
    while (got := tried(name, trained, high)) is not None:
        best, low, high = got, high, 2 * high
    while best is not None and high / low > CLOSE:
        middle = (low + high) // 2 // 1024 * 1024
        if middle <= low:
            break
        got = tried(name, trained, middle)
        if got is None:
            high = middle
        else:
            best, low = got, middle
    return best


def run(peak_tflops: float) -> None:
    device = torch.cuda.get_device_properties(0)
    rows = []
    for trained in ("full", "lora"):
        for name in WAYS:
            got = longest(name, trained)
            row = {"way": name, "trained": trained, "gpu": device.name,
                   "gpu_bytes": device.total_memory}  # fmt: skip
            if got is not None:
                rate = flops(got["tokens"], trained) / got["seconds"]
                row |= {**got, "tokens_a_second": got["tokens"] / got["seconds"],
                        "utilisation": rate / (peak_tflops * 1e12)}  # fmt: skip
            rows.append(row)
            print(row, flush=True)
            write(NAME, QUESTION, rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=QUESTION)
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--peak-tflops", type=float, default=989.0)
    given = parser.parse_args()
    if not torch.cuda.is_available():
        print("train_memory_gpu.py needs a CUDA GPU and found none", file=sys.stderr)
        raise SystemExit(2)
    if given.child:
        child(given.child[0], given.child[1], int(given.child[2]))
    else:
        run(given.peak_tflops)
