"""Stores whose keys and values are packed: what they hold, spelled out, and what they wrap."""

import copy
from dataclasses import replace

import pytest
import torch

import lengthwise as lw
from lengthwise.core.packed import decode, encode, grid
from lengthwise.extend.adapt import binding_of
from lengthwise.extend.stores.quantised import PackedState
from lengthwise.extend.words import FORMAT, read_methods, write_methods
from lengthwise.testing import Case, parametrize
from lengthwise.testing.bench import Bench
from lengthwise.testing.models import tiny_model

ROUNDED = {
    "check_oracle": "keys are rounded: test_what_is_packed_is_what_the_formula_says",
    "check_geometries": "likewise",
    "check_bfloat16": "likewise; test_bfloat16",
}
WHICH = {**ROUNDED, "check_kept": "which keys are held depends on the data: test_evicting.py"}
CASES = [
    *(
        Case((cls(group=5),), 5, (cls(group=50),), except_for=ROUNDED)
        for cls in (lw.Int8, lw.Int4, lw.Fp8)
    ),
    Case((lw.Int8(group=6), lw.SelfExtend(group=4, window=8)), 8,
         (lw.Int8(group=60), lw.Causal()), except_for=ROUNDED),
    Case((lw.Int4(lw.H2O(heavy=5, recent=4, every=3), group=4),), 9,
         (lw.Int4(lw.H2O(heavy=30, recent=10, every=50)),), except_for=WHICH),
    Case((lw.Fp8(lw.TOVA(tokens=9, every=4), group=3),), 9,
         (lw.Fp8(lw.TOVA(tokens=40, every=50)),), except_for=WHICH),
    Case((lw.Int8(lw.SnapKV(tokens=10, recent=3, kernel=3, every=5), group=5),), 10,
         (lw.Int8(lw.SnapKV(tokens=40, recent=3, kernel=3, every=50)),), except_for=WHICH),
]  # fmt: skip
CASES = [
    replace(case, refuses={"check_documents": "cannot read packed documents yet"}) for case in CASES
]


def name(value):
    return value.name if isinstance(value, Case) else value.__name__.removeprefix("check_")


@pytest.mark.parametrize(*parametrize(CASES), ids=name)
def test_contract(case, check):
    check(case)


def rounded(keys, values, group, kind):
    """Whole groups of keys and values as packing leaves them, one by one."""
    keys, values = keys.clone(), values.clone()
    for low in range(0, keys.shape[2] - group + 1, group):
        part = slice(low, low + group)
        to = grid(keys[:, :, part], kind, 2, None, False)
        keys[:, :, part] = decode(encode(keys[:, :, part], kind, to), kind, to).to(keys.dtype)
        own = grid(values[:, :, part], kind, 3, None, False)
        values[:, :, part] = decode(encode(values[:, :, part], kind, own), kind, own).to(keys.dtype)
    return keys, values


