"""Information capacity: against its definition, near-constant in a family, moved by tokens."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import BloomConfig, BloomForCausalLM

import lengthwise as lw
from lengthwise.hf.families import read_geometry
from lengthwise.measure.cost.plan import count_weights, prefill_flops
from lengthwise.measure.probes import (
    InformationCapacity,
    family_bias,
    flops_per_token,
    information_capacity,
)
from lengthwise.testing.models import tiny_model, tiny_tokenizer

TEXTS = ["The reader keeps a window open on the text: ä, ö and 漢字.", "0 1 2 3 4 5 6 7 8 9", "x"]


def test_against_the_definition():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    found = information_capacity(model, tokenizer, TEXTS, length=200)
    size, nats, tokens = 0, 0.0, 0
    for text in TEXTS:
        ids = torch.tensor(tokenizer(text)["input_ids"])  # `<s>` first
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, :-1]
        nats += float(cross_entropy(logits, ids[1:], reduction="sum"))
        size, tokens = size + len(text.encode()), tokens + len(ids) - 1
    assert found.tokens == tokens
    assert found.text_bits == pytest.approx(8 * size / tokens)
    assert found.loss_bits == pytest.approx(nats / tokens / math.log(2), rel=1e-5)
    expected = (8 * size - nats / math.log(2)) / tokens / math.log2(found.flops)
    assert found.capacity() == pytest.approx(expected, rel=1e-5)
    assert found.capacity(-2.0) < found.capacity()


def test_a_text_is_cut_to_the_length():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    text = "plain letters " * 20
    found = information_capacity(model, tokenizer, [text], length=9)
    ids = tokenizer(text)["input_ids"][:9]
    assert found.tokens == 8
    assert found.text_bits == len(tokenizer.decode(ids[1:]).encode())


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "gpt_oss"])
def test_operations_are_those_of_the_plan(family):
    model, length = tiny_model(family), 50
    weights, geometry = count_weights(model), read_geometry(model)
    total = prefill_flops(geometry, weights, length) + 2 * weights.head * (length - 1)
    assert flops_per_token(model, length) == pytest.approx(total / length, rel=1e-9)
    longer = 500  # here lengths are sampled
    total = prefill_flops(geometry, weights, longer) + 2 * weights.head * (longer - 1)
    assert flops_per_token(model, longer) == pytest.approx(total / longer, rel=0.01)


def test_a_method_that_reads_less_costs_less():
    model = tiny_model("llama")
    plain = flops_per_token(model, 400)
    with lw.adapted(model):
        assert flops_per_token(model, 400) == plain
    with lw.adapted(model, lw.StreamingLLM(sinks=2, window=8)):
        assert flops_per_token(model, 400) < plain
    bloom = BloomForCausalLM(
        BloomConfig(vocab_size=300, hidden_size=16, n_layer=2, n_head=2, seq_length=64)
    )
    assert flops_per_token(bloom.eval(), 40) > 2 * count_weights(bloom).used


def family(per_doubling=0.4, constant=3.0, text_bits=32.0):
    """Sizes whose gain grows with the logarithm of the operations, as in one series."""
    flops = [1e9, 4e9, 3e10, 2e11]
    return [
        InformationCapacity(1000, text_bits, text_bits - constant - per_doubling * math.log2(n), n)
        for n in flops
    ]


def test_a_family_has_one_capacity():
    sizes = family()
    bias = family_bias(sizes)
    assert bias == pytest.approx(-3.0)
    assert [one.capacity(bias) for one in sizes] == pytest.approx([0.4] * 4)
    unbiased = [one.capacity() for one in sizes]
    assert max(unbiased) - min(unbiased) > 0.01  # what the bias is for


def test_the_tokenizer_alone_moves_the_capacity():
    """The same loss for each byte; tokens a quarter longer."""
    small = family()[0]
    longer = InformationCapacity(800, small.text_bits * 1.25, small.loss_bits * 1.25, small.flops)
    bias = family_bias(family())
    assert longer.capacity(bias) > small.capacity(bias)
    bits_per_byte = [one.loss_bits / one.text_bits for one in (small, longer)]
    assert bits_per_byte[0] == pytest.approx(bits_per_byte[1])


def test_bad_arguments():
    model, tokenizer = tiny_model("llama"), tiny_tokenizer()
    with pytest.raises(ValueError, match="no text with two tokens"):
        information_capacity(model, tokenizer, [""])
    with pytest.raises(ValueError, match="length must be at least 2"):
        information_capacity(model, tokenizer, TEXTS, length=1)
    with pytest.raises(ValueError, match="at least two sizes"):
        family_bias(family()[:1])
