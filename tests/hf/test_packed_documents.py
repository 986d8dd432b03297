"""Packed documents, in chunks of every size and beside padding, equal documents alone."""

import pytest
import torch

import lengthwise as lw
from lengthwise.testing.models import KINDS, tiny_model

# Lengths of the documents of every row; a negative one is padding.
ROWS = [[7, 25, 9, 11], [-6, 30, 3, 1, 12], [20, 22, -10], [52]]
WIDTH = 52
METHODS = {
    "none": (),
    "window": (lw.StreamingLLM(sinks=0, window=9),),
    "sinks": (lw.StreamingLLM(sinks=3, window=9),),
    "lambda": (lw.StreamingLLM(sinks=3, window=9), lw.LMInfinite(sinks=2, window=6)),
    "chunks": (lw.StreamingLLM(sinks=2, window=12), lw.DualChunk(chunk=9, window=4)),
    "groups": (lw.SelfExtend(group=4, window=8),),
    "sharper": (lw.LogTemperature(),),
}


def exact(family, **changes):
    model = tiny_model(family, **changes).double()
    if family == "gpt_oss":  # torch's grouped product of experts has no float64
        model.set_experts_implementation("eager")
    return model


def packed(rows):
    """Tokens, positions, documents and the mask of rows, and where every document lies."""
    ids = torch.randint(3, 300, (len(rows), WIDTH), generator=torch.Generator().manual_seed(0))
    positions, segments = torch.zeros_like(ids), torch.full_like(ids, -1)
    mask, places, number = torch.zeros_like(ids), [], 0
    for row, lengths in enumerate(rows):
        at = 0
        for length in lengths:
            if length > 0:
                cut = slice(at, at + length)
                positions[row, cut], segments[row, cut] = torch.arange(length), number
                mask[row, cut] = 1
                places.append((row, cut))
                number += 1
            at += abs(length)
        assert at == WIDTH
    return ids, positions, segments, mask, places


def in_chunks(model, size, ids, positions, segments, mask=None):
    cache, parts = lw.new_cache(model), []
    for low in range(0, ids.shape[1], size):
        cut = slice(low, low + size)
        seen = {} if mask is None else {"attention_mask": mask[:, : low + size]}
        parts.append(
            model(
                ids[:, cut],
                position_ids=positions[:, cut],
                segment_ids=segments[:, cut],
                past_key_values=cache,
                **seen,
            ).logits
        )
    return torch.cat(parts, 1)


@pytest.mark.parametrize("family", KINDS)
@torch.no_grad()
def test_documents_in_chunks_are_documents_alone(family):
    """Local layers keep a ring, whatever the method; Phi-3's frequencies stay below 32 tokens."""
    rows = [row for row in ROWS if row != [52] or family != "phi3"]
    *tensors, places = packed(rows)
    for name in ["none"] if family != "llama" else METHODS:
        model = lw.adapt(exact(family), *METHODS[name])
        alone = [model(tensors[0][row : row + 1, cut]).logits[0] for row, cut in places]
        for size in (1, 5, 13, WIDTH) if name in ("none", "sinks") else (8,):
            together = in_chunks(model, size, *tensors)
            for (row, cut), want in zip(places, alone, strict=True):
                gap = (together[row, cut] - want).abs().max()
                assert gap < 1e-9, (name, size, row, cut, gap)


@torch.no_grad()
def test_positions_of_documents_are_counted_where_none_are_given():
    ids, positions, segments, mask, places = packed(ROWS)
    for name in ("sinks", "groups", "chunks"):
        model = lw.adapt(tiny_model("llama").double(), *METHODS[name])
        want = model(ids, position_ids=positions, segment_ids=segments, attention_mask=mask).logits
        got = model(ids, segment_ids=segments, attention_mask=mask).logits
        assert torch.equal(got[mask.bool()], want[mask.bool()])
    cache = lw.new_cache(model)
    model(ids[:, :9], segment_ids=segments[:, :9], past_key_values=cache)
    with pytest.raises(ValueError, match="segment_ids on a cache that holds tokens need position_"):
        model(ids[:, 9:], segment_ids=segments[:, 9:], past_key_values=cache)


