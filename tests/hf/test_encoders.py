"""Encoders without rotary positions: TempScale on BERT's kin and T5, T5Align on T5."""

import copy
import math

import pytest
import torch
import transformers as hf

import lengthwise as lw
from lengthwise.extend.scaling.t5_align import attention_statistic
from lengthwise.testing.models import tiny_model, tiny_tokenizer

WINDOW = 16  # of T5
SMALL = {
    "vocab_size": 320,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "max_position_embeddings": 80,
    "pad_token_id": 0,
}
T5 = {"vocab_size": 320, "d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 3}
T5 = {**T5, "decoder_start_token_id": 0, "n_positions": WINDOW}
DISTIL = {"vocab_size": 320, "dim": 24, "hidden_dim": 32, "n_layers": 2, "n_heads": 3}
MODELS = {
    "bert": (hf.BertModel, SMALL),
    "roberta": (hf.RobertaModel, SMALL),
    "xlm-roberta": (hf.XLMRobertaModel, SMALL),
    "camembert": (hf.CamembertModel, SMALL),
    "electra": (hf.ElectraModel, {**SMALL, "embedding_size": 24}),
    "distilbert": (hf.DistilBertModel, {**DISTIL, "max_position_embeddings": 80}),
    "t5": (hf.T5EncoderModel, T5),
    "mt5": (hf.MT5EncoderModel, T5),
}


def model_of(kind, cls=None, attention="sdpa", **changes):
    own, settings = MODELS[kind]
    config = hf.AutoConfig.for_model(kind, **{**settings, **changes})
    with torch.random.fork_rng(devices=[]):
        model = (cls or own)._from_config(config, attn_implementation=attention)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3, generator=g)
    return model.eval()


