"""Costs of serving: keys and values byte for byte, times by the paper's own example."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, DynamicCache

import lengthwise as lw
from lengthwise.core.keys import KeyBlock
from lengthwise.hf.families import FAMILIES, read_geometry
from lengthwise.hf.release import CACHE
from lengthwise.hf.skeleton import skeleton
from lengthwise.measure.cost.devices import DEVICES, find_device, override, read_size
from lengthwise.measure.cost.plan import (
    count_weights,
    kv_bytes,
    lengthwise_kv_bytes,
    serving_cost,
    store_bytes,
)
from lengthwise.testing.bench import Bench
from lengthwise.testing.models import tiny_model


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_bytes_of_keys_and_values_equal_real_caches(family: str) -> None:
    # GPT-NeoX has as many KV heads as heads, whatever its configuration says.
    model = tiny_model(family, **({"num_key_value_heads": 6} if family == "gpt_neox" else {}))
    geometry = read_geometry(model)
    for tokens in (7, 50):
        theirs = DynamicCache(config=model.config)
        model(input_ids=torch.arange(tokens)[None] + 3, **{CACHE: theirs, "use_cache": True})
        real = sum(layer.keys.nbytes + layer.values.nbytes for layer in theirs.layers)
        assert kv_bytes(geometry, tokens, 4) == real
    lw.adapt(model)
    for tokens, chunk in ((7, 7), (50, 13), (300, 300), (700, 512), (700, 90)):
        ours = lw.new_cache(model)
        for part in (torch.arange(tokens) % 300)[None].split(chunk, dim=1):
            model(input_ids=part + 3, **{CACHE: ours, "use_cache": True})
        assert lengthwise_kv_bytes(geometry, tokens, torch.float32, chunk) == ours.bytes()


STORED = (
    (),
    (lw.StreamingLLM(sinks=4, window=60),),
    (lw.StreamingLLM(sinks=0, window=600),),
    (lw.InfLLM(pages=2, page_size=8, sinks=2, window=16),),
    (lw.InfLLM(pages=2, page_size=5, sinks=0, window=64),),
    (lw.InfLLM(pages=99, page_size=32, sinks=70, window=8), lw.Causal()),
)


def test_bytes_of_a_chunked_reading_are_what_is_allocated() -> None:
    """Every store and selector, at lengths around its borders and in chunks of any size."""
    for dtype, chunks in ((torch.float32, (37, 300, 900)), (torch.bfloat16, (300,))):
        bench = Bench(2, 1, 8, 8, dtype=dtype)
        for methods in STORED:
            engine = bench.engine(*methods)
            for chunk in chunks:
                state, at = engine.new_state(0), 0
                while at < 800:
                    end = min(at + chunk, 800)
                    bench.run(engine, bench.tensors(1, end - at), [end - at], state=state, start=at)
                    at = end
                    assert store_bytes(engine, at, dtype, chunk) == state.bytes(), (methods, at)


def test_bytes_of_long_readings_are_what_is_allocated() -> None:
    """The blocks of a store alone, so long that they stop to grow."""
    engine = Bench(1, 1, 1, 1, dtype=torch.float32).engine()
    keys = torch.zeros(1, 1, 70_000, 1)
    for chunk in (512, 777, 5000, 70_000):
        store = engine.new_state(0).store
        for at in range(0, 70_000, chunk):
            end = min(at + chunk, 70_000)
            positions = torch.arange(at, end)[None, None]
            store.extend(KeyBlock(keys[:, :, at:end], keys[:, :, at:end], positions, None, at))
            if at % 7 == 0 or end == 70_000:
                assert store_bytes(engine, end, torch.float32, chunk) == store.bytes()
        assert 1 <= store.bytes() / (70_000 * 16) < 1.12


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_counted_without_weights(family: str) -> None:
    model = tiny_model(family)
    on_meta = count_weights(skeleton(model.config))
    assert on_meta == count_weights(model)
    assert on_meta.total == sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def yi() -> Any:
    """The paper's running example, from the published configuration of Yi-34B."""
    config = AutoConfig.for_model(
        "llama", vocab_size=64000, hidden_size=7168, intermediate_size=20480,
        num_hidden_layers=60, num_attention_heads=56, num_key_value_heads=8,
    )  # fmt: skip
    return skeleton(config)


