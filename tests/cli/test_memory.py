"""What a text will take is said before it is read, and never too little."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import lengthwise as lw
from lengthwise.cli import memory
from lengthwise.extend.adapt import adapted, binding_of
from lengthwise.extend.method import Method
from lengthwise.measure.cost.peak import PeakBytes
from lengthwise.measure.engines.reading import read
from lengthwise.testing.models import tiny_model

CHOICES: list[tuple[Method, ...]] = [
    (),
    (lw.DynamicNTK(),),
    (lw.SelfExtend(group=4, window=16),),
    (lw.StreamingLLM(sinks=4, window=28),),
    (lw.InfLLM(pages=4, page_size=32, sinks=4, window=32),),
]


@pytest.mark.parametrize("chosen", CHOICES, ids=lambda c: type(c[0]).__name__ if c else "plain")
@pytest.mark.parametrize("every_logit", [False, True])
def test_the_need_is_an_upper_bound(chosen: tuple[Method, ...], every_logit: bool) -> None:
    shape = {"hidden_size": 128, "num_attention_heads": 4, "head_dim": 32, "num_hidden_layers": 4}
    model = tiny_model("llama", **shape)
    ids = torch.randint(3, 300, (1, 1024), generator=torch.Generator().manual_seed(0))
    with adapted(model, *chosen), torch.no_grad():
        expected = memory.need(binding_of(model).engine, model.config, 1024, 256, every_logit)
        with PeakBytes(model.device) as peak:
            for _, cache in read(model, ids, 256, every_logit):
                peak.mark()
    assert peak.bytes is not None
    assert peak.bytes <= expected.total <= 20 * peak.bytes
    # A store may have allocated up to half as much again as it has filled.
    assert cache.bytes() / 1.6 <= expected.cache <= 1.6 * cache.bytes()


def test_the_need_grows_with_what_is_kept_alone() -> None:
    model = tiny_model("llama")

    def total(length: int, *chosen: Method) -> int:
        with adapted(model, *chosen):
            return memory.need(binding_of(model).engine, model.config, length, 64, False).total

    grown = total(1_000_000) - total(900_000)
    layers, keys_and_values, position = 2, 2 * 2 * 8 * 4, 8
    assert grown == 100_000 * (layers * (keys_and_values + position) + 3 * keys_and_values)
    assert total(1_000_000, lw.StreamingLLM()) == total(900_000, lw.StreamingLLM())


def test_the_length_that_would_fit_does(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(memory, "free_bytes", lambda device: 50_000_000)
    with adapted(model):
        with pytest.raises(ValueError) as caught:
            memory.check_memory(model, 1_000_000, 64, by="plain")
        said = str(caught.value)
        assert said.startswith("plain: 1,000,000 tokens need about ")
        fitting = int(said.partition("up to ")[2].partition(" ")[0].replace(",", ""))
        memory.check_memory(model, fitting, 64)
        with pytest.raises(ValueError, match=f"up to {fitting:,} tokens would fit"):
            memory.check_memory(model, fitting + 1, 64)
        monkeypatch.setattr(memory, "free_bytes", lambda device: 10)
        with pytest.raises(ValueError, match="not even one token would fit"):
            memory.check_memory(model, 100, 64)
    with adapted(model, lw.StreamingLLM(window=28)):
        monkeypatch.setattr(memory, "free_bytes", lambda device: 50_000_000)
        memory.check_memory(model, 1_000_000_000, 64)


def test_too_long_a_text_is_refused_before_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Path,
    book: Path,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 30_000_000)
    words = ("run", checkpoint, "--prompt-file", book, "--max-new-tokens", 10_000_000)
    assert "10,000,2" in refused(*words)  # the prompt counts too
    words = ("measure", checkpoint, "-o", tmp_path / "out", "--lengths", "64,10000000")
    assert "plain: 10,000,000 tokens need about" in refused(*words)
    assert not (tmp_path / "out").exists()


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    assert memory._container_limit(tmp_path) is None
    group = tmp_path / "sys/fs/cgroup/box"
    group.mkdir(parents=True)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/box\n")
    (group / "memory.stat").write_text("anon 300\nfile 5000\n")
    (group / "memory.max").write_text("1000\n")
    assert memory._container_limit(tmp_path) == 700
    (group / "memory.max").write_text("max\n")
    assert memory._container_limit(tmp_path) is None


def test_some_memory_is_free() -> None:
    assert memory.free_bytes(torch.device("cpu")) > 0
