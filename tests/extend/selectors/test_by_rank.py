"""Selectors whose far keys stand by rank, in models; the rule itself is in the contract suite."""

import pytest
import torch

import lengthwise as lw
from lengthwise.extend.adapt import compose
from lengthwise.testing import Bench
from lengthwise.testing.models import KINDS, PAD, tiny_model

SELECTORS = (
    lw.LongHeads(chunks=4, chunk=4),
    lw.LongCache(top=2, centres=3, span=4, sinks=2, window=8),
)


def padded(lengths):
    g = torch.Generator().manual_seed(0)
    rows = [torch.randint(3, 300, (1, n), generator=g) for n in lengths]
    ids, mask = torch.full((len(rows), max(lengths)), PAD), torch.zeros(len(rows), max(lengths))
    for i, row in enumerate(rows):
        ids[i, -row.shape[1] :], mask[i, -row.shape[1] :] = row, 1
    return rows, ids, mask.long()


@torch.no_grad()
def test_every_family_reads_padded_chunks_as_single_rows():
    rows, ids, mask = padded((60, 37))
    # What a token of Phi-3 saw depends on how far reading had come.
    for family in sorted({*KINDS} - {"phi3"}):
        model = tiny_model(family)
        if family != "gpt_oss":  # its experts have no float64
            model = model.double()
        for selector in SELECTORS:
            with lw.adapted(model, selector):
                cache, outs = lw.new_cache(model), []
                for low, high in ((0, 33), (33, 34), (34, 59), (59, 60)):
                    part, seen = ids[:, low:high], mask[:, :high]
                    outs.append(model(part, attention_mask=seen, past_key_values=cache).logits)
                together = torch.cat(outs, 1)
                for i, row in enumerate(rows):
                    alone = model(row, use_cache=False).logits
                    gap = (together[i : i + 1, -row.shape[1] :] - alone).abs().max().item()
                    least = 1e-9 if model.dtype == torch.float64 else 1e-4
                    assert gap < least, f"{family}, {selector}: {gap:.1e}"
                whole = alone
            with lw.adapted(model):
                plain = model(rows[-1], use_cache=False).logits
            assert (whole - plain).abs().max() > 1e-4, f"{family}, {selector}"


def test_beams_in_a_padded_batch_are_those_of_single_rows():
    rows, ids, mask = padded((40, 23))
    how = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False, "eos_token_id": None}
    model = tiny_model("llama").double()
    for selector in SELECTORS:
        with lw.adapted(model, selector):
            together = model.generate(ids, attention_mask=mask, **how)
            for i, row in enumerate(rows):
                alone = model.generate(row, attention_mask=torch.ones_like(row), **how)
                assert torch.equal(together[i, ids.shape[1] :], alone[0, row.shape[1] :])


def test_inside_a_models_own_window():
    """Chunks that the window hides take no place in the row: all but one hidden are not chosen."""
    bench, length = Bench(window=20), 80
    tensors = bench.tensors(1, length)
    for selector in SELECTORS:
        windowed = bench.engine(selector)
        whole = bench.run(windowed, tensors)
        chunks = bench.run(windowed, tensors, [33, 1, 46])
        assert (whole - chunks).abs().max() < 1e-10
        changed = tuple(x.clone() for x in tensors)
        for x in changed[1:]:
            x[:, :, :40] += 1.0  # hidden from the last queries
        after = bench.run(windowed, changed)
        assert (whole - after)[:, :, 60:].abs().max() < 1e-12
        assert (whole - after)[:, :, :59].abs().max() > 1e-3


def test_what_does_not_fit_is_refused():
    model = tiny_model("llama")  # of 64 tokens
    for selector in SELECTORS:
        words = f"{type(selector).__name__} gives far keys places by their rank among those"
        with pytest.raises(ValueError, match=words):
            lw.adapt(model, selector, lw.SelfExtend(group=4, window=16))
    start = lw.LongRoPE((1.0, 1.5), 2, start_tokens=2)
    with pytest.raises(ValueError, match="LongHeads cannot move them"):
        compose((start, SELECTORS[0], lw.Causal()))
    for make, words in (
        (lambda: lw.LongHeads(chunks=3), "LongHeads: chunks must be a whole number of at least 4"),
        (lambda: lw.LongHeads(chunk=1), "LongHeads: chunk must be a whole number of at least 2"),
        (lambda: lw.LongCache(top=0), "LongCache: top must be a whole number of at least 1, got 0"),
        (lambda: lw.LongCache(sinks=-1), "LongCache: sinks must be"),
        (lambda: lw.adapt(model, lw.LongHeads(chunks=5, chunk=16)), "got 5 . 16 = 80"),
        (
            lambda: lw.adapt(model, lw.LongCache(centres=8, span=4, sinks=2, window=40)),
            "at most the trained window of 64 tokens, got 74",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            make()


def test_longcache_chooses_by_content_alone():
    """Frequencies change what is read at which angle, but not what is read."""
    bench = Bench()
    tensors = bench.tensors(1, 60)
    kept = []
    for scaling in (lw.OwnScaling(), lw.PI(factor=7)):
        engine = bench.engine(SELECTORS[1], scaling)
        state = engine.new_state(0)
        seen = []
        choose = state.selector._choose
        state.selector._choose = lambda *a, **kw: seen.append(choose(*a, **kw)) or seen[-1]  # noqa: B023
        bench.run(engine, tensors, [60], state=state)
        kept.append(torch.cat(seen, 1)[..., :60])
    assert torch.equal(*kept) and kept[0].any()


def test_of_keys_that_are_equal_the_oldest_is_read_however_a_text_is_cut():
    """A repeated token has one un-rotated key in the first layer, and rounding must not choose."""
    bench = Bench(heads=8, head_dim=64, rotary_dim=64, dtype=torch.float32)
    q, k, v = bench.tensors(1, 150)
    tensors = (q, k[:, :, torch.arange(150) % 7], v)
    engine = bench.engine(SELECTORS[1])
    whole = bench.run(engine, tensors)
    for chunks in ([1] * 150, [60, 17, 73], [149, 1]):
        assert (bench.run(engine, tensors, chunks) - whole).abs().max() < 1e-4
