"""GGUF files: written here from tiny models as llama.cpp's converter writes them, and read back."""

import json
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS

import lengthwise as lw
from lengthwise.cli.app import app
from lengthwise.hf.families import FAMILIES
from lengthwise.hf.files import find_checkpoint
from lengthwise.hf.gguf_table import ARCHITECTURES
from lengthwise.hf.loading import load_tokenizer
from lengthwise.testing.models import COMMON, LOCAL, WINDOW, tiny_model, tiny_tokenizer

IDS = torch.arange(3, 53)[None] * 5 % 300
# Statements of a file, by what transformers calls them.
SAID = {
    "max_position_embeddings": "context_length", "seq_length": "context_length",
    "num_hidden_layers": "block_count", "intermediate_size": "feed_forward_length",
    "hidden_size": "embedding_length", "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "vocab_size": "vocab_size",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "norm_epsilon": "attention.layer_norm_epsilon", "num_experts_per_tok": "expert_used_count",
    "layer_norm_eps": "attention.layer_norm_epsilon", "num_experts": "expert_count",
    "layer_norm_epsilon": "attention.layer_norm_epsilon",
    "moe_intermediate_size": "expert_feed_forward_length",
}  # fmt: skip
ARCHES = {"gemma3_text": "gemma3", "qwen3_moe": "qwen3moe"}  # where llama.cpp has another name
# What sets a family apart in a file, in settings of our tiny models.
CHANGES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": False},
    "qwen3": {},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 40,
                  "norm_topk_prob": True, "sliding_window": None, "decoder_sparse_step": 1},
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
    "starcoder2": {"norm_epsilon": 1e-3, "sliding_window": None, "rope_parameters": {
        "rope_type": "default", "rope_theta": 500.0}},
    "stablelm": {
        "use_qkv_bias": True, "qk_layernorm": False, "use_parallel_residual": False,
        "layer_norm_eps": 1e-3,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5,
        },
    },
    "bloom": {"seq_length": WINDOW, "layer_norm_epsilon": 1e-3},
}  # fmt: skip


def model_of(family: str, **changes: Any) -> PreTrainedModel:
    """A tiny model whose norms and biases are not those of a fresh one either."""
    settings = {**CHANGES[family], **changes}
    if family in FAMILIES:
        model = tiny_model(family, **settings)
    else:
        absent = ("head_dim",)
        if family == "bloom":  # it is four times as wide inside, and has keys for every head
            absent = ("head_dim", "num_key_value_heads", "intermediate_size")
        shape = {key: value for key, value in COMMON.items() if key not in absent}
        config = AutoConfig.for_model(family, **{**shape, **settings})
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
            elif family not in FAMILIES:
                parameter.normal_(std=0.15, generator=generator)
    return model.eval()


def write(
    path: Path,
    model: PreTrainedModel,
    says: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    arch: str = "",
    pre: str = "",
) -> Path:
    """A file of a model; `says` adds statements about it, `tensors` further tensors."""
    config = model.config
    own = ARCHES.get(config.model_type, config.model_type)
    arch = arch or own
    file = gguf.GGUFWriter(path, arch)
    stated: dict[str, Any] = {}
    for name, word in SAID.items():
        stated.setdefault(word, None)
        stated[word] = getattr(config, name, None) if stated[word] is None else stated[word]
    if parameters := getattr(config, "rope_parameters", None):
        parameters = parameters.get("full_attention", parameters)
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        turned = int(size * parameters.get("partial_rotary_factor", 1.0))
        stated |= {
            "rope.freq_base": float(parameters["rope_theta"]),
            "rope.dimension_count": turned,
        }
        stated |= {"attention.key_length": size, "attention.value_length": size}
    if own in ("starcoder2", "stablelm", "bloom"):  # for which llama.cpp writes no such sizes
        stated |= {"attention.key_length": None, "attention.value_length": None}
    stated["feed_forward_length"] = stated["feed_forward_length"] or 4 * config.hidden_size
    for key, value in {**stated, **(says or {})}.items():
        if value is not None:
            add = {int: file.add_uint32, float: file.add_float32, str: file.add_string}
            add[type(value)](f"{arch}.{key}", value)
    tokenizer(file, pre or ("qwen2" if own == "qwen2" else "gpt-2"))
    names = gguf.get_tensor_name_map(ARCHITECTURE[own], config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for place, numbers in named(name, weight.double(), config, names):
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


ARCHITECTURE = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}


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


