"""Contexts in files: read on as the cache that was saved, or refused by name."""

import json
import os
import signal

import pytest
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file
from tests import forked

import lengthwise as lw
from lengthwise.extend import context, stores
from lengthwise.hf.release import CACHE
from lengthwise.testing.models import KINDS, tiny_model

METHODS = (
    (),
    (lw.YaRN(factor=4), lw.StreamingLLM(sinks=2, window=12)),
    (lw.InfLLM(pages=2, page_size=4, sinks=2, window=12),),
    (lw.LongHeads(chunks=4, chunk=4),),
    (lw.LongCache(centres=2, span=2, sinks=2, window=12),),
    (lw.H2O(heavy=6, recent=4, every=5),),
    (lw.TOVA(tokens=10, every=4),),
    (lw.KeyDiff(tokens=10, every=4),),
    (lw.SnapKV(tokens=10, recent=3, kernel=3, every=4),),
    (lw.AdaKV(tokens=10, recent=3, kernel=3, every=4),),
    (lw.ThinK(tokens=10, recent=3, kernel=3, every=4),),
    (lw.PyramidKV(tokens=10, recent=3, kernel=3, every=4),),
    (lw.PrefixKV(budgets=(9, 12), every=4),),
    (lw.Chelsea(tokens=14, sinks=2, recent=4, chunk=6, every=5),),
    (lw.SirLLM(tokens=14, sinks=2, recent=4, every=6, decay=0.5, turn=50),),
    (lw.Int8(group=8),),
    (lw.Int4(lw.H2O(heavy=6, recent=4, every=5), group=8),),
    (lw.Fp8(group=8),),
)


def adapted(family="llama", methods=()):
    return lw.adapt(tiny_model(family, eos_token_id=None), *methods)


@torch.no_grad()
def read(model, ids, cache, **kw):
    return model(ids, **{CACHE: cache}, **kw).logits


def tokens(rows, length, seed=1):
    return torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


def refusal(call):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def saved(tmp_path, *methods, model=None):
    model = model or adapted(methods=methods)
    cache = lw.new_cache(model)
    read(model, tokens(1, 40), cache)
    lw.save_context(model, cache, tmp_path / "text.safetensors")
    return model, cache, tmp_path / "text.safetensors"


def test_a_loaded_context_reads_on_as_the_one_that_was_saved(tmp_path):
    file = tmp_path / "text.safetensors"
    mask = torch.ones(2, 60, dtype=torch.long)
    mask[0, :7] = 0
    wanted = {getattr(lw, name) for name in stores.__all__}
    assert wanted - {type(m) for methods in METHODS for m in methods} == {lw.FullStore}
    for family, methods in (*((x, ()) for x in KINDS), *(("llama", m) for m in METHODS)):
        model = adapted(family, methods)
        cache = lw.new_cache(model)
        read(model, tokens(2, 50), cache, attention_mask=mask[:, :50])
        read(model, tokens(2, 5, seed=2), cache, attention_mask=mask[:, :55])
        lw.save_context(model, cache, file)
        loaded, question = lw.load_context(model, file), tokens(2, 5, seed=3)
        assert loaded.get_seq_length() == 55 and loaded.bytes() <= cache.bytes(), (family, methods)
        for at in (slice(0, 1), slice(1, 5)):
            got = read(model, question[:, at], loaded)
            assert torch.equal(got, read(model, question[:, at], cache)), (family, methods)
        loaded.reorder_cache(torch.tensor([1, 1]))
        held = sum(x.nbytes for x in load_file(file).values())
        assert file.stat().st_size < held + 30_000


def test_generate_goes_on_from_a_file(tmp_path):
    model, cache, file = saved(tmp_path)
    ids = torch.cat([tokens(1, 40), tokens(1, 4, seed=5)], 1)
    how = {"max_new_tokens": 5, "do_sample": False}
    want = model.generate(ids, **{CACHE: cache}, **how)
    for _ in range(2):  # as often as one likes
        got = model.generate(ids, **{CACHE: lw.load_context(model, file)}, **how)
        assert torch.equal(got, want)


