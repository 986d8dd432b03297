"""Real weights: `make real` gets them and runs these tests; nothing else needs them."""

import gc
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

import lengthwise as lw
from lengthwise.catalogue import methods, parse_many
from lengthwise.measure.tasks.text import held_out_text

pytestmark = pytest.mark.real

# Every method, with windows so small that a text of 300 tokens is past them.
METHODS = {
    "ABF": "abf:base=500000", "NTK": "ntk:factor=4", "PI": "pi:factor=1.1",
    "DynamicNTK": "dynamicntk", "DynamicYaRN": "dynamicyarn", "Giraffe": "giraffe",
    "GiraffeLinear": "giraffelinear:scale=1.1", "Llama3": "llama3:factor=4",
    "LogTemperature": "logtemperature",
    "YaRN": "yarn:factor=4", "OwnScaling": "ownscaling",
    "GALI": "gali:trained=256,window=64", "STRING": "string:shift=128,window=32",
    "CacheSlots": "cacheslots:window=100", "Causal": "causal",
    "DualChunk": "dualchunk:chunk=128,window=32,trained=160", "FarAsOne": "farasone:window=100",
    "LMInfinite": "lminfinite:window=100", "LeakyReRoPE": "leakyrerope:window=100",
    "ReRoPE": "rerope:window=100", "SelfExtend": "selfextend:group=4,window=64",
    "SlidingWindow": "slidingwindow:window=100",
    "AllPages": "allpages", "InfLLM": "infllm:pages=4,page_size=16,window=64",
    "LongCache": "longcache:centres=4,span=4,sinks=4,window=64",
    "LongHeads": "longheads:chunks=4,chunk=32",
    "H2O": "h2o:heavy=64,recent=64,every=32", "TOVA": "tova:tokens=128,every=32",
    "AdaKV": "adakv:tokens=128,recent=16,every=32",
    "Chelsea": "chelsea:tokens=128,recent=32,chunk=32,every=32", "FullStore": "fullstore",
    "KeyDiff": "keydiff:tokens=128,recent=16,every=32",
    "PyramidKV": "pyramidkv:tokens=128,recent=16,every=32",
    "SirLLM": "sirllm:tokens=128,recent=32,every=32",
    "SnapKV": "snapkv:tokens=128,recent=16,every=32",
    "StreamingLLM": "streamingllm:window=100",
    "ThinK": "think:tokens=128,recent=16,every=32",
}  # fmt: skip
# For models without rotary positions, or with numbers that belong to one model.
ELSEWHERE = {
    "ALiBiPI", "DynamicALiBiPI", "T5Align", "TempScale", "CLEX", "HeadScale", "LongRoPE",
    "LongRoPE2", "HiRoPE", "PrefixKV",
}  # fmt: skip


def models():
    path = Path(__file__).parents[2] / "experiments" / "real_models.py"
    spec = spec_from_file_location("real_models", path)
    module = module_from_spec(spec)
    sys.modules["real_models"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in ("smollm2", "gemma3")
    ],
)
def real(request):
    """A model and its tokenizer, one model at a time in memory of a process."""
    yield lw.load(models().get(request.param))
    gc.collect()


@pytest.fixture
def batch(real):
    """Two texts, the second one shorter: ids and mask, padded on the left."""
    _, tokenizer = real
    ids = tokenizer(held_out_text()[:4000], return_tensors="pt")["input_ids"][:, :300]
    ids = torch.cat([ids, ids.roll(-40, 1)])
    mask = torch.ones_like(ids)
    mask[1, :90] = 0
    return ids.masked_fill(mask == 0, tokenizer.pad_token_id or 0), mask


def test_the_table_names_every_method():
    assert METHODS.keys() | ELSEWHERE == methods().keys()
    assert not METHODS.keys() & ELSEWHERE


@torch.no_grad()
def test_identity_is_the_plain_model(real, batch):
    model, _ = real
    ids, mask = batch
    real_tokens = mask.bool()
    plain = model(ids, attention_mask=mask).logits[real_tokens]
    bound = 1e-4 * plain.abs().max()
    answers = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
    with lw.adapted(model):
        ours = model(ids, attention_mask=mask).logits[real_tokens]
        assert (ours - plain).abs().max() < bound
        cache, pieces = lw.new_cache(model), []
        for start in range(0, 300, 77):
            seen = mask[:, : start + 77]
            out = model(ids[:, start : start + 77], attention_mask=seen, past_key_values=cache)
            pieces.append(out.logits)
        assert (torch.cat(pieces, 1)[real_tokens] - plain).abs().max() < bound
        again = model.generate(ids, attention_mask=mask, max_new_tokens=8, do_sample=False)
        assert torch.equal(again, answers)


@pytest.mark.parametrize("name", METHODS)
@torch.no_grad()
def test_every_method_gives_a_row_of_a_batch_what_it_gets_alone(name, real, batch):
    model, _ = real
    ids, mask = batch
    with lw.adapted(model, *parse_many(METHODS[name])):
        how = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": -1}
        both = model.generate(ids, attention_mask=mask, **how)[:, 300:]
        for row, padding in enumerate((0, 90)):
            alone = model.generate(ids[row : row + 1, padding:], **how)[0, 300 - padding :]
            assert torch.equal(both[row], alone)
