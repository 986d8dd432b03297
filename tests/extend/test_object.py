"""An adapted model as an object: saved by others, wrapped, copied, pickled, compiled, set about."""

import copy
import io
import json
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    BloomForCausalLM,
    T5Config,
    T5EncoderModel,
    Trainer,
    TrainingArguments,
)

import lengthwise as lw
from lengthwise.extend.adapt import is_adapted
from lengthwise.testing.models import KINDS, tiny_model, tiny_tokenizer
from lengthwise.train.patterns import ShiftedSparse, fit_pattern

IDS = torch.randint(3, 300, (1, 100), generator=torch.Generator().manual_seed(7))
METHODS = [
    lw.DynamicNTK(factor=2),
    lw.SelfExtend(group=4, window=16),
    lw.InfLLM(pages=2, page_size=8, sinks=2, window=16),
]


def logits(model):
    with torch.no_grad():
        return model(IDS, use_cache=False).logits


def fitted(family, method):
    try:
        return lw.adapt(tiny_model(family), method)
    except ValueError as error:
        assert "would change nothing" in str(error) and family in ("cohere2", "exaone4")
        return None


def test_what_transformers_saves_carries_the_methods(tmp_path):
    for family in KINDS:
        for number, method in enumerate((lw.YaRN(factor=4), lw.SelfExtend(group=4, window=16))):
            model = fitted(family, method)
            if model is None:
                continue
            folder = tmp_path / f"{family}-{number}"
            model.save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
            again = lw.load(folder)[0].eval()
            assert (logits(again) - logits(model)).abs().max() < 1e-4, family
            if not is_adapted(again):
                plain = AutoModelForCausalLM.from_pretrained(folder).eval()
                assert (logits(plain) - logits(model)).abs().max() < 1e-4, family
            lw.restore(model)
            assert "save_pretrained" not in vars(model)
            model.save_pretrained(folder)
            config = json.loads((folder / "config.json").read_text())
            assert "lengthwise" not in config and config["rope_parameters"] == (
                model.config.rope_parameters
            )


def test_trainers_own_checkpoints_carry_the_methods_and_can_be_resumed(tmp_path):
    rows = [{"input_ids": IDS[0], "labels": IDS[0]}] * 2
    for family, method in (
        ("llama", lw.YaRN(factor=4)),
        ("gpt_neox", lw.Llama3(factor=4)),
        ("qwen3", lw.SelfExtend(group=4, window=16)),
    ):
        folder = tmp_path / family

        def trainer(steps, family=family, method=method, folder=folder):
            model = lw.adapt(tiny_model(family), method)
            how = {"use_cpu": True, "report_to": [], "disable_tqdm": True}
            arguments = TrainingArguments(str(folder), max_steps=steps, save_steps=1, **how)
            return Trainer(model, arguments, train_dataset=rows)

        first = trainer(1)
        first.train()
        first.save_model(str(folder / "final"))
        for saved in (folder / "checkpoint-1", folder / "final"):
            tiny_tokenizer().save_pretrained(saved)
            again = lw.load(saved)[0].eval()
            assert (logits(again) - logits(first.model.eval())).abs().max() < 1e-4
        second = trainer(2)
        second.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
        assert second.state.global_step == 2


def test_what_goes_to_the_hub_carries_the_methods(tmp_path, monkeypatch):
    model = lw.adapt(tiny_model("llama"), lw.YaRN(factor=4))
    with pytest.raises(ValueError, match=r"model\.push_to_hub"):
        model.save_pretrained(tmp_path / "a", push_to_hub=True)
    assert not (tmp_path / "a").exists()
    sent = []

    def upload(self, folder, *args, **kwargs):
        sent.append(json.loads((Path(folder) / "config.json").read_text()))

    monkeypatch.setattr(type(model), "_upload_modified_files", upload)
    for name in ("hf_api", "create_and_tag_model_card"):
        monkeypatch.setattr(f"transformers.utils.hub.{name}", MagicMock())
    model.push_to_hub("someone/longer")
    assert sent[0]["rope_parameters"]["rope_type"] == "yarn"


def test_scores_are_carried_too(tmp_path):
    config = BloomConfig(vocab_size=320, hidden_size=16, n_layer=1, n_head=2, seq_length=32)
    model = lw.adapt(BloomForCausalLM(config).eval(), lw.ALiBiPI(factor=2))
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    again, _ = lw.load(tmp_path)
    assert is_adapted(again) and torch.equal(logits(again.eval()), logits(model))


def test_another_attention_is_refused_until_the_model_is_restored():
    for family in KINDS:
        model = tiny_model(family)
        plain = logits(model)
        lw.adapt(model)
        want = logits(model)
        for change in (
            lambda: model.set_attn_implementation("eager"),  # noqa: B023
            lambda: model.base_model.set_attn_implementation("eager"),  # noqa: B023
            lambda: setattr(model.config, "_attn_implementation", "eager"),  # noqa: B023
        ):
            change()
            with pytest.raises(ValueError, match=r"'eager' was set on an adapted model"):
                logits(model)
            model.set_attn_implementation("lengthwise")
            assert torch.equal(logits(model), want)
        model.set_attn_implementation("eager")
        lw.restore(model)
        assert model.config._attn_implementation == "eager"
        assert (logits(model) - plain).abs().max() < 1e-4