def test_the_papers_example(yi: Any) -> None:
    # arXiv:2405.08944: A100 of 80 GB, 312 TFLOP/s, 2 TB/s, 20 GB/s to the host; 4K and 50K tokens.
    device = override(DEVICES["a100-80"], bandwidth=2e12, link=20e9)
    short = serving_cost(yi, device, 4000, 1, torch.bfloat16)
    long = serving_cost(yi, device, 50_000, 1, torch.bfloat16)
    assert short.prefill == pytest.approx(0.89, rel=0.03)
    assert (short.decode or 0) * 250 == pytest.approx(8.5, rel=0.03)
    assert (long.decode or 0) * 250 == pytest.approx(9.8, rel=0.03)
    assert long.swap == pytest.approx(1.1, rel=0.15)  # theirs counts 11 GB, which are 11 GiB
    assert long.kv_user == 50_000 * 60 * 2 * 8 * 128 * 2
    assert long.users == 0 and short.users == (80 * 10**9 - short.weights) // short.kv_user


def test_operations_equal_a_count_by_hand() -> None:
    model = tiny_model("llama")
    cost = serving_cost(model, DEVICES["h100"], 3, 1, torch.float32)
    layer = 48 * 48 + 2 * 48 * 16 + 48 * 48 + 3 * 48 * 64 + 2 * 48  # norms are read like the rest
    below = 2 * layer + 48
    pairs = 1 + 2 + 3
    assert cost.flops == 2 * below * 3 + 2 * 4 * 6 * 8 * pairs + 2 * 320 * 48


def test_windows_bound_attention_and_bytes() -> None:
    mixed, full = tiny_model("gemma2"), tiny_model("gemma2", sliding_window=4096)
    costs = [serving_cost(m, DEVICES["h100"], 1000, 1, torch.float32) for m in (mixed, full)]
    assert costs[0].flops < costs[1].flops and costs[0].kv_user < costs[1].kv_user
    assert costs[0].kv_token == costs[1].kv_token


def test_batches_make_decoding_slower_and_then_bound_by_arithmetic(yi: Any) -> None:
    times = [
        serving_cost(yi, DEVICES["h100"], 10, batch, torch.bfloat16).decode or 0
        for batch in (1, 2, 10_000)
    ]
    weights = count_weights(yi)
    assert times[0] < times[1]
    step = 2 * (weights.used + weights.head) + 4 * 60 * 56 * 128 * 11
    assert times[2] == pytest.approx(10_000 * step / 989e12)


def test_times_are_not_known_without_the_figures() -> None:
    cost = serving_cost(tiny_model("llama"), find_device("8GB", 1), 10, 1, torch.float32)
    assert (cost.prefill, cost.decode, cost.swap) == (None, None, None)
    assert cost.users > 0


@pytest.mark.parametrize(
    ("words", "size"),
    [("80GB", 80 * 10**9), ("24GiB", 24 * 2**30), ("141e9", 141 * 10**9), ("12", 12), ("h2", None),
     ("3xb", None), ("1.2.3", None), ("-4", None), ("1e999GB", None), ("1025TiB", None)],
)  # fmt: skip
def test_sizes(words: str, size: int | None) -> None:
    assert read_size(words) == size


def test_devices() -> None:
    assert find_device("H100", 1) == DEVICES["h100"]
    assert find_device("cpu", 5).memory == 5 and not find_device("cpu", 5).gpu
    for words, hint in (("h20", "did you mean h200"), ("0GB", "bytes such as 48GB")):
        with pytest.raises(ValueError, match=hint):
            find_device(words, 1)
    with pytest.raises(ValueError, match=r"--flops must be above 0 and at most .*, got -1"):
        override(DEVICES["h100"], flops=-1)
