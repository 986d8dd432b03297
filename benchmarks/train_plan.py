"""How near are the predicted peaks of a training step to the measured ones?

    python benchmarks/train_plan.py                      every shape
    python benchmarks/train_plan.py --shapes wide        some; what is known of others stays

Three shapes, every lever, float32, bfloat16, full and LoRA; and the narrow shape in every family
that is not Llama's.

Every case is a process of its own: warmed up on a model of one layer and 64 tokens, then two steps
of the real one. `resident` is the process's highest resident size above that after warming up;
`tensors` is the peak of what torch's allocator handed out, in a third step. glibc keeps freed
blocks below 32 MB for itself, in pieces: `returned` is the resident size of a second process that
is told to give all above 64 kB back (MALLOC_MMAP_THRESHOLD_). No constant of the prediction was
fitted to these shapes, or to any other: see `lengthwise.train.plan`.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from shape import RESULTS, write
from transformers import AutoConfig, AutoModelForCausalLM

from lengthwise.measure.cost.peak import PeakBytes
from lengthwise.train.memory import StreamBP, TiledLoss, TiledMLP, fit
from lengthwise.train.plan.layers import Training
from lengthwise.train.plan.model import read_shape
from lengthwise.train.plan.optimizers import OPTIMIZERS
from lengthwise.train.plan.step import Levers, step_peak

NAME = "train_plan"
COMMON = {"head_dim": 64, "num_key_value_heads": 2, "max_position_embeddings": 65536}
NARROW = {"vocab_size": 512, "hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 2,
          "num_attention_heads": 4, **COMMON}  # fmt: skip
LOCAL = {"sliding_window": 256, "layer_types": ["sliding_attention", "full_attention"]}
SHAPES: dict[str, dict[str, Any]] = {
    "vocabulary": {"vocab_size": 16384, "hidden_size": 256, "intermediate_size": 768,
                   "num_hidden_layers": 6, "num_attention_heads": 4, **COMMON},
    "narrow": NARROW,
    "wide": {"vocab_size": 2048, "hidden_size": 512, "intermediate_size": 2048,
             "num_hidden_layers": 4, "num_attention_heads": 8, **COMMON},
    "narrow mistral": {"model_type": "mistral", **NARROW, "sliding_window": 256},
    "narrow olmo2": {"model_type": "olmo2", **NARROW},
    "narrow phi3": {"model_type": "phi3", **NARROW, "pad_token_id": None, "sliding_window": None},
    "narrow gpt_neox": {"model_type": "gpt_neox", **NARROW},
    "narrow gemma3_text": {"model_type": "gemma3_text", **NARROW, **LOCAL},
    "narrow gemma2": {"model_type": "gemma2", **NARROW, **LOCAL},
    "narrow gpt_oss": {"model_type": "gpt_oss", **NARROW, **LOCAL, "num_local_experts": 4,
                       "num_experts_per_tok": 2},
}  # fmt: skip
FAMILIES = [name for name in SHAPES if "model_type" in SHAPES[name]]
LEVERS = {
    "plain": Levers(),
    "checkpointing": Levers(checkpointing=True),
    "checkpointing + TiledLoss": Levers((TiledLoss(512),), checkpointing=True),
    "+ TiledMLP": Levers((TiledLoss(512), TiledMLP(512)), checkpointing=True),
    "StreamBP + TiledLoss": Levers((StreamBP(512), TiledLoss(512))),
}
LENGTH = {"vocabulary": 2048, "wide": 2048, "narrow": 1024} | dict.fromkeys(FAMILIES, 1024)
GIVE_BACK = "MALLOC_MMAP_THRESHOLD_"
CASES = [
    *((shape, lever, "float32", 0) for shape in ("vocabulary", "wide") for lever in LEVERS),
    *(("wide", lever, "float32", 8) for lever in LEVERS),
    # A processor without bfloat16 is far slower in it: one step at the other shapes takes minutes.
    *(("narrow", lever, "bfloat16", 0) for lever in LEVERS),
    ("narrow", "checkpointing", "bfloat16", 8),
    *((shape, lever, "float32", 0) for shape in FAMILIES for lever in LEVERS),
]


def main(shapes: list[str]) -> None:
    transformers.logging.set_verbosity_error()
    for case in CASES:
        if case[0] in shapes:
            done = subprocess.run(
                [sys.executable, __file__, "--child", json.dumps(case)],
                capture_output=True,
                text=True,
                check=True,
            )
            rows = save({**measured(), case: json.loads(done.stdout.splitlines()[-1])})
            say(rows[case])


def measured() -> dict[tuple[Any, ...], dict[str, int]]:
    """What is in the result file, by case."""
    path = RESULTS / f"{NAME}.json"
    if not path.exists():
        return {}
    return {
        (row["shape"], row["lever"], row["dtype"], row["lora"]): {
            name: row[name] for name in ("resident", "tensors", "returned")
        }
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]
    }


def save(found: dict[tuple[Any, ...], dict[str, int]]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """Write all cases down, each beside what is predicted of it now."""
    rows = {}
    for case in (case for case in CASES if case in found):
        shape, lever, dtype, lora = case
        peak = predict(*case)
        rows[case] = {
            "shape": shape, "lever": lever, "dtype": dtype, "lora": lora, "tokens": LENGTH[shape],
            "predicted": peak.total, "where": peak.moment.where, **found[case],
        }  # fmt: skip
    question = "How near are predicted peaks of a training step to measured ones?"
    write(NAME, question, list(rows.values()))
    return rows


def say(row: dict[str, Any]) -> None:
    """One line: what was predicted, and its share of each size that was measured."""
    sizes = [
        f"{name} {row[name] / 1e6:8.1f} ({row['predicted'] / row[name]:.3f})"
        for name in ("tensors", "resident", "returned")
    ]
    print(
        f"{row['shape']:<19}{row['lever']:<27}{row['dtype']:<9} LoRA {row['lora']}  predicted "
        f"{row['predicted'] / 1e6:8.1f} MB, {', '.join(sizes)}",
        flush=True,
    )


def configuration(settings: dict[str, Any]) -> Any:
    return AutoConfig.for_model(**{"model_type": "llama", **settings})


def predict(shape: str, lever: str, dtype: str, lora: int) -> Any:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            configuration(SHAPES[shape]), trust_remote_code=False
        )
    item = getattr(torch, dtype).itemsize
    training = Training(item, OPTIMIZERS["adamw"], lora, threads=1)
    return step_peak(read_shape(model), training, LEVERS[lever], LENGTH[shape])


def child(shape: str, lever: str, dtype: str, lora: int) -> None:
    torch.set_num_threads(1)
    settings, levers = SHAPES[shape], LEVERS[lever]
    small = {name: value for name, value in settings.items() if name != "layer_types"}
    train({**small, "num_hidden_layers": 1, "vocab_size": 64}, levers, dtype, lora, 64, [])
    before = status("VmRSS")
    marks: list[int] = []
    tensors = train(settings, levers, dtype, lora, LENGTH[shape], marks)
    resident = marks[0] - before
    if GIVE_BACK in os.environ:
        print(json.dumps({"returned": resident}))
        return
    again = subprocess.run(
        [sys.executable, __file__, "--child", json.dumps([shape, lever, dtype, lora])],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, GIVE_BACK: str(1 << 16)},
    )
    returned = json.loads(again.stdout.splitlines()[-1])
    print(json.dumps({"resident": resident, "tensors": tensors, **returned}))


def train(
    settings: dict[str, Any], levers: Levers, dtype: str, lora: int, length: int, marks: list[int]
) -> int:
    """Three steps; the peak of tensors in the third, the highest resident size before it."""
    config = configuration(settings)
    model: Any = AutoModelForCausalLM.from_config(
        config, dtype=getattr(torch, dtype), trust_remote_code=False
    ).train()
    if lora:
        from peft import LoraConfig, get_peft_model

        adapter = LoraConfig(r=lora, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, adapter)
    if levers.checkpointing:
        model.activation_checkpointing_enable()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.vocab_size, (1, length), generator=g)

    def step() -> None:
        with fit(model, *levers.methods):
            loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
        del loss
        optimizer.step()
        optimizer.zero_grad()

    step()
    step()
    marks.append(status("VmHWM"))
    if GIVE_BACK in os.environ:
        return 0
    states = [x for state in optimizer.state.values() for x in state.values()]
    held = sum({x.data_ptr(): x.nbytes for x in [*model.parameters(), *states]}.values())
    with PeakBytes(torch.device("cpu")) as peak:
        step()
    return held + (peak.bytes or 0)


def status(name: str) -> int:
    """A line of this process's status on Linux, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Predicted peaks of training beside measured.")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    given = parser.parse_args()
    child(*json.loads(given.child)) if given.child else main(given.shapes)
