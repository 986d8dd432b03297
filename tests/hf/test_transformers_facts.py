"""What lengthwise takes for granted about transformers, one fact a test.

When a new release breaks a test here, the docstring says which file of ours rests on it.
"""

import contextlib

import pytest
import torch
from torch import nn
from transformers import AttentionInterface, DynamicCache
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

import lengthwise as lw
from lengthwise.hf.families import FAMILIES, decoder
from lengthwise.hf.release import CACHE
from lengthwise.hf.unrotated import IdentityRotary, leave_unrotated
from lengthwise.testing.models import LOCAL, VOCABULARY, tiny_model

# Falcon's attention calls kernels of its own: what stands in its place is compared with it in
# tests/hf/test_families.py.
INTERFACE = [family for family in FAMILIES if family != "falcon"]
every_family = pytest.mark.parametrize("family", INTERFACE)


def tokens(rows, length):
    g = torch.Generator().manual_seed(1)
    return torch.randint(3, VOCABULARY, (rows, length), generator=g)


class Probe:
    """An attention function that writes down what it is given; attention itself is left out."""

    def __init__(self):
        self.calls = []

    def __call__(self, module, query, key, value, attention_mask, **kwargs):
        given = {"query": query, "key": key, "value": value, "attention_mask": attention_mask}
        self.calls.append({"module": module, **given, **kwargs})
        out = query.new_zeros(*query.shape[:3], value.shape[-1])
        return (out + query.mean() + value.mean()).transpose(1, 2), None


@contextlib.contextmanager
def registered(function, mask=None):
    """Put a function, and perhaps a mask function, under a name of its own."""
    AttentionInterface.register("probe", function)
    if mask is not None:
        AttentionMaskInterface.register("probe", mask)
    try:
        yield "probe"
    finally:
        AttentionInterface._global_mapping.pop("probe")
        AttentionMaskInterface._global_mapping.pop("probe", None)


@pytest.fixture
def probe():
    probe = Probe()
    with registered(probe, sdpa_mask) as name:
        probe.name = name
        yield probe


def attention_modules(model):
    return [part for part in decoder(model).modules() if hasattr(part, "is_causal")]


# The attention function.


@every_family
def test_what_an_attention_function_gets(family, probe):
    """hf/binding.attention: keys come after the cache and before they are repeated for heads."""
    model = tiny_model(family)
    model.set_attn_implementation(probe.name)
    config, word = model.config, object()
    kv_heads = 6 if family == "gpt_neox" else config.num_key_value_heads
    ids = tokens(2, 9)
    with torch.no_grad():
        cache = model(ids[:, :5], my_word=word).past_key_values
        model(ids[:, 5:], past_key_values=cache, my_word=word)
    assert len(probe.calls) == 4  # once a layer, in order
    for call, module in zip(probe.calls, attention_modules(model) * 2, strict=True):
        assert call["module"] is module
    for index, call in enumerate(probe.calls):
        new, seen = (5, 5) if index < 2 else (4, 9)
        assert call["module"].layer_idx == index % 2
        assert call["query"].shape == (2, 6, new, 8)
        assert call["key"].shape == call["value"].shape == (2, kv_heads, seen, 8)
        scale = getattr(config, "attention_multiplier", 8**-0.5)
        assert call["scaling"] == pytest.approx(scale) and call["dropout"] == 0.0
        # Keywords travel down to every layer, or else the mask alone.
        assert (call.get("my_word") is word) == (not FAMILIES[family].by_mask)
        assert call.get("softcap") == (2.0 if family == "gemma2" else None)
        sinks = getattr(call["module"], "sinks", None)
        assert call.get("s_aux") is sinks and (sinks is not None) == (family == "gpt_oss")
        known = {"module", "query", "key", "value", "attention_mask", "scaling", "dropout"}
        passing = {"position_ids", "use_cache", "sliding_window", "my_word"}
        passing |= {"output_router_logits"} if hasattr(config, "router_aux_loss_coef") else set()
        assert set(call) - known - passing <= {"softcap", "s_aux"}  # nothing new to honour


