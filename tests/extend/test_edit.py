"""Edits of a cached text: exact where they can be, close where they cannot, refused elsewhere."""

import pytest
import torch

import lengthwise as lw
from lengthwise.extend.adapt import binding_of
from lengthwise.testing.models import KINDS, PAD, tiny_model

LENGTH = 40
# Families whose tiny models have layers with a window of their own beside global ones.
MIXED = {"gemma2", "gemma3_text", "gpt_oss", "qwen2", "cohere2"}
EDITS = {
    "insert": ((11, 11), [5, 6, 7]),
    "delete": ((11, 16), []),
    "replace": ((11, 16), [8, 9]),
    "front": ((0, 2), [1, 30, 31]),
    "end": ((40, 40), [12, 13]),
}


def tokens(length=LENGTH, seed=0, rows=1):
    return torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


def read(model, ids):
    cache = lw.new_cache(model)
    with torch.no_grad():
        model(ids, past_key_values=cache)
    return cache


def edited(ids, span, new):
    middle = torch.tensor(new, dtype=torch.long).expand(len(ids), -1)
    return torch.cat([ids[:, : span[0]], middle, ids[:, span[1] :]], dim=1)


def stored(cache, layer):
    """Keys, values and positions of a layer, whatever blocks they lie in."""
    blocks = [buffer.block() for buffer in cache.layers[layer].state.store.buffers]
    parts = [(b.keys, b.values, b.positions) for b in blocks]
    return [torch.cat(x, dim=2) for x in zip(*parts, strict=True)]


def cached_model(family="llama", *methods):
    return lw.adapt(tiny_model(family).double(), *methods)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("family", sorted(set(KINDS) - MIXED))
