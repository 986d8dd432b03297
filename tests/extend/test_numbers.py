"""Numbers that methods must keep: pages in half precision, distances far out, gradients."""

import pytest
import torch

import lengthwise as lw
from lengthwise.testing.bench import Bench
from lengthwise.testing.models import tiny_model

# A text may move by this many tokens: groups and chunks of the layouts below begin there again.
COMMON = 4 * 7 * 5
NEAR = 8 * COMMON
FAR = [10**6 // COMMON * COMMON, 10**8 // COMMON * COMMON]


def test_pages_are_chosen_in_float32():
    """Page scores are sums over all heads: in float16 they would all be infinite."""
    method = lw.InfLLM(pages=1, page_size=4, sinks=1, window=6)
    half, exact = Bench(dtype=torch.float16), Bench(dtype=torch.float32)
    q, k, v = half.tensors(2, 60)
    pull = torch.linspace(60, 20, 60).half()[:, None]  # earlier pages win, and by much
    tensors = (q + 60, k + pull, v)
    got = half.run(half.engine(method), tensors)
    want = exact.run(exact.engine(method), tuple(x.float() for x in tensors))
    assert (got.float() - want).abs().max() < 0.05


def read_at(start, methods, sinks=0):
    """Outputs for a text at `start`, in chunks and token by token, its first tokens at 0."""
    bench = Bench(dtype=torch.float32)
    engine = bench.engine(*methods)
    state = engine.new_state(0)
    tensors = tuple(3 * x for x in bench.tensors(2, 43, seed=3))
    if sinks:
        bench.run(engine, tuple(x[:, :, :sinks] for x in tensors), [sinks], state=state)
    rest = tuple(x[:, :, sinks:] for x in tensors)
    return bench.run(engine, rest, [20, 13, *[1] * (10 - sinks)], state=state, start=start)


def test_what_reads_forever_sees_the_same_distances_at_a_hundred_million():
    for methods, sinks in (
        ((lw.StreamingLLM(sinks=3, window=8),), 3),
        ((lw.StreamingLLM(sinks=0, window=8),), 0),
        ((lw.StreamingLLM(sinks=3, window=8), lw.LMInfinite(sinks=3, window=6)), 3),
        ((lw.LMInfinite(sinks=3, window=8),), 3),
        ((lw.SlidingWindow(window=8),), 0),
        ((lw.CacheSlots(sinks=3, window=8),), 3),
        ((lw.FarAsOne(window=8),), 3),
        ((lw.ReRoPE(window=8),), 3),
        ((lw.LeakyReRoPE(factor=2.5, window=8),), 0),
        ((lw.SelfExtend(group=4, window=8),), 0),
        ((lw.STRING(shift=10, window=4),), 0),
        ((lw.DualChunk(chunk=12, window=5),), 0),
        ((lw.YaRN(factor=4), lw.SlidingWindow(window=8)), 0),
        ((lw.LongRoPE(factors=(2.0,) * 8, factor=2, start_tokens=2),), 0),
        ((), 0),
    ):
        near = read_at(NEAR, methods, sinks)
        assert (near[:, :, 1:] - near[:, :, :-1]).abs().max() > 1
        for far in FAR:
            assert (read_at(far, methods, sinks) - near).abs().max() < 1e-4, (methods, far)


def test_pages_see_the_same_distances_far_out():
    """A table of all positions is held, so that a test has no room for as many as above."""
    method, far = lw.InfLLM(pages=2, page_size=4, sinks=0, window=6), 1000 * COMMON
    assert (read_at(far, (method,)) - read_at(0, (method,))).abs().max() < 1e-4


def test_inside_the_window_angles_are_those_of_transformers():
    """They are rounded to float32 there, which at position 30,000 is 0.001."""
    model, ids = tiny_model("llama", max_position_embeddings=40_000), torch.arange(3, 43)[None]
    positions = 39_900 + torch.arange(40)[None]
    with torch.no_grad():
        plain = model(ids, position_ids=positions).logits
        lw.adapt(model)
        assert (model(ids, position_ids=positions).logits - plain).abs().max() < 1e-5
        beyond = model(ids, position_ids=positions + 10**8).logits
        exact = model.double()(ids, position_ids=positions).logits
        assert (beyond - exact).abs().max() < 1e-4
        assert (plain - exact).abs().max() > 1e-4


def test_a_backward_into_what_a_cache_has_forgotten_is_refused():
    """A cache keeps keys without their history: what was read before is a constant, or refused."""
    ids, cut, g = torch.arange(3, 63)[None], 25, torch.Generator().manual_seed(0)
    for method in (lw.FullStore(), lw.StreamingLLM(sinks=2, window=40), lw.SelfExtend(window=16)):
        model = lw.adapt(tiny_model("gpt_neox").double(), method)
        for size in (1, 20):  # one token goes another way through a rolling store
            rest = ids[:, cut : cut + size]
            cache = lw.new_cache(model)
            model(ids[:, :cut], past_key_values=cache).logits.sum().backward()
            out = model(rest, past_key_values=cache).logits
            with pytest.raises(ValueError, match="the cache holds the keys of an earlier forward"):
                out.sum().backward()
            with torch.no_grad():  # whoever wants no gradient reads on
                assert model(rest, past_key_values=cache).logits.isfinite().all()

            # After a text that nobody differentiates, gradients are right.
            weight = model.gpt_neox.layers[1].attention.query_key_value.weight

            def value(model=model, rest=rest):
                cache = lw.new_cache(model)
                with torch.no_grad():
                    model(ids[:, :cut], past_key_values=cache)
                return model(rest, past_key_values=cache).logits

            weights = torch.randn(value().shape, generator=g, dtype=torch.float64)
            model.zero_grad()
            (value() * weights).sum().backward()
            kept = weight.grad.clone()
            # In the last layer, what was cached depends on this weight too: hold it still.
            step = 1e-5 * torch.randn(weight.shape, generator=g, dtype=torch.float64)

            def moved(times, model=model, rest=rest, weight=weight, step=step, weights=weights):
                cache = lw.new_cache(model)
                with torch.no_grad():
                    model(ids[:, :cut], past_key_values=cache)
                    weight.add_(step, alpha=times)
                    out = (model(rest, past_key_values=cache).logits * weights).sum().item()
                    weight.sub_(step, alpha=times)
                return out

            slope, difference = (kept * step).sum().item(), (moved(1) - moved(-1)) / 2
            assert abs(slope - difference) < 1e-6 * abs(slope), (method, size, slope, difference)