@every_family
def test_which_layers_slide(family, probe):
    """hf/families.read_geometry: who reads `sliding_window`, and for which layers."""
    windows = FAMILIES[family].windows
    types = ["sliding_attention", "full_attention"] if windows == "by type" else None
    more = {"use_sliding_window": True} if family.startswith(("qwen", "smol")) else {}
    model = tiny_model(family, sliding_window=LOCAL, layer_types=types, **more)
    model.set_attn_implementation(probe.name)
    with torch.no_grad():
        model(tokens(1, LOCAL + 3))
    slides = []
    for call in probe.calls:
        mask = call["attention_mask"]
        assert mask is None or mask.dtype == torch.bool
        narrow = mask is not None and not mask[0, 0, -1, 0]
        if narrow:  # a window counts the query itself; Llama 4's second chunk has 3 tokens
            assert mask[0, 0, -1].sum() == (3 if family == "llama4_text" else LOCAL)
        slides.append(bool(narrow))
    limited = windows != "none" or family == "llama4_text"
    assert slides == [limited, windows == "everywhere"]


def test_dropout_is_passed_in_training(probe):
    """hf/binding.attention refuses it."""
    model = tiny_model("llama", attention_dropout=0.25).train()
    model.set_attn_implementation(probe.name)
    model(tokens(1, 4))
    assert [call["dropout"] for call in probe.calls] == [0.25, 0.25]


def test_keywords_are_there_again_when_a_layer_runs_again(probe):
    """hf/binding.Call: gradient checkpointing repeats a layer with the keywords of its forward."""
    model, words = tiny_model("llama").train(), (object(), object())
    model.set_attn_implementation(probe.name)
    model.activation_checkpointing_enable()
    assert model.is_activation_checkpointing and model.model.is_activation_checkpointing
    sum(model(tokens(1, 4), my_word=word).logits.sum() for word in words).backward()
    got = [(call["module"].layer_idx, words.index(call["my_word"])) for call in probe.calls]
    assert got[:4] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert sorted(got[4:]) == sorted(got[:4])


def test_the_choice_of_attention_lives_in_the_configuration():
    """hf/binding.Binding refuses a model that shares its configuration with an adapted one."""
    model = tiny_model("llama")
    twin = type(model)(model.config)
    assert twin.config is model.config
    model.set_attn_implementation("eager")
    assert twin.config._attn_implementation == "eager"
    assert "attn_implementation" not in model.config.to_dict()


# Masks.


def test_an_attention_name_without_a_mask_gets_none():
    """hf/binding registers both: otherwise padding and causality are lost without a word."""
    model, ids = tiny_model("llama"), tokens(2, 6)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    for function, expected in ((None, None), (sdpa_mask, (2, 1, 6, 6))):
        probe = Probe()
        with registered(probe, function) as name, torch.no_grad():
            model.set_attn_implementation(name)
            model(ids, attention_mask=mask)
        got = [call["attention_mask"] for call in probe.calls]
        assert [None if one is None else tuple(one.shape) for one in got] == [expected] * 2


def test_a_mask_function_may_build_nothing(probe):
    """hf/binding._no_mask."""
    AttentionMaskInterface.register(probe.name, lambda *args, **kwargs: None)
    for family in ("llama", "gemma3_text"):
        model = tiny_model(family)
        model.set_attn_implementation(probe.name)
        with torch.no_grad():
            model(tokens(2, 6), attention_mask=torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6]))
    assert [call["attention_mask"] for call in probe.calls] == [None] * 4


@torch.no_grad()
def test_transformers_takes_a_jump_of_positions_for_a_document():
    """hf/positions: ours never does, `segment_ids` say it; positions may jump for other reasons."""
    model, ids = tiny_model("llama"), tokens(1, 12)
    jump = torch.cat([torch.arange(5), torch.arange(5, 12) + 20])[None]
    together = model(ids, position_ids=jump, use_cache=False).logits
    alone = model(ids[:, 5:], position_ids=jump[:, 5:], use_cache=False).logits
    torch.testing.assert_close(together[:, 5:], alone, atol=1e-5, rtol=0)
    lw.adapt(model)
    ours = model(ids, position_ids=jump, use_cache=False).logits
    assert (ours[:, 5:] - alone).abs().max() > 0.1
    segments = (torch.arange(12) >= 5).long()[None]
    ours = model(ids, position_ids=jump, segment_ids=segments, use_cache=False).logits
    torch.testing.assert_close(ours, together, atol=1e-5, rtol=0)


