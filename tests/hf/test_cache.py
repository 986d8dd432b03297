"""What a cache remembers, on every family and in every store: rows, masks, forwards that ended."""

import copy
import io
import pickle

import pytest
import torch
import transformers as hf

import lengthwise as lw
from lengthwise.hf.families import decoder
from lengthwise.hf.release import CACHE
from lengthwise.testing.models import KINDS, PAD, VOCABULARY, tiny_model

METHODS = (
    (),
    (lw.DynamicNTK(),),
    (lw.SelfExtend(group=4, window=16),),
    (lw.StreamingLLM(sinks=2, window=12),),
    (lw.InfLLM(pages=2, page_size=4, sinks=2, window=12),),
)
LOCAL = (  # have windows of their own
    "mistral", "qwen2", "gemma2", "gemma3_text", "gpt_oss", "ministral", "cohere2", "exaone4",
    "starcoder2",
)  # fmt: skip


def cases():
    """Every family plain, and the other methods on a family with windows and one without."""
    for family in KINDS:
        yield family, ()
    for family in ("llama", "gemma2"):
        for methods in METHODS[1:]:
            yield family, methods


def tokens(rows, length, seed=1):
    return torch.randint(
        3, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed)
    )


def adapted(family, methods=(), **changes):
    return lw.adapt(tiny_model(family, eos_token_id=None, **changes), *methods)


@torch.no_grad()
def read(model, ids, cache, mask=None, **kw):
    return model(ids, attention_mask=mask, **{CACHE: cache}, **kw).logits


