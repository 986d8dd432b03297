"""`explain` tells the truth about keys and bytes."""

import pytest
import torch

import lengthwise as lw
from lengthwise.core import native
from lengthwise.extend.adapt import binding_of
from lengthwise.extend.explain import cache_bytes, implementations, read_facts
from lengthwise.extend.selectors.infllm import InfLLMState
from lengthwise.hf.release import CACHE
from lengthwise.testing.models import KINDS, tiny_model


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
        ((lw.H2O(heavy=20, recent=20, every=30),), 60),
        ((lw.SirLLM(tokens=40, recent=8, every=30),), 60),
    ],
)
def test_keys_read_are_the_visible_ones(methods, reads):
    model = lw.adapt(tiny_model("llama"), *methods)
    assert binding_of(model).engine.keys_read(0, 200) == reads


def test_stores_that_choose_are_explained():
    """A forward of thousands of tokens is read in pieces, behind what was kept."""
    for store in (lw.H2O(heavy=20, recent=20), lw.AdaKV(tokens=40), lw.SirLLM(tokens=80, recent=8)):
        with lw.adapted(tiny_model("llama"), store) as model:
            words = lw.explain(model)
            assert f"  store     {store}" in words and "prefill of 8,192   1 region" in words
            engine = binding_of(model).engine
            turned = 80 + 8192 % 128 if type(store) is lw.SirLLM else 0  # un-rotated
            assert engine.keys_turned(0, 8192) == turned


def test_infllm_reads_what_it_says():
    method = lw.InfLLM(pages=3, page_size=8, sinks=2, window=16)
    model = lw.adapt(tiny_model("llama"), method)
    assert binding_of(model).engine.keys_read(0, 1000) <= 2 + 16 + 3 * 8 + 8
    assert binding_of(model).engine.keys_read(0, 10) == 10


def test_predicted_bytes_are_what_the_cache_holds():
    few = {"every": 32, "recent": 8}
    for method in (
        lw.Causal(),
        lw.StreamingLLM(sinks=4, window=12),
        lw.InfLLM(pages=3, page_size=8, sinks=2, window=16),
        lw.H2O(heavy=8, **few),
        lw.TOVA(tokens=16, **few),
        lw.PrefixKV((12, 20), **few),
        lw.Chelsea(tokens=24, sinks=2, **few),
    ):
        model = lw.adapt(tiny_model("llama"), method)
        for length in (64, 256):
            cache = lw.new_cache(model)
            with torch.no_grad():
                model(torch.randint(3, 300, (1, length)), past_key_values=cache)
            assert cache.bytes() == cache_bytes(binding_of(model).engine, [length]), method
            row = f"{length:,}"
            (said,) = [line for line in lw.explain(model).splitlines() if line.split()[:1] == [row]]
            assert f"{cache.bytes():,}" in said.split(), method


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
    assert binding_of(model).engine.keys_turned(0, 200) == turned
    assert f"  {'turned to read':>14}" in lw.explain(model)


def test_a_region_with_a_score_of_its_own_is_named_apart():
    model = tiny_model("llama", max_position_embeddings=4096)
    words = lw.explain(lw.adapt(model, lw.GALI(trained=4096, window=512, noise=1.0)))
    assert "1 region, sdpa:" in words and "2 regions, chunked:" in words


METHODS = [
    (),
    (lw.SelfExtend(group=4, window=16),),
    (lw.LMInfinite(sinks=2, window=16),),
    (lw.DualChunk(chunk=48, window=8),),
    (lw.GALI(trained=64, window=8, noise=1.0),),
    (lw.InfLLM(pages=2, page_size=8, sinks=2, window=16),),
    (lw.StreamingLLM(sinks=2, window=30),),
]
LENGTH = 200


