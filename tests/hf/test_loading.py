"""Code that lies among somebody's files never runs, whatever is typed."""

import ast
import importlib
import io
import json
import pickle
import shutil
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import lengthwise as lw
from lengthwise.cli.app import app
from lengthwise.hf.loading import (
    _in_one_line,
    import_bitsandbytes,
    load_config,
    load_model,
    load_tokenizer,
)
from lengthwise.testing.models import tiny_model
from lengthwise.train.loop.adapters import BASE_FILE, check_adapter

ROOT = Path(__file__).parents[2]
# Who takes no `trust_remote_code`: peft puts adapters on a model that is loaded already.
WITHOUT = {"PeftModel"}
LOADING = ("from_pretrained", "from_config", "load_dataset")


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.mark), "w")


def change(file: Path, **new: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **new}))


def plant(place: str, checkpoint: Path, folder: Path, mark: Path) -> Path:
    """A copy of a checkpoint with code in one place; the code leaves a mark."""
    shutil.copytree(checkpoint, folder)
    code = f"open({str(mark)!r}, 'w').close()\n"
    (folder / "code.py").write_text(
        f"{code}from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "class Config(LlamaConfig): model_type = 'evil'\n"
        "class Model(LlamaForCausalLM): config_class = Config\n"
        "class Words(PreTrainedTokenizerFast): pass\n"
    )
    config, words = folder / "config.json", folder / "tokenizer_config.json"
    everything = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    if place == "config":
        change(config, auto_map=everything, model_type="evil")
    elif place == "model":  # transformers has the configuration, but no causal model for it
        change(config, auto_map={"AutoModelForCausalLM": "code.Model"}, model_type="vit")
    elif place == "tokenizer":
        change(words, auto_map={"AutoTokenizer": [None, "code.Words"]}, tokenizer_class="Evil")
        change(config, model_type="vit")
    elif place == "kernel":  # attention that transformers would fetch from the hub
        change(config, attn_implementation="evil/kernel")
    elif place == "beside":  # transformers has all of it; Phi-3 and Falcon are like that
        change(config, auto_map=everything)
        change(words, auto_map={"AutoTokenizer": ["code.Words", None]})
        (folder / "custom_generate").mkdir()
        (folder / "custom_generate" / "generate.py").write_text(f"{code}def generate(): pass\n")
    elif place == "weights":
        (folder / "model.safetensors").rename(folder / "pytorch_model.safe")
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    elif place == "listed weights":
        (folder / "model.safetensors").rename(folder / "other.safetensors")
        (folder / "part.bin").write_bytes(pickle.dumps(Evil(mark)))
        names = dict.fromkeys(dict(tiny_model("llama").named_parameters()), "part.bin")
        listed = {"metadata": {"total_size": 1}, "weight_map": names}
        (folder / "model.safetensors.index.json").write_text(json.dumps(listed))
    else:
        adapter = {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"], "task_type": None}
        (folder / "adapter_config.json").write_text(json.dumps(adapter))
        (folder / "adapter_model.bin").write_bytes(pickle.dumps(Evil(mark)))
    return folder


def commands(model: Path, text: Path, out: Path) -> list[list[object]]:
    return [
        ["run", model, "--prompt-file", text, "--max-new-tokens", 1],
        ["measure", model, "-o", out, "--lengths", 32, "--suite", "loss", "--text", text],
        ["measure", model, "-o", out, "--suite", "quick", "--lengths", "..64", "--items", 1],
        ["measure", "http://127.0.0.1:9", "-o", out, "--suite", "quick", "--tokenizer", model],
        ["extend", model, "-o", out, "-m", "pi:factor=2"],
        ["extend", model, "-o", out, "--auto", "--to", 128, "--budget", "1s"],
        ["plan", model, "--device", "cpu"],
        ["plan", model, "--device", "cpu", "--train"],
        ["pack", text, "-o", out, "--capacity", 64, "--tokenizer", model, "--workers", 1],
        ["train", "yarn", f"base={model}", f"data={text}", "target=128", "-o", out],
        ["probe", "context", model, "--contexts", "16,32", "--text", text],
        ["probe", "tokens", model, "--text", text],
        ["probe", "heads", model],
        ["probe", "study", model, "-o", out],
    ]


REFUSED = ("config", "model", "tokenizer", "weights", "listed weights", "adapter", "kernel")


@pytest.mark.parametrize("place", REFUSED)
def test_no_command_runs_code_of_a_checkpoint(place, checkpoint, tmp_path):
    mark, text, out = tmp_path / "ran", tmp_path / "text.txt", tmp_path / "out"
    text.write_text("The reader keeps a window open. " * 20)
    model = plant(place, checkpoint, tmp_path / "evil", mark)
    for words in commands(model, text, out):
        shutil.rmtree(out, ignore_errors=True)
        done = CliRunner().invoke(app, [str(word) for word in words], input="y\n" * 20)
        assert not mark.exists(), words
        # Only `plan` and a tokenizer alone leave weights, models and adapters unread.
        if done.exit_code != 0:
            assert done.exit_code == 2, (words, done.stderr)
            assert done.stderr.startswith("lengthwise: "), (words, done.stderr)
            assert done.stderr.count("\n") == 1, (words, done.stderr)
    with pytest.raises(ValueError):
        lw.load(model)
    assert not mark.exists()


def test_what_transformers_knows_loads_without_the_code_beside_it(checkpoint, tmp_path):
    mark, text = tmp_path / "ran", tmp_path / "text.txt"
    text.write_text("The reader keeps a window open. ")
    model = plant("beside", checkpoint, tmp_path / "evil", mark)
    run = ["run", str(model), "--prompt-file", str(text), "--max-new-tokens", "1"]
    done = CliRunner().invoke(app, run, input="y\n" * 20)
    assert (done.exit_code, mark.exists()) == (0, False), done.stderr


def test_the_line_says_what_is_asked_for(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    for place, words in (
        ("config", "config.json: auto_map names code.Config, code.Model"),
        ("tokenizer", "tokenizer_config.json: auto_map names code.Words"),
        ("kernel", "config.json: attn_implementation names evil/kernel"),
    ):
        model = str(plant(place, checkpoint, tmp_path / place, tmp_path / "ran"))
        load = load_tokenizer if place == "tokenizer" else load_config
        with pytest.raises(ValueError, match="is not run") as caught:
            load(model)
        assert words in str(caught.value) and "\n" not in str(caught.value)
    assert sys.stdin.read() == "y\n" * 20  # nobody asked


def test_asked_for_it_runs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "m"))
    mark = tmp_path / "ran"
    model = plant("config", checkpoint, tmp_path / "evil", mark)
    loaded, _ = lw.load(model, trust_remote_code=True)
    assert mark.exists() and type(loaded).__name__ == "Model"