def test_the_first_layer_is_what_reading_everything_again_gives(family, name):
    model, ids = cached_model(family), tokens()
    span, new = EDITS[name]
    cache = lw.edit(read(model, ids), span, new)
    again = read(model, edited(ids, span, new))
    for ours, theirs in zip(stored(cache, 0), stored(again, 0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    assert cache.get_seq_length() == again.get_seq_length()
    assert cache.lengths.tolist() == again.lengths.tolist()


@pytest.mark.parametrize(
    "methods",
    [
        (),
        (lw.YaRN(factor=4),),
        (lw.DynamicNTK(),),
        (lw.SelfExtend(group=4, window=8),),
        (lw.DualChunk(chunk=24, window=8),),
        (lw.LeakyReRoPE(factor=3, window=8),),
        (lw.STRING(shift=16, window=8), lw.NTK(factor=2)),
    ],
    ids=lambda methods: "+".join(type(method).__name__ for method in methods) or "plain",
)
def test_keys_behind_the_edit_are_those_of_the_old_tokens_at_their_new_places(methods):
    model, ids = cached_model("llama", *methods), tokens()
    before = read(model, ids)
    engine = binding_of(model).engine
    old = [stored(before, layer) for layer in range(2)]
    lw.edit(before, (11, 16), [8, 9])
    for layer, (keys, values, positions) in enumerate(old):
        now = stored(before, layer)
        assert now[2][0, 0].tolist() == list(range(37))
        torch.testing.assert_close(now[1][:, :, 13:], values[:, :, 16:], rtol=0, atol=0)
        rotary = engine.axes.scaling.rotary(
            engine.geometry.layers[layer].rotary, 64, torch.tensor([37])
        )
        moves = engine.axes.scaling.storable(engine.geometry.layers[layer].rotary)
        place = engine.axes.layout.key_place
        by = place(positions[:, :, 16:] - 3) - place(positions[:, :, 16:])
        expected = rotary.shift(keys[:, :, 16:], by) if moves else keys[:, :, 16:]
        torch.testing.assert_close(now[0][:, :, 13:], expected, rtol=0, atol=1e-12)


def test_nothing_is_lost_where_nothing_stands_behind_or_nothing_changed():
    model, ids = cached_model(), tokens()
    at_end = lw.edit(read(model, ids), (30, 40), ids[0, 30:].tolist())
    plain = read(model, ids)
    same = lw.edit(read(model, ids), (10, 15), ids[:, 10:15])
    nothing = lw.edit(read(model, ids), (7, 7), [])
    for layer in range(2):
        for other in (at_end, same, nothing):
            for ours, theirs in zip(stored(other, layer), stored(plain, layer), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_edits_of_several_places_move_every_key_once():
    model, ids = cached_model(), tokens()
    cache = read(model, ids)
    lw.edit(cache, (30, 32), [])
    lw.edit(cache, (20, 20), [4, 5, 6])
    lw.edit(cache, (3, 4), [9])
    final = edited(edited(edited(ids, (30, 32), []), (20, 20), [4, 5, 6]), (3, 4), [9])
    for ours, theirs in zip(stored(cache, 0), stored(read(model, final), 0), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_logits_after_an_edit_are_nearer_to_the_truth_than_keys_left_where_they_were():
    """The old text shifted by 9: turning the keys must beat leaving them (temporal confusion)."""
    model, ids = cached_model(), tokens(60)
    span, new = (10, 10), tokens(9, seed=3)[0].tolist()
    final = edited(ids, span, new)
    with torch.no_grad():
        truth = model(final).logits[:, -1].log_softmax(-1)

    def surprise(cache):
        cache.crop(-1)
        with torch.no_grad():
            logits = model(final[:, -1:], past_key_values=cache).logits[:, -1]
        return (truth.exp() * (truth - logits.log_softmax(-1))).sum().item()

    turned = lw.edit(read(model, ids), span, new)
    confused = lw.edit(read(model, ids), span, new)
    for layer in range(2):  # put the old keys back: their values and positions are right
        for buffer in confused.layers[layer].state.store.buffers:
            place = buffer.block().positions
            old = place.clone().where(place < 19, place - 9)
            rotary = binding_of(model).engine._rotaries
            shift = next(iter(rotary.values())).shift
            count = buffer.used
            buffer.keys[:, :, :count] = shift(buffer.keys[:, :, :count], old - place)
    assert surprise(turned) < 0.5 * surprise(confused)


def test_generation_goes_on_from_an_edited_cache():
    model, ids = cached_model("qwen3"), tokens(rows=2)
    span, new = (12, 14), tokens(3, seed=5, rows=2)
    cache = lw.edit(read(model, ids), span, new)
    final = torch.cat([ids[:, :12], new, ids[:, 14:]], dim=1)
    cache.crop(-1)
    settings = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None}
    out = model.generate(final, past_key_values=cache, **settings)
    assert out.shape == (2, 45) and cache.get_seq_length() == 44
    step = lw.edit(read(model, ids), span, new)
    step.crop(-1)
    with torch.no_grad():
        logits = model(final[:, -1:], past_key_values=step).logits[:, -1]
    assert torch.equal(out[:, 41], logits.argmax(-1))


@pytest.mark.parametrize("family", sorted(MIXED))
def test_rolling_layers_are_refused(family):
    model = lw.adapt(tiny_model(family))
    with pytest.raises(ValueError, match="StreamingLLM, so what an edit needs may be gone"):
        lw.edit(read(model, tokens()), (3, 4), [5])


@pytest.mark.parametrize(
    "methods, words",
    [
        ((lw.StreamingLLM(sinks=2, window=14),), "StreamingLLM"),
        ((lw.InfLLM(pages=2, page_size=4, sinks=2, window=8),), "page summaries of InfLLM"),
    ],
)
def test_stores_that_drop_and_selectors_are_refused(methods, words):
    model = cached_model("llama", *methods)
    with pytest.raises(ValueError, match=words):
        lw.edit(read(model, tokens()), (3, 4), [5])


@pytest.mark.parametrize(
    "span, new, words",
    [
        ((3, 41), [5], "0 <= first <= stop <= 40"),
        ((-1, 2), [5], "tokens of the cache, got"),
        ((5, 4), [5], "first <= stop"),
        ((2.0, 4), [5], "span must be"),
        ([2, 4], [5], "span must be"),
        ((2, 4), [320], "between 0 and 319"),
        ((2, 4), [-1], "between 0 and 319"),
        ((2, 4), [[5], [6]], "1 rows of the cache"),
    ],
)
def test_bad_arguments_are_refused_in_one_line_and_change_nothing(span, new, words):
    model, ids = cached_model(), tokens()
    cache = read(model, ids)
    with pytest.raises(ValueError, match=words) as error:
        lw.edit(cache, span, new)
    assert "\n" not in str(error.value)
    assert cache.get_seq_length() == 40


def test_padded_packed_empty_and_foreign_caches_are_refused():
    model, ids = cached_model(), tokens(rows=2)
    padded, mask = ids.clone(), torch.ones_like(ids)
    padded[0, :5], mask[0, :5] = PAD, 0
    cache = lw.new_cache(model)
    with torch.no_grad():
        model(padded, attention_mask=mask, past_key_values=cache)
    with pytest.raises(ValueError, match="without padding"):
        lw.edit(cache, (10, 11), [5])
    cache = lw.new_cache(model)
    with torch.no_grad():
        model(ids, segment_ids=torch.zeros_like(ids), past_key_values=cache)
    with pytest.raises(ValueError, match="packed documents"):
        lw.edit(cache, (10, 11), [5])
    with pytest.raises(ValueError, match="the cache is empty"):
        lw.edit(lw.new_cache(model), (0, 0), [5])
    with pytest.raises(ValueError, match="cache of an adapted model"):
        lw.edit(object(), (0, 0), [5])


def test_an_interrupted_edit_leaves_the_cache_as_it_was(monkeypatch):
    model, ids = cached_model(), tokens()
    cache, plain = read(model, ids), read(model, ids)
    engine, calls = binding_of(model).engine, []
    whole = engine.attend

    def breaks(layer, *args, **kw):
        calls.append(layer)
        if layer == 1:
            raise KeyboardInterrupt
        return whole(layer, *args, **kw)

    monkeypatch.setattr(engine, "attend", breaks)
    with pytest.raises(KeyboardInterrupt):
        lw.edit(cache, (11, 16), [8, 9])
    monkeypatch.undo()
    assert calls == [0, 1] and cache.get_seq_length() == 40
    for layer in range(2):
        for ours, theirs in zip(stored(cache, layer), stored(plain, layer), strict=True):
            assert torch.equal(ours, theirs)
    with torch.no_grad():
        on = model(ids[:, :3], past_key_values=cache).logits
        assert torch.equal(on, model(ids[:, :3], past_key_values=plain).logits)
