"""What a pattern never reads again is not kept, and nothing is kept twice."""

import torch

import lengthwise as lw
from lengthwise.extend.adapt import binding_of
from lengthwise.testing.models import tiny_model
from lengthwise.train.patterns import (
    BigBird,
    LongGen,
    LongNet,
    MASFormer,
    ShiftedSparse,
    SinkWindow,
    StridedBlocks,
    fit_pattern,
)

LENGTH = 700
NEAR = SinkWindow(sinks=2, window=30)
# The share of plain's bytes that a model of six layers, two KV heads and four heads may hold.
PATTERNS = [
    (LongGen(sinks=2, window=30), 2 / 6 + 0.05),
    (LongGen(sinks=2, window=30, stride=4, block=8), 1.0),
    (MASFormer(full=1, block=16), 1 / 6 + 0.05),
    (LongNet((32, 128, 512), (1, 2, 4)), 1.0),
    (ShiftedSparse(group=32), 0.1),
    (BigBird(block=16), 1.0),
    (StridedBlocks(block=8, stride=4, sinks=2, window=30), 1.0),
    (NEAR, 0.06),
]


def model():
    return tiny_model("llama", num_hidden_layers=6, num_key_value_heads=2).double().eval()


def read(subject, ids, *sizes):
    """Logits of a text that is read in pieces, the last size again and again; and its cache."""
    cache, found, at = lw.new_cache(subject), [], 0
    while at < ids.shape[1]:
        size = sizes[min(len(found), len(sizes) - 1)]
        found.append(subject(ids[:, at : at + size], past_key_values=cache).logits)
        at += size
    return torch.cat(found, dim=1), cache


def held(cache):
    return sum(layer.state.bytes() for layer in cache.layers)


@torch.no_grad()
def test_far_keys_that_nobody_reads_are_not_kept():
    ids = torch.randint(0, 64, (2, LENGTH), generator=torch.Generator().manual_seed(0))
    plain = held(read(lw.adapt(model()), ids, 64)[1])
    for pattern, share in PATTERNS:
        subject = fit_pattern(model(), pattern)
        whole = subject(ids).logits
        for sizes in ((64,), (200, 1, 300, 7, 1), (LENGTH - 40, 1)):
            found, cache = read(subject, ids, *sizes)
            assert (found - whole).abs().max() < 1e-10, (pattern, sizes)
            assert held(cache) <= share * 1.07 * plain, (pattern, held(cache) / plain)
        # As long as the text is short, no more is allocated than for everything.
        short = read(subject, ids[:, :90], 30)[1]
        assert held(short) <= held(read(lw.adapt(model()), ids[:, :90], 30)[1]), pattern


@torch.no_grad()
def test_padding_and_methods_for_other_axes():
    ids = torch.randint(1, 64, (1, 120), generator=torch.Generator().manual_seed(1))
    subject = fit_pattern(model(), LongGen(sinks=2, window=30))
    padded = torch.cat([torch.zeros(1, 40, dtype=torch.long), ids[:, :80]], dim=1)
    mask = torch.ones(2, 120, dtype=torch.long)
    mask[1, :40] = 0
    cache, both = lw.new_cache(subject), torch.cat([ids, padded])
    rows = []
    for at in range(0, 120, 24):
        rows.append(
            subject(
                both[:, at : at + 24], attention_mask=mask[:, : at + 24], past_key_values=cache
            ).logits
        )
    found = torch.cat(rows, dim=1)
    assert (found[0] - subject(ids).logits[0]).abs().max() < 1e-10
    assert (found[1, 40:] - subject(ids[:, :80]).logits[0]).abs().max() < 1e-10
    # A store that a person names is the store, in every layer.
    named = fit_pattern(model(), LongGen(sinks=2, window=30), lw.StreamingLLM(sinks=2, window=20))
    stores = {repr(axes.store) for axes in binding_of(named).engine.layers}
    assert stores == {"StreamingLLM(sinks=2, window=20)"}
