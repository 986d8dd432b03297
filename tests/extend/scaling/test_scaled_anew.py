"""A checkpoint that carries a scaling is scaled anew from its base, as if it had never been."""

import pytest
import torch
from transformers import AutoModelForCausalLM

import lengthwise as lw
from lengthwise.extend.adapt import binding_of, is_adapted
from lengthwise.testing.models import WINDOW, tiny_model, tiny_tokenizer

IDS = torch.randint(3, 300, (1, 150), generator=torch.Generator().manual_seed(7))
PLAIN = {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}}
FACTORS = [1.0, 1.5, 2.0, 4.0]
ORIGINAL = {"original_max_position_embeddings": WINDOW}
# What checkpoints of four windows carry: a family, its `rope_parameters`, and what stands beside.
CARRIED = {
    "yarn": ("qwen3", {"rope_type": "yarn", "factor": 4.0, **ORIGINAL}, {}),
    "yarn with a temperature of its own": (
        "llama",
        {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.7, **ORIGINAL},
        {},
    ),
    "gpt-oss": (
        "gpt_oss",
        {"rope_type": "yarn", "factor": 4.0, "truncate": False, **ORIGINAL},
        {"layer_types": ["full_attention"] * 2},
    ),
    "llama3": (
        "llama",
        {
            "rope_type": "llama3",
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            **ORIGINAL,
        },
        {},
    ),
    "longrope": (
        "phi3",
        {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": FACTORS, **ORIGINAL},
        ORIGINAL,
    ),
    "linear": ("llama", {"rope_type": "linear", "factor": 4.0}, ORIGINAL),
    "dynamic": ("glm", {"rope_type": "dynamic", "factor": 4.0, "partial_rotary_factor": 1.0}, {}),
}
METHODS = (
    lw.PI(factor=2),
    lw.NTK(factor=4),
    lw.YaRN(factor=8),
    lw.Llama3(factor=8),
    lw.ABF(base=1e6),
    lw.DynamicNTK(factor=2),
    lw.DynamicYaRN(),
    lw.Giraffe(factor=2),
    lw.LongRoPE(FACTORS, 8, short_factors=[1.0] * 4),
    lw.LongRoPE2(FACTORS, 8),
    lw.CLEX((FACTORS, FACTORS)),
    lw.LogTemperature(over=lw.YaRN(factor=8)),
)


def carrying(name):
    """The model, and the same weights without its scaling."""
    family, parameters, beside = CARRIED[name]
    longest = WINDOW if parameters["rope_type"] == "dynamic" else 4 * WINDOW
    carried = {"rope_parameters": {"rope_theta": 10_000.0, **parameters}}
    carried |= {"max_position_embeddings": longest, **beside}
    layers = {key: value for key, value in beside.items() if key == "layer_types"}
    plain = {"rope_parameters": {**PLAIN["rope_parameters"], "partial_rotary_factor": 1.0}}
    return tiny_model(family, **carried), tiny_model(family, **plain, **layers)


@torch.no_grad()
def test_it_reads_as_the_same_weights_without_their_scaling(tmp_path):
    for name in CARRIED:
        for number, method in enumerate(METHODS):
            model, reset = carrying(name)
            own = model(IDS, use_cache=False).logits
            lw.adapt(model, method), lw.adapt(reset, method)
            said = lw.explain(model)
            kind = CARRIED[name][1]["rope_type"]
            assert f"{kind!r} of the model is replaced" in said, name
            assert f"count from the {WINDOW} tokens before it" in said
            assert binding_of(model).engine.geometry.window == WINDOW
            for length in (20, WINDOW + 1, 150):
                ids = IDS[:, :length]
                got, want = (x(ids, use_cache=False).logits for x in (model, reset))
                torch.testing.assert_close(got, want, atol=1e-6, rtol=0, msg=f"{name} {method}")
            assert (got - own).abs().max() > 1e-3, (name, method)

            if not isinstance(method, lw.PI | lw.YaRN | lw.CLEX) and name != "longrope":
                continue  # one that has words for it, one that counts from a window, one without
            folder = tmp_path / f"{name} {number}"
            lw.save(model, tiny_tokenizer(), folder)
            again, _ = lw.load(folder)
            if not is_adapted(again):  # whoever has transformers reads it
                again = AutoModelForCausalLM.from_pretrained(folder)
            got = again.eval()(IDS, use_cache=False).logits
            assert (got - want).abs().max() < 1e-4, (name, method)
            if isinstance(method, lw.NTK | lw.ABF):
                continue  # whose base is the new one's
            # And once more: nothing of the first or the second is left.
            for one in (again, reset):
                lw.adapt(lw.restore(one) if is_adapted(one) else one, lw.YaRN(factor=3))
            got, want = (x(IDS, use_cache=False).logits for x in (again, reset))
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0, msg=f"{name} {method}")


def test_a_window_that_nobody_wrote_down_is_asked_for():
    linear = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
    model = tiny_model("llama", rope_parameters=linear)
    with pytest.raises(ValueError, match="does not say what window it had before: write original_"):
        lw.adapt(model, lw.YaRN(factor=4))
    model.config.original_max_position_embeddings = WINDOW // 2
    lw.adapt(model, lw.YaRN(factor=4))
    assert binding_of(model).engine.geometry.window == WINDOW // 2


@torch.no_grad()
def test_layers_with_a_window_keep_the_scaling_that_they_were_trained_with():
    """In gpt-oss they share one rotary embedding with the others, and never see farther."""
    model = tiny_model("gpt_oss")
    rotaries = []
    for method in ((), (lw.YaRN(factor=8),)):
        with lw.adapted(model, *method):
            model(IDS[:, :20])
            engine = binding_of(model).engine
            lengths = torch.tensor([20])
            rotaries.append([engine._turned(plan, lengths) for (plan,) in engine.plans])
    (local, wide), (kept, scaled) = rotaries
    assert local.same(kept) and not wide.same(scaled)