def named(
    name: str, weight: torch.Tensor, config: Any, names: gguf.TensorNameMap
) -> list[tuple[str, torch.Tensor]]:
    """A weight as llama.cpp's converter writes it, under the names that its package has."""
    kind = config.model_type
    heads = config.num_attention_heads
    if name.endswith("experts.gate_up_proj"):
        gate, up = weight.chunk(2, dim=1)
        blk = f"blk.{name.split('.')[2]}"
        return [(f"{blk}.ffn_gate_exps.weight", gate), (f"{blk}.ffn_up_exps.weight", up)]
    if name.endswith("experts.down_proj"):
        name = f"{name}.weight"
    if kind == "bloom":
        name = name.removeprefix("transformer.")
    place = names.get_name(name, try_suffixes=(".weight", ".bias"))
    assert place is not None, name
    leaf = place.split(".")[-2]
    if kind.startswith("gemma") and leaf.endswith("norm"):
        weight = weight + 1
    if kind == "llama" and leaf in ("attn_q", "attn_k"):
        heads = heads if leaf == "attn_q" else config.num_key_value_heads
        halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
        weight = halves.transpose(1, 2).reshape(weight.shape)
    if kind == "bloom" and leaf == "attn_qkv":  # of each head in turn; llama.cpp has all q first
        each = weight.reshape(heads, 3, config.hidden_size // heads, *weight.shape[1:])
        weight = each.transpose(0, 1).reshape(weight.shape)
    return [(place, weight)]


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
    pre = {"qwen2": "qwen2", "starcoder2": "starcoder", "stablelm": "stablelm2", "bloom": "bloom"}
    path = write(tmp_path / "model.gguf", model, says, pre=pre.get(family, "gpt-2"))

    loaded, own = lw.load(path)
    torch.testing.assert_close(logits(loaded), logits(model), rtol=1e-5, atol=1e-5)
    text = "What leaves the window is forgotten 12345\n\n ok"
    assert own.decode(own(text)["input_ids"]) == f"<s>{text}"
    if family not in pre:
        assert own(text)["input_ids"] == tiny_tokenizer()(text)["input_ids"]

    lw.save(loaded, own, tmp_path / "saved")
    again, kept = lw.load(tmp_path / "saved")
    assert torch.equal(logits(again), logits(loaded))
    assert kept(text)["input_ids"] == own(text)["input_ids"]
    if family in FAMILIES:
        lw.adapt(loaded, lw.SelfExtend(group=2, window=16))
    elif family == "bloom":
        assert lw.explain(lw.adapt(loaded, lw.ALiBiPI(factor=2)))
    how = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    assert loaded.generate(IDS, **how).shape == (1, 54)


def test_every_architecture_that_is_read_is_tried_and_documented() -> None:
    assert {ARCHES.get(family, family) for family in CHANGES} == set(ARCHITECTURES)
    words = (Path(__file__).parents[2] / "docs" / "real.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in words for name in ARCHITECTURES)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "F16", "BF16"])
def test_quantised_weights_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    for family in ("llama", "qwen3_moe"):
        make = tiny_model if family == "llama" else model_of
        model = make(family, hidden_size=64, num_attention_heads=8)
        path = write(tmp_path / "m.gguf", model, kind=gguf.GGMLQuantizationType[kind])
        loaded, _ = lw.load(path, dtype=torch.float32)
        passed_over = {"moe_intermediate_size": 40} if family == "qwen3_moe" else {}
        plain = AutoModelForCausalLM.from_pretrained(
            tmp_path, gguf_file="m.gguf", dtype=torch.float32, **passed_over
        )
        assert torch.equal(logits(loaded), logits(plain)), family
        off = (logits(loaded) - logits(model)).abs().max() / logits(model).abs().max()
        bound = {"Q8_0": 0.05, "F16": 5e-3, "BF16": 4e-2, "Q4_0": 0.8}.get(kind, 0.6)
        assert 0 < off < (bound if family == "llama" else 1)  # a router may choose other experts
        kept, _ = lw.load(path)
        half = {"F16": torch.float16, "BF16": torch.bfloat16}.get(kind, torch.float32)
        assert kept.dtype == half


def test_texts_are_split_as_the_file_says(tmp_path: Path) -> None:
    model = model_of("llama")
    split = {}
    for pre in ("gpt-2", "starcoder", "smollm", "stablelm2", "bloom", "llama3"):
        own = load_tokenizer(str(write(tmp_path / "m.gguf", model, pre=pre)))
        pieces = own.backend_tokenizer.pre_tokenizer.pre_tokenize_str("Ab's 1234, it (x)\n")
        split[pre] = " ".join(word for word, _ in pieces)
    assert split == {
        "gpt-2": "Ab 's Ġ1234 , Ġit Ġ( x ) Ċ",
        "starcoder": "Ab 's Ġ 1 2 3 4 , Ġit Ġ( x ) Ċ",
        "smollm": "Ab 's Ġ 1 2 3 4 , Ġit Ġ( x ) Ċ",
        "stablelm2": "Ab 's Ġ 1 2 3 4 , Ġit Ġ( x )Ċ",
        "bloom": "Ab's Ġ1234 , Ġit Ġ( x )Ċ",
        "llama3": "Ab 's Ġ 123 4 , Ġit Ġ( x )Ċ",
    }


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
    refused("architecture 'mamba'; llama, ", written(arch="mamba"))
    refused("'gpt-oss', and transformers leaves its experts unread", written(arch="gpt-oss"))
    for key, value in {
        "block_count": 100_000, "context_length": 0, "rope.freq_base": float("nan"),
        "embedding_length": "x", "attention.head_count": 0, "attention.head_count_kv": 0,
        "attention.layer_norm_rms_epsilon": -1.0, "rope.scaling.factor": 0.0, "vocab_size": 1 << 31,
    }.items():  # fmt: skip
        refused(rf"llama\.{key} = .*it must be", written(says={key: value}))
    refused("tensor blk.1.+, which a llama model of 1", written(says={"block_count": 1}))
    refused("3 layers, but no tensor blk.2", written(says={"block_count": 3}))
    refused("6 heads, which 4 heads", written(says={"attention.head_count_kv": 4}))
    refused("has 320 tokens in its tokenizer, and a model of 5", written(says={"vocab_size": 5}))
    for key, value in {
        "feed_forward_length": 32,
        "attention.head_count": 12,
    }.items():
        refused("by what it states that must be", written(says={key: value}))
    refused(
        "sliding_window = 9, which is not honoured", written(says={"attention.sliding_window": 9})
    )
    stray = {"blk.7.attn_q.weight": np.zeros((48, 48), "f4")}
    refused("blk.7.attn_q.weight, which a llama model of 2", written(tensors=stray))
    refused("llama.expert_count = 8", written(says={"expert_count": 8}))
    refused("tensor blk.0.attn_q.bias", written(tensors={"blk.0.attn_q.bias": np.zeros(48, "f4")}))
    refused("tensor vision.weight", written(tensors={"vision.weight": np.zeros(4, "f4")}))
    refused("splits texts as 'new'", written(pre="new"))
    other = write(tmp_path / "bad.gguf", model_of("qwen2"), pre="gpt-2")
    refused("splits texts as 'gpt-2'", other)
    refused("values of another size", written(says={"attention.value_length": 4}))

    def lies(place: bytes, after: int, value: bytes) -> Path:
        at = sound.index(place) + len(place) + after
        return bytes_of(sound[:at] + value + sound[at + len(value) :])

    offset = b"blk.1.attn_q.weight", 4 + 8 * 2 + 4  # behind its dimensions and its type
    refused("overlap", lies(*offset, struct.pack("<Q", 32)))
    refused("is cut short: its tensors end", lies(*offset, struct.pack("<Q", 1 << 40)))
    refused("stored as type 77, which is not known", lies(offset[0], 20, struct.pack("<I", 77)))
    refused("has 200 dimensions", lies(offset[0], 0, struct.pack("<I", 200)))
    refused("is cut short", lies(b"tokenizer.ggml.tokens", 8, struct.pack("<Q", 1 << 31)))
    refused("has a tensor twice", lies(b"blk.1.attn_", 0, b"k"))

    def only_loading(words: str, path: Path) -> None:
        with pytest.raises(ValueError, match=words):
            lw.load(path)

    odd = {"rope.scaling.type": "su", "rope.scaling.factor": 4.0}
    only_loading("scales positions as", written(says=odd))
    factors = np.float32([1, 2, 3, 4])
    only_loading("frequencies of its own", written(tensors={"rope_freqs.weight": factors}))
    only_loading("rotates 4 of the 8", written(says={"rope.dimension_count": 4}))


def test_what_transformers_reads_wrong_it_still_does() -> None:
    """hf/gguf_table.WRONG: nothing undoes what llama.cpp's converter does to these."""
    assert {"gpt-oss", "falcon"}.isdisjoint(TENSOR_PROCESSORS)
    assert AutoConfig.for_model("t5", is_gated_act=True).dense_act_fn == "relu"


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