# Rotary embeddings.


@every_family
def test_one_rotary_module_for_all_layers(family, probe):
    """hf/unrotated.IdentityRotary takes its place, and hf/families._rotary_base reads it.

    cos = 1 and sin = 0 of one token broadcast, and then a key does not know where it stands. Nor
    does it where attention calls no rotation: one function of its module, by one name.
    """
    model = tiny_model(family)
    base = decoder(model)
    rotary = [name for name, _ in model.named_modules() if name.endswith("rotary_emb")]
    (prefix,) = (name for name, part in model.named_modules() if part is base)
    assert rotary == [f"{prefix}.rotary_emb"]
    assert callable(base.rotary_emb.compute_default_rope_parameters)
    assert not dict(base.rotary_emb.state_dict())  # nothing of it is saved
    model.set_attn_implementation(probe.name)
    same = torch.full((1, 6), 7)
    with torch.no_grad():
        model(same)
        changed = leave_unrotated(base)
        model(same)
        for methods in changed:
            methods.undo()
        base.rotary_emb = IdentityRotary(base.rotary_emb)
        model(same)
    turned, left, plain = (probe.calls[2 * i]["key"] for i in range(3))
    assert (turned - turned[:, :, :1]).abs().max() > 0.01
    torch.testing.assert_close(plain, plain[:, :, :1].expand_as(plain), atol=1e-6, rtol=0)
    assert plain.abs().max() > 0.1 and len(changed) == len(base.layers)
    torch.testing.assert_close(left, plain, atol=1e-6, rtol=0)


def test_layers_without_positions(probe):
    """hf/families.Family.rotates, for every layer of every family.

    In SmolLM3's `no_rope_layers` a 1 means rotated, a 0 not.
    """
    models = [tiny_model(family) for family in INTERFACE]
    models.append(tiny_model("cohere2", layer_types=["full_attention"] * 2))
    full = {"sliding_window": None, "layer_types": ["full_attention"] * 2}
    models.append(tiny_model("exaone4", **full))
    for model in models:
        probe.calls.clear()
        model.set_attn_implementation(probe.name)
        with torch.no_grad():
            model(torch.full((1, 6), 7))
        moved = [(call["key"] - call["key"][:, :, :1]).abs().max() > 0.01 for call in probe.calls]
        rotates = FAMILIES[model.config.model_type].rotates
        assert moved == [rotates(model.config, layer) for layer in range(2)], model.config


@every_family
def test_where_rotary_parameters_stand(family):
    """hf/families._rotary_base: flat, or for each layer type in Gemma 3; always with the base."""
    config = tiny_model(family).config
    parameters = config.rope_parameters
    flat = parameters.values() if family == "gemma3_text" else [parameters]
    for one in flat:
        assert one["rope_type"] in {"default", *ROPE_INIT_FUNCTIONS} and one["rope_theta"] > 0
    if family == "gemma3_text":
        assert set(parameters) == {"sliding_attention", "full_attention"}


def test_rotary_functions():
    """hf/families._rotary_base: their signature; `default` is a method of the rotary module."""
    assert set(ROPE_INIT_FUNCTIONS) == {
        "linear", "dynamic", "yarn", "longrope", "llama3", "proportional"
    }  # fmt: skip
    parameters = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
    config = tiny_model("llama", rope_parameters=parameters).config
    short, factor = ROPE_INIT_FUNCTIONS["dynamic"](config)
    long, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, seq_len=640)
    assert short.shape == (4,) and factor == 1.0 and long[-1] < short[-1]