@torch.no_grad()
def test_what_is_named_is_what_runs(monkeypatch):
    """On every family, with caps, sinks and patterns: who is called is who is named, C or not."""
    from lengthwise.core import attention, native
    from lengthwise.train.patterns import BigBird, MASFormer, ShiftedSparse, fit_pattern

    ran: set[str] = set()
    whole = [False]

    def watch(module, name, title):
        original = getattr(module, name)

        def spy(*args, **kwargs):
            out = original(*args, **kwargs)
            if whole[0] and out is not None:  # one token may have been left to others
                ran.add(title)
            return out

        monkeypatch.setattr(module, name, spy)

    for module, name, title in (
        (attention, "band", "sdpa"),
        (attention, "triangle", "triangle"),
        (attention, "chunked", "chunked"),
        (attention, "bands", "bands"),
        (attention, "decode", "decode"),
        (native, "step", "decode"),
        (native, "step", "C"),
        (native, "paged", "decode"),
        (native, "paged", "C"),
        (native, "band", "C"),
        (native, "decode", "C"),
    ):
        watch(module, name, title)
    noted = InfLLMState.note

    def note(*args):  # what a selector looks up for itself is no attention of the layer
        before, whole[0] = whole[0], False
        found = noted(*args)
        whole[0] = before
        return found

    monkeypatch.setattr(InfLLMState, "note", note)
    cases = [(family, lw.adapt, methods) for family in KINDS for methods in METHODS]
    cases += [
        ("gemma2", fit_pattern, (MASFormer(full=1, block=32),)),
        ("llama", fit_pattern, (ShiftedSparse(group=64),)),
        ("llama", fit_pattern, (BigBird(block=16),)),
    ]
    ids = torch.randint(3, 300, (1, LENGTH), generator=torch.Generator().manual_seed(7))
    for number, (family, adapt, methods) in enumerate(cases):
        # Heads of 16: the C code takes them. Those of 8 it takes for decoding at most.
        narrow = number % 3 == 0 or family in ("phi3", "gpt_neox")
        model = tiny_model(family, **({} if narrow else {"head_dim": 16}))
        try:
            adapt(model, *methods)
        except ValueError as error:
            assert "would change nothing" in str(error) and family in ("cohere2", "exaone4")
            continue
        engine = binding_of(model).engine
        attend = engine.attend

        def marked(layer, *args, attend=attend, engine=engine, **kwargs):
            whole[0] = not engine.geometry.local(layer)
            try:
                return attend(layer, *args, **kwargs)
            finally:
                whole[0] = False

        monkeypatch.setattr(engine, "attend", marked)
        cache = lw.new_cache(model)
        facts = read_facts(model)
        for first, last in ((0, -2), (-2, -1), (-1, None)):
            tokens = ids[:, first:last]
            ran.clear()
            model(tokens, **{CACHE: cache})
            if first == -2:  # the token that finds no room is kept, and read, by more calls
                continue
            seen = LENGTH - 2 if tokens.shape[1] > 1 else LENGTH
            lines = implementations(engine, facts, tokens.shape[1], seen)
            named = {
                name
                for name in ("sdpa", "chunked", "decode", "triangle", "bands")
                for x in lines
                if f", {name}:" in x
            }
            named |= {"C" for line in lines if "(C with" in line}
            where = (family, methods, tokens.shape[1], lines, ran)
            assert named == ran, where


def test_caps_sinks_and_numbers_are_named():
    words = lw.explain(lw.adapt(tiny_model("gemma2")))
    assert "1 region, chunked: plain torch tiles" in words and "(C with" not in words
    half = lw.explain(lw.adapt(tiny_model("llama", head_dim=16).to(torch.float16)))
    assert half.count("(torch: float16)") == 1 and "(C with" not in half
    assert half.count("triangle: plain causal") == 2  # reading and training
    half = lw.explain(lw.adapt(tiny_model("llama", head_dim=16).to(torch.bfloat16)))
    assert "prefill of 8,192   1 region, triangle" in half  # a few are read by C if there is any
    assert ("(C with" in half) == native.why(16, 16).startswith("C with")


def test_what_trains_is_named(monkeypatch):
    """Torch's fused kernel for plain causal attention, groups of tokens and bands; tiles for
    scores that change.
    """
    from lengthwise.core import attention
    from lengthwise.train.patterns import ShiftedSparse, fit_pattern

    ran: set[str] = set()
    names_known = ("triangle", "bands", "chunked")
    for name in names_known:
        original = getattr(attention, name)

        def spy(*args, name=name, original=original, **kwargs):
            ran.add(name)
            return original(*args, **kwargs)

        monkeypatch.setattr(attention, name, spy)
    window = lw.LMInfinite(sinks=2, window=16)
    for family, change, names in (
        ("llama", lw.adapt, {"triangle"}),
        ("llama", lambda model: fit_pattern(model, ShiftedSparse(group=16)), {"triangle"}),
        ("llama", lambda model: lw.adapt(model, window), {"bands"}),
        ("gemma2", lambda model: lw.adapt(model, window), {"chunked"}),
        ("gemma2", lambda model: fit_pattern(model, ShiftedSparse(group=16)), {"chunked"}),
    ):
        model = tiny_model(family)
        change(model)
        ran.clear()
        model.train()(torch.arange(3, 103)[None]).logits.sum().backward()
        lines = [x for x in lw.explain(model).splitlines() if x.startswith("  training on")]
        named = {name for name in names_known for x in lines if f", {name}:" in x}
        assert named == ran == names, (family, lines, ran)
    words = lw.explain(fit_pattern(tiny_model("llama"), ShiftedSparse(group=16)))
    assert "heads 0-2: 1 region" in words and "heads 3-5: 1 region" in words


def test_explain_says_what_computes_attention_here_and_why(monkeypatch):
    model = lw.adapt(tiny_model("llama"))
    monkeypatch.setattr(native, "why", lambda d, e, band=False: f"torch: {d}, {e}, {band}")
    text = lw.explain(lw.restore(model) and lw.adapt(model, lw.LMInfinite(sinks=2, window=16)))
    assert "(torch: 8, 8, False)" in text and "(torch: 8, 8, True)" in text


def test_a_plain_model_cannot_be_explained():
    with pytest.raises(ValueError, match="not adapted"):
        lw.explain(tiny_model("llama"))
