"""Tiny checkpoints on the disk, sound and broken, and a way to call the command line."""

import inspect
import json
import shutil
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel
from typer.testing import CliRunner

from lengthwise.cli.app import app
from lengthwise.testing.models import tiny_tokenizer

# What a command line gave back: (status, standard output, standard error).
Answer = tuple[int, str, str]
Call = Callable[..., Answer]


@pytest.fixture
def call() -> Call:
    def run(*words: object, typed: str = "") -> Answer:
        done = CliRunner().invoke(app, [str(word) for word in words], input=typed)
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.fixture
def refused(call: Call) -> Callable[..., str]:
    """The one line that says why a command line was refused."""

    def run(*words: object) -> str:
        status, out, err = call(*words)
        assert (status, out) == (2, ""), (status, out, err)
        assert err.count("\n") == 1 and err.startswith("lengthwise: "), err
        return err

    return run


@pytest.fixture
def broken(checkpoint: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the checkpoint with one thing wrong."""

    def make(fault: str) -> Path:
        folder = tmp_path / fault
        shutil.copytree(checkpoint, folder)
        weights = folder / "model.safetensors"
        if fault == "truncated":
            data = weights.read_bytes()
            weights.write_bytes(data[: len(data) // 2])
        elif fault == "no-weights":
            weights.unlink()
        elif fault == "no-config":
            (folder / "config.json").unlink()
        elif fault == "bad-config":
            (folder / "config.json").write_text("{ no")
        elif fault == "lost-weight":
            tensors = load_file(weights)
            del tensors["model.layers.0.self_attn.q_proj.weight"]
            save_file(tensors, weights, metadata={"format": "pt"})
        elif fault == "unknown-family":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "model_type": "nonesuch"}))
        elif fault == "no-rotary":
            shutil.rmtree(folder)
            config = GPT2Config(
                vocab_size=320, n_positions=64, n_embd=16, n_layer=1, n_head=2,
                bos_token_id=1, eos_token_id=2,
            )  # fmt: skip
            GPT2LMHeadModel(config).save_pretrained(folder)
            tiny_tokenizer().save_pretrained(folder)
        else:
            raise AssertionError(fault)
        return folder

    return make


@pytest.fixture(scope="session")
def novel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text of thousands of tokens: long enough to measure on, short enough to be quick."""
    path = tmp_path_factory.mktemp("texts") / "novel.txt"
    path.write_text(inspect.getsource(textwrap), encoding="utf-8")
    return path


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A text of some 400 tokens."""
    path = tmp_path / "book.txt"
    path.write_text("The reader keeps a window open on the text. " * 12, encoding="utf-8")
    return path
