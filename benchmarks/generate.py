"""What does the bundled model take, adapted and not: generating, reading, training, and its cache?

python benchmarks/generate.py           64 greedy tokens after a prompt of 64, reading 2,048 tokens,
                                        and a training step of 512, for a plain model, one adapted
                                        without a method, SelfExtend and StreamingLLM

Sides take turns, so that whatever else the machine does hits all alike.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from shape import write
from transformers import DynamicCache

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.hf.release import CACHE, cache_of

PROMPT, NEW, READ, TRAINED = 64, 64, 2048, 512
SIDES: dict[str, tuple[Method, ...] | None] = {
    "transformers": None,
    "no method": (),
    "SelfExtend": (lw.SelfExtend(group=8, window=256),),
    "StreamingLLM": (lw.StreamingLLM(sinks=4, window=508),),
}
TURNS = {"generate": 9, "read": 5, "train": 5}


class Side:
    """The bundled model, adapted or not."""

    def __init__(self, methods: tuple[Method, ...] | None) -> None:
        self.model, _ = lw.load("demo")
        self.plain = methods is None
        if methods is not None:
            lw.adapt(self.model, *methods)
        self.bytes = 0

    def cache(self) -> Any:
        if self.plain:
            return DynamicCache(config=self.model.config)
        return lw.new_cache(self.model)

    @torch.no_grad()
    def generate(self, ids: torch.Tensor) -> None:
        out = self.model.generate(
            ids[:, :PROMPT], max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
            return_dict_in_generate=True,
        )  # fmt: skip
        self.bytes = held(cache_of(out))

    @torch.no_grad()
    def read(self, ids: torch.Tensor) -> None:
        cache = self.cache()
        self.model(ids[:, :READ], **{CACHE: cache}, logits_to_keep=1)
        self.model(ids[:, :1], **{CACHE: cache})
        self.bytes = held(cache)

    def train(self, ids: torch.Tensor) -> None:
        self.model.zero_grad()
        self.model.train()
        self.model(ids[:, :TRAINED], labels=ids[:, :TRAINED], use_cache=False).loss.backward()
        self.model.eval()
        self.bytes = 0


def held(cache: Any) -> int:
    """Bytes of a cache: transformers' or ours."""
    if isinstance(cache, DynamicCache):
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    return cache.bytes()


def in_turns(task: str, ids: torch.Tensor, sides: dict[str, Side]) -> list[dict]:
    """One row for each side: processor seconds, and their ratio to the plain model's."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(TURNS[task] + 1):
        for name, side in sides.items():
            step: Callable[[torch.Tensor], None] = getattr(side, task)
            began = time.process_time()
            step(ids)
            times[name].append(time.process_time() - began)
    rows = []
    for name, side in sides.items():
        took, plain = times[name][1:], times["transformers"][1:]  # the first turn warms up
        spread = {"median": statistics.median(took), "low": min(took), "high": max(took)}
        ratio = statistics.median(a / b for a, b in zip(took, plain, strict=True))
        rows.append(
            {"who": name, "task": task, "milliseconds": spread["median"] * 1e3, "seconds": spread,
             "ratio": ratio, "bytes": side.bytes}
        )  # fmt: skip
        print(f"{task:<9} {name:<13} {spread['median'] * 1e3:>8.1f} ms  {ratio:>6.2f} of plain  "
              f"{side.bytes:>10,} bytes", flush=True)  # fmt: skip
    return rows


def main() -> None:
    torch.set_num_threads(1)
    vocabulary = lw.load("demo")[0].config.vocab_size
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (1, READ), generator=g)
    sides = {name: Side(methods) for name, methods in SIDES.items()}
    rows = [row for task in ("generate", "read") for row in in_turns(task, ids, sides)]
    del sides["StreamingLLM"]  # a store is for serving
    rows += in_turns("train", ids, sides)
    write("generate", "What does the bundled model take, adapted and not?", rows)


if __name__ == "__main__":
    main()