@torch.no_grad()
def test_dynamic_frequencies_are_remembered_by_their_module():
    """hf/binding.IdentityRotary asks a copy: asking at position 0 resets the original."""
    parameters = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
    rotary = tiny_model("llama", rope_parameters=parameters).model.rotary_emb
    x = torch.zeros(1, 1, 8)
    fresh = rotary.inv_freq.clone()
    rotary(x, torch.tensor([[640]]))
    grown = rotary.inv_freq.clone()
    assert not torch.equal(grown, fresh)
    rotary(x, torch.tensor([[70]]))
    assert torch.equal(rotary.inv_freq, grown)
    rotary(x, torch.tensor([[0]]))
    assert torch.equal(rotary.inv_freq, fresh)


@torch.no_grad()
def test_dynamic_frequencies_make_cached_keys_stale():
    """extend/scaling/dynamic_ntk.py and own.py: keys are stored un-rotated to be safe from this.

    In one layer only the keys matter, so reading in two pieces must equal reading in one.
    """
    parameters = {"rope_type": "dynamic", "rope_theta": 1000.0, "factor": 2.0}
    settings = {"num_hidden_layers": 1, "max_position_embeddings": 16}
    ids = tokens(1, 60)

    def pieces(model):
        cache = model(ids[:, :20]).past_key_values
        return model(ids[:, 20:], past_key_values=cache).logits

    fresh = tiny_model("llama", rope_parameters=parameters, **settings)
    whole = fresh(ids).logits[:, 20:]
    theirs = tiny_model("llama", rope_parameters=parameters, **settings)
    assert (pieces(theirs) - whole).abs().max() > 0.01
    for model, methods in (
        (tiny_model("llama", rope_parameters=parameters, **settings), ()),
        (
            tiny_model("llama", rope_parameters={**parameters, "rope_type": "default"}, **settings),
            (lw.DynamicNTK(factor=2.0),),
        ),
    ):
        lw.adapt(model, *methods)
        torch.testing.assert_close(pieces(model), whole, atol=1e-5, rtol=0)


# Caches.


class Counter(CacheLayerMixin):
    """A cache layer that says it has seen ten tokens more than it was given."""

    def __init__(self):
        super().__init__()
        self.calls, self.seen, self.is_sliding = [], 10, False

    def lazy_initialization(self, key_states, value_states):
        raise AssertionError("nobody should call it")

    def update(self, key_states, value_states, *args, **kwargs):
        self.calls.append((args, kwargs))
        self.seen += key_states.shape[-2]
        return key_states, value_states

    def get_seq_length(self):
        return self.seen

    def get_mask_sizes(self, query_length):
        return self.seen + query_length, 0

    def get_max_length(self):
        return -1


@every_family
def test_a_cache_layer_sees_no_query(family, probe):
    """hf/cache.StateLayer.update only counts: attention has the queries and the positions.

    What `get_seq_length` says is the position of the next token, so it counts tokens seen and
    not tokens kept.
    """
    model = tiny_model(family)
    model.set_attn_implementation(probe.name)
    layers = [Counter(), Counter()]
    with torch.no_grad():
        model(tokens(1, 3), past_key_values=Cache(layers=layers))
    for layer in layers:  # since 5.24 positions are there to be seen, queries still are not
        ((args, kwargs),) = layer.calls
        assert args == () and not any("quer" in name for name in kwargs.get("kwargs", {}))
    if family != "llama4_text":  # whose layers hand no positions to attention
        assert probe.calls[0]["position_ids"].tolist() == [[10, 11, 12]]


def test_what_a_cache_is_asked_in_a_search(monkeypatch):
    """hf/cache.LengthwiseCache: beams arrive through `reorder_cache`, with one index a row."""
    indices = []
    monkeypatch.setattr(DynamicCache, "reorder_cache", lambda self, index: indices.append(index))
    tiny_model("llama").generate(tokens(2, 5), num_beams=3, max_new_tokens=4, do_sample=False)
    assert indices and all(index.shape == (6,) for index in indices)