def test_what_is_packed_is_what_the_formula_says():
    """Every token as one token behind an exact store whose finished groups were rounded by hand."""
    group = 5
    for dtype in (torch.float64, torch.float32):
        bench = Bench(dtype=dtype)
        tensors = bench.tensors(2, 23)
        for method in (lw.Int8(group=group), lw.Int4(group=group), lw.Fp8(group=group)):
            got = bench.run(bench.engine(method), tensors)
            exact = bench.engine()
            for i in range(23):
                state = exact.new_state(0)
                before = tuple(x[:, :, :i] for x in tensors)
                if i:
                    bench.run(exact, before, [i], state=state)
                    buffer = state.store.buffers[0]
                    done = slice(0, i // group * group)
                    held = buffer.keys[:, :, done], buffer.values[:, :, done]
                    keys, values = rounded(*held, group, method.kind)
                    buffer.keys[:, :, done], buffer.values[:, :, done] = keys, values
                one = tuple(x[:, :, i : i + 1] for x in tensors)
                want = bench.run(exact, one, [1], state=state, start=i)
                gap = (got[:, :, i : i + 1] - want).abs().max().item()
                assert gap < (1e-9 if dtype is torch.float64 else 2e-5), (method, i, gap)


def test_bytes_beside_full_precision():
    """With scales and positions: at most .27 and .15 of float32 with heads of 64."""
    bench = Bench(4, 2, 64, 64, torch.float32)
    length = 4096
    tensors = bench.tensors(1, length)
    sizes = {}
    for method in (lw.FullStore(), lw.Int8(), lw.Fp8(), lw.Int4()):
        engine = bench.engine(method)
        state = engine.new_state(0)
        bench.run(engine, tensors, [length], state=state)
        said = engine.axes.store.allocated([length], engine.geometry, 0)
        assert state.bytes() == said
        fresh = 2 * 64 * (engine.geometry.token_bytes + 12)
        sizes[type(method)] = state.bytes() - (0 if method == lw.FullStore() else fresh)
    full = sizes.pop(lw.FullStore)
    for cls, most in ((lw.Int8, 0.27), (lw.Fp8, 0.27), (lw.Int4, 0.15)):
        assert sizes[cls] <= most * full, (cls, sizes[cls] / full)


def test_evicting_again_and_again_wears_nothing_out():
    """A key that stays among 60 droppings is within two steps of what it was."""
    bench = Bench(dtype=torch.float32)
    tensors = bench.tensors(1, 300)
    inner = lw.TOVA(tokens=12, every=5)
    for cls, steps in ((lw.Int8, 127), (lw.Int4, 14)):
        states = []
        for method in (lw.FullStore(), cls(inner, group=4)):
            engine = bench.engine(method)
            states.append(engine.new_state(0))
            bench.run(engine, tensors, [300], state=states[-1])
        exact, packed = (state.store.whole() for state in states)
        assert isinstance(states[1].store, PackedState)
        held = packed.positions[0, 0].clamp(min=0)
        gap = (packed.keys - exact.keys[:, :, held]).abs()[:, :, packed.positions[0, 0] >= 0]
        assert gap.max() <= 4 * exact.keys.abs().max() / steps, cls


@torch.no_grad()
def test_bfloat16_and_whole_models():
    ids = torch.randint(3, 300, (2, 70), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, :9] = 0
    for family in ("llama", "gemma3_text", "gpt_oss", "mistral"):
        for dtype in (torch.float32, torch.bfloat16):
            model = tiny_model(family).to(dtype)
            plain = model(ids, attention_mask=mask).logits.float()
            for method, most in (
                (lw.Int8(group=16), 0.1),
                (lw.Fp8(group=16), 0.5),
                (lw.Int4(group=16), 1.5),
            ):
                lw.adapt(model, method)
                whole = model(ids, attention_mask=mask).logits.float()
                cache = lw.new_cache(model)
                parts = [
                    model(
                        ids[:, a:b], attention_mask=mask[:, :b], past_key_values=cache
                    ).logits.float()
                    for a, b in ((0, 33), (33, 34), (34, 70))
                ]
                spread = plain[mask.bool()].std()
                shown = mask.bool()
                near = (torch.cat(parts, 1) - whole)[shown].abs().max() / spread
                assert near < (1e-3 if dtype is torch.float32 else 0.2), (family, method, near)
                gap = (whole - plain)[shown].abs().max() / spread
                assert gap < most + (0 if dtype is torch.float32 else 0.2), (family, method, gap)
                out = model.generate(ids, attention_mask=mask, max_new_tokens=5, num_beams=2)
                assert out.shape[1] > 70
                fork = copy.deepcopy(cache)
                assert fork.bytes() > 0
                lw.restore(model)


def test_what_cannot_be_packed_is_refused_by_name():
    for store in (lw.StreamingLLM(), lw.Chelsea(), lw.AdaKV(), lw.SirLLM(), lw.ThinK(), lw.Int8()):
        with pytest.raises(ValueError, match=f"{type(store).__name__} lays out its keys"):
            lw.Int8(store)
    with pytest.raises(ValueError, match="Int4: group must be a whole number of at least 1, got 0"):
        lw.Int4(group=0)


def test_on_the_command_line():
    from lengthwise.catalogue import check, parse

    words = "int8:store=(h2o:heavy=5,recent=4),group=32"
    check([words])
    assert parse(words) == lw.Int8(lw.H2O(heavy=5, recent=4), group=32)
    assert parse("int4:store=tova") == lw.Int4(lw.TOVA())


def test_explained_and_named_by_a_checkpoint():
    model = tiny_model("llama")
    for method in (lw.Int4(), lw.Int8(lw.H2O(heavy=5, recent=4), group=16)):
        lw.adapt(model, method)
        assert f"store     {method}" in lw.explain(model)
        written = write_methods(binding_of(model).engine.to_save())
        assert read_methods({"format": FORMAT, "methods": written}) == [method]
        lw.restore(model)


@torch.no_grad()
def test_saved_and_forked_as_it_lies(tmp_path):
    ids = torch.randint(3, 300, (1, 60), generator=torch.Generator().manual_seed(0))
    for method in (lw.Int8(group=16), lw.Int4(lw.H2O(heavy=9, recent=9, every=16), group=8)):
        model = lw.adapt(tiny_model("llama"), method)
        cache = lw.new_cache(model)
        model(ids, past_key_values=cache)
        lw.save_context(model, cache, tmp_path / f"{method.kind}.safetensors")
        loaded = lw.load_context(model, tmp_path / f"{method.kind}.safetensors")
        assert loaded.bytes() == cache.bytes()
        fork = cache.fork()
        for other in (loaded, fork):  # the first is not moved by what the others read
            got = model(ids[:, :20], past_key_values=other).logits
            again = model(ids[:, :20], past_key_values=copy.deepcopy(cache)).logits
            assert torch.equal(got, again)
