"""Bad models, texts and methods: one line each, before anything costs time."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

import lengthwise as lw
from lengthwise.cli.app import app
from lengthwise.cli.inputs import check_changes_something, read_methods, read_text
from lengthwise.extend.method import Method

Refused = Callable[..., str]


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("truncated", "model.safetensors is damaged or cut short"),
        ("no-weights", "has no *.safetensors"),
        ("no-config", "it has no config.json"),
        ("bad-config", "config.json is no JSON"),
        ("lost-weight", "weights are missing (1), as model.layers.0.self_attn.q_proj.weight"),
        ("unknown-family", "nonesuch"),
        ("no-rotary", "gpt2 is not supported: it has no rotary positions"),
    ],
)
def test_broken_checkpoints(
    fault: str, said: str, broken: Callable[[str], Path], book: Path, refused: Refused
) -> None:
    assert said in refused("run", broken(fault), "--prompt-file", book)


@pytest.mark.parametrize("name", ["./nowhere", "nobody/nothing", "nothing"])
def test_no_checkpoint_at_all(name: str, book: Path, refused: Refused) -> None:
    assert f"there is no directory {name} here" in refused("run", name, "--prompt-file", book)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (None, "there is no file"),
        (b"", "is empty"),
        (b" \n\t ", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"word\0word", "byte 4 is NUL"),
        ("a word".encode("utf-16"), "is binary"),
        ("caf\u00e9 au lait".encode("latin-1"), "is not UTF-8: byte 3 is 0xe9"),
    ],
)
def test_texts_that_are_none(
    data: bytes | None, said: str, tmp_path: Path, checkpoint: Path, refused: Refused
) -> None:
    path = tmp_path / "text"
    if data is not None:
        path.write_bytes(data)
    assert said in refused("run", checkpoint, "--prompt-file", path)
    assert said in refused("measure", checkpoint, "--text", path, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_directory_is_no_text(tmp_path: Path, checkpoint: Path, refused: Refused) -> None:
    assert "is a directory" in refused("run", checkpoint, "--prompt-file", tmp_path)


def test_the_mark_of_an_editor_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfword\r\n")
    assert read_text(path) == "word\r\n"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("pi:factor=0", "PI: factor must be at least 1, got 0.0"),
        ("yarn:factor=-4", "YaRN: factor must be at least 1"),
        ("ntk:factor=nan", "NTK: factor must be a number, at least 1, got 'nan'"),
        ("slidingwindow:window=0", "window must be a whole number of at least 1, got 0"),
        ("slidingwindow:window=9999", "has a window of 9,999 tokens and the text has"),
        ("streamingllm:window=9999", "keeps 10,003 tokens and the text has"),
        ("streamingllm:budget=3", "budget must be above the 4 sinks, got 3 tokens"),
        ("pi:factor=2+yarn:factor=2", "PI and YaRN both fill the scaling axis"),
        ("infllm:window=32+streamingllm:window=32", "InfLLM needs all keys"),
        ("lminfinite", "write lminfinite:window=60"),
        ("selfextend", "window must be below the trained window of 64 tokens, got 1024; try 16"),
        ("yarm:factor=2", "did you mean YaRN?"),
        ("yarn:facto=2", "did you mean factor?"),
    ],
)
def test_methods_that_will_not_do(
    spec: str, said: str, checkpoint: Path, book: Path, tmp_path: Path, refused: Refused
) -> None:
    assert said in refused("run", checkpoint, "--prompt-file", book, "--method", spec)
    words = ("measure", checkpoint, "-o", tmp_path / "out", "--lengths", "400", "--method", spec)
    assert said in refused(*words, "--suite", "loss")
    assert not (tmp_path / "out").exists()


def test_methods_of_several_options_go_together() -> None:
    assert read_methods(["pi:factor=2", "causal+fullstore"]) == (
        lw.PI(factor=2),
        lw.Causal(),
        lw.FullStore(),
    )
    with pytest.raises(ValueError, match="both fill the scaling axis"):
        read_methods(["pi:factor=2", "ntk:factor=2"])


@pytest.mark.parametrize(
    "method", [lw.SlidingWindow(64), lw.LMInfinite(window=80), lw.StreamingLLM(sinks=4, window=60)]
)
def test_a_window_changes_something_from_its_size_on(method: Method) -> None:
    size = 80 if isinstance(method, lw.LMInfinite) else 64
    with pytest.raises(ValueError, match=f"{size} tokens and the text has {size}, so it would"):
        check_changes_something([method], size)
    check_changes_something([method], size + 1)


def test_what_has_no_window_always_changes_something() -> None:
    check_changes_something([lw.PI(factor=2), lw.Causal(), lw.AllPages(), lw.FullStore()], 1)


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--device", "cuda:99", "--device 'cuda:99' is not on this machine"),
        ("--device", "toaster", "--device 'toaster' is not on this machine"),
        ("--dtype", "float7", "--dtype must be one of float32, bfloat16, float16"),
    ],
)
def test_unknown_devices_and_numbers(
    option: str, value: str, said: str, checkpoint: Path, book: Path, refused: Refused
) -> None:
    assert said in refused("run", checkpoint, "--prompt-file", book, option, value)


def test_numbers_that_no_checkpoint_has(
    checkpoint: Path, tmp_path: Path, book: Path, refused: Refused
) -> None:
    around = {
        "type": "TemplateProcessing",
        "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>"}}],
        "special_tokens": {},
    }
    for file, change, said in (
        ("config.json", {"num_hidden_layers": 10**30}, "whole number from 1 to 10,000"),
        ("tokenizer.json", {"added_tokens": [{"id": 2**31}]}, "a token of the id 2,147,483,648"),
        ("tokenizer.json", {"post_processor": around}, "'</s>' around texts, which is not among"),
        ("tokenizer_config.json", {"model_max_length": "1e4"}, "must be a number"),
        ("tokenizer_config.json", {"model_max_length": -3}, "a number of at least 1, got -3"),
        ("tokenizer_config.json", {"model_max_length": float("nan")}, "at least 1, got nan"),
        ("generation_config.json", {"eos_token_id": [None, "x"]}, 'eos_token_id [null, "x"]; it'),
        ("generation_config.json", {"max_length": "z"}, 'max_length "z"; it must be a whole'),
        ("generation_config.json", {"temperature": "z"}, 'temperature "z"; it must be'),
        ("config.json", {"rms_norm_eps": "x"}, "'rms_norm_eps' expected float, got str"),
        ("config.json", {"hidden_act": "x"}, "has hidden_act 'x' in its config.json"),
        ("config.json", {"dtype": "x"}, "cannot load config.json of "),
    ):
        folder = tmp_path / "broken"
        shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
        found = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(found | change))
        assert said in refused("run", folder, "--prompt-file", book)
        (folder / file).write_text(json.dumps(found))


def test_every_whole_number_of_the_command_line_has_an_upper_bound() -> None:
    groups = [app, *(group.typer_instance for group in app.registered_groups)]
    commands = [one.callback for group in groups for one in group.registered_commands]
    seen = []
    for command in commands:
        for name, hint in get_type_hints(command, include_extras=True).items():
            plain, *notes = get_args(hint) if hasattr(hint, "__metadata__") else (hint,)
            if plain is int or int in get_args(plain):
                seen.append(name)
                assert notes and notes[0].max, f"{command}: {name}"
    assert len(seen) > 25


def test_numbers_beyond_every_range_are_refused_by_the_option(
    call: Callable[..., tuple[int, str, str]], book: Path, tmp_path: Path
) -> None:
    out, big = tmp_path / "out", "9" * 26
    race = ("extend", "demo", "-o", out, "--auto", "--to")
    for words, said in (
        (("plan", "demo", "--train", "--device", "1e999GB"), "--device '1e999GB'"),
        (("plan", "demo", "--train", "--device", "1e300GB"), "at most 1024TiB"),
        (("plan", "demo", "--memory", "1e999"), "--memory '1e999'"),
        (("plan", "demo", "--flops", "inf"), "--flops must be above 0 and at most 1e+24"),
        (("plan", "demo", "--tokens", big), "--tokens"),
        (("pack", book, "-o", out, "--tokenizer", "demo", "--capacity", big), "--capacity"),
        (("run", "demo", "--prompt-file", book, "--chunk", big), "2147483648"),
        (("measure", "demo", "-o", out, "--lengths", big), "--lengths: '9"),
        (
            ("measure", "demo", "-o", out, "--suite", "vt", "--lengths", f"..{big}"),
            "--lengths: '9",
        ),
        ((*race, big), "--to"),
        ((*race, 64, "--budget", "9" * 400 + "h"), "at most 10,000h"),
        ((*race, 64, "--memory", "9" * 400 + "GB"), "at most 1024TiB"),
    ):
        status, _, err = call(*words)
        assert status == 2 and said in err and err.count("\n") == 1, (words, err)