def test_an_adapter_that_is_pickled_is_refused(checkpoint, tmp_path):
    folder = plant("adapter", checkpoint, tmp_path / "adapter", tmp_path / "ran")
    (folder / BASE_FILE).write_text(json.dumps({"base": "x", "fingerprint": "known"}))
    with pytest.raises(ValueError, match=r"has no adapter_model\.safetensors"):
        check_adapter(folder, tiny_model("llama"), "x", "known")


def test_an_encoder_is_one_that_transformers_has(checkpoint, tmp_path):
    shutil.copytree(checkpoint, tmp_path / "odd")
    change(tmp_path / "odd/config.json", model_type="bert", architectures=["pipeline"])
    with pytest.raises(ValueError, match="'pipeline'"):
        load_model(str(tmp_path / "odd"))


def test_every_call_says_that_no_code_is_run():
    """In src, experiments and benchmarks: no call leaves it to transformers or torch."""
    seen = 0
    files = (
        f for room in ("src", "experiments", "benchmarks") for f in (ROOT / room).rglob("*.py")
    )
    texts = {file: file.read_text(encoding="utf-8") for file in files}
    for file, text in texts.items():
        if not any(f"{name}(" in text for name in (*LOADING, "load")):
            continue
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            owner = getattr(getattr(node.func, "value", None), "id", "")
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if name in LOADING and owner not in WITHOUT:
                seen += 1
                allowed = ("False", "trust_remote_code is True")
                assert given.get("trust_remote_code") in allowed, f"{file}:{node.lineno}"
            if (owner, name) == ("torch", "load"):
                assert given.get("weights_only") == "True", f"{file}:{node.lineno}"
    assert seen > 10


def test_what_transformers_says_is_one_line_whole_and_not_too_long() -> None:
    for error, said in (
        (OSError("a field:\n  is\n wrong"), "'x': a field: is wrong$"),
        (KeyError("silu2"), "KeyError: 'silu2'$"),
        (ValueError("a" * 999), "'x': a{299}…$"),
        (TypeError(), "'x': TypeError$"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "sizes in its config.json"),
    ):
        with pytest.raises(ValueError, match=said), _in_one_line("x"):
            raise error


def test_bitsandbytes_takes_no_code_from_the_hub(tmp_path, monkeypatch):
    """Stand-ins for both packages: importing the one runs the other, which leaves a mark."""
    mark = tmp_path / "ran"
    (tmp_path / "kernels.py").write_text(f"open({str(mark)!r}, 'w').close()")
    (tmp_path / "bitsandbytes.py").write_text(
        "try:\n    import kernels\nexcept ImportError:\n    kernels = None\n"
    )
    for name in [name for name in sys.modules if name.partition(".")[0] == "bitsandbytes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    import_bitsandbytes()
    assert sys.modules["bitsandbytes"].__file__ == str(tmp_path / "bitsandbytes.py")
    assert not mark.exists() and "kernels" not in sys.modules
    del sys.modules["bitsandbytes"]
    importlib.import_module("bitsandbytes")  # and so it would have been
    assert mark.exists()
    for name in ("bitsandbytes", "kernels"):
        del sys.modules[name]