def refusal(call):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def left_padded(length):
    ids, mask = tokens(2, length), torch.ones(2, length, dtype=torch.long)
    mask[1, : length // 3] = 0
    return ids.masked_fill(mask == 0, PAD), mask


# A forward that dies.


def places(model):
    """Modules before, inside and behind the layers."""
    base = decoder(model)
    last = model.get_output_embeddings()
    return [base.layers[0], base.layers[0].mlp, base.layers[1], base.layers[1].mlp, last]


class Death:
    """Kills forwards at a module until it is lifted."""

    def __init__(self, module, error, after=0):
        self.left, self.error = after, error
        self.hook = module.register_forward_pre_hook(self)

    def __call__(self, module, args):
        self.left -= 1
        if self.left < 0:
            raise self.error

    def lift(self):
        self.hook.remove()


def test_a_forward_that_died_is_taken_back_or_the_cache_refuses():
    for family, methods in cases():
        model = adapted(family, methods)
        ids, mask = left_padded(40)
        for at, module in enumerate(places(model)):
            error = KeyboardInterrupt() if at % 2 else torch.OutOfMemoryError("no memory left")
            for first in (0, 29) if at in (1, 4) else (29,):
                cache, want = lw.new_cache(model), lw.new_cache(model)
                for one in (cache, want) if first else ():
                    read(model, ids[:, :first], one, mask[:, :first])
                death = Death(module, error)
                with pytest.raises(type(error)):
                    read(model, ids[:, first:], cache, mask)
                death.lift()
                assert cache.get_seq_length() == first, (family, methods, at)
                again = lambda: read(model, ids[:, first:], cache, mask)  # noqa: B023, E731
                if first and not cache.is_croppable:
                    assert "died midway" in refusal(again)
                    continue
                got = again()
                expected = read(model, ids[:, first:], want, mask)
                assert torch.equal(got, expected), (family, methods, at)
                assert cache.get_seq_length() == 40


def test_a_forward_of_the_decoder_alone_ends_by_itself():
    for family in KINDS:
        model, ids = adapted(family), tokens(1, 30)
        cache, want = lw.new_cache(model), lw.new_cache(model)
        with torch.no_grad():
            decoder(model)(ids[:, :20], **{CACHE: cache})
        read(model, ids[:, :20], want)
        assert cache.get_seq_length() == 20
        assert torch.equal(read(model, ids[:, 20:], cache), read(model, ids[:, 20:], want))


def test_generate_goes_on_after_it_died():
    for family in KINDS:
        model, ids = adapted(family), tokens(2, 20)
        how = {"max_new_tokens": 6, "do_sample": False}
        want = model.generate(ids, **how)
        cache = lw.new_cache(model)
        death = Death(decoder(model).layers[1], KeyboardInterrupt(), after=3)
        with pytest.raises(KeyboardInterrupt):
            model.generate(ids, **{CACHE: cache}, **how)
        death.lift()
        seen = cache.get_seq_length()
        assert seen == 22
        if cache.is_croppable:
            rest = {**how, "max_new_tokens": 26 - 23}
            assert torch.equal(model.generate(want[:, :23], **{CACHE: cache}, **rest), want)
        else:
            message = refusal(lambda: model.generate(want[:, :23], **{CACHE: cache}, **how))  # noqa: B023
            assert "died midway" in message


def test_a_refused_forward_leaves_the_cache_as_it_was():
    model, ids = adapted("llama", METHODS[3]), tokens(1, 30)
    cache = lw.new_cache(model)
    read(model, ids[:, :20], cache)
    for bad in ({"mask": torch.ones(1, 3)}, {"position_ids": torch.tensor([[0, 1]])}):
        refusal(lambda: read(model, ids[:, 20:22], cache, **bad))  # noqa: B023
    want = lw.new_cache(model)
    read(model, ids[:, :20], want)
    assert torch.equal(read(model, ids[:, 20:], cache), read(model, ids[:, 20:], want))


def test_rows_that_changed_in_some_layers_only():
    model = adapted("llama")
    cache = lw.new_cache(model)
    read(model, tokens(2, 20), cache)

    def die(index):
        raise KeyboardInterrupt

    cache.layers[1].state.select_rows = die
    with pytest.raises(KeyboardInterrupt):
        cache.reorder_cache(torch.tensor([1, 0]))
    for call in (
        lambda: read(model, tokens(2, 1), cache),
        lambda: cache.crop(-1),
        lambda: copy.deepcopy(cache),
    ):
        assert "interrupted while its rows changed" in refusal(call)


# Rows.


def test_another_number_of_rows_is_refused():
    for family, methods in cases():
        model, cache = adapted(family, methods), None
        cache = lw.new_cache(model)
        read(model, tokens(2, 16), cache)
        for rows in (1, 3):
            for count in (1, 4, 20):
                call = lambda: read(model, tokens(rows, count), cache)  # noqa: B023, E731
                assert f"holds 2 rows and the tokens have {rows}" in refusal(call)
        read(model, tokens(2, 4), cache)
    mask = torch.ones(1, 4)
    assert "a row for each of the 2 rows" in refusal(lambda: read(model, tokens(2, 4), None, mask))


# Masks of the past.


def test_a_row_that_ended_early_goes_on_as_if_it_had_not_been_padded():
    """Its answer was padded; the next turn's mask says so, and positions, as in `generate`."""
    for family, methods in cases():
        model = tiny_model(family, eos_token_id=None)
        ids, mask = left_padded(24)
        ended = mask.clone()
        ended[0, 18:] = 0
        more = torch.cat([ended, torch.ones(2, 5, dtype=torch.long)], 1)
        positions = (more.cumsum(1) - 1).clamp(min=0)
        then = tokens(2, 5, seed=2)
        whole = torch.cat([ids, then], 1)
        with torch.no_grad():
            plain = model(whole, attention_mask=more, position_ids=positions).logits[:, -5:]
        lw.adapt(model, *methods)
        cache = lw.new_cache(model)
        read(model, ids, cache, mask)
        at = positions[:, -5:]
        call = lambda: read(model, then, cache, more, position_ids=at)  # noqa: B023, E731
        if not cache.is_croppable:
            assert "which this cache cannot take back" in refusal(call)
            continue
        got = call()
        for row in range(2) if family != "mistral" else ():  # its windows are counted in columns
            real = whole[row, more[row].bool()][None]
            alone, cut = lw.new_cache(model), real.shape[1] - 5
            read(model, real[:, :cut], alone)
            expected = read(model, real[:, cut:], alone)
            torch.testing.assert_close(got[row : row + 1], expected, atol=1e-5, rtol=0)
        if not methods:
            torch.testing.assert_close(got, plain, atol=1e-5, rtol=0)
        # The hidden tokens stay hidden, whether or not a mask is passed again.
        fork, last = copy.deepcopy(cache), tokens(2, 1, seed=3)
        longer = torch.cat([more, torch.ones(2, 1, dtype=torch.long)], 1)
        at = (longer.cumsum(1) - 1)[:, -1:]
        torch.testing.assert_close(
            read(model, last, cache), read(model, last, fork, longer, position_ids=at)
        )


def test_a_second_turn_of_generate_after_rows_that_ended_early():
    for family in KINDS:
        if family in LOCAL:
            continue
        model, ids = tiny_model(family, eos_token_id=None), tokens(2, 12)
        first = torch.cat([ids, tokens(2, 3, seed=4)], 1)
        mask = torch.ones_like(first)
        mask[0, 13:] = 0  # as after an end of text, which pads the row
        whole = torch.cat([first, tokens(2, 4, seed=5)], 1)
        more = torch.cat([mask, torch.ones(2, 4, dtype=torch.long)], 1)
        how = {"max_new_tokens": 6, "do_sample": False, "attention_mask": more}
        want = model.generate(whole, **how)
        lw.adapt(model)
        cache = lw.new_cache(model)
        read(model, first, cache)
        assert torch.equal(model.generate(whole, **{CACHE: cache}, **how), want), family


def test_other_masks_of_the_past_are_refused():
    for family, methods in cases():
        model = adapted(family, methods)
        ids, mask = left_padded(20)
        cache = lw.new_cache(model)
        read(model, ids, cache, mask)
        want = copy.deepcopy(cache)
        ones = torch.ones(2, 4, dtype=torch.long)
        for row, column, value, words in (
            (0, 8, 0, "hides token 8 of row 0, which later ones in the cache have read"),
            (1, 2, 1, "shows token 2 of row 1, which was padding"),
        ):
            other = torch.cat([mask, ones], 1)
            other[row, column] = value
            assert words in refusal(lambda: read(model, tokens(2, 4), cache, other))  # noqa: B023
        same = torch.cat([mask, ones], 1)
        got, expected = read(model, tokens(2, 4), cache, same), read(model, tokens(2, 4), want)
        assert torch.equal(got, expected)


# Taking tokens back.


def test_crop_takes_back_columns_and_padding_among_them():
    for family, methods in cases():
        model = adapted(family, methods)
        ids, mask = tokens(2, 14), torch.ones(2, 14, dtype=torch.long)
        mask[1, 10:] = 0
        for removed in (1, 4, 6, 14):
            cache, want = lw.new_cache(model), lw.new_cache(model)
            read(model, ids, cache, mask)
            if not cache.is_croppable:
                assert "cannot take back tokens" in refusal(lambda: cache.crop(-1))  # noqa: B023
                break
            cache.crop(-removed)
            left = 14 - removed
            if left:
                read(model, ids[:, :left], want, mask[:, :left])
            assert cache.get_seq_length() == left
            assert cache.lengths.tolist() == [left, min(left, 10)]
            got, expected = read(model, tokens(2, 3), cache), read(model, tokens(2, 3), want)
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)
    assert "at most the 3 seen, got -9" in refusal(lambda: cropped(-9))
    assert "at most the 3 seen, got 2" in refusal(lambda: cropped(2))