def tokens(rows, length, seed=1):
    return torch.randint(3, 320, (rows, length), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def hidden(model, ids, **kw):
    return model(input_ids=ids, **kw).last_hidden_state


def first_attention(model, kind):
    if kind in ("t5", "mt5"):
        return model.encoder.block[0].layer[0].SelfAttention
    if kind == "distilbert":
        return model.transformer.layer[0].attention
    return model.encoder.layer[0].attention.self


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_probabilities_are_the_softmax_of_scores_over_the_temperature(kind, attention):
    model, ids, seen = model_of(kind, attention=attention), tokens(2, 12), []
    layer = first_attention(model, kind)
    hook = layer.register_forward_pre_hook(
        lambda module, args, kw: seen.append(args[0] if args else kw["hidden_states"]),
        with_kwargs=True,
    )
    outputs = []
    layer.register_forward_hook(lambda module, args, output: outputs.append(output[0]))
    with lw.adapted(model, lw.TempScale(0.6)):
        hidden(model, ids)
    hook.remove()
    names = {"distilbert": "q_lin k_lin v_lin", "t5": "q k v", "mt5": "q k v"}
    q, k, v = (
        getattr(layer, name)(seen[0]).view(2, 12, 3, 8).transpose(1, 2)
        for name in names.get(kind, "query key value").split()
    )
    scores = q @ k.transpose(-1, -2)
    scores = scores + layer.compute_bias(12, 12) if "t5" in kind else scores / math.sqrt(8)
    by_hand = ((scores / 0.6).softmax(-1) @ v).transpose(1, 2).reshape(2, 12, 24)
    if kind == "distilbert":
        by_hand = layer.out_lin(by_hand)
    elif "t5" in kind:
        by_hand = layer.o(by_hand)
    assert (outputs[0] - by_hand).abs().max() < 1e-5


@pytest.mark.parametrize("kind", MODELS)
def test_temperature_one_and_restore_are_bit_for_bit(kind):
    model, ids = model_of(kind), tokens(2, 20)
    mask = torch.ones_like(ids)
    mask[0, 13:] = 0
    before = [hidden(model, ids), hidden(model, ids, attention_mask=mask)]
    for method in ((lw.TempScale(1),), ()):
        with lw.adapted(model, *method):
            assert torch.equal(hidden(model, ids), before[0])
            assert torch.equal(hidden(model, ids, attention_mask=mask), before[1])
    with lw.adapted(model, lw.TempScale(0.5)):
        together = hidden(model, ids, attention_mask=mask)
        assert (together - before[1]).abs().max() > 1e-3  # no silent no-op
        assert (together[:1, :13] - hidden(model, ids[:1, :13])).abs().max() < 1e-5
    assert torch.equal(hidden(model, ids), before[0])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_save_load_and_explain(kind, tmp_path):
    model, ids = model_of(kind), tokens(1, 20)
    lw.adapt(model, lw.TempScale(0.8))
    lw.save(model, tiny_tokenizer(), tmp_path / "saved")
    loaded, _ = lw.load(tmp_path / "saved")
    assert type(loaded) is type(model)
    assert torch.equal(hidden(loaded.eval(), ids), hidden(model, ids))
    assert "scores times 1.25 at every length" in lw.explain(loaded)


def test_layers_of_every_head_of_bert_are_found():
    model, ids = model_of("bert", hf.BertForMaskedLM), tokens(1, 20)
    plain = model(ids).logits
    with lw.adapted(model, lw.TempScale(0.5)):
        assert (model(ids).logits - plain).abs().max() > 1e-3


def seq2seq(model, ids, **kw):
    with torch.no_grad():
        return model(input_ids=ids, decoder_input_ids=tokens(len(ids), 6, seed=5), **kw).logits


ALIGN = lw.T5Align(factors=(2, 4), temperatures=(0.8, 0.5))


def test_t5_with_a_decoder():
    model = model_of("t5", hf.T5ForConditionalGeneration)
    short, long = tokens(2, WINDOW), tokens(2, 4 * WINDOW)
    before = [seq2seq(model, short), seq2seq(model, long)]
    encoder = model.get_encoder()
    with lw.adapted(model, lw.TempScale(0.5)):
        cooled, through = seq2seq(model, long), hidden(encoder, long)
    with lw.adapted(model, ALIGN):
        assert torch.equal(seq2seq(model, short), before[0])  # inside the trained length
        assert torch.equal(hidden(encoder, long), through)  # 0.5 at 4 times it
        # The decoder reads the sharpened encoder, and does not change itself.
        assert torch.equal(seq2seq(model, long), cooled)
        how = {"max_new_tokens": 5, "do_sample": False}
        generated = model.generate(long, **how)
        assert torch.equal(generated, model.generate(long, use_cache=False, **how))
        assert model.generate(long, num_beams=2, **how).shape[0] == 2
    out = hf.modeling_outputs.BaseModelOutput(last_hidden_state=through)
    with torch.no_grad():
        plain = model(encoder_outputs=out, decoder_input_ids=tokens(2, 6, seed=5)).logits
    assert torch.equal(plain, cooled)
    assert torch.equal(seq2seq(model, long), before[1])


def test_each_row_has_the_temperature_of_its_length():
    model = model_of("t5")
    lw.adapt(model, ALIGN)
    ids, mask = tokens(3, 4 * WINDOW), torch.ones(3, 4 * WINDOW, dtype=torch.long)
    lengths = [WINDOW, 2 * WINDOW, 4 * WINDOW]
    for row, length in enumerate(lengths):
        mask[row, length:] = 0
    together = hidden(model, ids, attention_mask=mask)
    for row, length in enumerate(lengths):
        alone = hidden(model, ids[row : row + 1, :length])
        assert (together[row, :length] - alone[0]).abs().max() < 2e-5


def test_a_copy_sharpens_for_itself():
    model, ids = model_of("t5"), tokens(1, 4 * WINDOW)
    lw.adapt(model, ALIGN)
    adapted, twin = hidden(model, ids), copy.deepcopy(model)
    lw.restore(model)
    assert torch.equal(hidden(twin, ids), adapted)
    assert torch.equal(hidden(lw.restore(twin), ids), hidden(model, ids))


@pytest.mark.parametrize("strategy", ["maximum", "entropy"])
@pytest.mark.parametrize("cls", [hf.T5EncoderModel, hf.T5ForConditionalGeneration])
def test_alignment_restores_the_statistic(strategy, cls):
    model, ids = model_of("t5", cls), tokens(1, 4 * WINDOW)[0]
    before = hidden(model.get_encoder(), ids[None])
    found = lw.align_t5(model, ids, (2, 4), strategy=strategy)
    assert torch.equal(hidden(model.get_encoder(), ids[None]), before)  # attention put back
    assert 1 > found.temperatures[0] > found.temperatures[1] > 0
    model.set_attn_implementation("eager")
    wanted = attention_statistic(model, ids, WINDOW, 1.0, strategy)
    for factor, temperature in zip(found.factors, found.temperatures, strict=True):
        length = int(factor) * WINDOW
        plain = attention_statistic(model, ids, length, 1.0, strategy)
        now = attention_statistic(model, ids, length, temperature, strategy)
        assert abs(now - wanted) < 0.005 < abs(plain - wanted)


def test_the_statistics_against_transformers_own_probabilities():
    model, ids = model_of("t5", attention="eager"), tokens(1, 3 * WINDOW)[0]
    pieces = ids[: 2 * WINDOW].view(2, WINDOW), ids[2 * WINDOW :][None]
    with torch.no_grad():
        p = [torch.stack(model(piece, output_attentions=True).attentions) for piece in pieces]
    p = torch.cat(p, 1)  # [layers, pieces, heads, q, k]
    ours = [attention_statistic(model, ids, WINDOW, 1.0, s) for s in ("maximum", "entropy")]
    assert ours[0] == pytest.approx(p.amax(-1).mean().item(), rel=1e-5)
    assert ours[1] == pytest.approx(-(p * p.log()).sum(-1).mean().item(), rel=1e-5)


def refusal(call):
    with pytest.raises(ValueError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_does_not_fit():
    llama, bert, t5 = tiny_model("llama"), model_of("bert"), model_of("t5")
    assert refusal(lambda: lw.adapt(llama, lw.TempScale(0.8))) == (
        "TempScale is for models with learned absolute positions or T5's relative biases, and "
        "llama has rotary positions or none; use lw.YaRN(factor=…) or lw.LogTemperature()"
    )
    decoder = model_of("bert", hf.BertLMHeadModel, is_decoder=True)
    assert "bert is not supported" in refusal(lambda: lw.adapt(decoder, lw.TempScale(0.8)))
    assert "T5Align is for models with T5's" in refusal(lambda: lw.adapt(bert, ALIGN))
    assert "bert reads both ways" in refusal(lambda: lw.adapt(bert, lw.SelfExtend()))
    assert "leave out StreamingLLM" in refusal(lambda: lw.adapt(t5, lw.StreamingLLM(window=8)))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in bert.modules())


def test_bad_numbers():
    for value in (0, -1, float("inf"), "cold", True):
        assert "temperature must be a number above 0" in refusal(lambda: lw.TempScale(value))  # noqa: B023
    assert "one temperature for each" in refusal(lambda: lw.T5Align((2, 4), (0.5,)))
    assert "rise from above 1, got 4/2" in refusal(lambda: lw.T5Align((4, 2), (0.5, 0.4)))
    model, ids = model_of("t5"), tokens(1, 5 * WINDOW)
    with lw.adapted(model, ALIGN):
        assert "up to 4 times the trained length" in refusal(lambda: hidden(model, ids))
    assert torch.isfinite(hidden(model, ids)).all()
    assert "at least 128 token ids" in refusal(lambda: lw.align_t5(model, ids[0], (8,)))
    assert "maximum or entropy" in refusal(lambda: lw.align_t5(model, ids[0], (2,), strategy="x"))
    assert "takes a T5" in refusal(lambda: lw.align_t5(model_of("bert"), ids[0], (2,)))


def test_temperatures_between_measured_lengths():
    assert [ALIGN.temperature_at(f) for f in (0.1, 1, 2, 4)] == [1, 1, 0.8, 0.5]
    assert ALIGN.temperature_at(math.sqrt(8)) == pytest.approx(0.65)


def test_length_collapse():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(7, 5, generator=g)
    pairs = [torch.cosine_similarity(x[i], x[j], dim=0) for i in range(7) for j in range(i)]
    assert lw.length_collapse(x) == pytest.approx(torch.stack(pairs).mean().item(), abs=1e-6)
    assert lw.length_collapse(x[:1].expand(3, -1)) == pytest.approx(1.0)
    assert lw.length_collapse(torch.eye(4)) == pytest.approx(0.0, abs=1e-12)
    assert "at least two" in refusal(lambda: lw.length_collapse(x[:1]))
    assert "zero or not finite" in refusal(lambda: lw.length_collapse(torch.zeros(2, 3)))


def test_a_lower_temperature_spreads_long_texts():
    # Random weights average as trained ones do: mean-pooled texts of random tokens.
    model = model_of("bert")
    ids = tokens(16, 80)
    spread = []
    for temperature in (1.0, 0.5, 0.25):
        with lw.adapted(model, lw.TempScale(temperature)):
            spread.append(lw.length_collapse(hidden(model, ids).mean(1)))
    assert spread[0] > spread[1] > spread[2]


def test_threads_with_one_model(together):
    model = lw.adapt(model_of("t5"), lw.T5Align((2, 4, 8), (1.2, 1.5, 2.0)))
    assert not together(lambda length: hidden(model, tokens(1, length)))
