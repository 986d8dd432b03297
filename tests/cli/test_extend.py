"""`lengthwise extend`: what it writes, and that nothing is lost when it cannot."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoConfig

import lengthwise as lw
from lengthwise.extend import checkpoint as checkpoints
from lengthwise.extend.adapt import binding_of, is_adapted

Call = Callable[..., tuple[int, str, str]]


def test_a_scaling_becomes_plain(checkpoint: Path, tmp_path: Path, call: Call) -> None:
    target = tmp_path / "new" / "long"
    status, out, err = call("extend", checkpoint, "--method", "yarn:factor=8", "-o", target)
    assert (status, err) == (0, "")
    assert f"Wrote {target}. A plain checkpoint" in out and "YaRN(factor=8.0" in out
    config = AutoConfig.from_pretrained(target)
    assert config.rope_parameters["rope_type"] == "yarn"
    assert config.max_position_embeddings == 8 * 64
    assert not is_adapted(lw.load(target)[0])


def test_everything_else_is_applied_by_load(checkpoint: Path, tmp_path: Path, call: Call) -> None:
    target = tmp_path / "long"
    spec = "selfextend:group=4,window=16+streamingllm:window=200"
    status, out, _ = call("extend", checkpoint, "-m", spec, "-o", target)
    assert status == 0 and "Only lengthwise.load applies" in out
    axes = binding_of(lw.load(target)[0]).engine.axes
    assert axes.layout == lw.SelfExtend(group=4, window=16)
    assert axes.store == lw.StreamingLLM(window=200)


def test_what_is_there_is_replaced_by_force_alone(
    checkpoint: Path, tmp_path: Path, call: Call, refused: Callable[..., str]
) -> None:
    target = tmp_path / "long"
    words = ("extend", checkpoint, "-o", target, "--method")
    assert call(*words, "pi:factor=2")[0] == 0
    assert "exists; choose another directory" in refused(*words, "pi:factor=4")
    assert AutoConfig.from_pretrained(target).rope_parameters["factor"] == 2
    assert call(*words, "pi:factor=4", "--force")[0] == 0
    assert AutoConfig.from_pretrained(target).rope_parameters["factor"] == 4
    assert [path.name for path in tmp_path.iterdir()] == ["long"]


def test_force_replaces_checkpoints_only(
    checkpoint: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    diary = tmp_path / "home" / "diary.txt"
    diary.parent.mkdir()
    diary.write_text("dear diary")
    for place in (diary, diary.parent):
        said = refused("extend", checkpoint, "-m", "pi:factor=2", "-o", place, "--force")
        assert "is no checkpoint" in said
    assert diary.read_text() == "dear diary"


@pytest.mark.parametrize(
    ("error", "status"), [(OSError("disk full"), 2), (KeyboardInterrupt(), 130)]
)
def test_the_old_checkpoint_outlives_a_failure(
    error: BaseException,
    status: int,
    checkpoint: Path,
    tmp_path: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = tmp_path / "long"
    words = ("extend", checkpoint, "-o", target, "--force", "--method")
    assert call(*words, "pi:factor=2")[0] == 0

    def fail(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr(checkpoints, "write_words", fail)
    ended, _, err = call(*words, "pi:factor=4")
    assert ended == status and err.count("\n") == 1
    assert AutoConfig.from_pretrained(target).rope_parameters["factor"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["long"]


def test_an_interruption_between_the_renames_puts_the_old_one_back(
    checkpoint: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "long"
    words = ("extend", checkpoint, "-o", target, "--force", "--method")
    assert call(*words, "pi:factor=2")[0] == 0
    replace = checkpoints.os.replace
    calls = 0

    def second_fails(source: Path, destination: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        replace(source, destination)

    monkeypatch.setattr(checkpoints.os, "replace", second_fails)
    assert call(*words, "pi:factor=4")[0] == 130
    assert AutoConfig.from_pretrained(target).rope_parameters["factor"] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["long"]


def test_what_cannot_be_extended(
    checkpoint: Path, tmp_path: Path, call: Call, refused: Callable[..., str]
) -> None:
    target = tmp_path / "long"
    assert "plain extends nothing" in refused("extend", checkpoint, "-m", "plain", "-o", target)
    assert "write lminfinite:window=60" in refused(
        "extend", checkpoint, "-m", "lminfinite", "-o", target
    )
    assert not target.exists()
    assert call("extend", checkpoint, "-m", "infllm:window=32", "-o", target)[0] == 0
    again = refused("extend", target, "-m", "pi:factor=2", "-o", tmp_path / "longer")
    assert "carries methods already" in again