def cropped(count):
    model = adapted("llama")
    cache = lw.new_cache(model)
    read(model, tokens(1, 3), cache)
    cache.crop(count)


def test_assisted_decoding_is_refused_before_anything_is_read():
    text, how = tokens(1, 6).repeat(1, 4), {"max_new_tokens": 8, "do_sample": False}
    for family, methods in (("gemma2", ()), ("llama", METHODS[3]), ("llama", METHODS[4])):
        model, plain, forwards = adapted(family, methods), adapted("llama"), []
        for one in (model, plain):
            decoder(one).register_forward_pre_hook(lambda *_: forwards.append(1))  # noqa: B023
        for main, more in (
            (model, {"prompt_lookup_num_tokens": 3}),
            (model, {"assistant_model": tiny_model("llama")}),
            (plain, {"assistant_model": model}),
        ):
            message = refusal(lambda: main.generate(text, **how, **more))  # noqa: B023
            assert "this cache cannot take back tokens" in message and not forwards


# Copies.


def test_a_fork_answers_a_second_question_about_the_same_text():
    for family, methods in cases():
        model = adapted(family, methods)
        ids, mask = left_padded(40)
        cache = lw.new_cache(model)
        read(model, ids, cache, mask)
        questions = [tokens(2, n, seed=n) for n in (1, 9)]
        forks = [copy.deepcopy(cache), cache]
        assert all(fork.owner is cache.owner for fork in forks)
        out = [[], []]
        for _ in range(2):  # in turns, so that shared memory would be seen
            for which, question in enumerate(questions):
                out[which].append(read(model, question, forks[which]))
        for question, got in zip(questions, out, strict=True):
            fresh = lw.new_cache(model)
            read(model, ids, fresh, mask)
            for one in got:
                assert torch.equal(one, read(model, question, fresh)), (family, methods)


