import pytest
import torch

import lengthwise as lw
from lengthwise.measure.engines.reading import first_token, greedy, trained_window, until_end


@pytest.mark.parametrize("methods", [None, (), (lw.StreamingLLM(sinks=2, window=30),)])
def test_greedy_is_generate(model, ids, methods):
    if methods is not None:
        lw.adapt(model, *methods)
    expected = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False,
        eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    assert torch.equal(greedy(model, ids, 12, chunk=33), expected[:, ids.shape[1] :])


def test_until_end(model):
    assert until_end([5, 6, 1, 7], model) == [5, 6]
    model.generation_config.eos_token_id = [6, 9]
    assert until_end([5, 6, 1, 7], model) == [5]
    model.generation_config.eos_token_id = None
    assert until_end([5, 6, 1, 7], model) == [5, 6, 1, 7]


def test_first_token(tokenizers):
    assert first_token(tokenizers["digits"]) == tokenizers["digits"].bos_token_id
    assert first_token(tokenizers["letters"]) is None


def test_trained_window(model):
    assert trained_window(model) == 64
    model.config.rope_parameters["original_max_position_embeddings"] = 16
    assert trained_window(model) == 16
    model.config.rope_parameters = {}
    model.config.max_position_embeddings = 0
    with pytest.raises(ValueError, match="names no trained window"):
        trained_window(model)
