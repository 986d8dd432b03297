"""How long does one more token take, once many are cached?

python benchmarks/decode.py            lengths 64 to 131,072 beside transformers' DynamicCache, and
                                       StreamingLLM after 1,048,576 tokens seen

Both sides take turns, token by token, so that whatever else the machine does hits both alike.
"""

import statistics
import time

import torch
from shape import fill, model, write
from transformers import DynamicCache

import lengthwise as lw

REPEATS = 15
STREAMING = lw.StreamingLLM(sinks=64, window=4032)


class Side:
    """One model with a cache that holds `seen` tokens."""

    def __init__(self, name: str, seen: int, methods: tuple | None) -> None:
        self.name, self.cached, self.seen = name, seen, seen
        self.net = model()
        if methods is None:
            self.cache = DynamicCache(config=self.net.config)
        else:
            lw.adapt(self.net, *methods)
            self.cache = lw.new_cache(self.net)
        fill(self.net, self.cache, seen)
        self.times: list[float] = []

    def step(self) -> None:
        token, position = torch.tensor([[5]]), torch.tensor([[self.seen]])
        began = time.perf_counter()
        with torch.no_grad():
            self.net(
                input_ids=token,
                past_key_values=self.cache,
                position_ids=position,
                use_cache=True,
            )
        self.times.append(time.perf_counter() - began)
        self.seen += 1

    def row(self) -> dict:
        times = self.times[1:]  # the first call allocates
        if isinstance(self.cache, DynamicCache):
            held = sum(layer.keys.nbytes + layer.values.nbytes for layer in self.cache.layers)
        else:
            held = self.cache.bytes()
        spread = {"median": statistics.median(times), "low": min(times), "high": max(times)}
        print(f"{self.name:<28} {self.cached:>9,} seen {spread['median'] * 1e3:>9.1f} ms a token"
              f"  {held / 1e6:>9.1f} MB", flush=True)  # fmt: skip
        return {"who": self.name, "cached": self.cached, "seconds": spread, "bytes": held}


def in_turns(*sides: Side) -> list[dict]:
    for _ in range(REPEATS + 1):
        for side in sides:
            side.step()
    return [side.row() for side in sides]


def main() -> None:
    rows = []
    for length in (64, 4096, 32768, 131072):
        sides = [
            Side("transformers DynamicCache", length, None),
            Side("lengthwise FullStore", length, ()),
        ]
        if length == 131072:
            sides.append(Side("lengthwise StreamingLLM 4096", length, (STREAMING,)))
        rows += in_turns(*sides)
    streams = [Side("lengthwise StreamingLLM 4096", n, (STREAMING,)) for n in (8192, 1048576)]
    rows += in_turns(*streams)
    took = {(row["who"], row["cached"]): row["seconds"]["median"] for row in rows}
    theirs, ours = "transformers DynamicCache", "lengthwise FullStore"
    stream = "lengthwise StreamingLLM 4096"
    for length in (4096, 32768, 131072):
        ratio = took[theirs, length] / took[ours, length]
        print(f"FullStore at {length:,}: {ratio:.1f} times faster")
    print(
        f"StreamingLLM at 131,072: {took[theirs, 131072] / took[stream, 131072]:.1f} times faster"
    )
    bare = took[theirs, 131072] / took[theirs, 64]
    print(f"a model with 64 cached tokens, the most that any store could give: {bare:.1f} times")
    far = took[stream, 1048576] / took[stream, 8192]
    print(f"StreamingLLM at 1,048,576 against its own 8,192: {far:.3f}")
    write("decode", "How long does one more token take, once many are cached?", rows)


if __name__ == "__main__":
    main()
