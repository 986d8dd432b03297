"""`lengthwise compare`: a thin layer over `lengthwise.measure.report.comparison`."""

from collections.abc import Callable
from pathlib import Path

from lengthwise.names import RESULTS

Call = Callable[..., tuple[int, str, str]]


def measured(call: Call, checkpoint: Path, folder: Path, *words: object) -> Path:
    common = ("--suite", "quick", "--lengths", "..512", "--items", "2")
    status, _, err = call("measure", checkpoint, "-o", folder, *common, *words)
    assert status == 0, err
    return folder


def test_files_and_folders_side_by_side(checkpoint: Path, tmp_path: Path, call: Call) -> None:
    one = measured(call, checkpoint, tmp_path / "one")
    two = measured(call, checkpoint, tmp_path / "two", "-m", "streamingllm:sinks=2,window=32")
    other = measured(call, checkpoint, tmp_path / "other", "--seed", "1")
    status, out, err = call("compare", one, two / "results.jsonl", other)
    assert status == 0, err
    assert "Effective length" in out and "passkey" in out
    assert "against one: plain" in out
    assert "the seeds differ (0 and 1)" in out


def test_bad_input(checkpoint: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "name the output of lengthwise measure" in refused("compare", tmp_path / "nowhere")
    assert f"{RESULTS}; name the output of lengthwise measure" in refused("compare", tmp_path)
    other = tmp_path / RESULTS
    other.write_text('{"lengthwise_results": 1}\n')
    said = refused("compare", other)
    assert "another version of lengthwise (format 1" in said
    assert "measure again, into another directory or with --force" in said
    assert "--threshold must be between" in refused("compare", other, "--threshold", "3")
