"""What does every layout cost in one layer at 16,384 tokens, against plain FlexAttention?

python benchmarks/layouts.py
"""

import torch
from shape import median_seconds, write
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

import lengthwise as lw
from lengthwise.extend.layouts import __all__ as exported
from lengthwise.extend.method import Layout
from lengthwise.testing.bench import Bench

TOKENS, TRAINED, REPEATS = 16384, 4096, 3
HEADS, KV_HEADS, WIDTH = 8, 2, 64

LAYOUTS: list[Layout] = [
    lw.Causal(),
    lw.SlidingWindow(window=1024),
    lw.LMInfinite(sinks=4, window=2048),
    lw.CacheSlots(sinks=4, window=2044),
    lw.FarAsOne(window=1024),
    lw.SelfExtend(group=8, window=1024),
    lw.STRING(shift=TRAINED // 3, window=128),
    lw.ReRoPE(window=1024),
    lw.LeakyReRoPE(factor=16.0, window=1024),
    lw.DualChunk(chunk=3072, window=256, trained=TRAINED),
    lw.GALI(trained=TRAINED, window=128, factor=4.0),
    lw.HiRoPE(starts=tuple(range(0, TOKENS, 150)), pairs=32, split=20, window=2048),
]


def main() -> None:
    torch.set_num_threads(2)
    assert {type(layout).__name__ for layout in LAYOUTS} == set(exported)
    bench = Bench(HEADS, KV_HEADS, WIDTH, WIDTH, torch.float32)
    tensors = bench.tensors(1, TOKENS)
    q, k, v = (x.contiguous() for x in tensors)
    mask = create_block_mask(lambda b, h, q, k: q >= k, None, None, TOKENS, TOKENS, device="cpu")
    plain = torch.compile(flex_attention, dynamic=False)

    def flex() -> None:
        plain(q, k, v, block_mask=mask, enable_gqa=True)

    with torch.no_grad():
        flex()  # compiles
        base = median_seconds(flex, REPEATS)
        rows = [{"who": "FlexAttention, causal", "prefill": base}]
        print(f"FlexAttention, causal: {base['median']:.2f} s", flush=True)
        for layout in LAYOUTS:
            rows.append(measure(bench, layout, tensors, base["median"]))
        again = median_seconds(flex, REPEATS)
    rows.append({"who": "FlexAttention, causal, at the end", "prefill": again})
    print(f"FlexAttention, causal, again: {again['median']:.2f} s")
    write("layouts", "What does every layout cost in one layer at 16,384 tokens?", rows)


def measure(bench: Bench, layout: Layout, tensors: tuple, base: float) -> dict:
    """Reading all tokens without a cache, and one more token with everything cached."""
    engine = bench.engine(layout)
    short = tuple(x[:, :, :1024] for x in tensors)
    bench.run(engine, short)
    prefill = median_seconds(lambda: bench.run(engine, tensors), REPEATS)
    state = engine.new_state(0)
    bench.run(engine, tensors, [TOKENS], state=state)
    one = tuple(x[:, :, :1] for x in tensors)

    def decode() -> None:
        bench.run(engine, one, [1], state=state, start=TOKENS)
        state.crop(1)

    decode()
    step = median_seconds(decode, 20)
    regions = len(engine.regions[0])
    row = {
        "who": str(layout) if not isinstance(layout, lw.HiRoPE) else "HiRoPE, units of 150",
        "regions": regions,
        "prefill": prefill,
        "prefill_over_flex": prefill["median"] / base,
        "prefill_over_flex_per_region": prefill["median"] / base / regions,
        "decode": step,
    }
    print(
        f"{type(layout).__name__:<14} {regions} regions, {prefill['median']:>6.2f} s, "
        f"{row['prefill_over_flex']:.2f} of FlexAttention, "
        f"{row['prefill_over_flex_per_region']:.2f} a region; "
        f"a token {1e3 * step['median']:.2f} ms",
        flush=True,
    )
    return row


if __name__ == "__main__":
    main()
