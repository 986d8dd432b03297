"""`explain` tells the truth about keys and bytes."""

import pytest
import torch

import lengthwise as lw
from lengthwise.core import native
from lengthwise.extend.adapt import binding_of
from lengthwise.extend.explain import cache_bytes, keys_turned
from lengthwise.testing.models import tiny_model


def test_explain_names_axes_and_implementations():
    model = lw.adapt(tiny_model("gemma2"), lw.LMInfinite(sinks=2, window=16))
    words = lw.explain(model)
    assert "LMInfinite(sinks=2, window=16)" in words
    assert "layers 0 have a window of their own" in words
    assert "decode:" in words and "trained window 64" in words


@pytest.mark.parametrize(
    "methods, reads",
    [
        ((), 200),
        ((lw.LMInfinite(sinks=2, window=16),), 18),
        ((lw.StreamingLLM(sinks=4, window=12),), 16),
        ((lw.SelfExtend(group=4, window=16),), 200),
    ],
)
def test_keys_read_are_the_visible_ones(methods, reads):
    model = lw.adapt(tiny_model("llama"), *methods)
    assert binding_of(model).engine.keys_read(0, 200) == reads


def test_infllm_reads_what_it_says():
    method = lw.InfLLM(pages=3, page_size=8, sinks=2, window=16)
    model = lw.adapt(tiny_model("llama"), method)
    assert binding_of(model).engine.keys_read(0, 1000) <= 2 + 16 + 3 * 8 + 8
    assert binding_of(model).engine.keys_read(0, 10) == 10


def test_predicted_bytes_are_what_the_cache_holds():
    model = lw.adapt(tiny_model("llama"), lw.StreamingLLM(sinks=4, window=12))
    engine = binding_of(model).engine
    cache = lw.new_cache(model)
    with torch.no_grad():
        model(torch.randint(3, 300, (1, 100)), past_key_values=cache)
    positions = 2 * 16 * 8  # layers, slots, bytes of a position
    assert cache.bytes() == cache_bytes(engine, 100) + positions


@pytest.mark.parametrize(
    "methods, turned",
    [
        ((), 0),
        ((lw.DualChunk(chunk=24, window=8),), 0),
        ((lw.STRING(shift=20, window=8),), 0),
        ((lw.SelfExtend(group=4, window=16),), 16),
        ((lw.LMInfinite(sinks=2, window=16),), 2),
        ((lw.DynamicNTK(),), 200),
        ((lw.GALI(trained=64, window=8),), 182),  # 46 positions hold groups of four
    ],
)
def test_keys_that_are_turned_to_be_read_are_counted(methods, turned):
    model = lw.adapt(tiny_model("llama"), *methods)
    assert keys_turned(binding_of(model).engine, 0, 200) == turned
    assert f"  {'turned to read':>14}" in lw.explain(model)


def test_a_region_with_a_score_of_its_own_is_named_apart():
    words = lw.explain(lw.adapt(tiny_model("llama"), lw.GALI(trained=64, window=8, noise=1.0)))
    assert "1 region, sdpa:" in words and "8 regions, chunked:" in words


def test_explain_says_what_computes_attention_here_and_why(monkeypatch):
    model = lw.adapt(tiny_model("llama"))
    monkeypatch.setattr(native, "why", lambda d, e: f"torch: no C compiler for {d} and {e}")
    text = lw.explain(model)
    assert "(torch: no C compiler for 8 and 8)" in text  # decoding
    assert "(torch: no C compiler for 8 and 4)" in text  # bands take two vectors of values


def test_a_plain_model_cannot_be_explained():
    with pytest.raises(ValueError, match="not adapted"):
        lw.explain(tiny_model("llama"))
