"""Is choosing what to read faster than reading all, the choice included?

python benchmarks/pages.py         one more token after 32,768 and 131,072, with 2,048 keys read
python benchmarks/pages.py first   the first token after a text of 32,768

Sides take turns, token by token or text by text. For decoding, keys, values and the queries that
pages are summed up by are random numbers; the first token is that of a forward over random tokens.
"""

import sys
import time
from contextlib import nullcontext

import torch
from decode import Side, in_turns
from shape import model, write

import lengthwise as lw

THEIRS, OURS = "transformers DynamicCache", "lengthwise FullStore"
SELECTORS = {
    "InfLLM": lw.InfLLM(pages=31, page_size=32, sinks=32, window=1024),
    "Quest": lw.Quest(pages=62, page_size=16, sinks=32, window=1024),
    "LongHeads": lw.LongHeads(chunks=32, chunk=64),
}
LENGTHS = (32768, 131072)
FIRST, REPEATS = 32768, 3


def decoding() -> None:
    rows = []
    for length in LENGTHS:
        sides = [Side(THEIRS, length, None), Side(OURS, length, ())]
        sides += [Side(name, length, (method,)) for name, method in SELECTORS.items()]
        rows += in_turns(*sides)
    rows += in_turns(Side(OURS, 64, ()))
    took = {(row["who"], row["cached"]): row["seconds"]["median"] for row in rows}
    for length in LENGTHS:
        for name in SELECTORS:
            mine = took[name, length]
            theirs, ours = took[THEIRS, length] / mine, took[OURS, length] / mine
            print(f"{name} at {length:,}: {theirs:.1f} times faster than DynamicCache, {ours:.1f} "
                  "than FullStore")  # fmt: skip
        bare = took[THEIRS, length] / took[OURS, 64]
        print(f"with 64 cached tokens, the most that any could give: {bare:.1f} times")
    write("pages", "Is choosing what to read faster than reading all?", rows)


def first_token() -> None:
    net = model()
    ids = torch.randint(0, 8192, (1, FIRST), generator=torch.Generator().manual_seed(2))
    sides = {"transformers, full attention (SDPA)": None, OURS: ()}
    sides |= {name: (method,) for name, method in SELECTORS.items()}
    times: dict[str, list[float]] = {who: [] for who in sides}
    for turn in range(REPEATS):
        for who, methods in sides.items():
            with nullcontext() if methods is None else lw.adapted(net, *methods), torch.no_grad():
                net(input_ids=ids[:, :4096], use_cache=True, logits_to_keep=1)
                began = time.perf_counter()
                net(input_ids=ids, use_cache=True, logits_to_keep=1)
                times[who].append(time.perf_counter() - began)
            print(f"turn {turn + 1} of {REPEATS}: {who:<36} {times[who][-1]:>6.1f} s", flush=True)
    rows = [
        {"who": who, "tokens": FIRST,
         "seconds": {"median": sorted(each)[len(each) // 2], "low": min(each), "high": max(each)}}
        for who, each in times.items()
    ]  # fmt: skip
    command = "python benchmarks/pages.py first"
    write("pages_first", "When does the first token come after a long text?", rows, command)


if __name__ == "__main__":
    first_token() if sys.argv[1:] == ["first"] else decoding()
