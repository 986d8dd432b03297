"""`lengthwise plan`."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

from lengthwise.testing.models import tiny_model

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration alone, of a model that would not fit a disk."""
    tiny_model("llama").config.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    wide = {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 128256}  # fmt: skip
    file.write_text(json.dumps({**json.loads(file.read_text()), **wide}))
    return file


def test_serving(call: Call, config: Path) -> None:
    status, out, err = call("plan", config, "--device", "h100", "--tokens", 1000)
    assert (status, err) == (0, "")
    assert "1,000 tokens, batch 1, bfloat16, on h100 with 80 GB (NVIDIA" in out
    # 2 layers of 8 heads of 128, keys and values of 2 bytes
    assert "a token's keys, values       8.19 kB" in out
    assert max(map(len, out.splitlines())) <= 120
    status, out, _ = call("plan", config.parent, "--device", "h100", "--tokens", 1000, "--json")
    assert json.loads(out)["kv_user"] == 1000 * 8192


def test_training(call: Call, config: Path) -> None:
    words = ("plan", config, "--train", "--device", "h100", "--lora", 4)
    status, out, err = call(*words)
    assert status == 0 and "Traceback" not in err
    assert "all parameters " in out and "LoRA of rank 4 " in out
    assert "all (StreamBP + TiledLoss + Offload)" in out and "TiledLoss: x " in out
    status, out, _ = call(*words, "--json")
    rows = json.loads(out)["rows"]
    assert status == 0 and len(rows) == 16
    assert all(row["peak"] <= 0.95 * 80e9 < 1.05 * row["peak"] for row in rows)


def test_a_cpu_has_no_host_to_offload_to(call: Call) -> None:
    status, out, _ = call("plan", "demo", "--train", "--memory", "1GB")
    assert status == 0 and "StreamBP + TiledLoss" in out
    assert "Offload + " not in out and "Offload is left out" in out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--device", "h20"), "did you mean h200?"),
        (("--tokens", "-4"), "--tokens must be at least 1, got -4"),
        (("--batch", "0"), "--batch must be at least 1, got 0"),
        (("--lora", "4"), "--lora 4 goes with --train"),
        (("--train", "--lora", "-1"), "--lora must be at least 1, got -1"),
        (("--train", "--optimizer", "lion"), "--optimizer must be one of adamw, sgd, momentum"),
        (("--dtype", "int3"), "--dtype must be one of float32, bfloat16, float16"),
        (("--memory", "3x"), "--memory '3x' is no size"),
        (("--bandwidth", "0"), "--bandwidth must be above 0"),
        (("--calibrate", "--device", "h100"), "--calibrate measures this machine's processor"),
        (("--calibrate", "--train"), "--calibrate measures this machine's processor"),
        (("--train", "-m", "yarn:factor=8"), "--method yarn:factor=8 is for serving"),
        (("-m", "yarm:factor=8"), "did you mean YaRN"),
        (("-m", "selfextend:group=4,window=10000"), "below the trained window"),
        (("--train", "--memory", "1GB", "--tokens", "99999999"), "the longest is "),
        (("--train", "--memory", "1MB", "--tokens", "9"), "not even one token fits"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(
    words: tuple[str, ...], reason: str, refused: Callable[..., str]
) -> None:
    assert reason in refused("plan", "demo", *words)


def test_configurations_that_are_none(
    refused: Callable[..., str], broken: Callable[[str], Path], tmp_path: Path
) -> None:
    assert "it has no config.json" in refused("plan", broken("no-config"))
    assert "is no JSON" in refused("plan", broken("bad-config"))
    assert "nonesuch" in refused("plan", broken("unknown-family"))
    assert "gpt2 is not supported: it has no rotary positions" in refused(
        "plan", broken("no-rotary")
    )
    assert "no directory and no configuration" in refused("plan", tmp_path / "nothing.json")
    other = tmp_path / "other.json"
    other.write_text('{"layers": 3}')
    assert "it has no model_type" in refused("plan", other)
    other.write_text('{"model_type": "llama", "hidden_size": "wide"}')
    assert "llama" in refused("plan", other) or "hidden_size" in refused("plan", other)


def test_training_a_family_that_is_not_supported(
    refused: Callable[..., str], tmp_path: Path
) -> None:
    AutoConfig.for_model("gpt2", n_layer=1, n_embd=8, n_head=1).save_pretrained(tmp_path)
    assert "gpt2 is not supported: it has no rotary" in refused("plan", tmp_path, "--train")


def test_training_a_family_whose_scores_are_written_out(call: Call, tmp_path: Path) -> None:
    tiny_model("gpt_oss").config.save_pretrained(tmp_path)
    status, out, err = call("plan", tmp_path, "--train", "--memory", "200MB", "--json")
    assert (status, err) == (0, "")
    rows = {row["lever"]: row for row in json.loads(out)["rows"]}
    assert rows["checkpointing + TiledLoss"]["where"].startswith("attention")
    assert rows["StreamBP + TiledLoss"]["tokens"] > 5 * rows["checkpointing + TiledLoss"]["tokens"]


def test_methods_are_planned_with(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("plan", "demo", "--device", "h100", "--tokens", 8192)
    status, out, err = call(
        *words, "-m", "plain", "-m", "streamingllm", "-m", "infllm+yarn:factor=8"
    )
    assert (status, err) == (0, "")
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith("  ")}
    assert rows["plain"][1:3] == ["25.2", "MB"] and rows["streamingllm"][1:3] == ["1.6", "MB"]
    assert "infllm+yarn:factor=8" in rows
    status, out, _ = call(*words, "-m", "streamingllm", "--json")
    assert json.loads(out)["methods"]["streamingllm"]["kv_user"] == 1_597_440


def test_a_calibrated_machine_says_about_instead_of_at_least(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from lengthwise.measure.cost import calibration

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(calibration, "SHAPES", ((32, 64, 2, 1, 16, 1),))
    monkeypatch.setattr(calibration, "TEXTS", (64, 600))
    monkeypatch.setattr(calibration, "CACHED", (1000,))
    status, before, _ = call("plan", "demo")
    assert status == 0 and "prefill, at least          not known" in before
    assert "give --calibrate once" in before
    status, out, err = call("plan", "demo", "--calibrate", "-m", "streamingllm")
    assert (
        status == 0 and "prefill, about" in out and "not known" not in out[out.index("  with ") :]
    )
    assert "missed what they were fitted to by up to" in out
    again = call("plan", "demo", "-m", "streamingllm")[1]
    assert again.splitlines()[-1] == out.splitlines()[-1] and "prefill, about" in again
    status, given, _ = call("plan", "demo", "--flops", 1e12, "--bandwidth", 1e10)
    assert status == 0 and "prefill, at least" in given


def test_calibrating_takes_as_long_in_every_place() -> None:
    """The help, the docstring and the documents name the same minutes."""
    root = Path(__file__).parents[2]
    places = {
        "src/lengthwise/cli/plan.py": r"about (\w+)\s*\"?\s*\"?minutes; later plans",
        "src/lengthwise/measure/cost/calibration.py": r"processor; about (\w+) minutes",
        "docs/measure.md": r"random weights read for (\w+) minutes",
    }
    found = {re.search(w, (root / place).read_text())[1] for place, w in places.items()}
    assert found == {"four"}
