"""What a saved config.json says: loaded by transformers 5, and read as version 4 reads it."""

import json
import math
import re
from dataclasses import dataclass

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import lengthwise as lw
from lengthwise.extend.adapt import binding_of, is_adapted
from lengthwise.extend.layouts import SlidingWindow
from lengthwise.extend.words import LOADED, older_words, read_methods
from lengthwise.hf.families import FAMILIES, read_geometry
from lengthwise.hf.release import CACHE
from lengthwise.testing.models import KINDS, WINDOW, tiny_model, tiny_tokenizer
from lengthwise.train.patterns import Groups, ShiftedSparse, fit_pattern

IDS = torch.randint(3, 300, (1, 150), generator=torch.Generator().manual_seed(7))
UNSCALED = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
# Families as the tiny models are, and without the scalings that two of them carry.
CASES = [(family, {}) for family in FAMILIES] + [("phi3", UNSCALED), ("gpt_oss", UNSCALED)]
MIXED = (
    "qwen2",
    "gemma2",
    "gpt_oss",
    "ministral",
)  # one rotary embedding for local and global layers


def methods_for(pairs):
    rising, ones = torch.linspace(1, 4, pairs).tolist(), [1.0] * pairs
    return [
        lw.PI(factor=2),
        lw.YaRN(factor=4, beta_fast=16),
        lw.Llama3(factor=4),
        lw.NTK(factor=4),
        lw.DynamicNTK(factor=2),
        lw.LongRoPE(rising, 4, short_factors=ones),
        lw.LongRoPE(rising, 4, attention_factor=1),
        lw.Giraffe(factor=2),
    ]