def test_free_slots_are_not_written(tmp_path):
    model, cache, file = saved(tmp_path)
    keys = [x for x in load_file(file).values() if x.ndim == 4]
    assert {x.shape[2] for x in keys} == {40}
    assert cache.layers[0].state.store.buffers[0].keys.shape[2] == 128


def test_other_models_methods_and_types_are_refused_by_name(tmp_path):
    model, cache, file = saved(tmp_path, lw.SnapKV(tokens=10, recent=3, kernel=3, every=4))
    same = (lw.SnapKV(tokens=10, recent=3, kernel=3, every=4),)
    lw.load_context(adapted(methods=same), file)
    other = adapted(methods=same)
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[3, 2] += 1e-3
    assert "a model with other weights" in refusal(lambda: lw.load_context(other, file))
    more = adapted(methods=(lw.SnapKV(tokens=11, recent=3, kernel=3, every=4),))
    message = refusal(lambda: lw.load_context(more, file))
    assert "SnapKV(tokens=10, recent=3" in message and "SnapKV(tokens=11, recent=3" in message
    assert "has no method;" in refusal(lambda: lw.load_context(adapted(), file))
    message = refusal(lambda: lw.load_context(adapted(methods=same).bfloat16(), file))
    assert "type float32" in message and "type bfloat16" in message
    message = refusal(lambda: lw.load_context(adapted("qwen3", same), file))
    assert "family llama" in message and "family qwen3" in message
    plain = lw.restore(adapted())
    assert "not adapted" in refusal(lambda: lw.load_context(plain, file))
    assert "of this very model" in refusal(lambda: lw.save_context(other, cache, file))
    empty = lw.new_cache(model)
    assert "the cache is empty" in refusal(lambda: lw.save_context(model, empty, file))


def test_files_that_are_damaged_or_something_else_are_refused(tmp_path):
    model, _, file = saved(tmp_path)
    whole = file.read_bytes()
    for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert "is truncated, or no saf" in refusal(lambda: lw.load_context(model, file)), size
    file.write_bytes(whole)
    lw.load_context(model, file)
    gone = tmp_path / "gone.safetensors"
    assert "cannot read a context" in refusal(lambda: lw.load_context(model, gone))
    tensors = load_file(file)
    save_file(tensors, file)
    assert "holds no context" in refusal(lambda: lw.load_context(model, file))
    header = json.loads(whole[8 : 8 + int.from_bytes(whole[:8], "little")])["__metadata__"]
    about = json.loads(header[context.NAME])
    save_file(tensors, file, {context.NAME: json.dumps({**about, "format": 7})})
    assert "of format 7" in refusal(lambda: lw.load_context(model, file))
    foreign = json.loads(json.dumps(about).replace("lengthwise.extend.state", "os"))
    save_file(tensors, file, {context.NAME: json.dumps(foreign)})
    assert "os is no part of" in refusal(lambda: lw.load_context(model, file))
    tensors.pop("000002")
    save_file(tensors, file, {context.NAME: json.dumps(about)})
    assert "is damaged" in refusal(lambda: lw.load_context(model, file))


def test_a_kill_while_saving_leaves_what_was_there(tmp_path):
    model, cache, file = saved(tmp_path)
    whole = file.read_bytes()
    read(model, tokens(1, 9), cache)

    def dies(tensors, fresh, about):
        fresh.write_bytes(whole[: len(whole) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    def work():
        safetensors.torch.save_file = dies
        lw.save_context(model, cache, file)

    status = forked.run(work, tmp_path / "log")
    assert status == -signal.SIGKILL and file.read_bytes() == whole
    lw.save_context(model, cache, file)
    assert sorted(x.name for x in tmp_path.iterdir() if x.name != "log") == [file.name]
    assert lw.load_context(model, file).get_seq_length() == 49