def test_a_model_inside_wrappers_is_the_model(tmp_path):
    model = lw.adapt(tiny_model("llama"), lw.SelfExtend(group=4, window=16))
    want, told = logits(model), lw.explain(model)
    peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"]))
    parallel = nn.Module()
    parallel.module = peft
    for wrapped in (peft, parallel, torch.compile(model, backend="eager")):
        assert is_adapted(wrapped) and lw.explain(wrapped) == told
        assert lw.new_cache(wrapped).owner is lw.new_cache(model).owner
    assert torch.equal(logits(peft), want)
    with pytest.raises(ValueError, match=r"merge_and_unload"):
        lw.save(peft, tiny_tokenizer(), tmp_path / "a")
    with pytest.raises(ValueError, match="adapted already"):
        lw.adapt(peft, lw.PI(factor=2))
    assert lw.restore(peft) is peft and not is_adapted(model)
    with pytest.raises(ValueError, match="not adapted"):
        lw.explain(peft)
    lw.adapt(model, lw.SelfExtend(group=4, window=16))
    merged = peft.merge_and_unload()
    assert is_adapted(merged)
    lw.save(merged, tiny_tokenizer(), tmp_path / "a")
    assert torch.equal(logits(lw.load(tmp_path / "a")[0].eval()), want)


def test_copies_deep_and_pickled_are_adapted_on_their_own():
    for family in KINDS:
        for method in METHODS:
            model = fitted(family, method)
            if model is None:
                continue
            plain, want = tiny_model(family), logits(model)
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
                assert is_adapted(twin) and torch.equal(logits(twin), want), (family, method)
                if family == "llama":  # by its own `generate`, which makes a cache of its own
                    first, second = (
                        one.generate(IDS[:, :20], max_new_tokens=2, do_sample=False)
                        for one in (model, twin)
                    )
                    assert torch.equal(first, second)
                lw.restore(twin)
                assert torch.equal(logits(twin), logits(plain)), (family, method)
            assert torch.equal(logits(model), want)


def test_copies_of_other_kinds_too():
    config = BloomConfig(vocab_size=320, hidden_size=16, n_layer=1, n_head=2, seq_length=32)
    encoder = T5Config(vocab_size=320, d_model=16, num_layers=1, num_heads=2, d_kv=8, d_ff=16)
    for model in (
        lw.adapt(BloomForCausalLM(config).eval(), lw.DynamicALiBiPI()),
        lw.adapt(T5EncoderModel(encoder).eval(), lw.TempScale(temperature=0.8)),
        fit_pattern(tiny_model("llama"), ShiftedSparse(group=16)),
    ):
        with torch.no_grad():
            want = model(IDS)[0]
            file = io.BytesIO()
            torch.save(model, file)
            file.seek(0)
            for twin in (copy.deepcopy(model), torch.load(file, weights_only=False)):
                assert is_adapted(twin) and torch.equal(twin(IDS)[0], want)
                assert not torch.equal(lw.restore(twin)(IDS)[0], want)
                assert torch.equal(model(IDS)[0], want)


def test_a_graph_without_gaps_is_refused_with_the_reason():
    model = lw.adapt(tiny_model("llama"), lw.YaRN(factor=4))
    want = logits(model)
    assert (logits(torch.compile(model, backend="eager")) - want).abs().max() < 1e-4
    torch._dynamo.reset()
    with pytest.raises(
        torch._dynamo.exc.Unsupported, match="cannot be exported, traced or compiled"
    ):
        logits(torch.compile(model, backend="eager", fullgraph=True))
    with pytest.raises(ValueError, match="cannot be exported") as refused:
        torch.export.export(model, (), {"input_ids": IDS, "use_cache": False})
    assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match="cannot be exported, traced"):
        torch.jit.trace(lambda ids: model(ids, use_cache=False).logits, IDS)


def test_a_configuration_of_its_own_makes_a_second_model():
    for family in (*KINDS, "falcon", "stablelm"):
        model, plain = lw.adapt(tiny_model(family)), tiny_model(family)
        config = type(model.config).from_dict(model.config.to_dict())
        config._attn_implementation = plain.config._attn_implementation
        second = type(model)(config).eval()
        second.load_state_dict(model.state_dict())
        assert torch.equal(logits(second), logits(plain)), family
        for shared in (model.config, copy.deepcopy(model.config)):
            for built in (type(model)(shared), AutoModelForCausalLM.from_config(shared)):
                with pytest.raises(ValueError, match=r"type\(config\)\.from_dict"):
                    logits(built)
                built.load_state_dict(model.state_dict())
                lw.adapt(built.eval())
                assert torch.equal(logits(built), logits(model)), family
                lw.restore(built)
                assert torch.equal(logits(built), logits(plain)), family
