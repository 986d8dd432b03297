"""How long does it take to read 32,768 tokens: full attention against sinks and a window?

python benchmarks/prefill.py

The sides take turns, so that what else the machine does hits all of them.
"""

import statistics
import time
from contextlib import nullcontext

import torch
from shape import model, write

import lengthwise as lw

TOKENS = 32768
SHORT = 4096  # read before every turn, to warm up
REPEATS = 3
FULL = "transformers, full attention (SDPA)"
WINDOW = "lengthwise, 64 sinks and a window of 4,096"
STREAM = "lengthwise, StreamingLLM of 64 + 4,096"
REST = "lengthwise, a window of 64: hardly any attention"
SIDES: dict[str, tuple | None] = {
    FULL: None,
    "lengthwise, full attention": (),
    WINDOW: (lw.LMInfinite(sinks=64, window=4096),),
    STREAM: (lw.StreamingLLM(sinks=64, window=4096),),
    REST: (lw.SlidingWindow(64),),
}


def main() -> None:
    net = model()
    ids = torch.randint(0, 8192, (1, TOKENS), generator=torch.Generator().manual_seed(2))

    def read(tokens: int) -> float:
        began = time.perf_counter()
        with torch.no_grad():
            net(input_ids=ids[:, :tokens], use_cache=True, logits_to_keep=1)
        return time.perf_counter() - began

    times: dict[str, list[float]] = {who: [] for who in SIDES}
    for turn in range(REPEATS):
        for who, methods in SIDES.items():
            with nullcontext() if methods is None else lw.adapted(net, *methods):
                read(SHORT)
                times[who].append(read(TOKENS))
            print(f"turn {turn + 1} of {REPEATS}: {who:<48} {times[who][-1]:>6.1f} s", flush=True)

    median = {who: statistics.median(each) for who, each in times.items()}
    rows = [
        {"who": who, "tokens": TOKENS,
         "seconds": {"median": median[who], "low": min(each), "high": max(each)}}
        for who, each in times.items()
    ]  # fmt: skip
    window, stream = median[FULL] / median[WINDOW], median[FULL] / median[STREAM]
    print(f"window {window:.2f} times, StreamingLLM {stream:.2f} times faster than full")
    most = median[FULL] / median[REST]
    print(f"the rest takes {median[REST]:.1f} s: no window could be more than {most:.2f} times")
    write("prefill", "How long does it take to read 32,768 tokens?", rows)


if __name__ == "__main__":
    main()
