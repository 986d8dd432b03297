"""`lengthwise run`: the answer is the model's own, and it comes token by token."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import lengthwise as lw
from lengthwise.cli import run as run_module
from lengthwise.cli.run import generate, pieces
from lengthwise.core import built
from lengthwise.extend.adapt import adapted
from lengthwise.measure.engines import greedy as engine
from lengthwise.testing.models import tiny_tokenizer

Call = Callable[..., tuple[int, str, str]]
METHOD = "infllm:pages=2,page_size=8,window=16"


def own_answer(checkpoint: Path, prompt: str, count: int) -> str:
    """What `generate` of the adapted model says."""
    model, tokenizer = lw.load(checkpoint)
    ids = torch.tensor([tokenizer(prompt)["input_ids"]])
    with adapted(model, lw.InfLLM(pages=2, page_size=8, window=16)):
        out = model.generate(ids, max_new_tokens=count, do_sample=False)
    text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("chunk", [1000, 37])
def test_the_answer_is_that_of_generate(
    chunk: int, checkpoint: Path, book: Path, call: Call
) -> None:
    words = ("run", checkpoint, "--prompt-file", book, "-m", METHOD, "-q", "What is kept?")
    status, out, err = call(*words, "--max-new-tokens", 12, "--chunk", chunk)
    prompt = f"{book.read_text().rstrip()}\nWhat is kept?"
    assert (status, err) == (0, "")
    assert out == own_answer(checkpoint, prompt, 12) + "\n"


def test_a_prompt_from_the_standard_input(checkpoint: Path, book: Path, call: Call) -> None:
    rest = ("--max-new-tokens", 5, "-m", METHOD)
    from_file = call("run", checkpoint, "--prompt-file", book, *rest)
    assert from_file[0] == 0
    assert call("run", checkpoint, "--prompt-file", "-", *rest, typed=book.read_text()) == from_file


def test_a_chat_template_is_used_unless_told_otherwise(checkpoint: Path) -> None:
    tokenizer = tiny_tokenizer()
    assert run_module.encode(tokenizer, "a text\n", "", None).shape[0] == 1
    with pytest.raises(ValueError, match="has no chat template; use --no-chat"):
        run_module.encode(tokenizer, "a text", "", True)
    tokenizer.chat_template = (
        "<{{ messages[0].content }}>{% if add_generation_prompt %}:{% endif %}"
    )
    chat = run_module.encode(tokenizer, "a text\n", "why?", None)
    assert tokenizer.decode(chat[0]) == "<a text\n\nwhy?>:"
    plain = run_module.encode(tokenizer, "a text\n", "why?", False)
    assert tokenizer.decode(plain[0], skip_special_tokens=True) == "a text\nwhy?"


def test_beyond_the_window_without_a_method_a_note_says_so(
    checkpoint: Path, book: Path, call: Call
) -> None:
    words = ("run", checkpoint, "--prompt-file", book, "--max-new-tokens", 1, "--method")
    status, _, err = call(*words, "plain")
    assert status == 0 and err.startswith("Note: ") and err.count("\n") == 1
    assert "beyond the 64 that the plain model was made for" in err
    assert "beyond the 128 that YaRN was made for" in call(*words, "yarn:factor=2")[2]
    assert call(*words, "dynamicntk")[2] == ""
    assert call(*words, "yarn:factor=100")[2] == ""
    assert "beyond the 64 that the plain" in call(*words, "h2o:heavy=8,recent=8,every=8")[2]
    assert "StreamingLLM's window of 80 tokens" in call(*words, "streamingllm:window=80")[2]
    assert "LMInfinite's window of 80 tokens" in call(*words, "lminfinite:window=80")[2]
    assert call(*words, "streamingllm:window=60")[2] == ""


def test_a_saved_method_is_used_and_takes_no_other(
    checkpoint: Path, book: Path, tmp_path: Path, call: Call, refused: Callable[..., str]
) -> None:
    saved = tmp_path / "saved"
    assert call("extend", checkpoint, "-m", METHOD, "-o", saved)[0] == 0
    words = ("--prompt-file", book, "--max-new-tokens", 6)
    assert call("run", saved, *words) == call("run", checkpoint, *words, "-m", METHOD)
    assert "carries methods already" in refused("run", saved, *words, "-m", "pi:factor=2")


def test_an_answer_ends_at_an_end_token(checkpoint: Path) -> None:
    model, _ = lw.load(checkpoint)
    with adapted(model), torch.no_grad():

        def answer() -> list[int]:
            out = model(input_ids=torch.arange(3, 20)[None], use_cache=True)
            return list(generate(model, out.logits[:, -1:], out.past_key_values, 8, 6))

        free = answer()
        assert len(free) == 6
        model.generation_config.eos_token_id = [free[3], 2]
        assert answer() == free[: free.index(free[3])]


def test_characters_wait_for_all_their_bytes() -> None:
    tokenizer = tiny_tokenizer()
    text = "naïve → ﬁ 😀!"
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    shown = list(pieces(tokenizer, iter(tokens)))
    assert len(shown) == len(tokens) and "".join(shown) == text
    assert not any("\ufffd" in piece for piece in shown)
    cut = "".join(pieces(tokenizer, iter(tokens[:-2])))  # within the last character
    assert cut.endswith("\ufffd") and cut.startswith("naïve → ﬁ ")


@pytest.mark.parametrize(
    ("answered", "out", "said"),
    [
        (0, "", "Interrupted: nothing was answered yet\n"),
        (2, "ab\n", "Interrupted: the answer so far is above\n"),
    ],
)
def test_what_was_answered_stays_when_interrupted(
    answered: int,
    out: str,
    said: str,
    checkpoint: Path,
    book: Path,
    call: Call,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> Iterator[int]:
        tokenizer = tiny_tokenizer()
        yield from tokenizer("ab", add_special_tokens=False)["input_ids"][:answered]
        raise KeyboardInterrupt

    monkeypatch.setattr(run_module, "generate", interrupted)
    words = ("run", checkpoint, "--prompt-file", book, "-m", METHOD)
    assert call(*words) == (130, out, said)


def test_ctrl_c_while_the_answer_comes(checkpoint: Path, book: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "lengthwise",
        "run",
        str(checkpoint),
        "--prompt-file",
        str(book),
    ]
    command += ["--method", METHOD, "--max-new-tokens", "100000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.read(1)  # the answer has begun
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, b"Interrupted: the answer so far is above\n")
    assert out.endswith(b"\n")


@pytest.mark.parametrize("name", ["lm_head.weight", "model.layers.0.mlp.up_proj.weight"])
def test_a_model_whose_numbers_are_none_answers_nothing(
    name: str, checkpoint: Path, book: Path, tmp_path: Path, call: Call
) -> None:
    broken, out = tmp_path / "nan", tmp_path / "out"
    shutil.copytree(checkpoint, broken)
    weights = load_file(broken / "model.safetensors")
    weights[name][-1] = torch.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    length = len(tiny_tokenizer()(book.read_text())["input_ids"])
    for chunk, position in ((1000, length), (64, 64)):
        status, said, err = call("run", broken, "--prompt-file", book, "--chunk", chunk)
        assert (status, said) == (2, "") and f"logits at position {position} are NaN" in err, err
    words = ("measure", broken, "--text", book, "--lengths", 100, "--suite", "loss,passkey")
    status, told, err = call(*words, "--items", 1, "-o", out)
    assert status == 0 and err.count("refused") == 3, err
    assert "loss at position" in err and "are NaN" in err


def test_numbers_that_are_none_in_the_middle_of_an_answer(
    checkpoint: Path, book: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    likeliest, calls = engine.likeliest, 0

    def overflow(logits: torch.Tensor, position: int) -> torch.Tensor:
        nonlocal calls
        calls += 1
        return likeliest(logits * torch.nan if calls == 4 else logits, position)

    monkeypatch.setattr(engine, "likeliest", overflow)
    status, out, err = call(
        "run", checkpoint, "--prompt-file", book, "--chunk", 1000, "--max-new-tokens", 8
    )
    assert status == 2 and out.endswith("\n") and "are NaN" in err


def test_a_chat_template_that_cannot_be_used_is_named(
    checkpoint: Path, book: Path, tmp_path: Path, call: Call
) -> None:
    tokenizer, bad = tiny_tokenizer(), tmp_path / "bad"
    tokenizer.name_or_path = "DIR"
    for template in (
        "{% for", 5, "{{ raise_exception('no') }}", "{{ 1/0 }}", "{{ ''.__class__ }}", "{{ '' }}",
        "{{ ''.__class__.__mro__ }}", "{% for x in range(10**9) %}{% endfor %}",
        "{{ messages[5].content }}", {"other": "a"}, "{{ messages | nothing }}",
        "{{ 'x' * 10**10 }}", "{{ 'x' | center(10**10) }}", "{{ 'x' * 10**7 }}",
        "{% for _ in range(99999) %}{{ 'x' * 10**5 }}{% endfor %}",
    ):  # fmt: skip
        tokenizer.chat_template = template
        with pytest.raises(ValueError, match=r"chat template of DIR cannot .*; pass --no-chat$"):
            run_module.encode(tokenizer, "a text", "", None)
        assert run_module.encode(tokenizer, "a text", "", False).shape[1]
    shutil.copytree(checkpoint, bad)
    (bad / "chat_template.jinja").write_text("{{ 1/0 }}")
    status, out, err = call("run", bad, "--prompt-file", book, "--max-new-tokens", 1)
    assert (status, out) == (2, "") and err.count("\n") == 1
    assert f"the chat template of {bad} cannot be used: ZeroDivisionError" in err


def test_a_failed_build_of_the_c_code_is_said_in_one_line(
    checkpoint: Path, book: Path, tmp_path: Path
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho 'native.c:1:2: error: no such machine' >&2\nexit 1\n")
    compiler.chmod(0o755)
    environ = {**os.environ, "CC": str(compiler), "XDG_CACHE_HOME": str(tmp_path)}
    environ.pop("LENGTHWISE_NATIVE", None)
    words = [sys.executable, "-m", "lengthwise", "run", checkpoint, "--prompt-file", book]
    done = subprocess.run(
        [*words, "--max-new-tokens", "3", "-m", METHOD], env=environ, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    if built.kinds()[0]:  # else nothing is built on this processor
        assert done.stderr.startswith("Note: building the C code with"), done.stderr
        assert "error: no such machine" in done.stderr and done.stderr.count("\n") == 1