@torch.no_grad()
def test_a_document_that_comes_back_is_whole_or_refused():
    ids = torch.arange(3, 33)[None]
    segments = torch.tensor([[4] * 10 + [2] * 10 + [4] * 10])
    positions = torch.tensor([[*range(10), *range(10), *range(10, 20)]])
    rolling = lw.adapt(tiny_model("llama").double(), lw.StreamingLLM(sinks=1, window=40))
    alone = rolling(torch.cat([ids[:, :10], ids[:, 20:]], 1)).logits
    assert (
        in_chunks(rolling, 30, ids, positions, segments)[:, 20:] - alone[:, 10:]
    ).abs().max() < (1e-9)
    late = rolling(ids[:, :10], segment_ids=segments[:, :10], past_key_values=lw.new_cache(rolling))
    kept = [in_chunks(rolling, size, ids, positions, segments) for size in (30, 10**6)]
    assert torch.equal(*kept) and late.logits.isfinite().all()
    for size in (1, 5, 13, 20):
        with pytest.raises(ValueError, match="document 4 of row 0 comes back after another one"):
            in_chunks(rolling, size, ids, positions, segments)
    everything = lw.adapt(tiny_model("llama").double())
    want = everything(torch.cat([ids[:, :10], ids[:, 20:]], 1)).logits[:, 10:]
    for size in (1, 5, 13, 20, 30):
        got = in_chunks(everything, size, ids, positions, segments)[:, 20:]
        assert (got - want).abs().max() < 1e-9


@torch.no_grad()
def test_rows_of_packed_documents_follow():
    """Rows of a cache that are reordered take what they hold, and hide, along."""
    ids, positions, segments, mask, places = packed([[20, 32], [40, 12]])
    model = lw.adapt(tiny_model("llama").double(), *METHODS["sinks"])
    want = in_chunks(model, 30, ids, positions, segments)
    cache, order = lw.new_cache(model), torch.tensor([1, 0, 0])
    cut = slice(0, 30)
    kw = {"position_ids": positions[:, cut], "segment_ids": segments[:, cut]}
    model(ids[:, cut], past_key_values=cache, **kw)
    cache.reorder_cache(order)
    rest = [x[order, 30:] for x in (ids, positions, segments)]
    got = model(rest[0], position_ids=rest[1], segment_ids=rest[2], past_key_values=cache).logits
    assert (got - want[order, 30:]).abs().max() < 1e-9
    with pytest.raises(ValueError, match="document 0 of row 1 comes back"):
        model(
            rest[0][:, :1], position_ids=rest[1][:, :1], past_key_values=cache,
            segment_ids=torch.tensor([[3], [0], [1]]),
        )  # fmt: skip


LONG = (2.0, 3.0, 4.0, 5.0)
FOLLOWING = {
    "ntk": ("llama", lw.DynamicNTK(factor=2)),
    "yarn": ("llama", lw.DynamicYaRN()),
    "clex": ("llama", lw.CLEX(factors=((1.1, 1.5, 1.8, 2.0), LONG))),
    "two tables": ("llama", lw.LongRoPE(LONG, 4, short_factors=(1.0, 1.1, 1.2, 1.3))),
    "tables and first tokens": (
        "llama",
        lw.LongRoPE(LONG, 4, short_factors=(1.0, 1.1, 1.2, 1.3), start_tokens=3),
    ),
    "sharper": ("llama", lw.LogTemperature(over=lw.DynamicNTK())),
    "own tables": ("phi3", None),
    "learned sinks": ("gpt_oss", lw.DynamicNTK(factor=2)),
    "local": ("gemma3_text", lw.DynamicNTK(factor=2)),
}


@pytest.mark.parametrize("name", FOLLOWING)
@torch.no_grad()
def test_every_document_has_frequencies_of_its_own_length(name):
    family, method = FOLLOWING[name]
    changes = {} if family == "phi3" else {"max_position_embeddings": 16}
    if family == "gpt_oss":
        changes["rope_parameters"] = {"rope_type": "default", "rope_theta": 10_000.0}
    model = exact(family, **changes)
    lw.adapt(model, *([] if method is None else [method]))
    for rows in (ROWS, [[40, 12], [12, 40]], [[3, 5, 44]]):
        ids, positions, segments, mask, places = packed(rows)
        kw = {"position_ids": positions, "segment_ids": segments, "attention_mask": mask}
        together = model(ids, use_cache=False, **kw).logits
        cached = in_chunks(model, WIDTH, ids, positions, segments, mask)
        for row, cut in places:
            alone = model(ids[row : row + 1, cut], use_cache=False).logits[0]
            assert (together[row, cut] - alone).abs().max() < 1e-9, (rows, row, cut)
            assert (cached[row, cut] - alone).abs().max() < 1e-9, (rows, row, cut)
            if len(rows) > 1:
                continue
            # In chunks a document's frequencies follow its length so far, packed or not.
            parts = in_chunks(model, 13, ids, positions, segments, mask)[row, cut]
            cache = lw.new_cache(model)
            ends = [*range(13, WIDTH, 13), WIDTH]
            sizes = [min(max(end - cut.start, 0), cut.stop - cut.start) for end in ends]
            pieces = torch.tensor(sizes).diff(prepend=torch.tensor([0])).tolist()
            again = [
                model(piece, past_key_values=cache).logits[0]
                for piece in ids[row : row + 1, cut].split(pieces, dim=1)
                if piece.shape[1]
            ]
            assert (parts - torch.cat(again)).abs().max() < 1e-9, (rows, row, cut)
