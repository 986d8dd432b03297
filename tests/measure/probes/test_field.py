"""Receptive fields: what a model can see, and that it sees nothing else."""

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, BloomConfig, BloomForCausalLM

import lengthwise as lw
from lengthwise.measure.probes import (
    extent,
    gradient_field,
    perturbation_field,
    theoretical_field,
)
from lengthwise.testing.models import KINDS, LOCAL, WINDOW, tiny_model

METHODS = {
    "plain": (),
    "sliding": (lw.SlidingWindow(window=5),),
    "lm-infinite": (lw.LMInfinite(sinks=2, window=6),),
    "streaming": (lw.StreamingLLM(sinks=3, window=7),),
    "self-extend": (lw.SelfExtend(group=2, window=8),),
    "dual chunk": (lw.DualChunk(chunk=16, window=4),),
    "infllm": (lw.InfLLM(pages=1, page_size=4, sinks=2, window=8),),
}


def ids(length, seed=0):
    return torch.randint(3, 300, (length,), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3_text", "smollm3"])
def test_gradients_vanish_outside_of_the_theoretical_field(family, name):
    """Two sources: the regions, layer by layer, and the derivative of the model itself."""
    model = tiny_model(family).double()
    length = 44
    with lw.adapted(model, *METHODS[name]):
        reached = theoretical_field(model, length)
        assert reached.shape == (3, length)
        assert reached[-1].sum() == 1 and (reached[1:] <= reached[:-1]).all()
        if name == "infllm":
            with pytest.raises(ValueError, match="InfLLM has no gradient for the keys of its page"):
                gradient_field(model, ids(length))
            return
        moved = gradient_field(model, ids(length))
    assert (moved[~reached[0]] == 0).all()
    assert (moved[reached[0]] > 0).all()


def test_fields_of_windows_compound_by_layers():
    model = tiny_model("llama", num_hidden_layers=3)
    with lw.adapted(model, lw.SlidingWindow(window=5)):
        assert theoretical_field(model, 40).sum(1).tolist() == [13, 9, 5, 1]
    with lw.adapted(model, lw.LMInfinite(sinks=2, window=5)):
        assert theoretical_field(model, 40).sum(1).tolist() == [15, 11, 7, 1]
    assert theoretical_field(model, 40).sum(1).tolist() == [40, 40, 40, 1]
    mistral = tiny_model("mistral")
    assert theoretical_field(mistral, 60).sum(1).tolist() == [2 * LOCAL - 1, LOCAL, 1]


@pytest.mark.parametrize("family", KINDS)
def test_every_family_is_read_by_all_probes(family):
    model = tiny_model(family)
    text = ids(40)
    generator = torch.Generator().manual_seed(0)
    effects = perturbation_field(model, text, generator, block=10, chunk=16)
    assert effects.shape == (4,) and (effects > -1e-6).all() and effects[-1] > 0
    moved = gradient_field(model, text)
    assert moved.shape == (40,) and moved.isfinite().all()
    assert not model.training and all(p.grad is None for p in model.parameters())
    assert bool((moved[~theoretical_field(model, 40)[0]] == 0).all())


def test_perturbation_finds_the_dependency(looks_back, periodic):
    model, text = looks_back(9), periodic(9, 50)
    effects = perturbation_field(model, text, torch.Generator().manual_seed(0), block=1, draws=3)
    assert int(effects.argmax()) == 50 - 9
    others = torch.cat([effects[: 50 - 9], effects[50 - 8 :]])
    assert others.abs().max() < 1e-6
    assert extent(effects) == 9


def test_the_gradient_is_that_of_finite_differences():
    model = tiny_model("llama").double()
    text = ids(12)
    moved = gradient_field(model, text, target=7)
    embedded = model.get_input_embeddings()(text[None]).detach()

    def value(e):
        with torch.no_grad():
            return model(inputs_embeds=e).logits[0, -1].float().log_softmax(-1)[7].double()

    place, h = 5, 1e-3
    numbers = []
    for i in range(embedded.shape[-1]):
        step = torch.zeros_like(embedded)
        step[0, place, i] = h
        numbers.append(float(value(embedded + step) - value(embedded - step)) / (2 * h))
    by_hand = float(torch.tensor(numbers).norm())
    assert float(moved[place]) == pytest.approx(by_hand, rel=0.02, abs=2e-3)


def test_alibi_models_see_everything_and_encoders_are_refused():
    config = BloomConfig(vocab_size=300, hidden_size=16, n_layer=2, n_head=2, seq_length=64)
    model = BloomForCausalLM(config).eval()
    assert theoretical_field(model, 9).sum(1).tolist() == [9, 9, 1]
    encoder = BertForMaskedLM(
        BertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    ).eval()
    with pytest.raises(ValueError, match="both directions"):
        theoretical_field(encoder, 9)


def test_the_model_is_given_back_as_it_was():
    model = tiny_model("llama")
    theoretical_field(model, WINDOW)
    assert "_lengthwise" not in vars(model)


def test_extent():
    assert extent(torch.tensor([0.0, 0, 1, 1]), 1.0) == 2
    assert extent(torch.tensor([1.0, 0, 0, 1]), 0.5) == 1
    assert extent(torch.tensor([1.0, 0, 0, 1]), 0.51) == 4
    with pytest.raises(ValueError, match="field with mass"):
        extent(torch.zeros(3))


def test_bad_arguments():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="length must be at least 1"):
        theoretical_field(model, 0)
    with pytest.raises(ValueError, match="with a token at least"):
        gradient_field(model, torch.zeros(2, 2, dtype=torch.long))
    with pytest.raises(ValueError, match="block and draws at least 1"):
        perturbation_field(model, ids(4), torch.Generator(), block=0)
    with pytest.raises(ValueError, match=r"model\.eval"):
        gradient_field(model.train(), ids(4))
