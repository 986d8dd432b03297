"""Checkpoints: plain ones load in transformers alone, ours in lengthwise, damaged ones nowhere."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

import lengthwise as lw
from lengthwise.extend.adapt import binding_of
from lengthwise.testing.models import tiny_model, tiny_tokenizer

IDS = torch.randint(3, 300, (1, 150), generator=torch.Generator().manual_seed(7))


@pytest.fixture
def tokenizer():
    return tiny_tokenizer()


@pytest.mark.parametrize(
    "methods",
    [
        (lw.SelfExtend(group=4, window=16),),
        (lw.YaRN(factor=4), lw.StreamingLLM(sinks=2, window=30)),
        (lw.InfLLM(pages=2, page_size=8, sinks=2, window=16), lw.NTK(factor=2)),
    ],
)
def test_everything_else_goes_into_our_block(methods, tokenizer, tmp_path):
    model = tiny_model("llama")
    lw.adapt(model, *methods)
    with torch.no_grad():
        ours = model(IDS, use_cache=False).logits
    note = lw.save(model, tokenizer, tmp_path / "saved")
    assert "Only lengthwise.load" in note
    loaded, _ = lw.load(tmp_path / "saved")
    assert binding_of(loaded).engine.axes == binding_of(model).engine.axes
    with torch.no_grad():
        assert torch.equal(loaded.eval()(IDS, use_cache=False).logits, ours)
    lw.restore(loaded)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    with torch.no_grad():
        assert torch.equal(loaded(IDS).logits, plain(IDS).logits)


def test_an_adapted_model_goes_on_working_after_saving(tokenizer, tmp_path):
    model = lw.adapt(tiny_model("llama"), lw.YaRN(factor=2))
    with torch.no_grad():
        before = model(IDS).logits
        lw.save(model, tokenizer, tmp_path / "saved")
        assert torch.equal(model(IDS).logits, before)


def test_an_existing_directory_is_kept_without_force(tokenizer, tmp_path):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/precious").write_text("x")
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="exists"):
        lw.save(model, tokenizer, tmp_path / "saved")
    assert (tmp_path / "saved/precious").exists()
    lw.save(model, tokenizer, tmp_path / "saved", force=True)
    assert not (tmp_path / "saved/precious").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_a_failure_while_saving_leaves_the_old_checkpoint(tokenizer, tmp_path, monkeypatch):
    model = tiny_model("llama")
    lw.save(model, tokenizer, tmp_path / "saved")
    before = (tmp_path / "saved/config.json").read_text()

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", broken)
    with pytest.raises(OSError, match="disk full"):
        lw.save(model, tokenizer, tmp_path / "saved", force=True)
    assert (tmp_path / "saved/config.json").read_text() == before
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_what_is_no_checkpoint_is_refused(tokenizer, tmp_path):
    with pytest.raises(ValueError, match="no checkpoint at"):
        lw.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no config\.json"):
        lw.load(tmp_path / "empty")
    lw.save(tiny_model("llama"), tokenizer, tmp_path / "saved")
    weights = tmp_path / "saved/model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="damaged or cut short"):
        lw.load(tmp_path / "saved")
    weights.rename(tmp_path / "saved/pytorch_model.bin")
    with pytest.raises(ValueError, match="safetensors"):
        lw.load(tmp_path / "saved")


def test_a_block_from_elsewhere_is_refused(tokenizer, tmp_path):
    lw.save(
        lw.adapt(tiny_model("llama"), lw.SelfExtend(group=2, window=8)), tokenizer, tmp_path / "s"
    )
    file = tmp_path / "s/config.json"
    config = json.loads(file.read_text())
    for block, words in (
        ({"format": 99, "methods": []}, "format 99"),
        ({"format": 1, "methods": [{"method": "Magic"}]}, "'Magic'"),
        ({"format": 1, "methods": [{"method": "PI", "speed": 3}]}, "PI"),
    ):
        file.write_text(json.dumps({**config, "lengthwise": block}))
        with pytest.raises(ValueError, match=words):
            lw.load(tmp_path / "s")


def test_remote_code_does_not_run_unless_asked(tokenizer, tmp_path):
    lw.save(tiny_model("llama"), tokenizer, tmp_path / "saved")
    file = tmp_path / "saved/config.json"
    config = json.loads(file.read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Config"}
    config["model_type"] = "evil"
    file.write_text(json.dumps(config))
    (tmp_path / "saved/evil.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(ValueError):
        lw.load(tmp_path / "saved")
