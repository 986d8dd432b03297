"""What needs no torch to be seen to be wrong is said before torch is imported."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from lengthwise.rooms import ROOMS

# Each line is one command; the words in braces are paths of the test.
LINES = """
run {empty} --prompt-file {text}
run gone.gguf --prompt-file {text}
convert gone.gguf -o {out}
convert {model} -o {out}
run {model} --prompt-file {nothing}
run {model} --prompt-file {text} -m nonesuch:factor=2
run {model} --prompt-file {text} -m yarn:facto=8
run {model} --prompt-file {text} -m yarn:factor=8+pi:factor=2
run {model} --prompt-file {text} --dtype float12
run {damaged} --prompt-file {text}
run {listed} --prompt-file {text}
measure {empty} -o {out}
measure {model} -o {text}
measure {model} -o {out} --lengths far
measure {model} -o {out} --suite loss,taste
measure {model} -o {out} -m yarn:factor=2+
measure {model} -o {out} -m plain -m streamingllm:budget=4
measure {model} -o {out} --text {nothing}
measure {empty} -o {out} --suite quick
measure {model} -o {out} --suite quick -m h2o:recent=0
measure {model} -o {out} --suite nonesuch
measure {model} -o {out} --suite longbench
measure {model} -o {out} --suite longbench --data {nothing}
measure {model} -o {out} --suite longbench --data {empty}
measure {model} -o {out} --suite longbench_trek --data {empty}
measure {model} -o {out} --suite quick --data {empty}
measure {model} -o {out} --suite quick,longbench --data {empty}
measure {model} -o {out} --suite quick --lengths ..far
measure {model} -o {out} --suite quick --threshold 2
measure {model} -o {full} --suite quick
measure http:// -o {out} --suite quick --tokenizer demo
measure http://me:secret@host -o {out} --suite quick --tokenizer demo
measure http://host:99999 -o {out} --suite quick --tokenizer demo
measure http://127.0.0.1:9 -o {out} --suite quick
measure http://127.0.0.1:9 -o {out} --suite quick --tokenizer {nothing}
extend {empty} -o {out} -m yarn:factor=2
extend {model} -o {full} -m yarn:factor=2
extend {model} -o {out} -m nonesuch
extend demo -o {out} -m yarn:8
extend demo -o {out} -m yarn:factor=nan
extend demo -o {out} -m yarn:factor=abc
extend demo -o {out} -m yarn:factor=-1
extend demo -o {out} -m yarn:factor=8,factor=4
extend demo -o {out} -m yarn:factor=8,beta_slow=64
extend demo -o {out} -m logtemperature:over=h2o
extend {model} -o {out}
extend {model} -o {out} --auto
extend {model} -o {out} --auto --to 64 --budget soon
extend {model} -o {out} --auto --to 64 --memory much
extend {model} -o {out} --auto --to 64 --text {nothing}
plan {empty}
plan {model} --device abacus
plan {model} --dtype float12
plan {model} --batch 0
plan {model} --train --optimizer nonesuch
plan {model} --train --method plain
plan {model} --lora 4
plan {model} --calibrate --device h100
plan {model} -m selfextend:group=3,window=4
plan {damaged}
pack {nothing} -o {out} --capacity 64
pack {text} -o {out} --capacity 1
pack {text} -o {out} --capacity 64 --packer nonesuch
pack {text} -o {full} --capacity 64
pack {text} -o {out} --capacity 64 --tokenizer {nothing}
pack {text} -o {out} --capacity 64 --workers -1
train nonesuch
train pi base={model} data={text} target=128
train pi base={empty} data={text} target=128 -o {out}
train pi base={model} data={nothing} target=128 -o {out}
train pi base={model} data={text} target=128 evaluate_text={nothing} -o {out}
train pi base={model} data={text} target=128 -o {full}
train pi base={model} data={text} target=128 steps=none -o {out}
train pi base={model} data={text} target=128 memory=streambp:chunk=0 -o {out}
train pi base={model} data={text} target=128 methods=pi:fact={{factor}} -o {out}
train pose base={model} data={text} target=128 transform=pose:windo={{window}} -o {out}
train longlora base={model} data={text} target=128 layout=shiftedsparse:group=3 -o {out}
train pi base={model} data={text} target=128 objective=hlp:weight=-1 -o {out}
probe context {empty}
probe tokens {model} --text {nothing}
probe field {model} -m nonesuch
probe capacity {model} --json {text}
probe heads {model} --json {full}
probe study {empty} -o {out}
probe study {model} -o {out} -m infllm:page_size=1
probe study {model} -o {out} --tuned other
probe context {model} --contexts far
extend {model} -o /proc/x -m pi:factor=2
extend {model} -o {text}/x -m pi:factor=2
measure {model} -o /proc/x
measure {model} -o /proc/x --suite quick
pack {text} -o /proc/x --capacity 64
train pi base={model} data={text} target=128 -o /proc/x
probe context {model} --json /proc/x
probe study {model} -o /proc/x
lab reproduce rerope -o /proc/x
lab reproduce pi
lab reproduce tuning/pi --passkeys 2
lab status {nothing}
lab status {text}
demo -o /proc/x
measure {model} -o {old}
compare {nothing}
compare {full}
compare {old}
compare {old} --threshold 2
measure {model} -o {out} --lengths 512,..4x
measure {model} -o {out} --suite quick --strategy xl4m
measure {model} -o {out} --suite quick --strategy jrt:times=0
measure http://127.0.0.1:9 -o {out} --suite quick --tokenizer {model} --strategy xl3m
run {model} --prompt-file {text} --strategy jrt
"""

SCRIPT = """
import json, sys
from typer.testing import CliRunner
from lengthwise.cli.app import app
for line in json.load(sys.stdin):
    done = CliRunner().invoke(app, line)
    heavy = [name for name in ("torch", "transformers", "datasets") if name in sys.modules]
    print(json.dumps([done.exit_code, done.stderr, heavy]))
    if heavy:
        break
