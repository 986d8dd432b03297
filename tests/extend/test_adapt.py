"""Composition, and every method on every family through `adapt`."""

from collections import Counter

import pytest
import torch

import lengthwise as lw
from lengthwise.extend import engine, read
from lengthwise.extend.adapt import compose
from lengthwise.hf.families import read_geometry
from lengthwise.testing.bench import Bench
from lengthwise.testing.models import KINDS, PAD, tiny_model

# As people would choose them for a window of 64.
METHODS = {
    "PI": (lw.PI(factor=2),),
    "NTK": (lw.NTK(factor=2),),
    "YaRN": (lw.YaRN(factor=2),),
    "SlidingWindow": (lw.SlidingWindow(window=11),),
    "LMInfinite": (lw.LMInfinite(sinks=2, window=12),),
    "SelfExtend": (lw.SelfExtend(group=4, window=16),),
    "StreamingLLM": (lw.StreamingLLM(sinks=2, window=14),),
    "InfLLM": (lw.InfLLM(pages=2, page_size=4, sinks=2, window=8),),
    "YaRN+StreamingLLM": (lw.YaRN(factor=2), lw.StreamingLLM(sinks=2, window=14)),
    "SelfExtend+InfLLM": (
        lw.SelfExtend(group=4, window=16),
        lw.InfLLM(pages=2, page_size=4, sinks=2, window=8),
    ),
}


def exact(family):
    """The tiny model in float64."""
    return tiny_model(family).double()


@pytest.mark.parametrize("family", (*KINDS, "mixtral", "stablelm", "falcon", "llama4_text"))
@pytest.mark.parametrize("name", METHODS)
def test_padded_chunks_equal_single_rows_on_every_family(family, name):
    methods = METHODS[name]
    model = exact(family)
    scaled = methods[0].axis == "scaling"
    if not read_geometry(model).turns and (scaled or isinstance(methods[0], lw.SelfExtend)):
        with pytest.raises(ValueError, match="would change nothing: in this"):
            lw.adapt(model, *methods)
        return
    if family == "phi3" and not scaled:
        pytest.skip("longrope changes under a growing text: see test_families and DynamicNTK")
    generator = torch.Generator().manual_seed(4)
    rows = [torch.randint(3, 300, (1, n), generator=generator) for n in (70, 41)]
    ids = torch.full((2, 70), PAD)
    mask = torch.zeros(2, 70, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, 70 - row.shape[1] :] = row
        mask[i, 70 - row.shape[1] :] = 1
    with torch.no_grad(), lw.adapted(model, *methods):
        cache = lw.new_cache(model)
        outs = []
        for low, high in ((0, 33), (33, 34), (34, 69), (69, 70)):
            outs.append(
                model(ids[:, low:high], attention_mask=mask[:, :high], past_key_values=cache).logits
            )
        together = torch.cat(outs, dim=1)
        for i, row in enumerate(rows):
            alone = model(row, use_cache=False).logits
            worst = (together[i : i + 1, 70 - row.shape[1] :] - alone).abs().max()
            # Llama 4 norms rotated queries and keys in float32.
            assert worst < (1e-4 if family == "llama4_text" else 1e-9)


