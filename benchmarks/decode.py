"""How long does one more token take, once many are cached?

python benchmarks/decode.py            lengths 4,096, 32,768 and 131,072, and StreamingLLM
                                       after 1,048,576 tokens seen
"""

import torch
from shape import fill, median_seconds, model, write
from transformers import DynamicCache

import lengthwise as lw

REPEATS = 9


def token_seconds(net, cache, seen: int) -> dict[str, float]:
    token = torch.tensor([[5]])

    def step() -> None:
        nonlocal seen
        with torch.no_grad():
            position = torch.tensor([[seen]])
            net(input_ids=token, past_key_values=cache, position_ids=position, use_cache=True)
        seen += 1

    step()  # the first call allocates
    return median_seconds(step, REPEATS)


def main() -> None:
    net = model()
    rows = []

    def measure(name: str, length: int, methods: tuple | None) -> float:
        if methods is None:
            cache = DynamicCache(config=net.config)
            fill(net, cache, length)
            seconds = token_seconds(net, cache, length)
            held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
        else:
            with lw.adapted(net, *methods):
                cache = lw.new_cache(net)
                fill(net, cache, length)
                seconds = token_seconds(net, cache, length)
                held = cache.bytes()
        rows.append({"who": name, "cached": length, "seconds": seconds, "bytes": held})
        print(f"{name:<28} {length:>9,} seen {seconds['median'] * 1e3:>9.1f} ms a token"
              f"  {held / 1e6:>9.1f} MB", flush=True)  # fmt: skip
        return seconds["median"]

    streaming = (lw.StreamingLLM(sinks=64, window=4032),)
    theirs, ours = {}, {}
    for length in (4096, 32768, 131072):
        theirs[length] = measure("transformers DynamicCache", length, None)
        ours[length] = measure("lengthwise FullStore", length, ())
    short = measure("lengthwise StreamingLLM 4096", 8192, streaming)
    mid = measure("lengthwise StreamingLLM 4096", 131072, streaming)
    long = measure("lengthwise StreamingLLM 4096", 1048576, streaming)
    for length in theirs:
        print(f"FullStore at {length:,}: {theirs[length] / ours[length]:.1f} times faster")
    print(f"StreamingLLM at 131,072: {theirs[131072] / mid:.1f} times faster")
    print(f"StreamingLLM at 1,048,576 against its own 8,192: {long / short:.3f}")
    write("decode", "How long does one more token take, once many are cached?", rows)


if __name__ == "__main__":
    main()
