"""A real server, transformers' own, gives the answers that the same model gives in process."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import lengthwise as lw
from lengthwise.measure.engines.endpoint import ChatEndpoint, Endpoint
from lengthwise.measure.engines.local import LocalReader
from lengthwise.measure.tasks import Item, Lines, Passkey
from lengthwise.measure.tasks.text import held_out_text

for needed in ("fastapi", "uvicorn", "openai"):
    pytest.importorskip(needed, reason="transformers serve needs transformers[serving]")

# The prompt itself: what chat sends is then what completions send.
TEMPLATE = "{{ bos_token }}{{ messages[0]['content'] }}"


@pytest.fixture(scope="module")
def local() -> LocalReader:
    model, tokenizer = lw.load("demo", dtype="float32")
    return LocalReader(model.eval(), tokenizer)


@pytest.fixture(scope="module")
def items(local: LocalReader) -> list[Item]:
    passkeys = Passkey(held_out_text()).build(local.tokenizer, 480, 3, seed=0)
    lines = Lines().build(local.tokenizer, 400, 2, seed=0)
    return [*passkeys, *lines]


@pytest.fixture(scope="module")
def server(local: LocalReader, tmp_path_factory: Any) -> Iterator[tuple[str, str]]:
    """The address of a server, and its name for the model."""
    folder = tmp_path_factory.mktemp("served")
    checkpoint = folder / "checkpoint"
    local.model.save_pretrained(checkpoint)
    local.tokenizer.chat_template = TEMPLATE
    local.tokenizer.save_pretrained(checkpoint)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--device", "cpu", "--dtype", "float32"]
    words = [sys.executable, "-m", "transformers.cli.transformers", "serve", str(checkpoint)]
    log = folder / "log"
    with open(log, "w") as out:
        process = subprocess.Popen(
            [*words, *options],
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "HF_HOME": str(folder / "cache")},
        )
    try:
        wait_for(process, port, log)
        yield f"http://127.0.0.1:{port}", str(checkpoint)
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the server did not begin to listen:\n{log.read_text()}")


@pytest.mark.parametrize("kind", [Endpoint, ChatEndpoint])
def test_the_answers_are_those_in_process(kind, server, local, items):
    url, name = server
    reader = kind(url, tokenizer=local.tokenizer, model=name, parallel=2)
    replies = list(reader.answer(items))
    expected = list(local.answer(items))
    assert [reply.text for reply in replies] == [reply.text for reply in expected]
    assert all(reply.text.strip() and not reply.refused for reply in replies)
    assert all(0 < reply.first_token <= reply.seconds for reply in replies)


def test_another_model_than_it_serves(server, local):
    url, _ = server
    with pytest.raises(ValueError, match="pinned to"):
        Endpoint(url, tokenizer=local.tokenizer, model="another")
