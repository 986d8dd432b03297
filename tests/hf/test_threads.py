"""What a forward works out belongs to it alone: threads and caches never meet each other's."""

import torch

import lengthwise as lw
from lengthwise.testing.models import KINDS, VOCABULARY, tiny_model

LONG, SHORT = (1.5, 2.0, 3.0, 4.0), (1.0, 1.1, 1.2, 1.3)
MOVING = {
    "DynamicNTK": lw.DynamicNTK(2.0),
    "DynamicYaRN": lw.DynamicYaRN(),
    "LongRoPE": lw.LongRoPE(LONG, 4.0, short_factors=SHORT),
    "LongRoPE2": lw.LongRoPE2(LONG, 4.0),
    "CLEX": lw.CLEX((SHORT, LONG)),
}
OTHERS = (
    lw.StreamingLLM(sinks=2, window=12),
    lw.SelfExtend(group=4, window=16),
    lw.InfLLM(pages=2, page_size=4, sinks=2, window=12),
)
OWN = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}


def tokens(length, seed=1):
    return torch.randint(3, VOCABULARY, (1, length), generator=torch.Generator().manual_seed(seed))


def rotary_models():
    for name, method in MOVING.items():
        yield name, lw.adapt(tiny_model("llama", max_position_embeddings=32), method)
    yield "own", lw.adapt(tiny_model("llama", max_position_embeddings=32, rope_parameters=OWN))
    yield "phi3", lw.adapt(tiny_model("phi3"))


def test_threads_with_one_model(together):
    for name, model in rotary_models():

        @torch.no_grad()
        def read(length, model=model):
            ids, cache = tokens(length), lw.new_cache(model)
            first = model(ids[:, :-3], past_key_values=cache).logits
            more = [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(-3, -1)]
            return torch.cat([first, *more], dim=1)

        assert not together(read), name


@torch.no_grad()
def test_caches_that_take_turns():
    """Every step of one cache stands between two steps of another."""
    cases = [("llama", {"max_position_embeddings": 32}, (method,)) for method in MOVING.values()]
    cases += [("llama", {"max_position_embeddings": 32, "rope_parameters": OWN}, ())]
    cases += [(family, {}, ()) for family in KINDS]
    turning = (family for family in KINDS if family not in ("cohere2", "exaone4"))
    cases += [(family, {}, (lw.DynamicNTK(),)) for family in turning]
    cases += [("llama", {}, (method,)) for method in OTHERS]
    for family, changes, methods in cases:
        model = lw.adapt(tiny_model(family, **changes), *methods)
        texts = [tokens(length, seed=length) for length in (40, 90)]

        def read(orders, model=model, texts=texts):
            caches, at = [lw.new_cache(model) for _ in texts], [0, 0]
            out = [[], []]
            for which, count in orders:
                piece = texts[which][:, at[which] : at[which] + count]
                out[which].append(model(piece, past_key_values=caches[which]).logits)
                at[which] += count
            return [torch.cat(one, dim=1) for one in out]

        first, then = [(0, 20), (0, 1), (0, 7)], [(1, 60), (1, 1), (1, 9)]
        alone = read(first + then)
        turns = read([one for pair in zip(first, then, strict=True) for one in pair])
        for ours, theirs in zip(turns, alone, strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)


def test_training_after_a_token_in_inference_mode():
    """What was worked out in inference mode cannot be differentiated through."""
    cases = [(family, ()) for family in KINDS]
    cases += [("llama", (method,)) for method in (*MOVING.values(), *OTHERS)]
    cases += [("llama", (lw.YaRN(factor=2),)), ("llama", (lw.LogTemperature(),))]
    for family, methods in cases:
        model = lw.adapt(tiny_model(family), *methods)
        with torch.inference_mode():
            model(tokens(1)), model(tokens(30))
        with torch.no_grad():
            before = model(tokens(30)).logits
        # A backward through pages is refused: InfLLM is trained inside its window.
        inside = any(isinstance(method, lw.InfLLM) for method in methods)
        for length in (1, 12 if inside else 30):
            model.zero_grad()
            model.train()(tokens(length), use_cache=False).logits.sum().backward()
            assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(tokens(30)).logits, before)


def test_a_cache_filled_in_inference_mode_goes_on_outside():
    ids = tokens(60)
    for method in (lw.FullStore(), *OTHERS, *MOVING.values()):
        model = lw.adapt(tiny_model("llama"), method)
        with torch.no_grad():
            cache = lw.new_cache(model)
            model(ids[:, :40], past_key_values=cache)
            want = [model(ids[:, 40:50], past_key_values=cache).logits]
            want.append(model(ids[:, 50:51], past_key_values=cache).logits)
        cache = lw.new_cache(model)
        with torch.inference_mode():
            model(ids[:, :40], past_key_values=cache)
        with torch.no_grad():
            got = [model(ids[:, 40:50], past_key_values=cache).logits]
        with torch.inference_mode():
            got.append(model(ids[:, 50:51], past_key_values=cache).logits)
        for ours, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(ours, theirs)