def test_tokens_to_take_back_are_counted_below_zero(monkeypatch):
    """hf/cache.LengthwiseCache.crop: minus their number, and 0 when a draft was right."""
    counts = []
    original = DynamicCache.crop
    monkeypatch.setattr(
        DynamicCache, "crop", lambda self, count: (counts.append(count), original(self, count))
    )
    model = tiny_model("llama", eos_token_id=None)
    how = {"max_new_tokens": 20, "do_sample": False, "prompt_lookup_num_tokens": 3}
    model.generate(tokens(1, 6).repeat(1, 4), **how)
    assert counts and max(counts) <= 0 and min(counts) < 0
    cache = DynamicCache()
    with torch.no_grad():
        model(tokens(1, 4), past_key_values=cache)
    with pytest.raises(ValueError, match="positive value"):
        original(cache, 2)


def test_a_cache_can_be_taken_back_where_every_layer_can():
    """hf/cache.StateLayer.is_croppable."""
    layers = [Counter(), Counter()]
    assert not Cache(layers=layers).is_croppable
    layers[0].is_croppable = True
    assert not Cache(layers=layers).is_croppable
    layers[1].is_croppable = True
    assert Cache(layers=layers).is_croppable


# Generation.


class Forwards(nn.Module):
    """Keyword arguments of every forward of a decoder."""

    def __init__(self, model):
        super().__init__()
        self.given = []
        base = decoder(model)
        base.register_forward_pre_hook(
            lambda module, args, kwargs: self.given.append(dict(kwargs)), with_kwargs=True
        )


def shapes(forwards, *names):
    return [tuple(given[name].tolist() for name in names) for given in forwards.given]


def test_generate_passes_masks_and_positions():
    """hf/positions.make_step: a 2-D mask over all tokens seen and new, padding at position 0.

    Also extend/adapt.py: the hook before the decoder sees every forward of `generate`.
    """
    model = tiny_model("llama", eos_token_id=None)
    forwards = Forwards(model)
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])
    model.generate(tokens(2, 3), attention_mask=mask, max_new_tokens=2, do_sample=False)
    assert shapes(forwards, "attention_mask", "position_ids") == [
        ([[0, 0, 1], [1, 1, 1]], [[0, 0, 0], [0, 1, 2]]),
        ([[0, 0, 1, 1], [1, 1, 1, 1]], [[1], [3]]),
    ]
    assert all(isinstance(given[CACHE], DynamicCache) for given in forwards.given)


def test_prefill_in_chunks_cuts_masks_and_positions():
    """hf/positions.make_step: a mask ends where the chunk ends."""
    model = tiny_model("llama", eos_token_id=None)
    forwards = Forwards(model)
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    model.generate(
        tokens(1, 5), attention_mask=mask, max_new_tokens=1, do_sample=False, prefill_chunk_size=2
    )
    assert shapes(forwards, "attention_mask", "position_ids") == [
        ([[0, 0]], [[0, 0]]),
        ([[0, 0, 1, 1]], [[0, 1]]),
        ([[0, 0, 1, 1, 1]], [[2]]),
    ]


@every_family
def test_generate_takes_the_cache_it_is_given(family):
    """hf/binding.generate passes ours; transformers neither copies nor replaces it."""
    model = lw.adapt(tiny_model(family, eos_token_id=None))
    cache = lw.new_cache(model)
    how = {"max_new_tokens": 3, "do_sample": False, "return_dict_in_generate": True}
    out = model.generate(tokens(1, 5), past_key_values=cache, **how)
    assert out.past_key_values is cache and cache.get_seq_length() == 5 + 3 - 1


def test_phi_3_puts_a_short_cache_aside_at_its_border():
    """tests/hf/test_families.py: then the text is read again, with the other frequencies.

    So a cache that is passed in stays as it was; the result of `generate` has the one that counts.
    """
    model = tiny_model("phi3", eos_token_id=None)
    forwards = Forwards(model)
    model.generate(tokens(1, 31), max_new_tokens=4, do_sample=False)
    assert [given["input_ids"].shape[1] for given in forwards.given] == [31, 1, 33, 1]
