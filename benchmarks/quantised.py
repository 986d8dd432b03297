"""What do keys in a byte or half of one cost, and what do they save?

python benchmarks/quantised.py         a decoding step after 32,768 tokens, FullStore beside Int8,
                                       Fp8 and Int4, in turns, and the bytes that each holds

The stores are filled with random keys and values, group by group, as a forward fills them: what a
step costs depends on how much is held, not on what.
"""

import statistics
import time
from types import SimpleNamespace

import torch
from shape import model, write

import lengthwise as lw
from lengthwise.core.keys import KeyBlock
from lengthwise.extend.method import Store

LENGTH, REPEATS = 32768, 15
STORES = (lw.FullStore(), lw.Int8(), lw.Fp8(), lw.Int4())


class Side:
    """One model with a store that holds `LENGTH` tokens."""

    def __init__(self, store: Store) -> None:
        self.name, self.seen = type(store).__name__, LENGTH
        self.net = lw.adapt(model(), store)
        self.cache = lw.new_cache(self.net)
        config, count = self.net.config, store.every or 2048
        shape = (1, config.num_key_value_heads, count, config.head_dim)
        g = torch.Generator().manual_seed(1)
        read = SimpleNamespace(due=torch.tensor([True]))
        for start in range(0, LENGTH, count):
            keys, values = torch.randn(shape, generator=g), torch.randn(shape, generator=g)
            places = torch.arange(start, start + count).expand(1, 1, -1)
            for layer in self.cache.layers:
                layer.state.store.extend(KeyBlock(keys, values, places, None, start))
                if store.every:
                    layer.state.store.after(read)
        self.cache.restart(LENGTH, torch.tensor([LENGTH]))
        self.times: list[float] = []
        self.bytes = self.cache.bytes()

    def step(self) -> None:
        token, position = torch.tensor([[5]]), torch.tensor([[self.seen]])
        began = time.perf_counter()
        with torch.no_grad():
            self.net(
                input_ids=token, past_key_values=self.cache, position_ids=position, use_cache=True
            )
        self.times.append(time.perf_counter() - began)
        self.seen += 1


def main() -> None:
    sides = [Side(store) for store in STORES]
    for _ in range(REPEATS + 1):
        for side in sides:
            side.step()
    rows = []
    for side in sides:
        times = side.times[1:]
        spread = {"median": statistics.median(times), "low": min(times), "high": max(times)}
        rows.append({"who": side.name, "cached": LENGTH, "seconds": spread, "bytes": side.bytes})
        took = statistics.median(a / b for a, b in zip(times, sides[0].times[1:], strict=True))
        rows[-1] |= {"times_full": took, "bytes_of_full": side.bytes / sides[0].bytes}
        print(
            f"{side.name:<10} {spread['median'] * 1e3:>7.1f} ms a token, {took:.2f} times "
            f"FullStore's  {side.bytes / 1e6:>7.1f} MB, {side.bytes / sides[0].bytes:.3f}",
            flush=True,
        )
    write("quantised", "What do keys in a byte or half of one cost, and what do they save?", rows)


if __name__ == "__main__":
    main()