def version_4(config):
    """The frequencies `[pairs]` and the factor at a length, by the source of transformers 4.57.

    Written down from its `modeling_rope_utils.py`, and from the checks in the configurations of
    Phi-3 and OLMo 2, which refuse what they do not know.
    """
    family, scaling = config["model_type"], config["rope_scaling"]
    theta, part = config.get("rope_theta"), config.get("partial_rotary_factor", 1.0)
    if family == "gpt_neox":
        theta, part = config["rotary_emb_base"], config["rotary_pct"]
    heads = config["num_attention_heads"]
    dim = int((config.get("head_dim") or config["hidden_size"] // heads) * part)
    own = theta ** -(torch.arange(0, dim, 2).float() / dim)
    kind = (scaling or {}).get("rope_type", (scaling or {}).get("type"))
    if family == "phi3" and scaling and (len(scaling) != 3 or scaling.get("type") != "longrope"):
        raise ValueError("three fields")
    if family == "olmo2" and scaling:
        known = scaling.get("type") in ("linear", "dynamic") and len(scaling) == 2
        if not (known and isinstance(scaling["factor"], float) and scaling["factor"] > 1):
            raise ValueError("two fields")
    longest = config["max_position_embeddings"]

    def at(length):
        if kind is None:
            return own, 1.0
        factor = scaling.get("factor")
        if kind == "linear":
            return own / factor, 1.0
        if kind == "dynamic":
            grown = factor * max(length, longest) / longest - (factor - 1)
            return (theta * grown ** (dim / (dim - 2))) ** -(torch.arange(0, dim, 2) / dim), 1.0
        if kind == "longrope":
            original = config.get("original_max_position_embeddings")
            factor = longest / original if original else factor
            original = original or longest
            implied = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
            table = scaling["long_factor" if length > original else "short_factor"]
            return own / torch.tensor(table), scaling.get("attention_factor") or implied
        original = scaling["original_max_position_embeddings"]
        if kind == "llama3":
            turns = original * own / (2 * math.pi)
            low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
            kept = ((turns - low) / (high - low)).clamp(0, 1)
            return own / factor * (1 - kept) + own * kept, 1.0
        assert kind == "yarn"
        ends = [
            dim * math.log(original / (scaling[name] * 2 * math.pi)) / (2 * math.log(theta))
            for name in ("beta_fast", "beta_slow")
        ]
        low, high = max(math.floor(ends[0]), 0), min(math.ceil(ends[1]), dim - 1)
        ramp = ((torch.arange(dim // 2) - low) / max(high - low, 0.001)).clamp(0, 1)
        return own / factor * ramp + own * (1 - ramp), 0.1 * math.log(factor) + 1

    return at


@torch.no_grad()
def test_what_save_calls_readable_loads_and_computes_the_same(tmp_path):
    """Every family and method, in transformers 5, and in 4 by the words that it reads."""
    tokenizer, seen = tiny_tokenizer(), []
    for family, changes in CASES:
        shape = read_geometry(tiny_model(family, **changes))
        scaled = [x.rotary for i, x in enumerate(shape.layers) if not shape.local(i)]
        base = next((rotary for rotary in scaled if rotary is not None), None)
        methods = methods_for(base.dim // 2 if base else 4)
        for number, method in enumerate(methods if family in KINDS else methods[:1]):
            model = tiny_model(family, **changes)
            try:
                lw.adapt(model, method)
            except ValueError as error:
                assert "would change nothing" in str(error) and not shape.turns
                continue
            where = f"{family} {method}"
            ours = model(IDS, use_cache=False).logits
            folder = tmp_path / f"{family}-{len(changes)}-{number}"
            note = lw.save(model, tokenizer, folder)
            config = json.loads((folder / "config.json").read_text())
            if "lengthwise" in config:
                assert family in MIXED or (family, method) == ("phi3", lw.DynamicNTK(factor=2))
                assert "Only lengthwise.load applies" in note
                loaded = lw.load(folder)[0]
                assert torch.equal(loaded.eval()(IDS, use_cache=False).logits, ours), where
                continue
            assert "was asked" in note and family not in MIXED, where
            assert ("past the window its cached keys" in note) == (not method.static), where
            theirs = AutoModelForCausalLM.from_pretrained(folder).eval()(IDS).logits
            assert (ours - theirs).abs().max() < 1e-4, where
            assert not is_adapted(lw.load(folder)[0])
            try:
                older = version_4(config)
            except ValueError:
                assert "4.57 has no words" in note and family in ("phi3", "olmo2"), where
            else:
                asked = "was checked" if family in LOADED else "was not asked"
                assert f"4.57 {asked}" in note, where
                engine = binding_of(model).engine
                for length in (10, WINDOW // 2 + 1, WINDOW, WINDOW + 1, 5 * WINDOW):
                    inv_freq, factor = older(length)
                    rotary = method.rotary(base, engine.geometry.window, torch.tensor([length]))
                    torch.testing.assert_close(rotary.inv_freq.reshape(-1), inv_freq)
                    assert math.isclose(float(rotary.attention_factor), factor, rel_tol=1e-6)
            seen.append(where)
    assert len(seen) > 60


def test_an_unscaled_model_is_not_read_with_another_base_by_version_4(tmp_path):
    for family in FAMILIES:
        own = family in ("gemma3_text", "gpt_oss", "phi3")
        another = {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}
        model = tiny_model(family, **({} if own else another))
        assert lw.save(model, tiny_tokenizer(), tmp_path / family).endswith("as it was.")
        config = json.loads((tmp_path / family / "config.json").read_text())
        base = config["rotary_emb_base" if family == "gpt_neox" else "rope_theta"]
        rope = config["rope_parameters"].get("full_attention", config["rope_parameters"])
        assert base == rope["rope_theta"]
        # Left out, gpt-oss would take the scaling of its largest model.
        assert (config["rope_scaling"] is None) == (rope["rope_type"] == "default")
        if family == "gemma3_text":
            assert config["rope_local_base_freq"] == 100.0
        again = AutoModelForCausalLM.from_pretrained(tmp_path / family).eval()
        with torch.no_grad():
            assert torch.equal(again(IDS).logits, model(IDS).logits)
    phi3 = json.loads((tmp_path / "phi3/config.json").read_text())
    assert set(phi3["rope_scaling"]) == {"type", "short_factor", "long_factor"}


def test_words_of_a_configuration_that_is_not_ours_stay():
    config = {"model_type": "bert", "max_position_embeddings": 512}
    assert older_words(config) == (config, False)


@torch.no_grad()
def test_an_older_window_beside_the_parameters_does_not_go_before_them(tmp_path):
    """A window that stands beside the parameters wins over the one that they say."""
    tables = {"short_factor": [1.0] * 4, "long_factor": [1.5, 2.0, 3.0, 4.0], "factor": 4.0}
    rope = {"rope_type": "longrope", "rope_theta": 10_000.0, **tables}
    rope["original_max_position_embeddings"] = 16
    model = tiny_model("llama", rope_parameters=rope)
    lw.save(model, tiny_tokenizer(), tmp_path / "a")
    again, tokenizer = lw.load(tmp_path / "a")
    lw.adapt(again.eval(), lw.LongRoPE((1.0, 2.0, 3.0, 9.0), 8, short_factors=[1.0] * 4))
    lw.save(again, tokenizer, tmp_path / "b")
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "b").eval()
    for length in (10, 17, 150):
        assert (plain(IDS[:, :length]).logits - again(IDS[:, :length]).logits).abs().max() < 1e-4


def test_the_tokenizer_does_not_cut_at_the_old_window(tmp_path):
    for name, method, limit in (
        ("yarn", lw.YaRN(factor=4), 4 * WINDOW),
        ("pages", lw.SelfExtend(group=4, window=16), 10**30),
        ("dynamic", lw.DynamicNTK(), 10**30),
        ("own", None, WINDOW),
    ):
        tokenizer = tiny_tokenizer()
        tokenizer.model_max_length = WINDOW
        model = tiny_model("llama")
        lw.save(lw.adapt(model, method) if method else model, tokenizer, tmp_path / name)
        assert AutoTokenizer.from_pretrained(tmp_path / name).model_max_length == limit
        assert tokenizer.model_max_length == WINDOW
        settings = json.loads((tmp_path / name / "tokenizer_config.json").read_text())
        # Version 4 does not know the class by version 5's name.
        assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_a_window_can_be_claimed_where_no_frequency_counts_from_it(tmp_path):
    for name, method, claimed in (
        ("abf", lw.ABF(base=1e6), 1000),
        ("yarn", lw.YaRN(factor=4), 1000),
        ("dynamic", lw.DynamicNTK(factor=2), WINDOW),
        ("own", None, 1000),
    ):
        model = tiny_model("llama")
        if method is not None:
            lw.adapt(model, method)
        lw.save(model, tiny_tokenizer(), tmp_path / name, window=1000)
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert config["max_position_embeddings"] == claimed


def test_dynamic_frequencies_decode_in_transformers_as_the_note_says(tmp_path):
    """They differ there past the window, and not any more once the model is adapted."""
    model = lw.adapt(tiny_model("llama"), lw.DynamicNTK(factor=2))
    note = lw.save(model, tiny_tokenizer(), tmp_path / "saved")
    assert "cached keys keep the frequencies of their time" in note
    loaded, _ = lw.load(tmp_path / "saved")
    first, rest = IDS[:, : WINDOW - 4], IDS[:, WINDOW - 4 :]

    @torch.no_grad()
    def decoded(one):
        out = one(first, use_cache=True)
        cache = out[CACHE]
        return torch.cat([one(x, **{CACHE: cache}).logits for x in rest.split(1, 1)], 1)

    ours = decoded(model)
    assert (decoded(loaded.eval()) - ours).abs().max() > 0.05
    torch.testing.assert_close(decoded(lw.adapt(loaded)), ours, atol=1e-4, rtol=0)


@dataclass(frozen=True)
class Mine(SlidingWindow):
    """A method from elsewhere."""


def test_what_no_file_can_name_is_refused_before_anything_is_written(tmp_path):
    mine = lw.adapt(tiny_model("llama"), Mine(window=8))
    patterns = [fit_pattern(tiny_model("llama"), one) for one in (ShiftedSparse(16), Groups(16))]
    for model, words in (
        (mine, "Mine is not among lengthwise's own"),
        (patterns[0], "a pattern gives layers and heads"),
        (patterns[1], "Groups is not among lengthwise's own"),
    ):
        with pytest.raises(ValueError, match=words):
            lw.save(model, tiny_tokenizer(), tmp_path / "a")
    with pytest.raises(ValueError, match="Mine is not among lengthwise's own"):
        mine.save_pretrained(tmp_path / "a")
    assert not list(tmp_path.iterdir())
    one = fit_pattern(tiny_model("llama"), lw.SelfExtend(group=4, window=16))
    lw.save(one, tiny_tokenizer(), tmp_path / "a")  # one layout for all: a method by its name
    axes = binding_of(lw.load(tmp_path / "a")[0]).engine.axes
    assert axes.layout == lw.SelfExtend(group=4, window=16)


@torch.no_grad()
def test_what_was_trained_with_a_pattern_is_saved_with_the_rest(tmp_path):
    """Trainer's checkpoints: a refusal there would lose the steps behind it."""
    for number, pattern in enumerate((ShiftedSparse(16), Groups(16))):
        model = fit_pattern(tiny_model("llama"), pattern, lw.YaRN(factor=4))
        with pytest.warns(UserWarning, match=r"Groups|ShiftedSparse.* is not written"):
            model.save_pretrained(tmp_path / str(number))
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / str(number)).eval()
        whole = lw.adapt(lw.restore(model), lw.YaRN(factor=4))
        assert (plain(IDS).logits - whole(IDS).logits).abs().max() < 1e-4


def test_no_note_names_an_engine_that_was_not_checked(tmp_path):
    model = lw.adapt(tiny_model("llama"), lw.PI(factor=2))
    note = lw.save(model, tiny_tokenizer(), tmp_path / "a")
    assert not re.search("vLLM|SGLang|every engine", note)


def test_a_block_of_methods_that_is_none_is_refused() -> None:
    for block in ([1], [], 5, "x", {}, {"format": 1, "methods": 5}, {"format": 1, "methods": [3]}):
        with pytest.raises(ValueError, match=r"config.json has .*lengthwise"):
            read_methods(block)
    wrong = {"format": 1, "methods": [{"method": "YaRN", "factor": "x"}]}
    with pytest.raises(ValueError, match=r"config.json: YaRN: factor must be at least 1, got 'x'"):
        read_methods(wrong)
