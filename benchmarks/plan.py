"""Do the times that `lengthwise plan` predicts on a calibrated machine hold?

python benchmarks/plan.py              about twenty minutes on two cores

The machine is calibrated, then models and lengths that calibrating never saw are predicted from
their configurations alone, and measured as `lengthwise measure` does, plain and with methods. All
are measured twice: what two measurements differ by, no prediction can know.
"""

import statistics
from contextlib import nullcontext
from itertools import product
from typing import Any

import torch
from shape import write
from transformers import AutoConfig, AutoModelForCausalLM

import lengthwise as lw
from lengthwise.catalogue import parse_many
from lengthwise.extend.adapt import binding_of
from lengthwise.hf.skeleton import skeleton
from lengthwise.measure.cost.calibration import Rates, calibrate
from lengthwise.measure.cost.speed import reading_cost
from lengthwise.measure.cost.work import count_read, count_step

LENGTHS = (1024, 8192)
METHODS = (
    "plain", "yarn:factor=8", "streamingllm:sinks=4,window=1020", "lminfinite:sinks=4,window=1024",
    "selfextend:group=16,window=256", "dualchunk:chunk=384,window=128", "infllm",
)  # fmt: skip
WIDE = {"head_dim": 64, "max_position_embeddings": 512}
MODELS: dict[str, Any] = {
    "demo": None,
    "llama, 8 layers of 512": ("llama", {
        "vocab_size": 8192, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8,
        "num_attention_heads": 8, "num_key_value_heads": 2, **WIDE}),
    "qwen3, 6 layers of 768": ("qwen3", {
        "vocab_size": 16384, "hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 6,
        "num_attention_heads": 12, "num_key_value_heads": 4, **WIDE}),
}  # fmt: skip


def model(name: str) -> Any:
    if MODELS[name] is None:
        return lw.load("demo", dtype=torch.float32)[0].eval()
    kind, settings = MODELS[name]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **settings), trust_remote_code=False
    ).eval()


def predicted(rates: Rates) -> list[dict[str, Any]]:
    """A row for each model, method and length, with what the rates say."""
    rows = []
    for name, spec, tokens in product(MODELS, METHODS, LENGTHS):
        whole = skeleton(model(name).config)
        methods = None if spec == "plain" else tuple(parse_many(spec))
        with nullcontext() if methods is None else lw.adapted(whole, *methods):
            engine: Any = None if methods is None else binding_of(whole).engine
            read = rates.seconds(count_read(whole, engine, tokens, 4), methods is None)
            step = rates.seconds(count_step(whole, engine, tokens, 4), methods is None)
        rows.append({"model": name, "method": spec, "tokens": tokens,
                     "predicted": {"read": read, "step": step},
                     "measured": {"read": [], "step": []}})  # fmt: skip
    return rows


def measure(rows: list[dict[str, Any]], number: int) -> None:
    """Add one measurement to every row."""
    for name in MODELS:
        net = model(name)
        for row in [row for row in rows if row["model"] == name]:
            g = torch.Generator().manual_seed(0)
            ids = torch.randint(net.config.vocab_size, (1, row["tokens"]), generator=g)
            plain = row["method"] == "plain"
            with nullcontext() if plain else lw.adapted(net, *parse_many(row["method"])):
                found = reading_cost(net, ids)
            times = {"read": found.first_token_seconds, "step": 1 / found.tokens_per_second}
            for what, seconds in times.items():
                row["measured"][what].append(seconds)
            ratios = {what: row["predicted"][what] / times[what] for what in times}
            print(f"{number} {name:<24} {row['method']:<34} {row['tokens']:>7,}  read "
                  f"{times['read']:>7.2f} s, predicted {ratios['read']:.2f} of it;  step "
                  f"{times['step'] * 1e3:>6.1f} ms, predicted {ratios['step']:.2f}",
                  flush=True)  # fmt: skip


def main() -> None:
    torch.set_num_threads(2)
    rates = calibrate(torch.float32)
    rows = predicted(rates)
    for number in (0, 1):  # twice, minutes apart: what the machine itself is sure of
        measure(rows, number)
    for row in rows:
        for what in ("read", "step"):
            first, second = row["measured"][what]
            row[f"{what}_seconds"] = (first + second) / 2
            row[f"{what}_ratio"] = row["predicted"][what] / row[f"{what}_seconds"]
            row[f"{what}_again"] = second / first
    for what in ("read_ratio", "read_again", "step_ratio", "step_again"):
        ratios = [row[what] for row in rows]
        within = sum(0.75 <= ratio <= 1.25 for ratio in ratios)
        print(f"{what}: median {statistics.median(ratios):.2f}, {within} of {len(ratios)} within "
              f"25%, from {min(ratios):.2f} to {max(ratios):.2f}")  # fmt: skip
    write("plan", "Do predicted times hold on a calibrated machine?", rows)


if __name__ == "__main__":
    main()