"""


# Whoever imports them fails there, so nothing is asked of the hub.
WITHOUT_TORCH = """
import json, sys
sys.modules |= {"torch": None, "transformers": None}
from typer.testing import CliRunner
from lengthwise.cli.app import app
for line in json.load(sys.stdin):
    print(json.dumps(CliRunner().invoke(app, line).stderr))
"""


def answers_to(lines: list[list[str]], script: str = SCRIPT, **settings: str) -> list[Any]:
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(lines), capture_output=True,
        text=True, env=os.environ | settings,
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert answers, done.stderr
    return answers


def test_no_command_imports_torch_to_refuse(checkpoint: Path, tmp_path: Path) -> None:
    places = {
        name: tmp_path / name for name in ("empty", "text", "full", "old", "damaged", "listed")
    }
    for name in ("empty", "full", "old", "damaged", "listed"):
        places[name].mkdir()
    places["text"].write_text("The reader keeps a window open. " * 20)
    (places["full"] / "mine.txt").write_text("mine")
    (places["old"] / "results.jsonl").write_text('{"lengthwise_results": 1}\n')
    (places["damaged"] / "config.json").write_text("[1, 2]")
    for file in checkpoint.iterdir():
        (places["listed"] / file.name).symlink_to(file)
    index = {"weight_map": {"one": "model-00001-of-00002.safetensors"}}
    (places["listed"] / "model.safetensors.index.json").write_text(json.dumps(index))
    places |= {"out": tmp_path / "out", "nothing": tmp_path / "nothing", "model": checkpoint}
    lines = [
        [word.format(**places) for word in line.split()] for line in LINES.strip().splitlines()
    ]
    answers = answers_to(lines)
    for line, (status, said, heavy) in zip(lines, answers, strict=False):
        assert not heavy, (line, heavy, said)
        assert status == 2 and said.startswith("lengthwise: ") and said.count("\n") == 1, (
            line, status, said,
        )  # fmt: skip
    assert len(answers) == len(lines)
    assert not places["out"].exists()


def test_a_list_of_what_there_is_needs_no_torch() -> None:
    lines = [["list"], ["methods"], *(["list", room] for room in ROOMS)]
    assert answers_to(lines) == [[0, "", []] for _ in lines]


def test_the_hub_is_named_before_it_is_asked(tmp_path: Path, checkpoint: Path) -> None:
    text = tmp_path / "text"
    text.write_text("The reader keeps a window open. " * 20)
    out = tmp_path / "out"
    quick = ["--suite", "quick"]
    lines = [
        ["plan", "nope"],
        ["measure", "nope", "-o", str(out)],
        ["measure", "http://127.0.0.1:9", "-o", str(out), *quick, "--tokenizer", "nope"],
        ["pack", str(text), "-o", str(out), "--capacity", "64", "--tokenizer", "nope"],
        ["run", "nope", "--prompt-file", str(text)],
        ["train", "pi", "base=nope", f"data={text}", "target=128", "-o", str(out)],
        ["plan", str(checkpoint)],
        ["plan", "demo"],
    ]
    telling = "There is no directory nope here; asking the Hugging Face hub for it …\n"
    for offline, times in (("0", [1, 1, 1, 1, 1, 1, 0, 0]), ("1", [0] * len(lines))):
        said = answers_to(lines, WITHOUT_TORCH, HF_HUB_OFFLINE=offline)
        assert [words.count(telling) for words in said] == times, said
