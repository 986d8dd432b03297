"""GGUF files: written here from tiny models as llama.cpp's converter writes them, and read back."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

import lengthwise as lw
from lengthwise.cli.app import app
from lengthwise.hf.files import find_checkpoint
from lengthwise.hf.gguf_file import LEAVES
from lengthwise.testing.models import LOCAL, tiny_model, tiny_tokenizer

IDS = torch.arange(3, 53)[None] * 5 % 300
# Names of a layer's weights here, and in a file.
NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up", "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
}  # fmt: skip
NORMS = {"post_attention_layernorm": "ffn_norm"}
GEMMA_NORMS = {
    "post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}  # fmt: skip
# What sets a family apart in a file, in settings of our tiny models.
CHANGES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {},
    # Without its longrope; see below.
    "phi3": {"rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
             "sliding_window": LOCAL},
    "gemma2": {"query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0},
    "gemma3_text": {
        "query_pre_attn_scalar": 8,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
            "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
        },
        # transformers takes every sixth layer of a Gemma 3 file to be global.
        "num_hidden_layers": 6,
        "layer_types": ["sliding_attention"] * 5 + ["full_attention"],
    },
}  # fmt: skip


def model_of(family: str, **changes: Any) -> PreTrainedModel:
    return tiny_model(family, **{**CHANGES[family], **changes}).eval()


def write(
    path: Path,
    model: PreTrainedModel,
    says: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    arch: str = "",
    pre: str = "gpt-2",
) -> Path:
    """A file of a model; `says` adds statements about it, `tensors` further tensors."""
    config = model.config
    arch = arch or config.model_type.removesuffix("_text")
    file = gguf.GGUFWriter(path, arch)
    parameters = config.rope_parameters.get("full_attention", config.rope_parameters)
    for key, value in {
        "context_length": config.max_position_embeddings, "block_count": config.num_hidden_layers,
        "feed_forward_length": config.intermediate_size, "embedding_length": config.hidden_size,
        "attention.head_count": config.num_attention_heads,
        "attention.head_count_kv": config.num_key_value_heads,
        "rope.dimension_count": config.head_dim, "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim, "vocab_size": config.vocab_size,
        "rope.freq_base": float(parameters["rope_theta"]),
        "attention.layer_norm_rms_epsilon": float(config.rms_norm_eps), **(says or {}),
    }.items():  # fmt: skip
        add = {int: file.add_uint32, float: file.add_float32, str: file.add_string}[type(value)]
        add(f"{arch}.{key}", value)
    tokenizer(file, pre)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for place, numbers in named(name, weight.double(), config):
            flat = numbers.float().numpy()
            if kind == gguf.GGMLQuantizationType.F32 or flat.ndim == 1 or flat.shape[-1] % 32:
                file.add_tensor(place, flat)
            else:
                file.add_tensor(place, gguf.quants.quantize(flat, kind), raw_dtype=kind)
    for name, numbers in (tensors or {}).items():
        file.add_tensor(name, numbers)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def tokenizer(file: gguf.GGUFWriter, pre: str) -> None:
    own = tiny_tokenizer()
    words = sorted(own.get_vocab().items(), key=lambda pair: pair[1])
    file.add_tokenizer_model("gpt2")
    file.add_tokenizer_pre(pre)
    file.add_token_list([word for word, _ in words])
    special = set(own.all_special_tokens)
    file.add_token_types([3 if word in special else 1 for word, _ in words])
    merges = json.loads(own.backend_tokenizer.to_str())["model"]["merges"]
    file.add_token_merges([" ".join(pair) for pair in merges])
    file.add_bos_token_id(own.bos_token_id)
    file.add_eos_token_id(own.eos_token_id)
    file.add_pad_token_id(own.pad_token_id)
    file.add_add_bos_token(True)


def named(name: str, weight: torch.Tensor, config: Any) -> list[tuple[str, torch.Tensor]]:
    """A weight as a file has it: llama's heads are interleaved, Gemma's norms are 1 more."""
    gemma = config.model_type.startswith("gemma")
    ending = name.rsplit(".", 1)[1]
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(f".{ending}")
    if stem in whole:
        norm = gemma and stem == "model.norm"
        return [(f"{whole[stem]}.{ending}", weight + 1 if norm else weight)]
    _, _, layer, inner = stem.split(".", 3)
    leaf = {**NAMES, **(GEMMA_NORMS if gemma else NORMS)}[inner]
    if gemma and leaf.endswith("norm"):
        weight = weight + 1
    if config.model_type == "llama" and leaf in ("attn_q", "attn_k"):
        heads = config.num_attention_heads if leaf == "attn_q" else config.num_key_value_heads
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
        weight = halves.transpose(1, 2).reshape(weight.shape)
    return [(f"blk.{layer}.{leaf}.{ending}", weight)]


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    return model(IDS).logits


@pytest.mark.parametrize("family", list(CHANGES))
def test_a_file_is_the_model_that_was_written(family: str, tmp_path: Path) -> None:
    model = model_of(family)
    says: dict[str, Any] = {}
    for key in ("sliding_window", "attn_logit_softcapping", "final_logit_softcapping"):
        value = getattr(model.config, key, None)
        if value is not None and family != "qwen2":
            says["attention.sliding_window" if key == "sliding_window" else key] = value
    path = write(tmp_path / "model.gguf", model, says)

    loaded, own = lw.load(path)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)
    text = "What leaves the window is forgotten 12345\n\n ok"
    assert own(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]

    lw.save(loaded, own, tmp_path / "saved")
    again, _ = lw.load(tmp_path / "saved")
    assert torch.equal(logits(again), logits(loaded))
    lw.adapt(loaded, lw.SelfExtend(group=2, window=16))
    assert loaded.generate(IDS, max_new_tokens=4, do_sample=False).shape == (1, 54)


def test_every_architecture_that_is_read_is_tried() -> None:
    assert {family.removesuffix("_text") for family in CHANGES} == set(LEAVES)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "F16", "BF16"])
def test_quantised_weights_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    model = model_of("llama", hidden_size=64, num_attention_heads=8)
    path = write(tmp_path / "m.gguf", model, kind=gguf.GGMLQuantizationType[kind])
    loaded, _ = lw.load(path, dtype=torch.float32)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf", dtype=torch.float32)
    assert torch.equal(logits(loaded), logits(plain))
    bound = {"Q8_0": 0.05, "Q4_1": 0.6, "F16": 5e-3, "BF16": 4e-2}[kind]
    assert 0 < (logits(loaded) - logits(model)).abs().max() < bound * logits(model).abs().max()
    kept, _ = lw.load(path)
    assert kept.dtype == {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)


LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip


def llama3_factors(model: PreTrainedModel) -> np.ndarray:
    plain = 500_000.0 ** (-np.arange(4) / 4)
    return (plain / model.model.rotary_emb.inv_freq.double().numpy()).astype(np.float32)


def test_scalings_that_transformers_passes_over_are_honoured(tmp_path: Path) -> None:
    def check(name: str, model: PreTrainedModel, **kw: Any) -> None:
        path = write(tmp_path / f"{name}.gguf", model, **kw)
        loaded, _ = lw.load(path)
        torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)
        plain = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name)
        assert (logits(plain) - logits(model)).abs().max() > 1e-3, f"{name} changes nothing"

    def scaled(family: str, **rope: Any) -> PreTrainedModel:
        return model_of(family, rope_parameters={"rope_theta": 10_000.0, **rope})

    linear = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
    check("linear", scaled("llama", rope_type="linear", factor=4.0), says=linear)
    yarn = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}
    yarn["rope.scaling.original_context_length"] = 16
    kind = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
    check("yarn", scaled("qwen2", **kind), says=yarn)
    long = {"short_factor": [1.0, 1.5, 2.0, 2.5], "long_factor": [1.5, 2.0, 3.0, 4.0]}
    model = scaled("phi3", rope_type="longrope", original_max_position_embeddings=32, **long)
    files = {f"rope_factors_{key[:-7]}.weight": np.float32(value) for key, value in long.items()}
    says = {"rope.scaling.original_context_length": 32, "attention.sliding_window": LOCAL}
    check("longrope", model, says=says, tensors=files)
    gemma = CHANGES["gemma3_text"]["rope_parameters"]
    full = {**gemma["full_attention"], "rope_type": "linear", "factor": 8.0}
    model = model_of("gemma3_text", rope_parameters={**gemma, "full_attention": full})
    local = {"attention.sliding_window": LOCAL, "rope.scaling.type": "linear"}
    check("gemma", model, says={**local, "rope.scaling.factor": 8.0})

    # Named anew, a scaling counts from the window before: as the same weights without one.
    anew = {"llama": {**linear, "rope.scaling.original_context_length": 16}, "qwen2": yarn}
    for family, says in anew.items():
        model = scaled(family, rope_type="default")
        model.config.max_position_embeddings = 16
        path = write(tmp_path / f"anew {family}.gguf", model, says=says)
        found = lw.load(path)[0]
        for one in (found, model):
            lw.adapt(one, lw.YaRN(factor=8))
        torch.testing.assert_close(logits(found), logits(model), rtol=1e-5, atol=1e-5)

    # The frequencies of Llama 3, whose slow ones no text of 50 tokens tells apart: by themselves.
    model = model_of("llama", rope_parameters=LLAMA3)
    path = write(tmp_path / "l3.gguf", model, tensors={"rope_freqs.weight": llama3_factors(model)})
    found = lw.load(path)[0]
    assert found.config.rope_parameters == LLAMA3
    torch.testing.assert_close(
        found.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq, rtol=1e-6, atol=0
    )


def test_what_would_be_passed_over_is_refused_by_name(tmp_path: Path) -> None:
    model = model_of("llama")
    sound = write(tmp_path / "sound.gguf", model).read_bytes()
    (tmp_path / "gone").mkdir()

    def refused(words: str, path: Path) -> None:
        with pytest.raises(ValueError, match=words) as error:
            find_checkpoint(str(path))  # without torch
        assert "\n" not in str(error.value)
        with pytest.raises(ValueError, match=words):
            lw.load(path)

    def bytes_of(data: bytes) -> Path:
        (tmp_path / "bad.gguf").write_bytes(data)
        return tmp_path / "bad.gguf"

    def written(**kw: Any) -> Path:
        return write(tmp_path / "bad.gguf", model, **kw)

    refused("there is no file", tmp_path / "gone" / "x.gguf")
    refused("is no GGUF file", bytes_of(b"PK" + sound))
    refused("is no GGUF file", bytes_of(b""))
    refused("version 9", bytes_of(sound[:4] + struct.pack("<I", 9) + sound[8:]))
    for cut in (6, 20, 300, 5_000, len(sound) // 2, len(sound) - 1):
        refused("is cut short", bytes_of(sound[:cut]))
    refused("claims", bytes_of(sound[:8] + b"\xff" * 16 + sound[24:]))
    refused("architecture 'mamba'", written(arch="mamba"))
    for key, value in {
        "block_count": 100_000, "context_length": 0, "rope.freq_base": float("nan"),
        "embedding_length": "x", "attention.head_count": 0, "attention.head_count_kv": 0,
        "attention.layer_norm_rms_epsilon": -1.0, "rope.scaling.factor": 0.0, "vocab_size": 1 << 31,
    }.items():  # fmt: skip
        refused(rf"llama\.{key} = .*it must be", written(says={key: value}))
    refused("tensor blk.1.+, which a llama model of 1", written(says={"block_count": 1}))
    refused("3 layers, but no tensor blk.2", written(says={"block_count": 3}))
    refused("6 heads, which 4 heads", written(says={"attention.head_count_kv": 4}))
    for key, value in {
        "vocab_size": 5,
        "feed_forward_length": 32,
        "attention.head_count": 12,
    }.items():
        refused("by what it states that must be", written(says={key: value}))
    refused("sliding_window, which is not honoured", written(says={"attention.sliding_window": 9}))
    stray = {"blk.7.attn_q.weight": np.zeros((48, 48), "f4")}
    refused("blk.7.attn_q.weight, which a llama model of 2", written(tensors=stray))
    refused("llama.expert_count = 8", written(says={"expert_count": 8}))
    refused("tensor blk.0.attn_q.bias", written(tensors={"blk.0.attn_q.bias": np.zeros(48, "f4")}))
    refused("tensor vision.weight", written(tensors={"vision.weight": np.zeros(4, "f4")}))
    refused("splits texts as 'new'", written(pre="new"))
    refused("values of another size", written(says={"attention.value_length": 4}))

    def only_loading(words: str, path: Path) -> None:
        with pytest.raises(ValueError, match=words):
            lw.load(path)

    odd = {"rope.scaling.type": "su", "rope.scaling.factor": 4.0}
    only_loading("scales positions as", written(says=odd))
    factors = np.float32([1, 2, 3, 4])
    only_loading("frequencies of its own", written(tensors={"rope_freqs.weight": factors}))
    only_loading("rotates 4 of the 8", written(says={"rope.dimension_count": 4}))


def test_parts_of_a_split_file_say_how_to_join_them(tmp_path: Path) -> None:
    file = gguf.GGUFWriter(tmp_path / "part.gguf", "llama")
    file.add_uint16("split.no", 0)
    file.add_uint16("split.count", 3)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.close()
    with pytest.raises(ValueError, match=r"part 1 of 3; join the parts"):
        lw.load(tmp_path / "part.gguf")


def test_damaged_files_never_end_in_another_error(tmp_path: Path) -> None:
    sound = bytearray(write(tmp_path / "sound.gguf", model_of("llama")).read_bytes())
    head = sound.index(b"blk.0") + 400  # bytes of statements, and names of tensors
    rng = np.random.default_rng(0)
    bad = tmp_path / "bad.gguf"
    for _ in range(150):
        data = bytearray(sound)
        for place in rng.integers(0, head, size=3):
            data[place] = rng.integers(0, 256)
        bad.write_bytes(data)
        try:
            find_checkpoint(str(bad))
        except ValueError as error:
            assert str(bad) in str(error)


def test_the_command_line_takes_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def call(*words: object) -> int:
        with pytest.raises(SystemExit) as ended:
            app([str(word) for word in words])
        return int(ended.value.code or 0)

    path = write(tmp_path / "m.gguf", model_of("llama"))
    assert call("convert", path, "-o", tmp_path / "out") == 0
    assert "61,680 parameters" in capsys.readouterr().out
    assert torch.equal(logits(lw.load(tmp_path / "out")[0]), logits(lw.load(path)[0]))
    assert call("convert", path, "-o", tmp_path / "out") == 2
    assert "exists" in capsys.readouterr().err

    text = tmp_path / "text.txt"
    text.write_text("The pass key is 71432. Remember it. " * 3)
    for model in (path, tmp_path / "out"):
        assert call("run", model, "--prompt-file", text, "-m", "lminfinite:sinks=2,window=30") == 0
    assert call("plan", path, "--tokens", 4096, "-m", "plain") == 0
    assert call("extend", path, "-m", "yarn:factor=4", "-o", tmp_path / "long") == 0
    assert lw.load(tmp_path / "long")[0].config.rope_parameters["rope_type"] == "yarn"