def storages(cache):
    held = (t for layer in cache.layers for b in layer.state.store.buffers for t in b.tensors())
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}


def test_forks_share_what_is_held():
    model = adapted("llama").double()
    text, more = tokens(2, 300), tokens(2, 9, seed=1)
    cache = lw.new_cache(model)
    read(model, text, cache)
    before = storages(cache)
    forks = [cache.fork() for _ in range(20)]
    assert all(storages(fork) == before for fork in forks)
    out = [[], [], []]
    three = (cache, forks[0], forks[0].fork())
    questions = [torch.cat([more[:, at:], more[:, :at]], 1) for at in (0, 3, 6)]
    for low, high in ((0, 1), (1, 2), (2, 7), (7, 8), (8, 9)):
        for which, question in enumerate(questions):
            out[which].append(read(model, question[:, low:high], three[which]))
    for question, got in zip(questions, out, strict=True):
        want = read(model, torch.cat([text, question], 1), None)[:, -9:]
        torch.testing.assert_close(torch.cat(got, 1), want, atol=1e-12, rtol=0)
    # Nobody wrote to what the others hold, and each has allocated its own tokens alone.
    assert storages(forks[1]) == before
    for one in three:
        own = {k: v for k, v in storages(one).items() if k not in before}
        assert before.items() <= storages(one).items()
        assert sum(own.values()) <= sum(before.values()) * 128 / 300
    # What is taken back, hidden or reordered in one stays in the others.
    forks[2].crop(-50)
    hidden = torch.ones(2, 309, dtype=torch.long)
    hidden[0, 280:300] = 0
    at = (hidden.cumsum(1) - 1)[:, 300:]
    padded = read(model, more, forks[3], hidden, position_ids=at)
    real = torch.cat([text[:1, :280], more[:1]], 1)
    want = read(model, real, None)[:, -9:]
    torch.testing.assert_close(padded[:1], want, atol=1e-12, rtol=0)
    forks[4].reorder_cache(torch.tensor([1, 0]))
    read(model, more, forks[4])
    read(model, more, forks[2])
    want = read(model, torch.cat([text, more], 1), None)[:, -9:]
    for fork in forks[1], forks[5]:
        torch.testing.assert_close(read(model, more, fork), want, atol=1e-12, rtol=0)


