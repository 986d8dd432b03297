import pytest
import torch

import lengthwise as lw
from lengthwise.measure.engines.greedy import greedy
from lengthwise.measure.engines.reading import first_token, trained_window


@pytest.mark.parametrize("methods", [None, (), (lw.StreamingLLM(sinks=2, window=30),)])
def test_greedy_is_generate_up_to_the_end_of_each_row(model, ids, methods):
    if methods is not None:
        lw.adapt(model, *methods)
    how = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), eos_token_id=None, **how)
    expected = expected[:, ids.shape[1] :].tolist()
    model.generation_config.eos_token_id = None
    assert greedy(model, ids, 12, chunk=33) == expected
    ends = [expected[0][4], 2]
    model.generation_config.eos_token_id = ends
    cut = [next((i for i, token in enumerate(row) if token in ends), 12) for row in expected]
    assert greedy(model, ids, 12) == [row[:n] for row, n in zip(expected, cut, strict=True)]


def test_nothing_is_decoded_once_every_row_has_ended(model, ids):
    calls = []
    model.generation_config.eos_token_id = list(range(model.config.vocab_size))
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    assert greedy(model, ids, 12, chunk=1000) == [[] for _ in ids] and len(calls) == 1


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
