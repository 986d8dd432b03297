"""Positional heads: a correlation that can be made by hand, and heads that are switched off."""

import numpy as np
import pytest
import torch

import lengthwise as lw
from lengthwise.lab.heads import evidence, same_layers
from lengthwise.measure.probes import PositionalHeads, ablated, highest, random_heads
from lengthwise.testing.models import KINDS, tiny_model

SPREAD = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def ids(rows=2, length=50):
    return torch.randint(3, 300, (rows, length), generator=seeded())


def by_hand(model, text, far, sinks, queries, keys):
    """The correlation from transformers' own projections and rotary embedding, layer 0."""
    attention = model.model.layers[0].self_attn
    config = model.config
    with torch.no_grad():
        hidden = model.model.layers[0].input_layernorm(model.model.embed_tokens(text))
        shape = (*hidden.shape[:2], -1, config.head_dim)
        q = attention.q_proj(hidden).view(shape).transpose(1, 2)
        k = attention.k_proj(hidden).view(shape).transpose(1, 2)
        positions = torch.arange(text.shape[1])[None]
        cos, sin = model.model.rotary_emb(q, positions)

        def turned(x):
            half = config.head_dim // 2
            other = torch.cat([-x[..., half:], x[..., :half]], -1)
            return x * cos[:, None] + other * sin[:, None]

        q, k = turned(q), turned(k).repeat_interleave(q.shape[1] // k.shape[1], 1)
    frequency = config.rope_parameters["rope_theta"] ** (
        -torch.arange(0, config.head_dim, 2) / config.head_dim
    )
    slow = 2 * torch.pi / frequency > config.max_position_embeddings
    slow = torch.cat([slow, slow])
    assert 0 < slow.sum() < config.head_dim
    found = []
    for head in range(q.shape[1]):
        product = q[:, head, queries] * k[:, head, keys]
        x, y = product[..., slow].sum(-1).flatten(), product.sum(-1).flatten()
        found.append(np.corrcoef(x.numpy(), y.numpy())[0, 1])
    return found


def test_scores_by_hand():
    model = tiny_model("llama", **SPREAD)
    text, far, sinks, pairs = ids(), 10, 2, 500
    scores = PositionalHeads(far, pairs, sinks).scores(model, text, seeded())
    generator = seeded()
    queries = torch.randint(sinks + far, 50, (pairs,), generator=generator)
    share = torch.rand(pairs, generator=generator, dtype=torch.float64)
    keys = sinks + (share * (queries - far - sinks + 1).double()).long()
    assert (queries - keys).min() >= far and keys.min() >= sinks and (queries - keys).max() > 40
    expected = by_hand(model, text, far, sinks, queries, keys)
    assert scores[0].tolist() == pytest.approx(expected, abs=1e-4)
    assert scores.std() > 0.05  # heads differ, or the flagged ones would be any


def test_a_planted_head_is_flagged():
    """One head's fast dimensions are switched off: its scores come from the slow ones alone."""
    model = tiny_model("llama", **SPREAD)
    rows = slice(4 * 8, 5 * 8)  # query head 4 of layer 1
    with torch.no_grad():
        weight = model.model.layers[1].self_attn.q_proj.weight[rows]
        weight[[0, 1, 4, 5]] *= 1e-3  # the two fast pairs of four
    scores = PositionalHeads(10).scores(model, ids(), seeded())
    assert highest(scores, 0.01) == [(1, 4)]
    assert float(scores[1, 4]) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("family", KINDS)
def test_every_family(family):
    model = tiny_model(family)
    scores = PositionalHeads(20, 200).scores(model, ids(1), seeded())
    assert scores.shape == (2, 6)
    local = {"mistral": [0, 1], "gemma2": [0], "gemma3_text": [0], "gpt_oss": [0], "qwen2": [1]}
    blind = {"smollm3": [1], "cohere2": [0, 1]}  # layers without positions, and local ones beside
    none = local.get(family, []) + blind.get(family, [])
    assert [bool(row.isnan().all()) for row in scores] == [i in none for i in range(2)]
    assert bool((scores.nan_to_num().abs() <= 1 + 1e-6).all())
    with torch.no_grad():
        before = model(input_ids=ids(1)).logits
        with ablated(model, [(0, 1), (1, 5)]):
            cut = model(input_ids=ids(1)).logits
        after = model(input_ids=ids(1)).logits
    assert torch.equal(before, after) and not torch.allclose(before, cut, atol=1e-3)


@pytest.mark.parametrize("method", [lw.YaRN(factor=4), lw.SelfExtend(group=2, window=16)])
def test_adapted_models_are_scored_where_their_tokens_seem_to_stand(method):
    model = tiny_model("llama", **SPREAD)
    plain = PositionalHeads(20, 300).scores(model, ids(), seeded())
    with lw.adapted(model, method):
        moved = PositionalHeads(20, 300).scores(model, ids(), seeded())
        again = PositionalHeads(20, 300).scores(model, ids(), seeded())
    with lw.adapted(model):
        same = PositionalHeads(20, 300).scores(model, ids(), seeded())
    assert torch.equal(moved, again)
    assert not torch.allclose(plain[0], moved[0], atol=1e-3)
    torch.testing.assert_close(plain, same)


def test_an_ablated_head_is_a_head_whose_values_are_zero():
    """Against a model in which the output projection of that head is 0."""
    model = tiny_model("llama")
    with torch.no_grad(), ablated(model, [(0, 2)]):
        cut = model(input_ids=ids()).logits
    with torch.no_grad():
        model.model.layers[0].self_attn.o_proj.weight[:, 2 * 8 : 3 * 8] = 0
        by_hand = model(input_ids=ids()).logits
    torch.testing.assert_close(cut, by_hand, atol=1e-5, rtol=1e-5)


def test_ablation_on_top_of_a_method_and_while_decoding():
    model = tiny_model("llama")
    text = ids(1, 20)
    with torch.no_grad(), lw.adapted(model, lw.StreamingLLM(sinks=2, window=8)):
        with ablated(model, [(1, 0)]):
            whole = model(input_ids=text).logits[:, -1]
            part = model(input_ids=text[:, :-1])
            step = model(input_ids=text[:, -1:], past_key_values=part.past_key_values).logits
        plain = model(input_ids=text).logits[:, -1]
    torch.testing.assert_close(whole, step[:, -1], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(whole, plain, atol=1e-3)


def test_sets_of_heads():
    scores = torch.tensor([[0.1, 0.9, torch.nan], [0.5, -0.2, 0.3]])
    assert highest(scores, 0.4) == [(0, 1), (1, 0)]
    assert highest(scores, 0.01) == [(0, 1)]
    drawn = random_heads(scores, 3, seeded(), without=[(0, 1), (1, 0)])
    assert sorted(drawn) == [(0, 0), (1, 1), (1, 2)]
    assert same_layers(scores, [(1, 0)], seeded())[0] in [(1, 1), (1, 2)]
    with pytest.raises(ValueError, match="there are 5 heads to draw from, 6 are wanted"):
        random_heads(scores, 6, seeded())
    with pytest.raises(ValueError, match="share above 0 to 1"):
        highest(scores, 0)


def test_bad_arguments():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="give at least 65, or a smaller far"):
        PositionalHeads(60).scores(model, ids(), seeded())
    with pytest.raises(ValueError, match="far must be at least 1"):
        PositionalHeads(0)
    with pytest.raises(ValueError, match="no head 9 in layer 0"), ablated(model, [(0, 9)]):
        pass
    with (
        pytest.raises(ValueError, match="mixes two scores"),
        lw.adapted(model, lw.GALI(trained=64, window=8, factor=2)),
    ):
        PositionalHeads(20).scores(model, ids(), seeded())


def test_the_record_of_an_ablation(tokenizer):
    """The whole study on a tiny model: its verdict follows from its numbers."""
    model = tiny_model("llama", vocab_size=len(tokenizer), max_position_embeddings=128)
    found = evidence(model, tokenizer, "tiny", length=128, draws=2, items=1, seed=1)
    numbers = found.numbers
    assert len(numbers["flagged"]) == 1 and len(numbers["without_random"]) == 2
    rises = numbers["mean_rise"]["answer"]
    assert rises["flagged"] == pytest.approx(
        numbers["without_flagged"]["answer"] - numbers["whole"]["answer"]
    )
    first = found.findings[0]
    assert first.value == pytest.approx(rises["flagged"] - 2 * rises["random"], abs=1e-6)
    assert first.low < first.high and len(found.findings) == 3
    assert found.command.startswith("lengthwise probe heads tiny --length 128")