def test_copies_of_a_model_and_casts_go_on_by_themselves():
    """Rotations that were worked out before a cast or a copy do not stand in its way."""
    ids = tokens(2, 30)
    for family, methods in (("llama", ()), ("phi3", ()), *(("llama", m) for m in METHODS[1:])):
        model = adapted(family, methods)
        first = read(model, ids, None)
        twin = copy.deepcopy(model).double()
        caches = [lw.new_cache(model), lw.new_cache(twin)]
        for at in range(0, 30, 10):  # in turns
            out = [
                read(one, ids[:, at : at + 10], cache)
                for one, cache in zip((model, twin), caches, strict=True)
            ]
            assert out[1].dtype is torch.float64
            torch.testing.assert_close(out[1].float(), out[0], atol=1e-5, rtol=0)
        lw.restore(twin)
        assert torch.equal(read(model, ids, None), first)
        alone = adapted(family, methods).double()
        torch.testing.assert_close(
            read(lw.adapt(twin, *methods), ids, None), read(alone, ids, None), atol=1e-12, rtol=0
        )


def test_a_cache_copied_along_with_its_model_belongs_to_the_copy():
    model = adapted("llama")
    cache = lw.new_cache(model)
    read(model, tokens(1, 9), cache)
    both = copy.deepcopy({"model": model, "cache": cache})
    got = read(both["model"], tokens(1, 2), both["cache"])
    assert torch.equal(got, read(model, tokens(1, 2), cache))
    assert "another model" in refusal(lambda: read(model, tokens(1, 2), both["cache"]))


def test_what_cannot_be_copied_says_so():
    cache = lw.new_cache(adapted("llama"))
    assert "or copy.deepcopy(cache)" in refusal(lambda: copy.copy(cache))
    for save in (pickle.dumps, lambda x: torch.save(x, io.BytesIO())):
        assert "fork it with copy.deepcopy" in refusal(lambda: save(cache))  # noqa: B023


# `generate`.


def test_kinds_of_caches_by_name():
    ids, how = tokens(2, 6), {"max_new_tokens": 3, "do_sample": False}
    for family in KINDS:
        model = adapted(family)
        want = model.generate(ids, **how)
        for kind in ("static", "dynamic", "sliding_window", "hybrid"):
            assert torch.equal(model.generate(ids, cache_implementation=kind, **how), want)
            model.generation_config.cache_implementation = kind
            assert torch.equal(model.generate(ids, **how), want)
            model.generation_config.cache_implementation = None
        config = hf.GenerationConfig(**how, cache_implementation="static", pad_token_id=PAD)
        assert torch.equal(model.generate(ids, config), want)
    for kind in ("quantized", "offloaded", "paged"):
        message = refusal(lambda: model.generate(ids, cache_implementation=kind, **how))  # noqa: B023
        assert f"got '{kind}'" in message and "dynamic, static" in message
    out = model.generate(ids, use_cache=False, **how)
    assert torch.equal(out, want)


@torch.no_grad()
def test_keys_and_values_can_be_looked_at_and_not_set():
    ids = tokens(2, 12)
    for family in ("llama", "mistral", "gemma2"):
        model = tiny_model(family, sliding_window=64)
        theirs = model(ids[:, :9], use_cache=True).past_key_values
        model(ids[:, 9:], past_key_values=theirs)
        lw.adapt(model)
        cache = lw.new_cache(model)
        assert cache.layers[0].keys is None
        model(ids[:, :9], past_key_values=cache)
        model(ids[:, 9:], past_key_values=cache)
        for own, plain in zip(cache.layers, theirs.layers, strict=True):
            torch.testing.assert_close(own.keys, plain.keys, atol=1e-5, rtol=0)
            torch.testing.assert_close(own.values, plain.values, atol=1e-5, rtol=0)
        with pytest.raises(ValueError, match="can be looked at and not be set"):
            cache.layers[0].keys = own.keys
    model = lw.adapt(tiny_model("llama"), lw.TOVA(tokens=8, every=4))
    cache = lw.new_cache(model)
    model(ids, past_key_values=cache)
    assert cache.layers[0].keys is None  # every head holds others


@torch.no_grad()
def test_beams_without_a_cache():
    model, how = tiny_model("llama"), {"num_beams": 2, "max_new_tokens": 4, "use_cache": False}
    plain = model.generate(tokens(2, 9), **how)
    assert torch.equal(lw.adapt(model).generate(tokens(2, 9), **how), plain)
