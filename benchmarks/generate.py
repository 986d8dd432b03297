"""What does a model take, adapted and not: generating, reading, training, and its cache?

python benchmarks/generate.py           the bundled model: 64 greedy tokens after a prompt of 64,
                                        reading 2,048 tokens, and a training step of 512, for a
                                        plain model, one adapted without a method, SelfExtend and
                                        StreamingLLM
python benchmarks/generate.py smollm2   SmolLM2-135M-Instruct, plain and without a method, in
                                        float32 and bfloat16: reading 2,048 and 8,192 tokens, then
                                        one token more, and a training step of 512

Sides take turns, so that whatever else the machine does hits all alike.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from shape import write
from transformers import DynamicCache, PreTrainedModel

import lengthwise as lw
from lengthwise.extend.method import Method
from lengthwise.hf.release import CACHE, cache_of

PROMPT, NEW, READ, TRAINED = 64, 64, 2048, 512
PLAIN, IDENTITY = "transformers", "no method"
METHODS: dict[str, tuple[Method, ...] | None] = {
    PLAIN: None,
    IDENTITY: (),
    "SelfExtend": (lw.SelfExtend(group=8, window=256),),
    "StreamingLLM": (lw.StreamingLLM(sinks=4, window=508),),
}
TRAINS = (PLAIN, IDENTITY, "SelfExtend")  # a store is for serving
TURNS = {"generate": 9, "read": 5, "decode": 32, "train": 5}
LONG = (2048, 8192)


class Side:
    """A model, adapted or not."""

    def __init__(self, model: PreTrainedModel, methods: tuple[Method, ...] | None) -> None:
        self.model, self.plain = model, methods is None
        if methods is not None:
            lw.adapt(self.model, *methods)
        self.held: Any = None

    @torch.no_grad()
    def generate(self, ids: torch.Tensor) -> None:
        out = self.model.generate(
            ids[:, :PROMPT], max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False,
            return_dict_in_generate=True,
        )  # fmt: skip
        self.held = cache_of(out)

    @torch.no_grad()
    def read(self, ids: torch.Tensor) -> None:
        self.held = None  # before another is filled
        empty = DynamicCache(config=self.model.config) if self.plain else lw.new_cache(self.model)
        self.held = empty
        self.model(ids, **{CACHE: empty}, logits_to_keep=1)

    @torch.no_grad()
    def decode(self, ids: torch.Tensor) -> None:
        self.model(ids[:, :1], **{CACHE: self.held})

    def train(self, ids: torch.Tensor) -> None:
        self.held = None
        self.model.zero_grad()
        self.model.train()
        self.model(ids[:, :TRAINED], labels=ids[:, :TRAINED], use_cache=False).loss.backward()
        self.model.eval()

    @property
    def bytes(self) -> int:
        """Of its cache: transformers' or ours."""
        if isinstance(self.held, DynamicCache):
            return sum(layer.keys.nbytes + layer.values.nbytes for layer in self.held.layers)
        return 0 if self.held is None else self.held.bytes()


def in_turns(task: str, ids: torch.Tensor, sides: dict[str, Side], title: str = "") -> list[dict]:
    """One row for each side: processor seconds, and their ratio to the plain model's."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    turns = 3 if task != "decode" and ids.shape[1] > READ else TURNS[task]
    for _ in range(turns + 1):
        for name, side in sides.items():
            step: Callable[[torch.Tensor], None] = getattr(side, task)
            began = time.process_time()
            step(ids)
            times[name].append(time.process_time() - began)
    rows, title = [], title or task
    for name, side in sides.items():
        took, plain = times[name][1:], times[PLAIN][1:]  # the first turn warms up
        spread = {"median": statistics.median(took), "low": min(took), "high": max(took)}
        ratio = statistics.median(a / b for a, b in zip(took, plain, strict=True))
        rows.append(
            {"who": name, "task": title, "milliseconds": spread["median"] * 1e3, "seconds": spread,
             "ratio": ratio, "bytes": side.bytes}
        )  # fmt: skip
        print(f"{title:<22} {name:<13} {spread['median'] * 1e3:>9.1f} ms  {ratio:>6.3f} of plain  "
              f"{side.bytes:>12,} bytes", flush=True)  # fmt: skip
    return rows


def draw(model: PreTrainedModel, tokens: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(0)
    return torch.randint(3, model.config.vocab_size, (1, tokens), generator=g)


def bundled() -> None:
    sides = {name: Side(lw.load("demo")[0], methods) for name, methods in METHODS.items()}
    ids = draw(sides[PLAIN].model, READ)
    rows = [row for task in ("generate", "read") for row in in_turns(task, ids, sides)]
    rows += in_turns("train", ids, {name: sides[name] for name in TRAINS})
    write("generate", "What does the bundled model take, adapted and not?", rows)


def smollm2() -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "experiments"))
    from real_models import get

    folder, rows = get("smollm2"), []
    for dtype in (torch.float32, torch.bfloat16):
        sides: dict[str, Side] = {}
        weights: dict[str, torch.Tensor] = {}
        for name in TRAINS:
            model = lw.load(folder, dtype=dtype)[0]
            if weights:  # the same, once in memory
                model.load_state_dict(weights, assign=True)
                model.tie_weights()
            weights = weights or dict(model.state_dict())
            sides[name] = Side(model, METHODS[name])
        words, ids = str(dtype).removeprefix("torch."), draw(model, LONG[-1])
        two = {name: sides[name] for name in (PLAIN, IDENTITY)}
        for tokens in LONG:
            rows += in_turns("read", ids[:, :tokens], two, f"read {tokens:,}, {words}")
            rows += in_turns("decode", ids, two, f"decode {tokens:,}, {words}")
        rows += in_turns("train", ids[:, :READ], sides, f"train {TRAINED}, {words}")
    question = "What does SmolLM2-135M-Instruct take, adapted and not?"
    write("generate_smollm2", question, rows, "python benchmarks/generate.py smollm2")


def main() -> None:
    torch.set_num_threads(1)
    asked = sys.argv[1] if len(sys.argv) > 1 else "bundled"
    if asked not in ("bundled", "smollm2"):
        sys.exit(f"the model must be bundled or smollm2, got {asked!r}")
    {"bundled": bundled, "smollm2": smollm2}[asked]()


if __name__ == "__main__":
    main()
