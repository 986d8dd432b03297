"""`lengthwise measure`: a thin layer over `lengthwise.measure`, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lengthwise.cli.measure import REPORT, RESULTS, read_lengths
from lengthwise.files import hold
from lengthwise.measure import REFERENCE, Results, Speed

Call = Callable[..., tuple[int, str, str]]
QUICK = ("--lengths", "2x,256", "--items", "1", "--method", "plain")


def methods_of(folder: Path) -> set[str]:
    return {row.method for row in Results.load(folder).finished}


def test_results_report_and_table(
    checkpoint: Path, novel: Path, tmp_path: Path, call: Call
) -> None:
    words = ("measure", checkpoint, "-o", tmp_path / "out", "--text", novel, *QUICK)
    words = (*words, "-m", "lminfinite:window=48")
    status, out, err = call(*words)
    assert status == 0, err
    rows = Results.load(tmp_path / "out").finished
    cells = {(row.task, row.length) for row in rows if row.method == "lminfinite:window=48"}
    both = {(task, length) for task in ("passkey", "speed") for length in (128, 256)}
    assert cells == both | {("loss", 256)}
    assert methods_of(tmp_path / "out") == {REFERENCE, "plain", "lminfinite:window=48"}
    report = (tmp_path / "out" / REPORT).read_text(encoding="utf-8")
    assert "lengthwise measure" in report and "lminfinite:window=48" in report
    assert "Loss by position" in out and f"Report: {tmp_path / 'out' / REPORT}" in out

    first = (tmp_path / "out" / RESULTS).read_bytes()
    status, again, err = call(*words)
    assert status == 0 and "are there already" in err and again == out
    assert (tmp_path / "out" / RESULTS).read_bytes() == first


def test_two_runs_do_not_share_a_folder_and_leavings_are_no_measurement(
    checkpoint: Path, novel: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "out"
    words = ("measure", checkpoint, "-o", out, "--text", novel, *QUICK, "--suite", "loss")
    out.mkdir()
    # What a kill at the first byte leaves, of this version and of earlier ones.
    for name in (".lock", f".{RESULTS}.tmp", f"{RESULTS}.tmp"):
        (out / name).touch()
    assert call(*words)[0] == 0
    before = (out / RESULTS).read_bytes()
    with hold(out):
        for more in ((), ("--force",), ("-m", "lminfinite:window=48")):
            status, _, err = call(*words, *more)
            assert status == 2 and "another lengthwise is writing into" in err
            assert (out / RESULTS).read_bytes() == before
    assert call(*words, "--force")[0] == 0


def test_an_interruption_keeps_what_is_finished(
    checkpoint: Path, novel: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("measure", checkpoint, "-o", tmp_path / "out", "--text", novel, *QUICK)
    measured = Speed.measure

    def interrupted(*_: object) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Speed, "measure", interrupted)
    status, _, err = call(*words)
    assert status == 130
    last = err.splitlines()[-1]
    assert last.startswith("Interrupted. ") and last.endswith("to go on from there.")
    assert [row.task for row in Results.load(tmp_path / "out").finished] == ["passkey"]
    assert (tmp_path / "out" / REPORT).exists()
    monkeypatch.setattr(Speed, "measure", measured)
    status, _, err = call(*words)
    assert status == 0 and "1 measurements are there already" in err


def test_an_extended_checkpoint_is_compared_with_its_plain_self(
    checkpoint: Path, novel: Path, tmp_path: Path, call: Call
) -> None:
    saved = tmp_path / "saved"
    assert call("extend", checkpoint, "-m", "selfextend:group=4,window=16", "-o", saved)[0] == 0
    words = ("measure", saved, "-o", tmp_path / "out", "--text", novel)
    words = (*words, "--lengths", "256", "--suite", "loss")
    assert call(*words)[0] == 0
    results = Results.load(tmp_path / "out")
    assert results.read_methods("loss") == [REFERENCE, "plain", "as saved"]
    assert results.specs["as saved"] == "SelfExtend(group=4, window=16)"
    losses = [results.values(name, "loss", 256) for name in results.methods]
    assert losses[0] != losses[1]


def test_other_settings_need_another_place_or_force(
    checkpoint: Path, novel: Path, tmp_path: Path, call: Call, refused: Callable[..., str]
) -> None:
    words = ("measure", checkpoint, "-o", tmp_path / "out", "--text", novel)
    words = (*words, "--lengths", "256", "--suite", "loss")
    assert call(*words)[0] == 0
    assert "belongs to another measurement: its seed is 0" in refused(*words, "--seed", "1")
    assert call(*words, "--seed", "1", "--force")[0] == 0
    assert Results.load(tmp_path / "out" / RESULTS).plan["seed"] == 1
    (tmp_path / "out" / RESULTS).write_text('{"lengthwise_results": 1}\n')
    assert "format 1" in refused(*words)
    status, _, err = call(*words, "--force")
    assert status == 0 and "loss: 2 readings" in err, err


def test_other_peoples_folders_are_left_alone(
    checkpoint: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    diary = tmp_path / "home" / "diary.txt"
    diary.parent.mkdir()
    diary.write_text("dear diary")
    assert "holds no measurement" in refused("measure", checkpoint, "-o", diary.parent)
    (diary.parent / RESULTS).write_text('{"mine": 1}\n')
    said = refused("measure", checkpoint, "-o", diary.parent)
    assert "is no file of results; choose another directory or add --force" in said
    assert "is a file" in refused("measure", checkpoint, "-o", diary)
    assert "is a file" in refused("measure", checkpoint, "-o", diary, "--force")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--lengths", "many"), "--lengths: 'many' is no length"),
        (("--lengths", "0x"), "--lengths: '0x' is no length"),
        (("--lengths", "64,"), "--lengths: '' is no length"),
        (("--suite", "los"), "no suite or task 'los'; did you mean loss? There are the suites"),
        (("--lengths", "..2x"), "the longest must be at least 512 tokens, got 128; or write out"),
        (("--lengths", "..512,1024"), "--lengths: ..LENGTH stands alone, got '..512,1024'"),
        (("--lengths", "512,..4x"), "--lengths: ..LENGTH stands alone, got '512,..4x'"),
        (("--tasks", "loss"), "No such option: --tasks (of measure it is --suite now)"),
        (("--upto", "512"), "No such option: --upto (of measure it is --lengths ..LENGTH now)"),
        (("--lengths", "900000000"), "tokens would fit"),
    ],
)
def test_plans_that_are_none(
    words: tuple[str, ...],
    said: str,
    checkpoint: Path,
    tmp_path: Path,
    refused: Callable[..., str],
) -> None:
    assert said in refused("measure", checkpoint, "-o", tmp_path / "out", *words)
    assert not (tmp_path / "out").exists()


def test_a_text_that_is_too_short(
    checkpoint: Path, book: Path, tmp_path: Path, refused: Callable[..., str]
) -> None:
    words = ("measure", checkpoint, "-o", tmp_path / "out", "--text", book, "--lengths", "64,5000")
    assert "give a longer text" in refused(*words)


def test_lengths_in_tokens_and_windows() -> None:
    assert read_lengths("1x, 4x,96,64", 64) == [64, 96, 256]
