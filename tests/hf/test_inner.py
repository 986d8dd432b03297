"""The language model inside a model of several media reads text as the whole model does."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

import lengthwise as lw
from lengthwise.hf.families import UnsupportedModelError
from lengthwise.hf.skeleton import read_config, skeleton
from lengthwise.testing.models import COMMON, PAD, SPECIAL, tiny_model, tiny_tokenizer

VISION = {
    "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
    "image_size": 28, "patch_size": 14, "depth": 1, "num_heads": 2, "out_hidden_size": 48,
    "fullatt_block_indexes": [0],
}  # fmt: skip
IDS = torch.randint(3, 300, (2, 50), generator=torch.Generator().manual_seed(5))
MASK = torch.stack([(torch.arange(50) >= n).long() for n in (0, 9)])


def whole(kind, *, tied=False, scaling=None):
    """A tiny model of two media with wide random weights."""
    text = {**COMMON, **(SPECIAL["gemma3_text"] if kind == "gemma3" else {})}
    if kind == "qwen2_5_vl":
        rope = {"rope_type": "default", "rope_theta": 10_000.0, **(scaling or {})}
        text["rope_parameters"] = {**rope, "mrope_section": [2, 1, 1]}
    special = {"image_token_id": 1, "image_token_index": 1, "video_token_id": 2}
    config = AutoConfig.for_model(
        kind, text_config=text, vision_config=VISION, mm_tokens_per_image=4,
        tie_word_embeddings=tied, **special,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForImageTextToText.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15, generator=generator)
    return model.eval()


@torch.no_grad()
def test_it_reads_and_writes_text_as_the_whole_model_does(tmp_path):
    for kind, family in (("gemma3", "gemma3_text"), ("qwen2_5_vl", "qwen2")):
        for tied in (False, True):
            model = whole(kind, tied=tied)
            text = lw.text_model(model)
            assert text.config.model_type == family and not text.training
            assert (text.lm_head.weight is text.get_input_embeddings().weight) == tied
            assert text.lm_head.weight.data_ptr() == model.lm_head.weight.data_ptr()
            ids = IDS.masked_fill(MASK == 0, PAD)
            want = model(ids, attention_mask=MASK).logits[MASK.bool()]
            how = {"attention_mask": MASK, "max_new_tokens": 6, "do_sample": False}
            how |= {"eos_token_id": None, "pad_token_id": PAD}
            written = model.generate(ids, **how)
            model.save_pretrained(tmp_path / f"{kind}{tied}")
            tiny_tokenizer().save_pretrained(tmp_path / f"{kind}{tied}")
            loaded, _ = lw.load(tmp_path / f"{kind}{tied}")
            config = read_config(str(tmp_path / f"{kind}{tied}"))
            assert skeleton(config).config.model_type == family
            for one in (text, loaded.eval()):
                lw.adapt(one)
                got = one(ids, attention_mask=MASK).logits[MASK.bool()]
                torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
                assert torch.equal(one.generate(ids, **how), written)
            lw.adapt(lw.restore(loaded), lw.YaRN(factor=4))
            ours = loaded(IDS).logits
            lw.save(loaded, tiny_tokenizer(), tmp_path / f"{kind}{tied} longer")
            again, _ = lw.load(tmp_path / f"{kind}{tied} longer")
            torch.testing.assert_close(again.eval()(IDS).logits, ours, atol=1e-4, rtol=0)


@torch.no_grad()
def test_a_llama_4_is_loaded_as_its_language_model(tmp_path):
    """transformers does so by itself."""
    vision = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
    text = {**COMMON, **SPECIAL["llama4_text"]}
    config = AutoConfig.for_model(
        "llama4", text_config=text, vision_config={**VISION, "intermediate_size": 64, **vision},
        image_token_index=1, boi_token_index=1, eoi_token_index=2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config).eval()
    # transformers 5.24 cannot run the whole one on text: its output asks for those of images.
    want = model.language_model(IDS).logits
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    loaded, _ = lw.load(tmp_path)
    assert loaded.config.model_type == "llama4_text"
    torch.testing.assert_close(lw.adapt(loaded.eval())(IDS).logits, want, atol=1e-5, rtol=0)


def test_others_have_none():
    for model in (tiny_model("llama"), torch.nn.Linear(2, 2)):
        with pytest.raises(UnsupportedModelError, match="out of gemma3 or qwen2_5_vl, got"):
            lw.text_model(model)
    with pytest.raises(UnsupportedModelError, match=r"multimodal; lengthwise\.text_model takes"):
        lw.adapt(whole("qwen2_5_vl"))
