"""`lengthwise demo`, on a tiny stand-in for the bundled model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lengthwise.catalogue import check_defaults, parse_many
from lengthwise.cli import demo as demo_module
from lengthwise.cli import inputs
from lengthwise.cli.measure import REPORT, RESULTS
from lengthwise.extend.adapt import compose
from lengthwise.measure import Cell, Results, Speed
from lengthwise.measure.tasks import text
from lengthwise.testing.models import tiny_model, tiny_tokenizer

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, novel: Path) -> Path:
    """A demo of seconds; the folder that it writes to by itself."""

    def stand_in(name: str) -> tuple[object, object]:
        assert name == "demo"
        return tiny_model("llama", max_position_embeddings=512), tiny_tokenizer()

    monkeypatch.setattr(inputs, "open_model", stand_in)
    monkeypatch.setattr(text, "held_out_text", novel.read_text)
    plan = [(task, named, (1 if task == "passkey" else 2,)) for task, named, _ in demo_module.PLAN]
    for name, value in (("WINDOWS", 2), ("PLAN", plan), ("ITEMS", 1)):
        monkeypatch.setattr(demo_module, name, value)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "lengthwise-demo"


@pytest.mark.parametrize("name", demo_module.METHODS)
def test_every_method_fits_a_window_of_512(name: str) -> None:
    chosen = parse_many(demo_module.METHODS[name])
    check_defaults(chosen, 512)
    compose(chosen)
    for method in chosen:
        method.check(512)


def test_the_demo_measures_what_was_promised() -> None:
    assert [windows for _, _, windows in demo_module.PLAN] == [(16,), (1, 2, 4, 8), (16,)]
    promised = {"plain", "PI", "YaRN", "LMInfinite", "SelfExtend", "StreamingLLM"}
    assert set(demo_module.LOSS) == promised
    assert set(demo_module.PASSKEY) == {"plain", "SelfExtend", "InfLLM"}
    assert "plain" in demo_module.SPEED


def test_a_demo_ends_with_findings_and_a_report(small: Path, call: Call) -> None:
    status, out, err = call("demo")
    assert status == 0, err
    assert "trained on 512 tokens at a time. It now reads 1,024" in err
    assert "From position 512 to 1,024" in out and "Report: lengthwise-demo/report.html" in out
    assert (small / REPORT).exists()
    results = Results.load(small / RESULTS)
    assert results.methods == list(demo_module.METHODS)
    assert {row.task for row in results.readings} == {"loss", "speed"} and len(results.rows) == 3
    assert not [r.refused for r in results.finished if r.refused]


def test_a_finished_demo_begins_anew_and_an_interrupted_one_goes_on(
    small: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = Speed.measure

    def interrupted(*_: object) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Speed, "measure", interrupted)
    assert call("demo")[0] == 130
    kept = Results.load(small / RESULTS)
    monkeypatch.setattr(Speed, "measure", measured)
    assert f"{len(kept.finished)} measurements are there" in call("demo")[2]
    assert "are there already" not in call("demo")[2]


def test_what_a_demo_refuses_to_replace_it_replaces_when_told(small: Path, call: Call) -> None:
    small.mkdir()
    (small / RESULTS).write_text('{"a": 1}\n', encoding="utf-8")
    status, _, said = call("demo")
    assert status == 2 and said.endswith("choose another directory or add --force\n")
    assert (small / RESULTS).read_text(encoding="utf-8") == '{"a": 1}\n'
    assert call("demo", "--force")[0] == 0
    assert Results.load(small / RESULTS).finished


def test_an_older_format_counts_as_finished(tmp_path: Path) -> None:
    file = tmp_path / RESULTS
    cells = {Cell("plain", "loss", 64)}
    assert not demo_module.is_complete(file, cells)
    file.write_text("{}\n")
    assert demo_module.is_complete(file, cells)