@pytest.mark.parametrize("name", ["SelfExtend", "StreamingLLM", "InfLLM"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gpt_oss"])
def test_generate_in_a_padded_batch_equals_single_rows(family, name):
    model = exact(family)
    generator = torch.Generator().manual_seed(5)
    rows = [torch.randint(3, 300, (1, n), generator=generator) for n in (60, 23)]
    ids, mask = torch.full((2, 60), PAD), torch.zeros(2, 60, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, 60 - row.shape[1] :] = row
        mask[i, 60 - row.shape[1] :] = 1
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None}
    with lw.adapted(model, *METHODS[name]):
        together = model.generate(ids, attention_mask=mask, **settings)
        for i, row in enumerate(rows):
            alone = model.generate(row, attention_mask=torch.ones_like(row), **settings)
            assert torch.equal(together[i, 60:], alone[0, row.shape[1] :])


def test_a_method_changes_what_the_model_says_beyond_its_window():
    model = tiny_model("llama")
    ids = torch.randint(3, 300, (1, 200), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        plain = model(ids).logits
        for name, methods in METHODS.items():
            with lw.adapted(model, *methods):
                assert (model(ids).logits - plain).abs().max() > 1e-3, name


def test_methods_bring_others_and_give_way_to_named_ones():
    brought = compose((lw.StreamingLLM(sinks=2, window=30),))
    assert brought.layout == lw.CacheSlots(sinks=2, window=30)
    named = compose((lw.StreamingLLM(sinks=2, window=30), lw.SelfExtend(group=4, window=16)))
    assert named.layout == lw.SelfExtend(group=4, window=16)
    assert compose(()).store == lw.FullStore()


@pytest.mark.parametrize(
    "methods, words",
    [
        ((lw.PI(factor=2), lw.YaRN(factor=2)), "PI and YaRN both fill the scaling axis"),
        (
            (lw.LMInfinite(window=8), lw.Causal()),
            "LMInfinite and Causal both fill the layout axis",
        ),
        ((lw.InfLLM(), lw.StreamingLLM()), "InfLLM needs all keys, which StreamingLLM does not"),
        (("yarn",), "adapt takes methods"),
    ],
)
def test_compositions_that_cannot_be_are_refused(methods, words):
    with pytest.raises(ValueError, match=words):
        compose(methods)


@pytest.mark.parametrize(
    "build",
    [
        lambda: lw.PI(factor=0),
        lambda: lw.PI(factor=-2),
        lambda: lw.PI(factor=float("nan")),
        lambda: lw.YaRN(factor=float("inf")),
        lambda: lw.YaRN(factor=2, beta_fast=1, beta_slow=1),
        lambda: lw.NTK(factor=0.5),
        lambda: lw.DynamicNTK(factor=True),
        lambda: lw.SlidingWindow(window=0),
        lambda: lw.SlidingWindow(window=2.5),
        lambda: lw.LMInfinite(sinks=-1),
        lambda: lw.SelfExtend(group=0),
        lambda: lw.SelfExtend(group=8, window=12),
        lambda: lw.StreamingLLM(window=0),
        lambda: lw.StreamingLLM.within(4, sinks=4),
        lambda: lw.InfLLM(page_size=3),
        lambda: lw.InfLLM(pages=0),
    ],
)
def test_numbers_out_of_range_are_refused_in_one_line(build):
    with pytest.raises(ValueError) as error:
        build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "method", [lw.SelfExtend(group=8, window=64), lw.InfLLM(window=65), lw.SelfExtend()]
)
def test_windows_beyond_the_trained_one_are_refused(method):
    with pytest.raises(ValueError, match="trained window of 64"):
        lw.adapt(tiny_model("llama"), method)


def test_a_budget_in_tokens_becomes_sinks_and_a_window():
    assert lw.StreamingLLM.within(64, sinks=4) == lw.StreamingLLM(4, 60)


def test_streaming_memory_is_constant():
    model = tiny_model("llama")
    held = []
    with torch.no_grad(), lw.adapted(model, lw.StreamingLLM(sinks=2, window=14)):
        cache = lw.new_cache(model)
        for _ in range(6):
            model(torch.randint(3, 300, (1, 50)), past_key_values=cache)
            held.append(cache.bytes())
    assert len(set(held)) == 1 and cache.get_seq_length() == 300


def test_what_nobody_needs_is_not_computed(monkeypatch):
    asked = Counter()
    exact, mass = engine.attend_blocks, read.drawn_mass

    def attends(*args, need_lse, **kw):
        asked["lse"] += need_lse
        return exact(*args, need_lse=need_lse, **kw)

    def draws(*args, **kw):
        asked["mass"] += 1
        return mass(*args, **kw)

    monkeypatch.setattr(engine, "attend_blocks", attends)
    monkeypatch.setattr(read, "drawn_mass", draws)
    bench, found = Bench(), {}
    for one in (
        lw.FullStore(), lw.StreamingLLM(4, 4), lw.Chelsea(tokens=12, sinks=2, recent=4, every=4),
        lw.TOVA(tokens=8, every=4), lw.SnapKV(tokens=8, recent=1, kernel=1, every=4),
    ):  # fmt: skip
        asked.clear()
        bench.run(bench.engine(one), bench.tensors(1, 16), [16])
        found[type(one)] = asked["lse"], asked["mass"]
        assert bool(asked["lse"]) == ("mass" in one.needs), one
    assert found[lw.TOVA] == (4, 4) and found[lw.SnapKV] == (4, 4)
    assert found[lw.Chelsea] == found[lw.FullStore] == found[lw.StreamingLLM] == (0, 0)


def test_a_need_that_another_axis_cannot_meet_names_both():
    h2o, infllm = lw.H2O(heavy=4, recent=4), lw.InfLLM(window=8)
    with pytest.raises(ValueError, match="H2O needs mass, which InfLLM does not give; use AllP"):
        compose((h2o, infllm))
    with pytest.raises(ValueError, match="InfLLM needs all keys, which H2O does not give; use Fu"):
        compose((infllm, h2o))
