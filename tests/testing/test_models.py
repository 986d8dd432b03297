"""The tiny models are what they are said to be, the same every time."""

import pytest
import torch

from lengthwise.hf.families import FAMILIES
from lengthwise.testing.models import BOS, EOS, PAD, VOCABULARY, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_gives_the_same_weights(family):
    before = torch.get_rng_state()
    one, two, other = tiny_model(family), tiny_model(family), tiny_model(family, seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert one.config.model_type == family and not one.training
    weights = one.state_dict()
    assert all(torch.equal(weights[name], tensor) for name, tensor in two.state_dict().items())
    assert not torch.equal(one.get_input_embeddings().weight, other.get_input_embeddings().weight)


def test_settings_can_be_changed():
    assert tiny_model("llama", num_hidden_layers=3).config.num_hidden_layers == 3


def test_an_unknown_family():
    with pytest.raises(ValueError, match=r"family must be one of llama, .*, got 'gpt2'"):
        tiny_model("gpt2")


def test_the_tokenizer_fits_the_models():
    tokenizer = tiny_tokenizer()
    assert len(tokenizer) == VOCABULARY
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert ids == (PAD, BOS, EOS)
    assert tokenizer.get_vocab() == tiny_tokenizer().get_vocab()


@pytest.mark.parametrize("text", ["", "The pass key is 71432.", "naïve Λ 中文 🙂", "a\n\tb  c"])
def test_any_text_comes_back(text):
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text).input_ids
    assert ids[0] == BOS and tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(ids) <= 1 + len(text.encode())


def test_padding_on_either_side():
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    batch = tokenizer(["a", "a longer text"], padding=True, return_tensors="pt")
    assert batch.attention_mask[0, 0] == 0 and batch.input_ids[0, 0] == PAD
