"""Methods inside a whole model: however a text is read, each row gets what it gets alone."""

import pytest
import torch

import lengthwise as lw
from lengthwise.testing.models import PAD, VOCABULARY, tiny_model

LENGTHS = (80, 61, 37)
METHODS = {
    "yarn and streaming": (lw.YaRN(factor=4), lw.StreamingLLM(sinks=2, window=12)),
    "dynamic": (lw.DynamicNTK(),),
    "lm-infinite": (lw.LMInfinite(sinks=2, window=12),),
    "self-extend": (lw.SelfExtend(group=4, window=16),),
    "infllm": (lw.InfLLM(pages=2, page_size=4, sinks=2, window=12),),
    "h2o": (lw.H2O(heavy=8, recent=6, every=5),),
    "tova and yarn": (lw.TOVA(tokens=12, every=4), lw.YaRN(factor=4)),
    "ada-kv": (lw.AdaKV(tokens=14, recent=4, kernel=3, every=6),),
    "sirllm": (lw.SirLLM(tokens=14, sinks=2, recent=4, every=6, decay=0.7, turn=50),),
    "prefix-kv": (lw.PrefixKV(budgets=(9, 15), every=4),),
}


@pytest.fixture(params=["llama", "gemma2"])
def model(request):
    return tiny_model(request.param, eos_token_id=None)


@pytest.fixture
def batch():
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCABULARY, (3, 80), generator=g)
    mask = torch.stack([(torch.arange(80) >= 80 - n).long() for n in LENGTHS])
    return ids.masked_fill(mask == 0, PAD), mask


@pytest.mark.parametrize("name", METHODS)
def test_a_padded_batch_generates_what_its_rows_do(name, model, batch):
    ids, mask = batch
    lw.adapt(model, *METHODS[name])
    for beams in (1, 3):
        how = {"max_new_tokens": 8, "num_beams": beams, "do_sample": False}
        ours = model.generate(ids, attention_mask=mask, **how)[:, 80:]
        for row, length in enumerate(LENGTHS):
            alone = model.generate(ids[row : row + 1, 80 - length :], **how)[0, length:]
            assert torch.equal(ours[row], alone)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dynamic"])
@torch.no_grad()
def test_a_padded_batch_in_chunks(name, model, batch):
    # Dynamic NTK is left out: what a token saw depends on how far reading had come.
    ids, mask = batch
    lw.adapt(model, *METHODS[name])
    whole = model(ids, attention_mask=mask).logits
    cache, done, out = lw.new_cache(model), 0, []
    for size in (33, 1, 21, 1, 24):
        stop = done + size
        seen = mask[:, :stop]
        step = model(ids[:, done:stop], attention_mask=seen, past_key_values=cache)
        out.append(step.logits)
        done = stop
    real = mask.bool()
    torch.testing.assert_close(torch.cat(out, 1)[real], whole[real], atol=1e-5, rtol=0)
